"""Phrases and regular expressions that are searched for in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from interp.errors import MetricError
from interp.metrics.base import begins_with, first_sentence, fold_text
from interp.prompts import Prompt

WHERE_OPTIONS = ("anywhere", "first-sentence", "start")
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
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.where not in WHERE_OPTIONS:
            raise MetricError(f"where is {self.where!r}; use {', '.join(WHERE_OPTIONS)}")
        if not self.phrases + self.patterns:
            raise MetricError("there is no phrase and no regex to search for; give at least one")
        if blank := [text for text in self.phrases + self.patterns if not text.strip()]:
            raise MetricError(
                f"the phrase {blank[0]!r} is blank and would match every answer; leave it out"
            )
        compiled = []
        for pattern in self.patterns:
            try:
                expression = re.compile(pattern, re.IGNORECASE)
            except re.error as error:
                raise MetricError(
                    f"the regex {pattern!r} is invalid ({error}); correct it"
                ) from error
            if expression.search(""):
                raise MetricError(
                    f"the regex {pattern!r} matches an empty answer; require at least one character"
                )
            compiled.append(expression)
        object.__setattr__(self, "_compiled", tuple(compiled))

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        described = {
            "anywhere": "the answer",
            "first-sentence": "its first sentence",
            "start": "its start",
        }[self.where]
        return f"a phrase of the behaviour occurs in {described}"

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
        return np.array([self.matches(answer) for answer in answers], dtype=bool)

    def matches(self, answer: str) -> bool:
        """Whether one of the phrases or patterns occurs where it is searched for."""
        text = answer.strip()
        if self.where == "first-sentence":
            text = first_sentence(text)[0]
        straight = text.translate(str.maketrans(_STRAIGHT))
        folded = fold_text(text)
        if self.where == "start":
            return any(begins_with(text, phrase) for phrase in self.phrases) or any(
                pattern.match(straight) for pattern in self._compiled
            )
        return any(fold_text(phrase) in folded for phrase in self.phrases) or any(
            pattern.search(straight) for pattern in self._compiled
        )

    def is_decided(self, beginning: str) -> bool:
        """Whether ``holds`` is already decided by the beginning of an answer, whatever follows."""
        if self.where == "first-sentence":
            return first_sentence(beginning)[1]
        if self.where == "start":
            # compared case-folded, as in ``begins``: one character can fold into two
            return not self.patterns and len(fold_text(beginning.strip())) > max(
                len(fold_text(phrase)) for phrase in self.phrases
            )
        # space at the end of an answer is ignored, but text may follow it
        return any(fold_text(phrase) in fold_text(beginning.strip()) for phrase in self.phrases)
