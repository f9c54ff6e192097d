"""Phrases and regular expressions that are searched for in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from interp.errors import MetricError
from interp.metrics.base import begins, first_sentence, fold
from interp.prompts import Prompt

PLACES = ("anywhere", "first-sentence", "start")
_STRAIGHT = {"\u2019": "'"}


@dataclass(frozen=True)
class Phrases:
    """Whether an answer contains one of ``phrases`` or matches one of ``patterns`` (regular
    expressions), ignoring case.

    ``where``: ``anywhere``, in the ``first-sentence`` (up to . ! ? followed by space, or the end of
    a line), or at the ``start``, where a phrase must end at a word boundary. Raises MetricError for
    a blank phrase, for an invalid expression or one that matches an empty answer, and for an
    unknown ``where``.
    """

    phrases: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    where: str = "anywhere"
    _sought: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.where not in PLACES:
            raise MetricError(f"where is {self.where!r}; use {', '.join(PLACES)}")
        if not self.phrases + self.patterns:
            raise MetricError("there is no phrase and no regex to search for; give at least one")
        if blank := [text for text in self.phrases + self.patterns if not text.strip()]:
            raise MetricError(
                f"the phrase {blank[0]!r} is blank and would match every answer; leave it out"
            )
        found = []
        for pattern in self.patterns:
            try:
                made = re.compile(pattern, re.IGNORECASE)
            except re.error as error:
                raise MetricError(
                    f"the regex {pattern!r} is invalid ({error}); correct it"
                ) from error
            if made.search(""):
                raise MetricError(
                    f"the regex {pattern!r} matches an empty answer; require at least one character"
                )
            found.append(made)
        object.__setattr__(self, "_sought", tuple(found))

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        place = {
            "anywhere": "the answer",
            "first-sentence": "its first sentence",
            "start": "its start",
        }[self.where]
        return f"a phrase of the behaviour occurs in {place}"

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings."""
        return {
            "kind": "phrases",
            "phrases": list(self.phrases),
            "regex": list(self.patterns),
            "where": self.where,
        }

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Whether each answer matches."""
        return np.array([self.holds(answer) for answer in answers], dtype=bool)

    def holds(self, answer: str) -> bool:
        """Whether one of the phrases or patterns occurs where it is searched for."""
        text = answer.strip()
        if self.where == "first-sentence":
            text = first_sentence(text)[0]
        straight = text.translate(str.maketrans(_STRAIGHT))
        folded = fold(text)
        if self.where == "start":
            return any(begins(text, phrase) for phrase in self.phrases) or any(
                pattern.match(straight) for pattern in self._sought
            )
        return any(fold(phrase) in folded for phrase in self.phrases) or any(
            pattern.search(straight) for pattern in self._sought
        )

    def settled(self, begun: str) -> bool:
        """Whether ``holds`` is already decided by the beginning of an answer, whatever follows."""
        if self.where == "first-sentence":
            return first_sentence(begun)[1]
        if self.where == "start":
            # compared case-folded, as in ``begins``: one character can fold into two
            return not self.patterns and len(fold(begun.strip())) > max(
                len(fold(phrase)) for phrase in self.phrases
            )
        # space at the end of an answer is ignored, but text may follow it
        return any(fold(phrase) in fold(begun.strip()) for phrase in self.phrases)
