"""How well one number tells two groups apart, with intervals that resample clusters; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.bootstrap import Interval
from interp.maths.statistics import exact_interval


def wins(positive: ArrayLike, negative: ArrayLike) -> np.ndarray:
    """For every pair [n, m] whether the positive's number is above the negative's: 1, 0, or 1/2 for a tie."""
    gap = np.asarray(positive, np.float64)[:, None] - np.asarray(negative, np.float64)[None]
    return 0.5 * (1 + np.sign(gap))


def clustered_auc(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    within: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Chance that a positive's number is above a negative's, and its interval: the wider of two at each end.

    One resamples whole clusters, those that both groups share for both; it has no width at 0 and 1. The other is exact
    (Clopper and Pearson) with one trial for every cluster of the group that has fewer. ``within`` [n, m] says which
    pairs count, all by default. NaN where no pair counts, and a NaN interval with fewer than two clusters.
    """
    above = wins(positive, negative)
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    if not counts.any():
        return float("nan"), float("nan"), float("nan")
    won = above * counts
    estimate = float(won.sum() / counts.sum())
    n = len(above)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    names, code = np.unique(np.concatenate(sides), return_inverse=True)
    if len(names) < 2:
        return estimate, float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    mine, theirs = weights[:, code[:n]].astype(np.float64), weights[:, code[n:]].astype(np.float64)
    top, bottom = (np.einsum("dn,dn->d", mine @ part, theirs) for part in (won, counts))
    drawn = top[bottom > 0] / bottom[bottom > 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    paired = counts > 0
    fewest = min(np.unique(side[paired.any(axis)]).size for side, axis in zip(sides, (1, 0), strict=True))
    exact = exact_interval(estimate * fewest, fewest, level)
    return estimate, float(min(low, exact[0])), float(max(high, exact[1]))
