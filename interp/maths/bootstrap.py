"""Intervals that respect clusters: rows of one cluster (twins, templates, a verb-object pair) move together.

The bootstrap of clusters draws as many clusters as there are, with replacement, and takes every row of each (Field
and Welsh, 2007). Means and differences of means need only the sums per cluster, so all draws are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float, float]
# Draws are made in chunks of at most this many cluster counts (32 MB), whatever the number of clusters.
_CELLS = 4_000_000


def _checked(values: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, clusters = np.asarray(values, dtype=np.float64).ravel(), np.asarray(clusters).ravel()
    if values.size != clusters.size:
        raise ValueError(f"{values.size} values and {clusters.size} clusters: expected one cluster per value")
    if not values.size:
        raise ValueError("no values: an interval needs at least one")
    return values, clusters


def _percentiles(estimate: float, draws: np.ndarray, level: float) -> Interval:
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return estimate, float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return estimate, float(low), float(high)


def _means(values: np.ndarray, code: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sums = np.bincount(code, weights=values, minlength=weights.shape[1])
    counts = np.bincount(code, minlength=weights.shape[1])
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ counts)


def _each(values: np.ndarray, code: np.ndarray, weights: np.ndarray, statistic: Callable) -> np.ndarray:
    rows = (np.repeat(values, weight[code]) for weight in weights)
    return np.array([float(statistic(row)) if row.size else np.nan for row in rows])


def clustered_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    minus: ArrayLike | None = None,
    minus_clusters: ArrayLike | None = None,
) -> Interval:
    """Estimate and percentile interval of a statistic of ``values`` [n], resampling whole ``clusters`` [n].

    With ``minus`` [m], the difference statistic(values) - statistic(minus); both arrays follow one draw of clusters, so
    what the two share cancels. ``minus_clusters`` [m] defaults to ``clusters``. Fewer than two clusters give a NaN
    interval, since nothing can be said about other clusters. When all values are equal so are the ends: for shares at 0
    or 1 use ``clustered_share``. Another statistic than ``numpy.mean`` is called once per draw.
    """
    values, clusters = _checked(values, clusters)
    arms = [(values, clusters)]
    if minus is not None:
        arms.append(_checked(minus, clusters if minus_clusters is None else minus_clusters))
    estimate = float(statistic(values)) - (float(statistic(arms[1][0])) if len(arms) == 2 else 0.0)
    names, codes = np.unique(np.concatenate([names for _, names in arms]), return_inverse=True)
    if names.size < 2:
        return estimate, float("nan"), float("nan")
    codes = np.split(codes, [values.size])
    generator = np.random.default_rng(seed)
    drawn = np.zeros(draws)
    chunk = max(1, _CELLS // names.size)
    for start in range(0, draws, chunk):
        part = drawn[start : start + chunk]
        weights = generator.multinomial(names.size, np.full(names.size, 1 / names.size), size=part.size)
        for sign, (numbers, _), code in zip((1, -1), arms, codes, strict=False):
            part += sign * (
                _means(numbers, code, weights) if statistic is np.mean else _each(numbers, code, weights, statistic)
            )
    return _percentiles(estimate, drawn, level)
