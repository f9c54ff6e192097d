"""Behaviours read by a callable of another installed package, from the entry point group
``interp.behaviours``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import cast

import numpy as np

from interp.errors import MetricError
from interp.prompts import Prompt

GROUP = "interp.behaviours"
Judging = Callable[[str, str], bool | float]


@dataclass(frozen=True)
class Called:
    """``function(prompt, answer)`` returns whether an answer exhibits the behaviour: True or False,
    or a score from 0 to 1.

    A score of at least ``threshold`` counts as yes. ``distribution`` and ``version`` identify the
    installed package.
    """

    entry_point: str
    distribution: str
    version: str
    threshold: float = 0.5
    function: Judging = field(default=lambda prompt, answer: False, compare=False, repr=False)

    @property
    def flag(self) -> str:
        """What a positive reading of an answer means."""
        return f"{self.entry_point} of {self.distribution} {self.version} says so"

    @property
    def identity(self) -> dict[str, object]:
        """What determines its readings, as far as it can be known: the package's version."""
        return {
            "kind": "entry-point",
            "entry_point": self.entry_point,
            "distribution": self.distribution,
            "version": self.version,
            "threshold": self.threshold,
        }

    def read(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """The reading of each answer; MetricError if the callable raises, or returns neither a
        truth value nor a number from 0 to 1.
        """
        return np.array(
            [self._one(p.text, answer) for p, answer in zip(prompts, answers, strict=True)],
            dtype=bool,
        )

    def _one(self, prompt: str, answer: str) -> bool:
        try:
            said = self.function(prompt, answer)
        except Exception as error:  # foreign code can raise anything
            reason = " ".join(str(error).split())[:200]
            raise MetricError(
                f"{self.entry_point} failed on {answer[:40]!r}: {type(error).__name__}, {reason}"
            ) from error
        if isinstance(said, (bool, np.bool_)):
            return bool(said)
        if not isinstance(said, (int, float, np.number)) or not 0 <= float(said) <= 1:
            raise MetricError(
                f"{self.entry_point} returned {said!r} for {answer[:40]!r}; it has to return True,"
                " False or a number from 0 to 1"
            )
        return float(said) >= self.threshold


def called(name: str, threshold: float = 0.5) -> Called:
    """The callable of an installed package; MetricError unless exactly one package has this entry
    point.
    """
    known = list(metadata.entry_points(group=GROUP))
    found = [point for point in known if point.name == name]
    if len(found) != 1:
        others = ", ".join(sorted({point.name for point in known})) or "none"
        said = "no file and no" if not found else f"{len(found)} packages have an"
        raise MetricError(
            f"{name!r}: {said} entry point of {GROUP} (installed: {others}); name one, or a YAML"
            " file"
        )
    try:
        function = found[0].load()
    except Exception as error:  # foreign code can raise anything on import
        raise MetricError(
            f"the entry point {name!r} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if not callable(function):
        raise MetricError(
            f"the entry point {name!r} is a {type(function).__name__}; it has to be callable"
        )
    where = found[0].dist
    return Called(
        name,
        where.name if where else "",
        where.version if where else "",
        threshold,
        cast(Judging, function),
    )
