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
ReadFunction = Callable[[str, str], bool | float]


@dataclass(frozen=True)
class EntryPointReader:
    """``function(prompt, answer)`` returns whether an answer exhibits the behaviour: True or False,
    or a score from 0 to 1.

    A score of at least ``threshold`` counts as yes. ``distribution`` and ``version`` identify the
    installed package.
    """

    entry_point: str
    distribution: str
    version: str
    threshold: float = 0.5
    function: ReadFunction = field(default=lambda prompt, answer: False, compare=False, repr=False)

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
            [self._read_one(p.text, answer) for p, answer in zip(prompts, answers, strict=True)],
            dtype=bool,
        )

    def _read_one(self, prompt: str, answer: str) -> bool:
        try:
            reading = self.function(prompt, answer)
        except Exception as error:  # foreign code can raise anything
            reason = " ".join(str(error).split())[:200]
            raise MetricError(
                f"{self.entry_point} failed on {answer[:40]!r}: {type(error).__name__}, {reason}"
            ) from error
        if isinstance(reading, (bool, np.bool_)):
            return bool(reading)
        if not isinstance(reading, (int, float, np.number)) or not 0 <= float(reading) <= 1:
            raise MetricError(
                f"{self.entry_point} returned {reading!r} for {answer[:40]!r}; it has to return"
                " True, False or a number from 0 to 1"
            )
        return float(reading) >= self.threshold


def load_entry_point(name: str, threshold: float = 0.5) -> EntryPointReader:
    """The callable of an installed package; MetricError unless exactly one package has this entry
    point.
    """
    installed = list(metadata.entry_points(group=GROUP))
    matching = [point for point in installed if point.name == name]
    if len(matching) != 1:
        names = ", ".join(sorted({point.name for point in installed})) or "none"
        problem = "no file and no" if not matching else f"{len(matching)} packages have an"
        raise MetricError(
            f"{name!r}: {problem} entry point of {GROUP} (installed: {names}); name one, or a YAML"
            " file"
        )
    try:
        function = matching[0].load()
    except Exception as error:  # foreign code can raise anything on import
        raise MetricError(
            f"the entry point {name!r} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if not callable(function):
        raise MetricError(
            f"the entry point {name!r} is a {type(function).__name__}; it has to be callable"
        )
    package = matching[0].dist
    return EntryPointReader(
        name,
        package.name if package else "",
        package.version if package else "",
        threshold,
        cast(ReadFunction, function),
    )
