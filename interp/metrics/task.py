"""A task: prompts that each have a right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import MetricError, required
from interp.maths.precision import widen
from interp.metrics.base import MetricLabels, Objective, begins_with, fold_text, token_losses
from interp.prompts import Prompt, Tokenizer, encode_answer

TASK_METRICS = ("logit-diff", "answer-loss", "accuracy")


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts with a right answer each; ``name`` selects the number, which is in nats except for
    accuracy.

    ``logit-diff``: logit of the answer's first token minus that of the wrong answer's, after the
    tokens that both share. ``answer-loss``: log-probability of the whole answer, summed over its
    tokens (the negative loss, so that higher is better). ``accuracy``: 1 if greedy decoding would
    write the answer's tokens, else 0; it has no gradient. In each case a generated answer is right
    if its text begins with the right answer, ignoring case, up to a word boundary. Answers are
    tokenised by ``interp.prompts.encode_answer``.
    """

    name: str
    tokenizer: Tokenizer
    _token_ids: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.name not in TASK_METRICS:
            raise MetricError(
                f"unknown metric {self.name!r} of a task; use {', '.join(TASK_METRICS)}"
            )

    @classmethod
    def from_prompts(
        cls, tokenizer: Tokenizer, prompts: Sequence[Prompt], name: str = "auto"
    ) -> Task:
        """The metric for these prompts; ``auto`` is ``logit-diff`` if there are wrong answers, else
        ``answer-loss``.

        Raises MetricError if the prompts lack a required answer, or one answer's tokens are a
        prefix of the other's.
        """
        wrong = all(prompt.wrong_answer is not None for prompt in prompts)
        if missing := [prompt.id for prompt in prompts if prompt.answer is None]:
            raise MetricError(
                f"prompt {missing[0]} has no answer; a task's file needs a column answer"
            )
        task = cls(
            ("logit-diff" if wrong else "answer-loss") if name == "auto" else name, tokenizer
        )
        if task.name == "logit-diff":
            if not wrong:
                raise MetricError(
                    "logit-diff needs a column wrong_answer in the task's file; or use answer-loss"
                )
            for prompt in prompts:
                task._first_difference(prompt)
        return task

    @property
    def differentiable(self) -> bool:
        """Whether the number has a useful gradient."""
        return self.name != "accuracy"

    @property
    def labels(self) -> MetricLabels:
        """Names and phrases for tables and reports."""
        number, unit = {
            "logit-diff": ("logit difference of right and wrong answer", "nats"),
            "answer-loss": ("log-probability of the answer", "nats"),
            "accuracy": ("greedy correctness of the answer", "share"),
        }[self.name]
        short = {
            "logit-diff": "logit_diff",
            "answer-loss": "log_probability",
            "accuracy": "accuracy",
        }[self.name]
        return MetricLabels(
            number,
            unit,
            short,
            "correct",
            "answers {share} of positive prompts rightly",
            "right answers",
            "share right",
            "the answer begins with the right one",
            ("were answered rightly", "were not"),
            is_binary=self.name == "accuracy",
        )

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers in addition to the prompts' own answers, for provenance."""
        return {"name": self.name}

    def applies(self, group: str) -> bool:
        """Only prompts of the task have right answers."""
        return group == "positive"

    def suffixes(self, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
        """The tokens that the right and the wrong answer share, or all of the answer's except its
        last.
        """
        if self.name == "logit-diff":
            return (
                self._encode_answer(prompt, _right_answer(prompt))[
                    : self._first_difference(prompt)
                ],
            )
        return (self._encode_answer(prompt, _right_answer(prompt))[:-1],)

    def objective(self, prompts: Sequence[Prompt]) -> Objective:
        """The number of each of these prompts, which are followed by their suffix and padded on the
        left.
        """
        answers = [self._encode_answer(prompt, _right_answer(prompt)) for prompt in prompts]
        if self.name == "logit-diff":
            first_differences = [self._first_difference(prompt) for prompt in prompts]
            wrong = [self._encode_answer(prompt, _wrong_answer(prompt)) for prompt in prompts]
            pairs = torch.tensor(
                [[a[i], w[i]] for a, w, i in zip(answers, wrong, first_differences, strict=True)]
            )
            return Objective(1, lambda logits: _logit_difference(logits, pairs))
        longest = max(map(len, answers))
        ids = torch.zeros((len(answers), longest), dtype=torch.int64)
        is_answer = torch.zeros(ids.shape, dtype=torch.bool)
        for row, answer in enumerate(answers):
            ids[row, longest - len(answer) :] = torch.tensor(answer)
            is_answer[row, longest - len(answer) :] = True
        number = _all_greedy if self.name == "accuracy" else _log_probability
        return Objective(longest, lambda logits: number(logits, ids, is_answer))

    def exhibits(self, prompts: Sequence[Prompt], answers: Sequence[str], group: str) -> np.ndarray:
        """Whether each answer to a positive prompt is right; negative prompts have no right
        answers.
        """
        if group != "positive":
            return np.zeros(len(answers), dtype=bool)
        return np.array(
            [
                begins_with(text, _right_answer(prompt))
                for prompt, text in zip(prompts, answers, strict=True)
            ],
            bool,
        )

    def is_decided(self, prompt: Prompt, beginning: str) -> bool:
        """Decided once the beginning cannot become the right answer, or contains it and more."""
        text, answer = fold_text(beginning).lstrip(), fold_text(_right_answer(prompt)).strip()
        return not answer.startswith(text) and (
            not text.startswith(answer) or len(text) > len(answer)
        )

    def shuffled_baseline(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Share of the other prompts for which each answer would be right."""
        hits = np.array(
            [[begins_with(text, _right_answer(prompt)) for prompt in prompts] for text in answers],
            dtype=np.float64,
        )
        return (hits.sum(1) - hits.diagonal()) / max(len(prompts) - 1, 1)

    def _encode_answer(self, prompt: Prompt, answer: str) -> tuple[int, ...]:
        key = (prompt.text, answer)
        if key not in self._token_ids:
            self._token_ids[key] = encode_answer(self.tokenizer, prompt.text, answer)
        return self._token_ids[key]

    def _first_difference(self, prompt: Prompt) -> int:
        """Index at which the tokens of the right and the wrong answer first differ."""
        right, wrong = (
            self._encode_answer(prompt, _right_answer(prompt)),
            self._encode_answer(prompt, _wrong_answer(prompt)),
        )
        for index, (right_token, wrong_token) in enumerate(zip(right, wrong, strict=False)):
            if right_token != wrong_token:
                return index
        raise MetricError(
            f"prompt {prompt.id}: the tokens of {prompt.answer!r} and {prompt.wrong_answer!r} do"
            " not differ before one ends; use --metric answer-loss"
        )


def _logit_difference(
    logits: Float[Tensor, "B keep V"], pairs: Int[Tensor, "B 2"]
) -> Float[Tensor, " B"]:
    right, wrong = widen(logits[:, -1]).gather(1, pairs.to(logits.device)).unbind(1)
    return right - wrong


def _log_probability(
    logits: Float[Tensor, "B A V"], ids: Int[Tensor, "B A"], is_answer: Bool[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    return -token_losses(logits, ids.to(logits.device), is_answer.to(logits.device)).sum(1)


def _all_greedy(
    logits: Float[Tensor, "B A V"], ids: Int[Tensor, "B A"], is_answer: Bool[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    is_greedy = (logits.argmax(-1) == ids.to(logits.device)) | ~is_answer.to(logits.device)
    return is_greedy.all(1).to(torch.float32)


def _right_answer(prompt: Prompt) -> str:
    return required(prompt.answer, "the right answer to every prompt")


def _wrong_answer(prompt: Prompt) -> str:
    return required(prompt.wrong_answer, "a wrong answer to every prompt")
