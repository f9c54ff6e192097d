"""``--top``: which units of a ranking are selected."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp.errors import OptionError


@dataclass(frozen=True)
class Top:
    """How many: a count (``30``), a percentage (``0.5%``), a threshold in standard deviations
    (``z3``), ``smallest``.

    ``smallest`` is a set found by search: see ``interp.analyzers.locate_neurons.search``.
    """

    kind: Literal["count", "percent", "z", "smallest"]
    value: float

    def __str__(self) -> str:
        if self.kind == "smallest":
            return self.kind
        number = f"{self.value:g}"
        return {"count": number, "percent": f"{number}%", "z": f"z{number}"}[self.kind]

    @classmethod
    def parse(cls, text: str) -> "Top":
        """Parse ``30``, ``0.5%``, ``z3`` or ``smallest``; OptionError for anything else."""
        if text.strip() == "smallest":
            return cls("smallest", 0.0)
        match = re.fullmatch(r"(z?)(\d+(?:\.\d+)?)(%?)", text.strip())
        if match is None or (match[1] and match[3]):
            raise OptionError(
                f"--top {text!r} is not understood; use a count (30), a percentage (0.5%), z3 or"
                " smallest"
            )
        value = float(match[2])
        if not math.isfinite(value):
            raise OptionError(
                f"--top {text[:20]}... is more than all neurons; use a count, a percentage or z3"
            )
        if value <= 0:
            raise OptionError(f"--top {text} selects nothing; use a number above 0")
        if match[1]:
            return cls("z", value)
        if match[3]:
            if value > 100:
                raise OptionError(f"--top {text} is more than all neurons; use at most 100%")
            return cls("percent", value)
        if value != int(value):
            raise OptionError(
                f"--top {text} is not a whole number; use a count (30), a percentage (0.5%) or z3"
            )
        return cls("count", value)

    def count(self, total: int) -> int | None:
        """Number of the ``total`` units to select (at least 1); None for a z threshold or a
        search.
        """
        if self.kind == "count":
            if self.value > total:
                raise OptionError(f"--top {self} is more than the {total} neurons there are")
            return int(self.value)
        return max(1, round(total * self.value / 100)) if self.kind == "percent" else None


def rank(score: np.ndarray) -> np.ndarray:
    """Ranks from 1 by descending signed score, ties by position; same shape as ``score``."""
    order = np.argsort(-score, axis=None, kind="stable")
    ranks = np.empty(score.size, dtype=np.int64)
    ranks[order] = np.arange(1, score.size + 1)
    return ranks.reshape(score.shape)


def select(
    score: np.ndarray, floor: np.ndarray, top: Top, eligible: np.ndarray | None = None
) -> np.ndarray:
    """Mask of the units within ``top`` whose score is above zero and rounding error (and
    eligible).
    """
    count = top.count(score.size)
    if top.kind == "smallest":
        in_top = np.ones_like(score, dtype=bool)
    elif count is None:
        spread = score.std()
        in_top = (
            (score - score.mean()) > top.value * spread
            if spread > 0
            else np.zeros_like(score, dtype=bool)
        )
    else:
        in_top = rank(score) <= count
    chosen = in_top & (score > floor) & (score > 0)
    return chosen if eligible is None else chosen & eligible
