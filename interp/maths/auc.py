"""Area under the ROC curve (AUC) of one score for two groups, with intervals over clusters."""

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
    """For every pair [n, m]: 1 if the positive's score is above the negative's, 0 if below, 1/2 for
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
    """Probability that a positive's score is above a negative's, and its interval.

    The standard error is the jackknife's over clusters; a cluster that both groups share is left
    out of both at once (with single rows this is close to DeLong et al. 1988). The ends are
    Student's t on the logit scale (Pepe 2003), because on the original scale they are too high near
    1. The degrees of freedom are the effective number of clusters of the smaller group, minus 1. An
    AUC without error, such as 0 or 1, gets the exact interval (Clopper and Pearson 1934) with those
    clusters as trials. ``within`` [n, m] selects the pairs that count; by default all do. NaN if no
    pair counts; NaN ends with fewer than two clusters.
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
    """Difference of two AUCs on the same rows, both given as ``pairwise_order``, with its interval.

    The distances to the ends of both intervals are squared and added, minus twice their product
    times the jackknife correlation of the two AUCs (Zou 2007). So the ends stay between -1 and 1,
    and the interval has a width even if both AUCs are 1. NaN as for one AUC.
    """
    counts = np.ones_like(above) if within is None else np.asarray(within, np.float64)
    sides = np.asarray(positive_clusters), np.asarray(negative_clusters)
    both = [_jackknifed(order, counts, sides) for order in (above, other)]
    first, second = (_ends(*estimate, level) for estimate in both)
    if np.isnan([*first, *second]).any():
        return Interval(first.value - second.value, NAN, NAN)
    errors = [np.linalg.norm(estimate[1]) for estimate in both]
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
    """Null distribution [draws] of the AUC: labels are shuffled among units of equal stratum.

    Only pairs whose strata differ by at most ``within`` count. ``strata`` are numbers, such as
    lengths; the number of positives in each stays the same. Rows of one of the ``units``, such as a
    cluster's rows of one class, keep a common label; the stratum of a unit is the rounded mean of
    its rows'.
    """
    values, labels, strata = (np.asarray(array) for array in (values, labels, strata))
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
    """Labels [n], with the labels of ``units`` [n] (numbered from 0) shuffled among units of equal
    ``strata`` [units].

    All rows of a unit must have the same label.
    """
    whole, generator = unit_labels(labels, units), np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for _ in range(draws):
        drawn = whole.copy()
        for rows in members:
            drawn[rows] = generator.permutation(drawn[rows])
        yield drawn[units]


def unit_labels(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The label of every unit."""
    whole = np.zeros(int(units.max()) + 1, dtype=bool)
    whole[units] = labels
    return whole


def arrangements(labels: np.ndarray, units: np.ndarray, strata: np.ndarray) -> int:
    """Number of distinct ways in which ``shuffled_labels`` can arrange the labels."""
    whole = unit_labels(labels, units)
    parts = [whole[strata == stratum] for stratum in np.unique(strata)]
    return math.prod(math.comb(len(part), int(part.sum())) for part in parts)


def _jackknifed(
    won: np.ndarray, counts: np.ndarray, sides: tuple[np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray, float]:
    """AUC over the pairs that count, its change [m] without each of m clusters, and the effective
    number of clusters.
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
    moved[np.abs(moved) <= 1e-12] = 0.0  # rounding is not sampling error; NaN stays
    return value, moved, fewest_clusters(counts, sides)


def _ends(value: float, moved: np.ndarray, fewest: float, level: float) -> Interval:
    """Interval of one AUC from its changes [m] without each of m clusters and the effective number
    of clusters.
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
    """Effective number of clusters of the smaller group, among rows with a pair that counts."""
    used = ((counts > 0).any(1), (counts > 0).any(0))
    return min(effective_clusters(side[mask]) for side, mask in zip(sides, used, strict=True))
