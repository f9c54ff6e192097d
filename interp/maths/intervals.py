"""Estimates over clusters with their intervals: the only place where ``interp`` computes the
uncertainty of a mean.

Rows of one cluster (twins, templates, copies of a text) are dependent, so the cluster is the unit
of evidence. A mean, a difference or a ratio gets the jackknife standard error over clusters and
Student's t; the degrees of freedom are the effective number of clusters minus one. A share has no
sample variance at 0 and 1, so it gets an exact binomial interval with the effective number of
clusters as its number of trials. ``python -m benchmarks.coverage`` measures the coverage of each.

Only numpy and ``scipy.special`` are imported on loading, so that reading a stored run stays fast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

NAN = float("nan")
MIN_CLUSTERS = 6
"""Minimum effective number of clusters for a verdict: with fewer, no interval keeps its level for
skewed data.
"""


class Interval(NamedTuple):
    """An estimate and the ends of its interval; the ends are NaN with too few clusters."""

    value: float
    low: float
    high: float


def effective_clusters(clusters: ArrayLike) -> float:
    """Kish's effective number of clusters, ``(sum n)^2 / sum n^2`` over cluster sizes n.

    It equals the number of clusters when all have the same size, and is at most 4 when one cluster
    holds half of all rows. 0 without rows. Kish (1965), Survey Sampling.
    """
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if sizes.size else 0.0


def cluster_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    minus: ArrayLike | None = None,
    minus_clusters: ArrayLike | None = None,
    over: ArrayLike | None = None,
    over_minus: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean of ``values`` [n], a difference of means or a ratio of means, with its interval over
    ``clusters`` [n].

    =================================  =============================================================
    arguments                          estimate and interval
    =================================  =============================================================
    numbers                            mean; jackknife over clusters, Student's t
    bool                               share; Clopper and Pearson (1934), clusters as trials
    ``minus`` [n]                      mean of paired differences; jackknife, t. Of two bool arrays:
                                       Tango's (1998) score interval, and the exact bound if no
                                       row differs
    ``minus`` [m], ``minus_clusters``  difference of two groups; Welch's degrees of freedom.
                                       Clusters that both groups share are left out of both at once.
                                       For two bool arrays: the ends of both exact intervals, their
                                       distances squared and added (Newcombe 1998)
    ``over`` [n] (``over_minus`` [n])  ratio ``mean(values - minus) / mean(over - over_minus)``;
                                       jackknife, t
    =================================  =============================================================

    The number of clusters is the effective one (``effective_clusters``). A ratio whose denominator
    is a difference is NaN if the denominator's own interval covers 0. The ends are NaN with fewer
    than two clusters. Raises ValueError for lengths that do not match, and for no rows.
    """
    values, clusters = _checked(values, clusters)
    if minus_clusters is not None:
        if minus is None or over is not None:
            raise ValueError("minus_clusters needs a second group: give minus, and leave out over")
        return _two_group_interval(values, clusters, *_checked(minus, minus_clusters), level)
    subtracted = None if minus is None else _checked(minus, clusters)[0]
    if over is not None:
        denominator_subtracted = None if over_minus is None else _checked(over_minus, clusters)[0]
        return _ratio_interval(
            values, subtracted, _checked(over, clusters)[0], denominator_subtracted, clusters, level
        )
    if subtracted is None:
        return (
            _share_interval(values, clusters, level)
            if values.dtype == bool
            else _mean_interval(values, clusters, level)
        )
    if values.dtype == bool and subtracted.dtype == bool:
        return _paired_shares_interval(values, subtracted, clusters, level)
    return _mean_interval(values.astype(np.float64) - subtracted, clusters, level)


def jackknife(
    estimate: SupportsFloat,
    left_out: ArrayLike,
    degrees_of_freedom: SupportsFloat,
    level: float = 0.95,
) -> Interval:
    """Interval of an estimate from the m estimates that leave out one cluster each, by Student's t.

    The squared standard error is ``(m - 1) / m`` times the sum of squared deviations from the full
    estimate. The ends are NaN with fewer than two clusters, without degrees of freedom, or if an
    estimate is not finite.
    """
    estimate, left_out, degrees_of_freedom = (
        float(estimate),
        np.asarray(left_out, dtype=np.float64).ravel(),
        float(degrees_of_freedom),
    )
    m = left_out.size
    if m < 2 or not degrees_of_freedom > 0 or not np.isfinite([estimate, *left_out]).all():
        return Interval(estimate, NAN, NAN)
    error = np.sqrt((m - 1) / m * np.square(left_out - estimate).sum())
    half_width = (
        float(error * special.stdtrit(degrees_of_freedom, (1 + level) / 2)) if error else 0.0
    )
    return (
        Interval(estimate, estimate - half_width, estimate + half_width)
        if np.isfinite(half_width)
        else (Interval(estimate, NAN, NAN))
    )


