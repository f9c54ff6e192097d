"""A behaviour that its user named: read off an answer in one way, and measured before the answer in
another.
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
from interp.metrics.judge import Errors, Judge
from interp.metrics.phrases import Phrases
from interp.metrics.refusal import Refusal
from interp.metrics.sampling import Sampling
from interp.metrics.words import words_of
from interp.prompts import Prompt


@runtime_checkable
class Reader(Protocol):
    """Whether answers show a behaviour."""

    @property
    def flag(self) -> str:
        """What its yes says of an answer."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """What determines what it reads, for provenance: contents, no paths."""
        ...

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Whether each answer [B] shows it, as booleans [B]."""
        ...


@runtime_checkable
class Number(Protocol):
    """A number of the logits where an answer begins, the same for all prompts."""

    @property
    def suffixes(self) -> tuple[tuple[int, ...], ...]:
        """As of ``Metric``."""
        ...

    @property
    def objective(self) -> Objective:
        """As of ``Metric``, of whatever prompts."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """What determines it, for provenance."""
        ...


@dataclass(frozen=True)
class Behaviour:
    """A metric made of a name, a reader of answers, and a number of the logits where there is one.

    Without a number it is NaN for every prompt, and no gradient can be followed. ``sampling``: how
    a verification samples answers beside the greedy ones, which all else reads. Raises MetricError
    for a name that cannot be a column's.
    """

    name: str
    reader: Reader
    number: Number | None = None
    sampling: Sampling | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads its numbers must know."""
        told = (
            ()
            if self.sampling is None
            else (f"a verification reads {self.sampling}; all else reads greedy answers",)
        )
        if not isinstance(self.number, FirstTokens) or not self.number.pieces:
            return told
        pieces = ", ".join(map(repr, self.number.pieces))
        return (
            *told,
            (
                f"no phrase of {self.name} begins with a word that is one token: its log-odds are"
                f" of the pieces {pieces}, with which other answers begin too; give whole"
                " continuations"
            ),
        )

    @property
    def errors(self) -> Errors | None:
        """How often the judge errs who reads it; None where nobody judges."""
        return self.reader.errors if isinstance(self.reader, Judge) else None

    def check(self) -> None:
        """Ask the judge, where there is one, about its labelled answers: MetricError where it tells
        nothing.
        """
        if isinstance(self.reader, Judge):
            _ = self.reader.errors

    def __post_init__(self) -> None:
        words_of(self.name, "")

    @property
    def words(self) -> MetricLabels:
        """How to speak of it."""
        return words_of(self.name, self.reader.flag, self.number is not None)

    @property
    def differentiable(self) -> bool:
        """Whether there is a number, which then has a gradient."""
        return self.number is not None

    def applies(self, group: str) -> bool:
        """Any prompt can be answered so."""
        return True

    def suffixes(self, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
        """What the number reads of possible answers."""
        return ((),) if self.number is None else self.number.suffixes

    def objective(self, prompts: Sequence[Prompt]) -> Objective:
        """The number, NaN where there is none."""
        if self.number is None:
            return Objective(1, lambda logits: torch.full_like(logits[:, -1, 0], torch.nan))
        return self.number.objective

    def exhibits(self, prompts: Sequence[Prompt], answers: Sequence[str], group: str) -> np.ndarray:
        """Whether each answer shows the behaviour."""
        return self.reader.read(prompts, answers) if len(answers) else np.zeros(0, dtype=bool)

    def settled(self, prompt: Prompt, begun: str) -> bool:
        """As far as phrases say so; other readers are given whole answers."""
        return isinstance(self.reader, Phrases) and self.reader.settled(begun)

    def shuffled_baseline(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> None:
        """None: the behaviour is one whatever the prompt."""
        return

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers, for provenance."""
        number = None if self.number is None else self.number.identity
        sampled = {} if self.sampling is None else {"sampling": self.sampling.identity}
        return {"name": self.name, "read": self.reader.identity, "number": number, **sampled}


def first_token_ids(metric: Metric) -> tuple[int, ...]:
    """The tokens whose log-odds as an answer's first are the metric's number; none where it is of
    anything else.
    """
    if isinstance(metric, Refusal):
        return metric.token_ids
    number = metric.number if isinstance(metric, Behaviour) else None
    if isinstance(number, FirstTokens):
        return number.token_ids
    if isinstance(number, Continuations) and number.suffixes == ((),):
        return tuple(ids[0] for ids in number.wanted)
    return ()


def require_number(metric: Metric, what: str) -> None:
    """Raise OptionError naming what needs a number of the logits where a behaviour has none."""
    if isinstance(metric, Behaviour) and metric.number is None:
        raise OptionError(
            f"{what} needs log-odds and {metric.name} has none; add continuations to its file"
        )
