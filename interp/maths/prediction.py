"""Where a further number may lie: an estimate measured again on other data, or one more observation
of several.
"""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

Estimate = tuple[SupportsFloat, SupportsFloat, SupportsFloat]
"""Value, lower and upper end of its interval, in the order of ``cluster_interval``."""


def prediction_interval(
    first: Estimate, second: Estimate, tests: int = 1, level: float = 0.95, stated: float = 0.95
) -> tuple[float, float]:
    """Where the value of ``second`` lies at ``level``, if it estimates what ``first`` does from
    independent data.

    The distances of both values from the ends of their intervals, on the sides that face each
    other, are squared and added (Newcombe, 1998; MOVER of Zou and Donner, 2008), so that the ends
    need not be symmetric: a share of 1 can only fall. Both intervals have the level ``stated``. Of
    ``tests`` comparisons together none is outside by chance at ``level`` (Bonferroni): distances
    are stretched as those of a normal estimate are. Ends beyond the range of the estimate are not
    cut off. ``ValueError`` for an interval that is not finite, or that its value is not in.
    """
    if tests < 1 or not 0 < level < 1 or not 0 < stated < 1:
        raise ValueError(
            f"{tests} tests at level {level} of intervals at {stated}: expected 1 or more, levels"
            " in (0, 1)"
        )
    (old, old_low, old_high), (new, new_low, new_high) = (
        tuple(float(end) for end in estimate) for estimate in (first, second)
    )
    for value, low, high in ((old, old_low, old_high), (new, new_low, new_high)):
        if not -float("inf") < low <= value <= high < float("inf"):
            raise ValueError(
                f"{value:g} with the interval [{low:g}, {high:g}] is no estimate: expected low <="
                " value <= high"
            )
    stretch = float(
        special.ndtri((1 + 1 - (1 - level) / tests) / 2) / special.ndtri((1 + stated) / 2)
    )
    below = ((old - old_low) ** 2 + (new_high - new) ** 2) ** 0.5
    above = ((old_high - old) ** 2 + (new - new_low) ** 2) ** 0.5
    return old - stretch * below, old + stretch * above


def new_observation(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Where one more observation lies, given k like it from one normal distribution: mean +- t sd
    sqrt(1 + 1/k).

    ``level``: how often it does. Student's t with k - 1 degrees of freedom; NaN ends of fewer than
    two. At 95 % it reaches 15.6, 5.0, 3.0, 2.4 and 2.2 standard deviations at k = 2, 3, 5, 10 and
    19.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    if values.size < 2:
        return float("nan"), float("nan")
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    reach = (
        float(special.stdtrit(values.size - 1, (1 + level) / 2))
        * spread
        * (1 + 1 / values.size) ** 0.5
    )
    return mean - reach, mean + reach
