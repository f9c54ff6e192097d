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
FEWEST_CLUSTERS = 6
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
    values, clusters = _rows(values, clusters)
    if minus_clusters is not None:
        if minus is None or over is not None:
            raise ValueError("minus_clusters needs a second group: give minus, and leave out over")
        return _two_groups(values, clusters, *_rows(minus, minus_clusters), level)
    less = None if minus is None else _rows(minus, clusters)[0]
    if over is not None:
        below = None if over_minus is None else _rows(over_minus, clusters)[0]
        return _ratio(values, less, _rows(over, clusters)[0], below, clusters, level)
    if less is None:
        return (
            _share(values, clusters, level)
            if values.dtype == bool
            else _mean(values, clusters, level)
        )
    if values.dtype == bool and less.dtype == bool:
        return _paired_shares(values, less, clusters, level)
    return _mean(values.astype(np.float64) - less, clusters, level)


def jackknife(
    estimate: SupportsFloat, left_out: ArrayLike, freedom: SupportsFloat, level: float = 0.95
) -> Interval:
    """Interval of an estimate from the m estimates that leave out one cluster each, by Student's t.

    The squared standard error is ``(m - 1) / m`` times the sum of squared deviations from the full
    estimate. The ends are NaN with fewer than two clusters, without degrees of freedom, or if an
    estimate is not finite.
    """
    estimate, left_out, freedom = (
        float(estimate),
        np.asarray(left_out, dtype=np.float64).ravel(),
        float(freedom),
    )
    m = left_out.size
    if m < 2 or not freedom > 0 or not np.isfinite([estimate, *left_out]).all():
        return Interval(estimate, NAN, NAN)
    error = np.sqrt((m - 1) / m * np.square(left_out - estimate).sum())
    reach = float(error * special.stdtrit(freedom, (1 + level) / 2)) if error else 0.0
    return (
        Interval(estimate, estimate - reach, estimate + reach)
        if np.isfinite(reach)
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
        middle = (2 * n - up + down) * delta - up - down
        least = -down * delta * (1 - delta)
        share = (np.sqrt(max(middle**2 - 8 * n * least, 0.0)) - middle) / (4 * n)
        return (up - down - n * delta) ** 2 - critical * n * (2 * share + delta * (1 - delta))

    inside = 1e-9
    low, high = -1.0, 1.0
    if difference > -1 + inside:
        low = root_scalar(score, bracket=(-1.0, difference - inside), method="brentq").root
    if difference < 1 - inside:
        high = root_scalar(score, bracket=(difference + inside, 1.0), method="brentq").root
    return float(low), float(high)


def _rows(values: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, clusters = np.asarray(values).ravel(), np.asarray(clusters).ravel()
    if values.size != clusters.size:
        raise ValueError(
            f"{values.size} values and {clusters.size} clusters: expected one cluster per value"
        )
    if not values.size:
        raise ValueError("no values: an interval needs at least one")
    return (values if values.dtype == bool else values.astype(np.float64)), clusters


def _without_each(clusters: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums [m] of every array over all rows except those of one cluster each."""
    code = np.unique(clusters, return_inverse=True)[1]
    return tuple(value.sum() - np.bincount(code, weights=value) for value in values)


def _mean(values: np.ndarray, clusters: np.ndarray, level: float) -> Interval:
    if np.ptp(values) == 0:  # rounding must not give equal values an error
        few = np.unique(clusters).size < 2
        return Interval(float(values[0]), *([NAN, NAN] if few else [float(values[0])] * 2))
    sums, counts = _without_each(clusters, values, np.ones(values.size))
    with np.errstate(invalid="ignore", divide="ignore"):
        return jackknife(values.mean(), sums / counts, effective_clusters(clusters) - 1, level)


def _share(flags: np.ndarray, clusters: np.ndarray, level: float) -> Interval:
    n, share = effective_clusters(clusters), float(flags.mean())
    return Interval(share, *exact_interval(share * n, n, level))


def _paired_shares(
    after: np.ndarray, before: np.ndarray, clusters: np.ndarray, level: float
) -> Interval:
    n = effective_clusters(clusters)
    up, down = float((after & ~before).mean()), float((before & ~after).mean())
    # a difference of counts: a difference of shares is off in the last bits
    value = float(after.sum() - int(before.sum())) / after.size
    low, high = tango_interval(n * up, n * down, n, level)
    return Interval(value, min(low, value), max(high, value))


def _two_groups(
    one: np.ndarray,
    one_clusters: np.ndarray,
    other: np.ndarray,
    other_clusters: np.ndarray,
    level: float,
) -> Interval:
    value = float(one.mean() - other.mean())
    if one.dtype == bool and other.dtype == bool:
        (a, low, high), (b, least, most) = (
            _share(one, one_clusters, level),
            _share(other, other_clusters, level),
        )
        ends = (
            value - float(np.hypot(a - low, most - b)),
            value + float(np.hypot(high - a, b - least)),
        )
        if not np.intersect1d(one_clusters, other_clusters).size:
            return Interval(value, *ends)
        # twins with opposite answers make the difference more variable than in two independent
        # groups
        tied = _two_groups(
            one.astype(np.float64), one_clusters, other.astype(np.float64), other_clusters, level
        )
        return Interval(
            value, float(np.fmin(ends[0], tied.low)), float(np.fmax(ends[1], tied.high))
        )
    one, other = one.astype(np.float64), other.astype(np.float64)
    numbers = effective_clusters(one_clusters), effective_clusters(other_clusters)
    if not np.intersect1d(one_clusters, other_clusters).size:
        errors = [
            _squared_error(*group) for group in ((one, one_clusters), (other, other_clusters))
        ]
        if not np.isfinite(errors).all() or min(numbers) <= 1:
            return Interval(value, NAN, NAN)
        if not sum(errors):
            return Interval(value, value, value)
        # Welch (1947), Satterthwaite (1946)
        freedom = sum(errors) ** 2 / sum(
            error**2 / (n - 1) for error, n in zip(errors, numbers, strict=True)
        )
        reach = float(np.sqrt(sum(errors)) * special.stdtrit(freedom, (1 + level) / 2))
        return Interval(value, value - reach, value + reach)
    names, code = np.unique(np.concatenate([one_clusters, other_clusters]), return_inverse=True)
    left_out = np.zeros(names.size)
    for sign, rows, own in zip((1, -1), (one, other), np.split(code, [one.size]), strict=True):
        sums = rows.sum() - np.bincount(own, weights=rows, minlength=names.size)
        counts = rows.size - np.bincount(own, minlength=names.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            left_out += sign * sums / counts
    return jackknife(value, left_out, min(numbers) - 1, level)


def _squared_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """The jackknife's squared standard error of a mean; NaN with fewer than two clusters."""
    sums, counts = _without_each(clusters, values, np.ones(values.size))
    if sums.size < 2:
        return NAN
    return float((sums.size - 1) / sums.size * np.square(sums / counts - values.mean()).sum())


def _ratio(
    values: np.ndarray,
    minus: np.ndarray | None,
    over: np.ndarray,
    below: np.ndarray | None,
    clusters: np.ndarray,
    level: float,
) -> Interval:
    top = values.astype(np.float64) - (0.0 if minus is None else minus)
    bottom = over.astype(np.float64) - (0.0 if below is None else below)
    if below is not None:
        gain = cluster_interval(over, clusters, minus=below, level=level)
        if not (gain.low > 0 or gain.high < 0):
            return Interval(NAN, NAN, NAN)
    if bottom.sum() == 0:
        return Interval(NAN, NAN, NAN)
    value = float(top.sum() / bottom.sum())
    tops, bottoms = _without_each(clusters, top, bottom)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = jackknife(value, tops / bottoms, effective_clusters(clusters) - 1, level)
    if below is None or not all(
        array.dtype == bool for array in (values, minus, over, below) if array is not None
    ):
        return found
    # if all answers equal one of the two references, the jackknife has no width; the paired
    # difference from the nearer reference has one
    near = over if value > 0.5 else below
    paired, size = _paired_shares(values, near, clusters, level), abs(float(bottom.mean()))
    down, up = paired.value - paired.low, paired.high - paired.value
    if bottom.sum() < 0:
        down, up = up, down
    least, most = value - down / size, value + up / size
    return Interval(value, float(np.fmin(found.low, least)), float(np.fmax(found.high, most)))
