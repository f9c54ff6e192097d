"""How well one number tells two groups apart, with intervals that resample clusters; numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.bootstrap import Interval
from interp.maths.statistics import exact_interval

NAN = float("nan")


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
        return NAN, NAN, NAN
    estimate = float((above * counts).sum() / counts.sum())
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    drawn = _drawn((above * counts,), counts, sides, draws, seed)
    if drawn is None:
        return estimate, NAN, NAN
    low, high = np.quantile(drawn[0], [(1 - level) / 2, (1 + level) / 2])
    exact = exact_interval(estimate * (fewest := _fewest(counts, sides)), fewest, level)
    return estimate, float(min(low, exact[0])), float(max(high, exact[1]))


def clustered_auc_rise(
    above: np.ndarray,
    other: np.ndarray,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    within: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """By how much one number's AUC exceeds another's on the same prompts, both given as ``wins``; wider of two ends.

    One resamples whole clusters, for both numbers alike. The other adds up (Newcombe 1998) the distances to the ends of
    both AUCs' exact intervals, with one trial for every cluster of the group that has fewer. NaN as for one AUC.
    """
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    if not counts.any():
        return NAN, NAN, NAN
    first, second = (float((each * counts).sum() / counts.sum()) for each in (above, other))
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    drawn = _drawn((above * counts, other * counts), counts, sides, draws, seed)
    if drawn is None:
        return first - second, NAN, NAN
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - level) / 2, (1 + level) / 2])
    fewest = _fewest(counts, sides)
    ends = [exact_interval(value * fewest, fewest, level) for value in (first, second)]
    down = first - second - np.hypot(first - ends[0][0], ends[1][1] - second)
    up = first - second + np.hypot(ends[0][1] - first, second - ends[1][0])
    return first - second, float(min(low, down)), float(max(high, up))


def shuffled_auc(
    values: ArrayLike,
    labels: ArrayLike,
    strata: ArrayLike,
    within: SupportsFloat,
    draws: int,
    seed: int,
    units: ArrayLike | None = None,
) -> np.ndarray:
    """AUC [draws] of pairs whose strata differ by at most ``within``, labels shuffled among equal strata.

    ``strata`` are numbers, such as lengths: how many positives there are of each stays as it is. ``units`` names what
    keeps one label, as a cluster's rows of one class do; its stratum is the mean of its rows', rounded.
    """
    values, labels, strata = (np.asarray(each) for each in (values, labels, strata))
    above, near = wins(values, values), np.abs(strata[:, None] - strata) <= float(within)
    code = np.arange(len(values)) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    places = np.round(np.bincount(code, weights=strata) / np.bincount(code)) if units is not None else strata
    null = np.full(draws, NAN)
    for draw, drawn in enumerate(shuffled_labels(labels, code, places, draws, seed)):
        pairs = near[np.ix_(drawn, ~drawn)]
        if pairs.any():
            null[draw] = above[np.ix_(drawn, ~drawn)][pairs].mean()
    return null


def shuffled_labels(
    labels: np.ndarray, units: np.ndarray, strata: np.ndarray, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Labels [n] with those of whole ``units`` [n], numbers from 0, shuffled among units of equal ``strata`` [units].

    All rows of a unit must have one label.
    """
    whole, generator = unit_labels(labels, units), np.random.default_rng(seed)
    members = [np.flatnonzero(strata == each) for each in np.unique(strata)]
    for _ in range(draws):
        drawn = whole.copy()
        for rows in members:
            drawn[rows] = generator.permutation(drawn[rows])
        yield drawn[units]


def unit_labels(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The one label of every unit."""
    whole = np.zeros(int(units.max()) + 1, dtype=bool)
    whole[units] = labels
    return whole


def arrangements(labels: np.ndarray, units: np.ndarray, strata: np.ndarray) -> int:
    """In how many ways labels can be shuffled so."""
    whole = unit_labels(labels, units)
    parts = [whole[strata == each] for each in np.unique(strata)]
    return math.prod(math.comb(len(part), int(part.sum())) for part in parts)


def _drawn(
    won: Sequence[np.ndarray], counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray], draws: int, seed: int
) -> list[np.ndarray] | None:
    """Shares of pairs won with clusters resampled, the same draws for all of ``won``; None of fewer than two."""
    n = len(counts)
    names, code = np.unique(np.concatenate(sides), return_inverse=True)
    if len(names) < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    mine, theirs = weights[:, code[:n]].astype(np.float64), weights[:, code[n:]].astype(np.float64)
    bottom, *tops = (np.einsum("dn,dn->d", mine @ part, theirs) for part in (counts, *won))
    return [top[bottom > 0] / bottom[bottom > 0] for top in tops]


def _fewest(counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> int:
    """Clusters with a pair that counts, of the group that has fewer."""
    return min(np.unique(side[(counts > 0).any(axis)]).size for side, axis in zip(sides, (1, 0), strict=True))
