"""Did a number change between two models, did it stay within a margin, or can that not be told?

Both are answers that can be wrong with a stated probability, unlike "no significant change". Paired
by row, with clusters as the unit of evidence. "Not changed" is the two one-sided tests at .05
(Schuirmann 1987): the 90 % interval of the difference lies within the margin. For shares it is
Tango's (1998) score interval, with the exact bound ``1 - .05^(1/n)`` where nothing flipped, so that
59 clusters can say "not changed" within 5 points and 58 cannot; Wald and bootstrap intervals are
[0, 0] there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.intervals import MIN_CLUSTERS, cluster_interval, effective_clusters

LEVEL, ALPHA = 0.90, 0.05
DETECTED = 2.8
"""Standard errors of a difference that is found with 80 % power at .05, two-sided."""
RESAMPLES = 9_999

CHANGED, WITHIN = "changed", "changed, within the margin"
NOT_CHANGED, CANNOT_TELL = "not changed", "cannot tell"


class PairedChange(NamedTuple):
    """A paired difference of means: rows, effective clusters, both means, ``value`` = after -
    before, the ends of its 90 % interval, the two-sided p of no difference, and the smallest
    difference that would have been found with 80 % power.
    """

    n: int
    clusters: float
    before: float
    after: float
    value: float
    low: float
    high: float
    p: float
    smallest_effect: float


def paired_change(
    before: ArrayLike,
    after: ArrayLike,
    clusters: ArrayLike,
    *,
    bounded: bool = False,
    seed: int = 0,
) -> PairedChange:
    """The difference of two paired columns [n], of yes and no or of numbers, over ``clusters`` [n].

    p: of yes and no with a cluster per row, the exact McNemar test; else sign flips of the sums of
    clusters (all of them up to 13 clusters, else 9,999 at random). ``bounded``: the numbers lie
    between 0 and 1, as scores do, so that the exact bound holds for them too where no row differs.
    Below 6 effective clusters p and the interval are NaN. Raises ValueError for lengths that differ
    and for no rows.
    """
    before, after, clusters = (np.asarray(each).ravel() for each in (before, after, clusters))
    if not before.size == after.size == clusters.size or not before.size:
        raise ValueError(
            f"{before.size}, {after.size} and {clusters.size} values: expected as many of each, at"
            " least one"
        )
    is_binary = before.dtype == bool and after.dtype == bool
    n_clusters = effective_clusters(clusters)
    difference = after.astype(np.float64) - before.astype(np.float64)
    interval = cluster_interval(after, clusters, minus=before, level=LEVEL)
    value = float(after.mean()) - float(before.mean()) if is_binary else interval.value
    low, high = interval.low, interval.high
    if bounded and not is_binary and not difference.any():
        nothing = np.zeros(difference.size, bool)
        _, low, high = cluster_interval(nothing, clusters, minus=nothing, level=LEVEL)
    p, smallest = float("nan"), float("nan")
    if n_clusters >= MIN_CLUSTERS:
        p = _p_of_no_difference(difference, clusters, is_binary, seed)
        smallest = _smallest_effect(difference, n_clusters, low, high, is_binary)
    else:
        low = high = float("nan")
    return PairedChange(
        int(before.size),
        n_clusters,
        float(before.mean()),
        float(after.mean()),
        value,
        low,
        high,
        p,
        smallest,
    )


def verdict(change: PairedChange, p_adjusted: float, margin: float) -> str:
    """``changed``, ``changed, within the margin``, ``not changed`` or ``cannot tell``.

    ``p_adjusted``: p of the change, corrected over all rows that are judged together. ``margin``:
    fixed before; differences as large as it count.
    """
    is_changed = p_adjusted <= ALPHA
    is_within = -margin < change.low and change.high < margin
    if is_changed:
        return WITHIN if is_within else CHANGED
    return NOT_CHANGED if is_within else CANNOT_TELL


def clusters_needed(margin: float) -> int:
    """Clusters from which yes-or-no rows of which none differs are "not changed" within the
    margin.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin of {margin}: expected a share above 0 and below 1")
    return int(np.floor(np.log(ALPHA) / np.log(1 - margin))) + 1


def _p_of_no_difference(
    difference: np.ndarray, clusters: np.ndarray, is_binary: bool, seed: int
) -> float:
    if not difference.any():
        return 1.0
    from scipy import stats

    sums = np.array([difference[clusters == one].sum() for one in np.unique(clusters)])
    if is_binary and sums.size == difference.size:
        up, down = int((difference > 0).sum()), int((difference < 0).sum())
        return float(stats.binomtest(up, up + down, 0.5).pvalue)
    test = stats.permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def _smallest_effect(
    difference: np.ndarray, n_clusters: float, low: float, high: float, is_binary: bool
) -> float:
    if not difference.any():
        return high
    if is_binary:
        return DETECTED * float(np.sqrt(np.abs(difference).mean() / n_clusters))
    from scipy import stats

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, n_clusters - 1))
    return DETECTED * (high - low) / 2 / quantile
