"""Prompts as batches that are scored at their end: by a study's metric, or by the one-token answers
of a task file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch
from interp.maths.precision import widen
from interp.prompts import Encoded, TokenRow, TokenText, padded_columns
from interp.prompts.tokens import CONTENT, DECISION
from interp.study import Study

Score = Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]]


@dataclass(frozen=True)
class ScoredBatch:
    """Some prompts, and how the logits of their ``keep`` last columns are scored.

    ``cells``: the positions in question, None for all. ``value`` gives the metric of every prompt;
    ``right`` 1 where the answer is right, else 0, or None where only written answers can tell.
    """

    batch: Batch
    keep: int
    cells: Bool[Tensor, "B T"] | None
    value: Score
    right: Score | None


@dataclass(frozen=True)
class MetricPrompts:
    """The study's positive prompts, scored by its metric; every position is in question."""

    study: Study

    @property
    def encoded(self) -> Sequence[Encoded]:
        """The texts that the metric reads."""
        return self.study.decision_inputs("positive")

    def batch(self, rows: Sequence[int], device: torch.device) -> ScoredBatch:
        """Some rows as one batch, padded on the left."""
        batch, _ = make_batch(self.encoded, rows, self.study.pad_id, device)
        objective = self.study.objective("positive", rows)
        return ScoredBatch(batch, objective.keep, None, objective.function, None)


@dataclass(frozen=True)
class TaskPrompts:
    """Prompts of a task file, scored by the probability of the answer's token after the last one;
    right is the most likely token of the whole vocabulary.

    ``position``: a named word of the prompts, or None for all positions. ``source`` scores by the
    target of a source in place of the answer.
    """

    rows: Sequence[TokenRow]
    pad_id: int
    position: str | None = None
    source: str | None = None

    @cached_property
    def encoded(self) -> Sequence[Encoded]:
        """The prompts, in order."""
        return [encoded_text(row.prompt) for row in self.rows]

    def batch(self, rows: Sequence[int], device: torch.device) -> ScoredBatch:
        """Some rows as one batch, padded on the left."""
        texts = [self.rows[row].prompt for row in rows]
        batch, _ = make_batch(self.encoded, rows, self.pad_id, device)
        cells = None
        if self.position is not None:
            cells = torch.zeros_like(batch.mask)
            width = batch.ids.shape[1]
            columns = torch.tensor(padded_columns(texts, self.position, width), device=device)
            cells[torch.arange(len(rows), device=device), columns] = True
            # a patched word may lie in what is the same in all rows otherwise
            batch = replace(batch, prefix_length=0)
        answers = torch.tensor([self.answer(row) for row in rows], device=device)
        return ScoredBatch(
            batch, 1, cells, lambda logits: probability(logits, answers), _right(answers)
        )

    def answer(self, row: int) -> int:
        """The token that a row is scored by."""
        own = self.rows[row]
        return own.answer if self.source is None else own.targets[self.source]


ScoredPrompts = MetricPrompts | TaskPrompts
"""Prompts that can be scored; rows are those of the study's positive prompts."""


def encoded_text(text: TokenText) -> Encoded:
    """A text of a task file as an encoded prompt."""
    roles = (*[CONTENT] * (len(text.ids) - 1), DECISION)
    return Encoded(text.ids, roles)


def probability(
    logits: Float[Tensor, "B kept V"], answers: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Probability of the answer's token after the last one."""
    chosen = answers.to(logits.device)[:, None]
    return widen(logits[:, -1]).log_softmax(-1).gather(1, chosen)[:, 0].exp()


def _right(answers: Int[Tensor, " B"]) -> Score:
    return lambda logits: (logits[:, -1].argmax(-1) == answers.to(logits.device)).float()
