"""A behaviour that the user defines: a reader of answers, and a number of the logits before the
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from interp.errors import OptionError
from interp.metrics.base import Metric, MetricLabels, Objective
from interp.metrics.continuations import Continuations
from interp.metrics.first_tokens import FirstTokens
from interp.metrics.judge import Judge, JudgeErrors
from interp.metrics.metric_labels import behaviour_labels
from interp.metrics.phrases import Phrases
from interp.metrics.refusal import Refusal
from interp.metrics.sampling import Sampling
from interp.prompts import Prompt


@runtime_checkable
class AnswerReader(Protocol):
    """Whether answers exhibit a behaviour."""

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings, for provenance: contents, not paths."""
        ...

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Whether each answer [B] exhibits it, as booleans [B]."""
        ...


@runtime_checkable
class LogitNumber(Protocol):
    """A number of the logits where an answer begins, the same function for all prompts."""

    @property
    def suffixes(self) -> tuple[tuple[int, ...], ...]:
        """See ``Metric.suffixes``."""
        ...

    @property
    def objective(self) -> Objective:
        """See ``Metric.objective``; the same for all prompts."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """What determines it, for provenance."""
        ...


@dataclass(frozen=True)
class Behaviour:
    """A metric made of a name, a reader of answers, and optionally a number of the logits.

    Without a number it is NaN for every prompt and has no gradient. ``sampling`` sets how a
    verification samples answers in addition to the greedy ones; everything else reads greedy
    answers. Raises MetricError for a name that cannot be a column name.
    """

    name: str
    reader: AnswerReader
    number: LogitNumber | None = None
    sampling: Sampling | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers must know."""
        notes = (
            ()
            if self.sampling is None
            else (f"a verification reads {self.sampling}; everything else reads greedy answers",)
        )
        if not isinstance(self.number, FirstTokens) or not self.number.pieces:
            return notes
        pieces = ", ".join(map(repr, self.number.pieces))
        return (
            *notes,
            (
                f"no phrase of {self.name} begins with a word that is a single token: its log-odds"
                f" are computed for the pieces {pieces}, with which other answers begin too; give"
                " whole continuations"
            ),
        )

    @property
    def errors(self) -> JudgeErrors | None:
        """The judge's error rates; None if answers are not read by a judge."""
        return self.reader.errors if isinstance(self.reader, Judge) else None

    def check(self) -> None:
        """Test the judge, if there is one, on its labelled answers; MetricError if it is not better
        than chance.
        """
        if isinstance(self.reader, Judge):
            _ = self.reader.errors

    def __post_init__(self) -> None:
        behaviour_labels(self.name, "")

    @property
    def labels(self) -> MetricLabels:
        """Names and phrases for tables and reports."""
        return behaviour_labels(self.name, self.reader.flag, self.number is not None)

    @property
    def differentiable(self) -> bool:
        """Whether there is a number, which then has a gradient."""
        return self.number is not None

    def applies(self, group: str) -> bool:
        """Always true: the behaviour can follow any prompt."""
        return True

    def suffixes(self, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
        """The suffixes of the number."""
        return ((),) if self.number is None else self.number.suffixes

    def objective(self, prompts: Sequence[Prompt]) -> Objective:
        """The number; NaN if there is none."""
        if self.number is None:
            return Objective(1, lambda logits: torch.full_like(logits[:, -1, 0], torch.nan))
        return self.number.objective

    def exhibits(self, prompts: Sequence[Prompt], answers: Sequence[str], group: str) -> np.ndarray:
        """Whether each answer exhibits the behaviour."""
        return self.reader.read(prompts, answers) if len(answers) else np.zeros(0, dtype=bool)

    def is_decided(self, prompt: Prompt, beginning: str) -> bool:
        """Decided early only by phrases; other readers need whole answers."""
        return isinstance(self.reader, Phrases) and self.reader.is_decided(beginning)

    def shuffled_baseline(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> None:
        """None: the reading does not depend on the prompt."""
        return

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers, for provenance."""
        number = None if self.number is None else self.number.identity
        sampled = {} if self.sampling is None else {"sampling": self.sampling.identity}
        return {"name": self.name, "read": self.reader.identity, "number": number, **sampled}


def first_token_ids(metric: Metric) -> tuple[int, ...]:
    """The tokens whose log-odds as an answer's first token are the metric's number; empty if its
    number is of another kind.
    """
    if isinstance(metric, Refusal):
        return metric.token_ids
    number = metric.number if isinstance(metric, Behaviour) else None
    if isinstance(number, FirstTokens):
        return number.token_ids
    if isinstance(number, Continuations) and number.suffixes == ((),):
        return tuple(ids[0] for ids in number.targets)
    return ()


def require_number(metric: Metric, what: str) -> None:
    """Raise OptionError, naming what needs a number of the logits, if a behaviour has none."""
    if isinstance(metric, Behaviour) and metric.number is None:
        raise OptionError(
            f"{what} needs log-odds and {metric.name} has none; add continuations to its file"
        )
