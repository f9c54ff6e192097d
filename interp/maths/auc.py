"""How well one number tells two groups apart (AUC), with intervals over clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.intervals import Interval, effective_clusters, exact_interval, jackknife

NAN = float("nan")


def pairwise_order(positive: ArrayLike, negative: ArrayLike) -> np.ndarray:
    """For every pair [n, m] whether the positive's number is above the negative's: 1, 0, or 1/2 for a tie."""
    gap = np.asarray(positive, np.float64)[:, None] - np.asarray(negative, np.float64)[None]
    return 0.5 * (1 + np.sign(gap))


def auc_interval(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    within: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Chance that a positive's number is above a negative's, and its interval: the wider of two at each end.

    One is the jackknife's over clusters, those that both groups share left out of both at once, with Student's t (of
    single rows close to DeLong et al. 1988); it has no width at 0 and 1. The other is exact (Clopper and Pearson 1934)
    with the effective clusters of the group that has fewer as trials. ``within`` [n, m] says which pairs count, all by
    default. NaN where no pair counts, NaN ends with fewer than two clusters.
    """
    above = pairwise_order(positive, negative)
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    found = _jackknifed((above * counts,), counts, sides, level)
    if np.isnan(found.low):
        return found
    fewest = fewest_clusters(counts, sides)
    low, high = exact_interval(found.value * fewest, fewest, level)
    return Interval(found.value, float(min(found.low, low)), float(max(found.high, high)))


def auc_difference_interval(
    above: np.ndarray,
    other: np.ndarray,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    within: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """By how much one number's AUC exceeds another's on the same rows, both as ``pairwise_order``; wider of two ends.

    One is the jackknife's of the difference. The other squares and adds (Newcombe 1998) the distances to the ends of
    both AUCs' exact intervals, with the effective clusters of the group that has fewer as trials. NaN as for one AUC.
    """
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    found = _jackknifed((above * counts, other * counts), counts, sides, level)
    if np.isnan(found.low):
        return found
    first, second = (float((each * counts).sum() / counts.sum()) for each in (above, other))
    fewest = fewest_clusters(counts, sides)
    ends = [exact_interval(value * fewest, fewest, level) for value in (first, second)]
    down = found.value - np.hypot(first - ends[0][0], ends[1][1] - second)
    up = found.value + np.hypot(ends[0][1] - first, second - ends[1][0])
    return Interval(found.value, float(min(found.low, down)), float(max(found.high, up)))


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
    above, near = pairwise_order(values, values), np.abs(strata[:, None] - strata) <= float(within)
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


def _jackknifed(
    won: Sequence[np.ndarray], counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray], level: float
) -> Interval:
    """Share of the pairs that count which is won, of two arrays the first's less the second's; over clusters."""
    if not counts.any():
        return Interval(NAN, NAN, NAN)
    names, code = np.unique(np.concatenate(sides), return_inverse=True)
    mine, theirs = (np.eye(names.size)[part] for part in np.split(code, [len(counts)]))

    def without_each(pairs: np.ndarray) -> np.ndarray:
        rows, columns = pairs.sum(1) @ mine, pairs.sum(0) @ theirs
        return pairs.sum() - rows - columns + np.einsum("nk,nk->k", mine, pairs @ theirs)

    bottom = without_each(counts)
    estimate, left_out = 0.0, np.zeros(names.size)
    for sign, top in zip((1, -1), won, strict=False):
        estimate += sign * float(top.sum() / counts.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out += sign * np.where(bottom > 0.5, without_each(top) / bottom, NAN)
    return jackknife(estimate, left_out, fewest_clusters(counts, sides) - 1, level)


def fewest_clusters(counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> float:
    """Effective clusters among the rows with a pair that counts, of the group that has fewer."""
    used = ((counts > 0).any(1), (counts > 0).any(0))
    return min(effective_clusters(side[kept]) for side, kept in zip(sides, used, strict=True))
