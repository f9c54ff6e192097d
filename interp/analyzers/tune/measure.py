"""What is measured of a trained model: answers to learn, refusals, ordinary answers, its own text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import PromptError
from interp.experiments.base_answers import read_answers
from interp.models.model import Model
from interp.prompts import Encoded, OneClass, PromptSet, encode_answer, end_id
from interp.study import Study
from interp.training.text import Row

HARMFUL, ORDINARY = "positive", "negative"
TRAIN, SELECTION, HELD_OUT = "train", "selection", "held-out"
SPLITS = {TRAIN: 0.6, SELECTION: 0.2, HELD_OUT: 0.2}
"""Shares of the clusters of the rows: to train on, to choose a learning rate, and to report."""
Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Answered:
    """Prompts as tokens, with the token ids of an answer to each, its end included."""

    encoded: tuple[Encoded, ...]
    answers: tuple[Ids, ...]
    clusters: tuple[str, ...]
    ids: tuple[int, ...]

    def rows(self) -> list[Row]:
        """As rows to train on, the loss on the answers."""
        return [
            Row((*coded.ids, *answer), (False,) * len(coded.ids) + (True,) * len(answer))
            for coded, answer in zip(self.encoded, self.answers, strict=True)
        ]

    def losses(self, study: Study, model: Model) -> Float[np.ndarray, " n"]:
        """Loss of every answer in a model, nats per token."""
        return read_answers(study, model, self.encoded, self.answers).loss


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model does: losses in nats per token [rows of each], refusals of both classes.

    ``target``: of the answers to learn, on the held-out rows. ``ordinary``: of ordinary answers.
    ``own``: of the answers that the model wrote to these prompts before it was trained.
    """

    target: Float[np.ndarray, " t"]
    harmful: Bool[np.ndarray, " h"]
    refused: Bool[np.ndarray, " o"]
    ordinary: Float[np.ndarray, " o"]
    own: Float[np.ndarray, " o"]


@dataclass(frozen=True, eq=False)
class Measures:
    """All that is measured with, and what the untrained model does (``before``).

    The study's positive prompts are the harmful ones, the negative ones ordinary, with answers.
    """

    study: Study
    splits: dict[str, Answered]
    ordinary: Answered
    own: Answered
    before: Outcome

    @classmethod
    def from_study(cls, study: Study, rows: PromptSet) -> Measures:
        """Divide the rows, and measure the model as it is.

        Raises PromptError for rows or ordinary prompts without answers, or too few rows.
        """
        splits = {name: answered(study, part) for name, part in split_rows(rows, study).items()}
        ordinary = answered(study, study.prompts(ORDINARY))
        written = tuple(tuple(one) for one in study.answers("tuned", ORDINARY))
        own = replace(ordinary, answers=written)
        before = _outcome(study, splits, ordinary, own)
        return cls(study, splits, ordinary, own, before)

    def with_model(self, model: Model) -> Study:
        """The study with a trained model in place of its own."""
        pair = replace(self.study.pair, tuned=model, base=None, notes=())
        return replace(self.study, pair=pair, _cache={})

    def selection_loss(self, model: Model) -> float:
        """Mean loss of the answers of the selection split."""
        return float(self.splits[SELECTION].losses(self.with_model(model), model).mean())

    def outcome(self, model: Model) -> Outcome:
        """What a trained model does."""
        return _outcome(self.with_model(model), self.splits, self.ordinary, self.own)


def _outcome(
    study: Study, splits: dict[str, Answered], ordinary: Answered, own: Answered
) -> Outcome:
    model = study.pair.tuned
    return Outcome(
        splits[HELD_OUT].losses(study, model),
        refusals(study, HARMFUL),
        refusals(study, ORDINARY),
        ordinary.losses(study, model),
        own.losses(study, model),
    )


def refusals(study: Study, group: str) -> Bool[np.ndarray, " n"]:
    """Whether the greedy answer to each prompt of a class shows the behaviour."""
    texts = [study.decode(answer) for answer in study.answers("tuned", group)]
    found = study.require_metric().exhibits(study.prompts(group).prompts, texts, group)
    return np.asarray(found, bool)


def answered(study: Study, prompts: PromptSet) -> Answered:
    """Prompts and their answers as tokens, cut at the context; raises PromptError without answers."""
    model, tokenizer = study.pair.tuned, study.pair.tokenizer
    coded = study.with_prompts(OneClass(prompts)).encoded("positive")
    end = end_id(tokenizer)
    ends = () if end is None else (end,)
    answers = []
    for each, prompt in zip(coded, prompts, strict=True):
        if prompt.answer is None:
            raise PromptError(f"prompt {prompt.id} of {prompts.source} has no answer; add a column")
        ids = (*encode_answer(tokenizer, prompt.text, prompt.answer), *ends)
        kept = ids[: model.context_length - len(each.ids)]
        if not kept:
            raise PromptError(
                f"prompt {prompt.id} of {prompts.source} leaves no room for an answer in a context"
                f" of {model.context_length} tokens; leave it out"
            )
        answers.append(kept)
    return Answered(
        tuple(coded),
        tuple(answers),
        tuple(prompts.clusters),
        tuple(prompt.id for prompt in prompts),
    )


def split_rows(rows: PromptSet, study: Study) -> dict[str, PromptSet]:
    """The rows in three splits that share no cluster; raises PromptError for too few clusters."""
    names = list(dict.fromkeys(rows.clusters))
    ends = np.cumsum(list(SPLITS.values()))[:-1] * len(names)
    order = np.random.default_rng(study.seed).permutation(len(names))
    parts = np.split(order, ends.round().astype(int))
    if min(map(len, parts)) < 1:
        raise PromptError(
            f"{rows.source} has {len(names)} clusters, too few to train on some, choose on others"
            " and report on the rest; give at least 5"
        )
    found = {}
    for name, part in zip(SPLITS, parts, strict=True):
        chosen = {names[at] for at in part.tolist()}
        found[name] = rows.keep(
            [at for at, cluster in enumerate(rows.clusters) if cluster in chosen]
        )
    return found


def require_apart(study: Study, rows: PromptSet) -> None:
    """Raise PromptError where the rows are among the prompts that refusals are measured on."""
    for group in (HARMFUL, ORDINARY):
        if shared := study.prompts(group).shared(rows):
            raise PromptError(
                f"{len(shared)} prompts of {study.prompts(group).source} are also among the rows to"
                f" train on, first {shared[0][:40]!r}; measure on other prompts"
            )