def jackknife_rows(
    statistic: Callable[[np.ndarray], float], clusters: ArrayLike, level: float = 0.95
) -> Interval:
    """Interval of any statistic, such as a correlation or an area.

    ``statistic(rows)`` is called with row numbers: once with all of them, and once without each
    cluster.
    """
    names, code = np.unique(np.asarray(clusters), return_inverse=True)
    rows = np.arange(code.size)
    left_out = (
        [statistic(rows[code != cluster]) for cluster in range(names.size)]
        if names.size > 1
        else []
    )
    return jackknife(statistic(rows), left_out, effective_clusters(clusters) - 1, level)


def exact_interval(
    successes: SupportsFloat, n: SupportsFloat, level: float = 0.95
) -> tuple[float, float]:
    """Clopper and Pearson's interval, extended to fractional numbers of successes and trials."""
    # scipy's binomtest takes whole numbers only; effective clusters are fractional
    successes, n, tail = float(successes), float(n), (1 - level) / 2
    low = 0.0 if successes <= 0 else float(special.betaincinv(successes, n - successes + 1, tail))
    high = (
        1.0 if successes >= n else float(special.betaincinv(successes + 1, n - successes, 1 - tail))
    )
    return low, high


@lru_cache(maxsize=4096)
def tango_interval(
    up: SupportsFloat, down: SupportsFloat, n: SupportsFloat, level: float = 0.95
) -> tuple[float, float]:
    """Tango's (1998) score interval of the difference of two paired shares: of ``n`` pairs, ``up``
    changed from no to yes and ``down`` from yes to no.

    If both are 0, the exact bound ``1 - (tail)^(1/n)`` on either. Numbers may be fractional.
    """
    up, down, n = float(up), float(down), float(n)
    if up + down <= 0:
        bound = exact_interval(0, n, level)[1]
        return -bound, bound
    from scipy.optimize import root_scalar  # takes a quarter of a second to import

    difference, critical = (up - down) / n, float(special.ndtri((1 + level) / 2)) ** 2

    def score(delta: float) -> float:
        """Zero where the observed difference is exactly ``critical`` standard errors from
        ``delta``; positive beyond.
        """
        linear = (2 * n - up + down) * delta - up - down
        constant = -down * delta * (1 - delta)
        share = (np.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        return (up - down - n * delta) ** 2 - critical * n * (2 * share + delta * (1 - delta))

    margin = 1e-9
    low, high = -1.0, 1.0
    if difference > -1 + margin:
        low = root_scalar(score, bracket=(-1.0, difference - margin), method="brentq").root
    if difference < 1 - margin:
        high = root_scalar(score, bracket=(difference + margin, 1.0), method="brentq").root
    return float(low), float(high)


def _checked(values: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, clusters = np.asarray(values).ravel(), np.asarray(clusters).ravel()
    if values.size != clusters.size:
        raise ValueError(
            f"{values.size} values and {clusters.size} clusters: expected one cluster per value"
        )
    if not values.size:
        raise ValueError("no values: an interval needs at least one")
    return (values if values.dtype == bool else values.astype(np.float64)), clusters


def _leave_one_out_sums(clusters: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums [m] of every array over all rows except those of one cluster each."""
    code = np.unique(clusters, return_inverse=True)[1]
    return tuple(value.sum() - np.bincount(code, weights=value) for value in values)


def _mean_interval(values: np.ndarray, clusters: np.ndarray, level: float) -> Interval:
    if np.ptp(values) == 0:  # rounding must not give equal values an error
        is_single_cluster = np.unique(clusters).size < 2
        return Interval(
            float(values[0]), *([NAN, NAN] if is_single_cluster else [float(values[0])] * 2)
        )
    sums, counts = _leave_one_out_sums(clusters, values, np.ones(values.size))
    with np.errstate(invalid="ignore", divide="ignore"):
        return jackknife(values.mean(), sums / counts, effective_clusters(clusters) - 1, level)


def _share_interval(flags: np.ndarray, clusters: np.ndarray, level: float) -> Interval:
    n, share = effective_clusters(clusters), float(flags.mean())
    return Interval(share, *exact_interval(share * n, n, level))


def _paired_shares_interval(
    after: np.ndarray, before: np.ndarray, clusters: np.ndarray, level: float
) -> Interval:
    n = effective_clusters(clusters)
    up, down = float((after & ~before).mean()), float((before & ~after).mean())
    # a difference of counts: a difference of shares is off in the last bits
    value = float(after.sum() - int(before.sum())) / after.size
    low, high = tango_interval(n * up, n * down, n, level)
    return Interval(value, min(low, value), max(high, value))


def _two_group_interval(
    first: np.ndarray,
    first_clusters: np.ndarray,
    second: np.ndarray,
    second_clusters: np.ndarray,
    level: float,
) -> Interval:
    value = float(first.mean() - second.mean())
    if first.dtype == bool and second.dtype == bool:
        (first_share, first_low, first_high), (second_share, second_low, second_high) = (
            _share_interval(first, first_clusters, level),
            _share_interval(second, second_clusters, level),
        )
        ends = (
            value - float(np.hypot(first_share - first_low, second_high - second_share)),
            value + float(np.hypot(first_high - first_share, second_share - second_low)),
        )
        if not np.intersect1d(first_clusters, second_clusters).size:
            return Interval(value, *ends)
        # twins with opposite answers make the difference more variable than in two independent
        # groups
        paired = _two_group_interval(
            first.astype(np.float64),
            first_clusters,
            second.astype(np.float64),
            second_clusters,
            level,
        )
        return Interval(
            value, float(np.fmin(ends[0], paired.low)), float(np.fmax(ends[1], paired.high))
        )
    first, second = first.astype(np.float64), second.astype(np.float64)
    n_clusters = effective_clusters(first_clusters), effective_clusters(second_clusters)
    if not np.intersect1d(first_clusters, second_clusters).size:
        errors = [
            _squared_error(*group) for group in ((first, first_clusters), (second, second_clusters))
        ]
        if not np.isfinite(errors).all() or min(n_clusters) <= 1:
            return Interval(value, NAN, NAN)
        if not sum(errors):
            return Interval(value, value, value)
        # Welch (1947), Satterthwaite (1946)
        degrees_of_freedom = sum(errors) ** 2 / sum(
            error**2 / (n - 1) for error, n in zip(errors, n_clusters, strict=True)
        )
        half_width = float(
            np.sqrt(sum(errors)) * special.stdtrit(degrees_of_freedom, (1 + level) / 2)
        )
        return Interval(value, value - half_width, value + half_width)
    names, code = np.unique(np.concatenate([first_clusters, second_clusters]), return_inverse=True)
    left_out = np.zeros(names.size)
    for sign, rows, row_code in zip(
        (1, -1), (first, second), np.split(code, [first.size]), strict=True
    ):
        sums = rows.sum() - np.bincount(row_code, weights=rows, minlength=names.size)
        counts = rows.size - np.bincount(row_code, minlength=names.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out += sign * sums / counts
    return jackknife(value, left_out, min(n_clusters) - 1, level)


def _squared_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """The jackknife's squared standard error of a mean; NaN with fewer than two clusters."""
    sums, counts = _leave_one_out_sums(clusters, values, np.ones(values.size))
    if sums.size < 2:
        return NAN
    return float((sums.size - 1) / sums.size * np.square(sums / counts - values.mean()).sum())


def _ratio_interval(
    values: np.ndarray,
    minus: np.ndarray | None,
    over: np.ndarray,
    over_minus: np.ndarray | None,
    clusters: np.ndarray,
    level: float,
) -> Interval:
    numerator = values.astype(np.float64) - (0.0 if minus is None else minus)
    denominator = over.astype(np.float64) - (0.0 if over_minus is None else over_minus)
    if over_minus is not None:
        denominator_interval = cluster_interval(over, clusters, minus=over_minus, level=level)
        if not (denominator_interval.low > 0 or denominator_interval.high < 0):
            return Interval(NAN, NAN, NAN)
    if denominator.sum() == 0:
        return Interval(NAN, NAN, NAN)
    value = float(numerator.sum() / denominator.sum())
    numerators, denominators = _leave_one_out_sums(clusters, numerator, denominator)
    with np.errstate(invalid="ignore", divide="ignore"):
        interval = jackknife(
            value, numerators / denominators, effective_clusters(clusters) - 1, level
        )
    if over_minus is None or not all(
        array.dtype == bool for array in (values, minus, over, over_minus) if array is not None
    ):
        return interval
    # if all answers equal one of the two references, the jackknife has no width; the paired
    # difference from the nearer reference has one
    nearer = over if value > 0.5 else over_minus
    paired, scale = (
        _paired_shares_interval(values, nearer, clusters, level),
        abs(float(denominator.mean())),
    )
    down, up = paired.value - paired.low, paired.high - paired.value
    if denominator.sum() < 0:
        down, up = up, down
    low, high = value - down / scale, value + up / scale
    return Interval(value, float(np.fmin(interval.low, low)), float(np.fmax(interval.high, high)))
