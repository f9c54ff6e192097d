"""Prediction intervals: for a replication of an estimate, and for one more observation."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

Estimate = tuple[SupportsFloat, SupportsFloat, SupportsFloat]
"""Value, lower and upper end of its interval, in the order of ``cluster_interval``."""


def prediction_interval(
    first: Estimate,
    second: Estimate,
    n_tests: int = 1,
    level: float = 0.95,
    interval_level: float = 0.95,
) -> tuple[float, float]:
    """Interval for the value of ``second`` at ``level``, if it estimates the same quantity as
    ``first`` from independent data.

    The distances of both values from the facing ends of their intervals are squared and added
    (Newcombe, 1998; MOVER of Zou and Donner, 2008), so the interval can be asymmetric: a share of 1
    can only fall. Both input intervals have the level ``interval_level``. ``n_tests`` applies a
    Bonferroni correction: none of that many comparisons is outside by chance at ``level``;
    distances are scaled as for a normal estimate. Ends are not clipped to the range of the
    estimate. ``ValueError`` for an interval that is not finite or does not contain its value.
    """
    if n_tests < 1 or not 0 < level < 1 or not 0 < interval_level < 1:
        raise ValueError(
            f"{n_tests} tests at level {level} of intervals at {interval_level}: expected 1 or"
            " more, levels in (0, 1)"
        )
    (old, old_low, old_high), (new, new_low, new_high) = (
        tuple(float(end) for end in estimate) for estimate in (first, second)
    )
    for value, low, high in ((old, old_low, old_high), (new, new_low, new_high)):
        if not -float("inf") < low <= value <= high < float("inf"):
            raise ValueError(
                f"{value:g} with the interval [{low:g}, {high:g}] is not an estimate: expected"
                " low <= value <= high"
            )
    scale = float(
        special.ndtri((1 + 1 - (1 - level) / n_tests) / 2) / special.ndtri((1 + interval_level) / 2)
    )
    distance_below = ((old - old_low) ** 2 + (new_high - new) ** 2) ** 0.5
    distance_above = ((old_high - old) ** 2 + (new - new_low) ** 2) ** 0.5
    return old - scale * distance_below, old + scale * distance_above


def observation_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Prediction interval for one more observation from a normal distribution: mean +- t sd sqrt(1
    + 1/k).

    Student's t with k - 1 degrees of freedom at ``level``; NaN with fewer than two values. At 95 %
    it reaches 15.6, 5.0, 3.0, 2.4 and 2.2 standard deviations for k = 2, 3, 5, 10 and 19.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    if values.size < 2:
        return float("nan"), float("nan")
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    half_width = (
        float(special.stdtrit(values.size - 1, (1 + level) / 2))
        * spread
        * (1 + 1 / values.size) ** 0.5
    )
    return mean - half_width, mean + half_width


def observation_p(value: SupportsFloat, draws: ArrayLike) -> float:
    """One-sided p that one more observation from the normal distribution of ``draws`` is at least
    ``value``: Student's t of ``(value - mean) / (sd sqrt(1 + 1/k))`` with k - 1 degrees of freedom.

    Unlike a rank, it can be small enough for a correction over several tests with few draws; it
    rests on their normality. NaN for a NaN among the numbers and with fewer than two draws.
    """
    draws = np.asarray(draws, dtype=np.float64).ravel()
    value = float(value)
    if draws.size < 2 or np.isnan(value) or np.isnan(draws).any():
        return float("nan")
    spread = float(draws.std(ddof=1)) * (1 + 1 / draws.size) ** 0.5
    distance = value - float(draws.mean())
    if spread == 0:
        return 0.0 if distance > 0 else 1.0
    return float(special.stdtr(draws.size - 1, -distance / spread))
