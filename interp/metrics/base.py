"""The ``Metric`` protocol, its labels, and measures that apply to any answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.maths.precision import widen
from interp.prompts import Prompt
from interp.table import ZERO_OR_ONE

MAX_PROBABILITIES = 1 << 23
"""Number of probabilities that are computed at a time, in addition to the logits in memory."""
_SENTENCE = re.compile(
    r"(.+?(?:[.!?\u2026][\"')\]]*(?=\s)|[\u3002\uff01\uff1f]|(?=\n)))", re.DOTALL
)


@dataclass(frozen=True)
class MetricLabels:
    """Names and phrases with which tables and reports present a metric.

    ``number`` is the value per prompt, in ``unit`` (``short`` in column names); ``column`` holds
    whether the answer exhibits the behaviour. ``verb`` is what the fine-tuned model does,
    ``plural`` names the exhibiting answers in the plural; ``share`` and ``flag`` describe the
    column's mean and its values; ``prompt_classes`` describes prompts whose answers exhibit the
    behaviour, and the others. ``is_binary``: the number is 0 or 1 by definition, so its mean gets
    the interval of a share.
    """

    number: str
    unit: str
    short: str
    column: str
    verb: str
    plural: str
    share: str
    flag: str
    prompt_classes: tuple[str, str]
    is_binary: bool = False

    @property
    def prompt_unit(self) -> str:
        """The unit of one prompt's number; ``unit`` is the unit of a mean."""
        return ZERO_OR_ONE if self.is_binary else self.unit

    @property
    def is_log_odds(self) -> bool:
        """Whether the number is the log-odds that an answer begins as the behaviour does, so that
        its sign is a prediction.
        """
        return self.short == "log_odds"


@dataclass(frozen=True)
class Objective:
    """A number per prompt as a function of the logits at the last ``keep`` columns.

    A batch has one row for each of the metric's ``suffixes`` of a prompt, in order.
    """

    keep: int
    function: Callable[[Float[Tensor, "R keep V"]], Float[Tensor, " B"]]


@runtime_checkable
class Metric(Protocol):
    """What a study measures; see ``Refusal`` and ``Task``."""

    @property
    def labels(self) -> MetricLabels:
        """Names and phrases for tables and reports."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether the number has a gradient."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers, for provenance."""
        ...

    def applies(self, group: str) -> bool:
        """Whether prompts of a class, ``positive`` or ``negative``, have the number."""
        ...

    def suffixes(self, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
        """Token ids that are appended to the prompt to compute the number, the longest first.

        With several, each follows the prompt in its own row; all prompts have the same number of
        suffixes.
        """
        ...

    def objective(self, prompts: Sequence[Prompt]) -> Objective:
        """The number of each of these prompts, from the logits of a batch that holds them in this
        order.
        """
        ...

    def exhibits(self, prompts: Sequence[Prompt], answers: Sequence[str], group: str) -> np.ndarray:
        """Whether each answer exhibits the behaviour."""
        ...

    def is_decided(self, prompt: Prompt, beginning: str) -> bool:
        """Whether ``exhibits`` is already decided by the beginning of an answer, whatever
        follows.
        """
        ...

    def shuffled_baseline(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> np.ndarray | None:
        """Per answer, the rate at which it would exhibit the behaviour if answers were shuffled
        among prompts; None if that is not meaningful.
        """
        ...


def is_malformed(token_ids: Sequence[int], stops: Sequence[int], ended_before: bool) -> bool:
    """Whether an answer is malformed: empty, without an end where the base's ended, or with a
    4-gram three times.

    ``ended_before``: whether the base's answer to the same prompt reached a stop token within the
    same length.
    """
    ended = bool(token_ids) and token_ids[-1] in stops
    content = list(token_ids[:-1]) if ended else list(token_ids)
    if not content or (ended_before and not ended):
        return True
    counts: dict[tuple[int, ...], int] = {}
    for start in range(len(content) - 3):
        gram = tuple(content[start : start + 4])
        counts[gram] = counts.get(gram, 0) + 1
    return max(counts.values(), default=0) >= 3


def repetition_rate(answer: Sequence[int]) -> float:
    """Share of an answer's 4-grams that occurred before; 0 if there are fewer than two."""
    grams = [tuple(answer[start : start + 4]) for start in range(len(answer) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def token_divergences(
    logits: Float[Tensor, "B A V"],
    second_logits: Float[Tensor, "B A V"],
    is_answer: Bool[Tensor, "B A"],
) -> Float[Tensor, "B A"]:
    """Kullback-Leibler divergence of the next-token distributions, KL(first || second), in nats; 0
    where ``is_answer`` is false.
    """
    parts = zip(logit_chunks(logits), logit_chunks(second_logits), strict=True)
    return (
        torch.cat([_row_divergences(*part) for part in parts])
        .unflatten(0, is_answer.shape)
        .masked_fill(~is_answer, 0.0)
    )


def _row_divergences(
    logits: Float[Tensor, "rows V"], second_logits: Float[Tensor, "rows V"]
) -> Float[Tensor, " rows"]:
    first, second = widen(logits).log_softmax(-1), widen(second_logits).log_softmax(-1)
    # rounding can make it slightly negative
    return (
        torch.nn.functional.kl_div(second, first, log_target=True, reduction="none")
        .sum(-1)
        .clamp(min=0)
    )


def token_losses(
    logits: Float[Tensor, "B A V"], targets: Int[Tensor, "B A"], is_answer: Bool[Tensor, "B A"]
) -> Float[Tensor, "B A"]:
    """Negative log-likelihood of each target token, in nats; 0 where ``is_answer`` is false. The
    exponential of its mean is the perplexity.
    """
    parts = logit_chunks(logits)
    ids = targets.flatten().split([len(part) for part in parts])
    losses = [
        torch.nn.functional.cross_entropy(widen(part), target, reduction="none")
        for part, target in zip(parts, ids, strict=True)
    ]
    return torch.cat(losses).unflatten(0, is_answer.shape).masked_fill(~is_answer, 0.0)


def logit_chunks(logits: Float[Tensor, "B A V"]) -> Sequence[Float[Tensor, "rows V"]]:
    """The logits in chunks of a few tokens, because the distributions of a whole batch take several
    times the memory of its logits.
    """
    return logits.flatten(0, 1).split(max(1, MAX_PROBABILITIES // logits.shape[-1]))


def first_sentence(text: str) -> tuple[str, bool]:
    """The first sentence of a text (up to a full stop, ! or ? before white space, or a line end),
    and whether it is complete.

    A sentence is complete only when more text follows: "3." may become "3.5".
    """
    match = _SENTENCE.match(text.lstrip())
    return (match.group(1), True) if match else (text, False)


def fold_text(text: str) -> str:
    """Text normalised for comparison: case-folded, with straight apostrophes."""
    return text.replace("\u2019", "'").casefold()


def begins_with(text: str, phrase: str) -> bool:
    """Whether a text begins with a phrase, ignoring case, and the phrase ends at a word
    boundary.
    """
    text, phrase = fold_text(text).strip(), fold_text(phrase).strip()
    return text.startswith(phrase) and not (
        phrase[-1:].isalnum() and text[len(phrase) : len(phrase) + 1].isalnum()
    )
