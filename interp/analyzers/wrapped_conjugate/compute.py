"""Answers in another register, changed back, compared with the base's plain answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.experiments.base_answers import BaseAnswers
from interp.models.pair import Pair
from interp.prompts import OneClass, PromptSet
from interp.prompts.registers import Register, Rule, plain_answer
from interp.study import Study


@dataclass(frozen=True)
class InRegister:
    """The prompts that a register's rules fit: their rows among all, changed texts, and rules."""

    name: str
    rows: Int[np.ndarray, " r"]
    texts: tuple[str, ...]
    rules: tuple[Rule, ...]

    def held_out(self, answers: BaseAnswers) -> Bool[np.ndarray, " r"]:
        """Which of them are of the held-out split."""
        return np.isin(self.rows, answers.held_out)


def in_register(answers: BaseAnswers, register: Register) -> InRegister:
    """Change every prompt that a rule fits; PromptError for a change that is not invertible."""
    changes = {
        row: change
        for row, (_, prompt) in enumerate(answers.prompts)
        if (change := register.change(prompt.text)) is not None
    }
    return InRegister(
        register.name,
        np.array(list(changes), np.int64),
        tuple(text for text, _ in changes.values()),
        tuple(rule for _, rule in changes.values()),
    )


def plain_answers(answers: BaseAnswers, rewritten: InRegister, pair: Pair, role: str) -> list[str]:
    """A model's greedy answers in a register, changed back into plain ones, as text.

    Kept with the study for the study's own pair.
    """
    study = answers.study

    def write() -> list[str]:
        written = _study_of(answers, rewritten, pair).answers_to(["positive"], role)["positive"]
        return [
            plain_answer(study.decode(answer), rule)
            for answer, rule in zip(written, rewritten.rules, strict=True)
        ]

    if pair is not study.pair:
        return write()
    return study.cached(
        ("in register", role, rewritten.name, rewritten.texts, rewritten.rules), write
    )


def _study_of(answers: BaseAnswers, rewritten: InRegister, pair: Pair) -> Study:
    """A study of a pair on the changed prompts, as one class."""
    prompts = tuple(
        replace(answers.prompts[row][1], id=at, text=text, messages=None)
        for at, (row, text) in enumerate(zip(rewritten.rows.tolist(), rewritten.texts, strict=True))
    )
    study = answers.study.with_prompts(
        OneClass(PromptSet(prompts, f"in register {rewritten.name}"))
    )
    return replace(study, pair=pair)


def base_texts(answers: BaseAnswers, rewritten: InRegister) -> list[str]:
    """The base's plain answers to the plain prompts, as text."""
    return [answers.study.decode(answers.answers[row]).strip() for row in rewritten.rows.tolist()]


def matches_base(
    answers: BaseAnswers, rewritten: InRegister, pair: Pair, role: str
) -> Bool[np.ndarray, " r"]:
    """Whether a model's answer in the register, changed back, is the base's plain answer."""
    own = plain_answers(answers, rewritten, pair, role)
    return np.array(
        [one == other for one, other in zip(own, base_texts(answers, rewritten), strict=True)]
    )


def chosen_register(
    answers: BaseAnswers, rewritten: Sequence[InRegister], tuned: Sequence[Bool[np.ndarray, " _"]]
) -> int:
    """The register in which the fine-tuned model gives the base's answers to most prompts of the
    selection split, less those to which it does without; the first of equals.
    """

    def gain(one: InRegister, matches: np.ndarray) -> float:
        counted = ~one.held_out(answers)
        before = answers.tuned.writes[one.rows]
        return float((1.0 * matches - before)[counted].mean()) if counted.any() else -1.0

    return int(np.argmax([gain(*both) for both in zip(rewritten, tuned, strict=True)]))


def exchanged_shares(
    answers: BaseAnswers, rewritten: InRegister, pair: Pair, draws: int
) -> Float[np.ndarray, " draws"]:
    """Share of changed held-out prompts whose base answer is the fine-tuned model's answer to
    another prompt, with the answers of clusters exchanged at random; NaN without changed prompts.
    """
    counted = np.flatnonzero(rewritten.held_out(answers) & answers.changed[rewritten.rows])
    if not len(counted):
        return np.full(draws, np.nan)
    own = np.array(plain_answers(answers, rewritten, pair, "tuned"), object)[counted]
    wanted = np.array(base_texts(answers, rewritten), object)[counted]
    generator = np.random.default_rng(answers.study.seed)
    return np.array(
        [float((own[generator.permutation(len(own))] == wanted).mean()) for _ in range(draws)]
    )
