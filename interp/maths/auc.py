"""How well one number tells two groups apart (AUC), with intervals over clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from interp.maths.intervals import Interval, effective_clusters, exact_interval, jackknife

NAN = float("nan")


def pairwise_order(positive: ArrayLike, negative: ArrayLike) -> np.ndarray:
    """For every pair [n, m] whether the positive's number is above the negative's: 1, 0, or 1/2 for
    a tie.
    """
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
    """Chance that a positive's number is above a negative's, and its interval.

    The standard error is the jackknife's over clusters, those that both groups share left out of
    both at once (of single rows close to DeLong et al. 1988). The ends are Student's t on the logit
    scale (Pepe 2003), with the effective clusters of the group that has fewer, less 1, as degrees
    of freedom: on the plain scale they lie too high near 1. An AUC with no error, as of 0 and 1,
    has the exact interval (Clopper and Pearson 1934) with those clusters as trials. ``within`` [n,
    m] says which pairs count, all by default. NaN where no pair counts, NaN ends with fewer than
    two clusters.
    """
    above = pairwise_order(positive, negative)
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    return _ends(*_jackknifed(above, counts, sides), level)


def auc_difference_interval(
    above: np.ndarray,
    other: np.ndarray,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    within: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """By how much one number's AUC exceeds another's on the same rows, both as ``pairwise_order``.

    The distances to the ends of both AUCs' intervals are squared and added, less twice their
    product times the correlation of the two AUCs over the jackknife (Zou 2007): the ends stay
    between -1 and 1, and there is a width where both AUCs are 1. NaN as for one AUC.
    """
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    both = [_jackknifed(each, counts, sides) for each in (above, other)]
    first, second = (_ends(*each, level) for each in both)
    if np.isnan([*first, *second]).any():
        return Interval(first.value - second.value, NAN, NAN)
    errors = [np.linalg.norm(each[1]) for each in both]
    together = float(both[0][1] @ both[1][1] / np.prod(errors)) if all(errors) else 0.0
    down, up = (
        (first.value - first.low, second.high - second.value),
        (first.high - first.value, second.value - second.low),
    )
    value = first.value - second.value
    low, high = (math.sqrt(max(0.0, a * a + b * b - 2 * together * a * b)) for a, b in (down, up))
    return Interval(value, max(-1.0, value - low), min(1.0, value + high))


def shuffled_auc(
    values: ArrayLike,
    labels: ArrayLike,
    strata: ArrayLike,
    within: SupportsFloat,
    draws: int,
    seed: int,
    units: ArrayLike | None = None,
) -> np.ndarray:
    """AUC [draws] of pairs whose strata differ by at most ``within``, labels shuffled among equal
    strata.

    ``strata`` are numbers, such as lengths: how many positives there are of each stays as it is.
    ``units`` names what keeps one label, as a cluster's rows of one class do; its stratum is the
    mean of its rows', rounded.
    """
    values, labels, strata = (np.asarray(each) for each in (values, labels, strata))
    above, near = pairwise_order(values, values), np.abs(strata[:, None] - strata) <= float(within)
    code = (
        np.arange(len(values))
        if units is None
        else np.unique(np.asarray(units), return_inverse=True)[1]
    )
    places = (
        np.round(np.bincount(code, weights=strata) / np.bincount(code))
        if units is not None
        else strata
    )
    null = np.full(draws, NAN)
    for draw, drawn in enumerate(shuffled_labels(labels, code, places, draws, seed)):
        pairs = near[np.ix_(drawn, ~drawn)]
        if pairs.any():
            null[draw] = above[np.ix_(drawn, ~drawn)][pairs].mean()
    return null


def shuffled_labels(
    labels: np.ndarray, units: np.ndarray, strata: np.ndarray, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Labels [n] with those of whole ``units`` [n], numbers from 0, shuffled among units of equal
    ``strata`` [units].

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
    won: np.ndarray, counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray, float]:
    """Share of the pairs that count which is won, how far it moves without each cluster, and
    effective clusters.
    """
    if not counts.any():
        return NAN, np.zeros(0), 0.0
    names, code = np.unique(np.concatenate(sides), return_inverse=True)
    mine, theirs = (np.eye(names.size)[part] for part in np.split(code, [len(counts)]))

    def without_each(pairs: np.ndarray) -> np.ndarray:
        rows, columns = pairs.sum(1) @ mine, pairs.sum(0) @ theirs
        return pairs.sum() - rows - columns + np.einsum("nk,nk->k", mine, pairs @ theirs)

    value, bottom = float((won * counts).sum() / counts.sum()), without_each(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = np.where(bottom > 0.5, without_each(won * counts) / bottom, NAN)
    moved = left_out - value
    moved[np.abs(moved) <= 1e-12] = 0.0  # rounding is no error; a NaN stays
    return value, moved, fewest_clusters(counts, sides)


def _ends(value: float, moved: np.ndarray, fewest: float, level: float) -> Interval:
    """One AUC's interval from how far it moves [m] without each of m clusters, and the effective
    clusters.
    """
    plain = jackknife(value, value + moved, fewest - 1, level)
    if np.isnan(plain.low):
        return plain
    reach = plain.high - value
    if not moved.any():
        return Interval(value, *exact_interval(value * fewest, fewest, level))
    centre, reach = math.log(value / (1 - value)), reach / (value * (1 - value))
    low, high = (float(special.expit(centre + sign * reach)) for sign in (-1, 1))
    return Interval(value, low, high)


def fewest_clusters(counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> float:
    """Effective clusters among the rows with a pair that counts, of the group that has fewer."""
    used = ((counts > 0).any(1), (counts > 0).any(0))
    return min(effective_clusters(side[kept]) for side, kept in zip(sides, used, strict=True))
