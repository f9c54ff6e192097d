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
    pair_mask: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Probability that a positive's score is above a negative's, and its interval.

    The standard error is the jackknife's over clusters; a cluster that both groups share is left
    out of both at once (with single rows this is close to DeLong et al. 1988). The ends are
    Student's t on the logit scale (Pepe 2003), because on the original scale they are too high near
    1. The degrees of freedom are the effective number of clusters of the smaller group, minus 1. An
    AUC without error, such as 0 or 1, gets the exact interval (Clopper and Pearson 1934) with those
    clusters as trials. ``pair_mask`` [n, m] selects the pairs that count; by default all do. NaN if
    no pair counts; NaN ends with fewer than two clusters.
    """
    order = pairwise_order(positive, negative)
    weights = np.ones_like(order) if pair_mask is None else np.asarray(pair_mask, np.float64)
    clusters = np.asarray(positive_clusters), np.asarray(negative_clusters)
    return _auc_ends(*_jackknife_auc(order, weights, clusters), level)


def auc_difference_interval(
    first_order: np.ndarray,
    second_order: np.ndarray,
    positive_clusters: ArrayLike,
    negative_clusters: ArrayLike,
    pair_mask: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Difference of two AUCs on the same rows, both given as ``pairwise_order``, with its interval.

    The distances to the ends of both intervals are squared and added, minus twice their product
    times the jackknife correlation of the two AUCs (Zou 2007). So the ends stay between -1 and 1,
    and the interval has a width even if both AUCs are 1. NaN as for one AUC.
    """
    weights = np.ones_like(first_order) if pair_mask is None else np.asarray(pair_mask, np.float64)
    clusters = np.asarray(positive_clusters), np.asarray(negative_clusters)
    estimates = [_jackknife_auc(order, weights, clusters) for order in (first_order, second_order)]
    first, second = (_auc_ends(*estimate, level) for estimate in estimates)
    if np.isnan([*first, *second]).any():
        return Interval(first.value - second.value, NAN, NAN)
    errors = [np.linalg.norm(estimate[1]) for estimate in estimates]
    correlation = float(estimates[0][1] @ estimates[1][1] / np.prod(errors)) if all(errors) else 0.0
    lower_distances, upper_distances = (
        (first.value - first.low, second.high - second.value),
        (first.high - first.value, second.value - second.low),
    )
    value = first.value - second.value
    low, high = (
        math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))
        for a, b in (lower_distances, upper_distances)
    )
    return Interval(value, max(-1.0, value - low), min(1.0, value + high))


def shuffled_auc(
    values: ArrayLike,
    labels: ArrayLike,
    strata: ArrayLike,
    max_difference: SupportsFloat,
    draws: int,
    seed: int,
    units: ArrayLike | None = None,
) -> np.ndarray:
    """Null distribution [draws] of the AUC: labels are shuffled among units of equal stratum.

    Only pairs whose strata differ by at most ``max_difference`` count. ``strata`` are numbers, such
    as lengths; the number of positives in each stays the same. Rows of one of the ``units``, such
    as a cluster's rows of one class, keep a common label; the stratum of a unit is the rounded mean
    of its rows'.
    """
    values, labels, strata = (np.asarray(array) for array in (values, labels, strata))
    order, is_comparable = (
        pairwise_order(values, values),
        np.abs(strata[:, None] - strata) <= float(max_difference),
    )
    code = (
        np.arange(len(values))
        if units is None
        else np.unique(np.asarray(units), return_inverse=True)[1]
    )
    unit_strata = (
        np.round(np.bincount(code, weights=strata) / np.bincount(code))
        if units is not None
        else strata
    )
    null = np.full(draws, NAN)
    for draw, shuffled in enumerate(shuffled_labels(labels, code, unit_strata, draws, seed)):
        pairs = is_comparable[np.ix_(shuffled, ~shuffled)]
        if pairs.any():
            null[draw] = order[np.ix_(shuffled, ~shuffled)][pairs].mean()
    return null


def shuffled_labels(
    labels: np.ndarray, units: np.ndarray, strata: np.ndarray, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Labels [n], with the labels of ``units`` [n] (numbered from 0) shuffled among units of equal
    ``strata`` [units].

    All rows of a unit must have the same label.
    """
    original, generator = unit_labels(labels, units), np.random.default_rng(seed)
    units_by_stratum = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for _ in range(draws):
        shuffled = original.copy()
        for rows in units_by_stratum:
            shuffled[rows] = generator.permutation(shuffled[rows])
        yield shuffled[units]


def unit_labels(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The label of every unit."""
    result = np.zeros(int(units.max()) + 1, dtype=bool)
    result[units] = labels
    return result


def count_label_arrangements(labels: np.ndarray, units: np.ndarray, strata: np.ndarray) -> int:
    """Number of distinct ways in which ``shuffled_labels`` can arrange the labels."""
    all_labels = unit_labels(labels, units)
    labels_by_stratum = [all_labels[strata == stratum] for stratum in np.unique(strata)]
    return math.prod(math.comb(len(part), int(part.sum())) for part in labels_by_stratum)


def _jackknife_auc(
    order: np.ndarray, weights: np.ndarray, clusters: tuple[np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray, float]:
    """AUC over the pairs that count, its change [m] without each of m clusters, and the effective
    number of clusters.
    """
    if not weights.any():
        return NAN, np.zeros(0), 0.0
    names, code = np.unique(np.concatenate(clusters), return_inverse=True)
    positive_indicator, negative_indicator = (
        np.eye(names.size)[part] for part in np.split(code, [len(weights)])
    )

    def without_each(pairs: np.ndarray) -> np.ndarray:
        rows, columns = pairs.sum(1) @ positive_indicator, pairs.sum(0) @ negative_indicator
        return (
            pairs.sum()
            - rows
            - columns
            + np.einsum("nk,nk->k", positive_indicator, pairs @ negative_indicator)
        )

    value, left_out_weights = float((order * weights).sum() / weights.sum()), without_each(weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = np.where(
            left_out_weights > 0.5, without_each(order * weights) / left_out_weights, NAN
        )
    changes = left_out - value
    changes[np.abs(changes) <= 1e-12] = 0.0  # rounding is not sampling error; NaN stays
    return value, changes, effective_clusters_of_smaller_group(weights, clusters)


def _auc_ends(value: float, changes: np.ndarray, n_clusters: float, level: float) -> Interval:
    """Interval of one AUC from its changes [m] without each of m clusters and the effective number
    of clusters.
    """
    symmetric = jackknife(value, value + changes, n_clusters - 1, level)
    if np.isnan(symmetric.low):
        return symmetric
    half_width = symmetric.high - value
    if not changes.any():
        return Interval(value, *exact_interval(value * n_clusters, n_clusters, level))
    centre, half_width = math.log(value / (1 - value)), half_width / (value * (1 - value))
    low, high = (float(special.expit(centre + sign * half_width)) for sign in (-1, 1))
    return Interval(value, low, high)


def effective_clusters_of_smaller_group(
    weights: np.ndarray, clusters: tuple[np.ndarray, np.ndarray]
) -> float:
    """Effective number of clusters of the smaller group, among rows with a pair that counts."""
    has_pair = ((weights > 0).any(1), (weights > 0).any(0))
    return min(
        effective_clusters(side[mask]) for side, mask in zip(clusters, has_pair, strict=True)
    )
