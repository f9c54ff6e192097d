"""Permutation tests, multiple comparisons, ranks and rank statistics of numpy arrays.

On loading only ``numpy`` and ``scipy.special`` are imported, so that reading a stored run stays
fast; ``scipy.stats`` takes most of a second and is imported by the functions that use it. The tests
compare every function with ``scipy.stats`` and scikit-learn. Intervals over clusters are in
``intervals.py``.
"""

from __future__ import annotations

from typing import NamedTuple, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from interp.maths.intervals import exact_interval

__all__ = [
    "StandardisedDifference",
    "area_under_dose",
    "benjamini_hochberg",
    "calibration_error",
    "clopper_pearson",
    "holm",
    "minimum_detectable_effect",
    "paired_t_test",
    "paired_t_test_from_moments",
    "permutation_p",
    "rank_correlation",
    "ranks",
    "recall_at",
    "roc_auc",
    "smallest_dose",
    "standardised_difference",
    "standardised_difference_from_moments",
]


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided binomial interval (Clopper and Pearson, 1934) of a share; (0, 1) if ``n`` is
    0.
    """
    if not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes out of {n} is not a share: expected 0 <= successes <= n"
        )
    return exact_interval(successes, n, level) if n else (0.0, 1.0)


def permutation_p(observed: SupportsFloat, null: ArrayLike, alternative: str = "greater") -> float:
    """p = (1 + b) / (1 + n), where b of the n null draws are at least as extreme as ``observed``.

    Never 0, and valid for every n (Phipson and Smyth, 2010). ``alternative`` is "greater", "less",
    or "two-sided", which doubles the smaller tail. A NaN draw counts as at least as extreme, which
    is conservative. NaN if ``observed`` is NaN or there are no draws.
    """
    observed, null = float(observed), np.asarray(null, dtype=np.float64).ravel()
    if np.isnan(observed) or null.size == 0:
        return float("nan")
    undefined = int(np.isnan(null).sum())
    greater = (1 + undefined + int((null >= observed).sum())) / (1 + null.size)
    less = (1 + undefined + int((null <= observed).sum())) / (1 + null.size)
    if alternative == "two-sided":
        return min(1.0, 2 * min(greater, less))
    if alternative not in ("greater", "less"):
        raise ValueError(f"alternative {alternative!r}: expected 'greater', 'less' or 'two-sided'")
    return greater if alternative == "greater" else less


def benjamini_hochberg(p: ArrayLike) -> np.ndarray:
    """Adjusted p-values (Benjamini and Hochberg, 1995) in the same order and shape; NaN is not a
    test and stays NaN.
    """
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    is_tested = ~np.isnan(p)
    adjusted[is_tested] = false_discovery_control(p[is_tested])
    return adjusted


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p-values (Holm, 1979), which bound the chance of any false rejection, in the same
    order and shape; NaN is not a test and stays NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    is_tested = ~np.isnan(p)
    tested = p[is_tested]
    order = np.argsort(tested)
    steps = tested[order] * np.arange(tested.size, 0, -1)
    corrected = np.empty_like(tested)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    adjusted[is_tested] = corrected
    return adjusted


class StandardisedDifference(NamedTuple):
    """Difference of two groups per column: Cohen's ``d``, Student's ``t`` and its two-sided
    ``p``.
    """

    d: np.ndarray
    t: np.ndarray
    p: np.ndarray


def standardised_difference_from_moments(
    n_a: SupportsFloat,
    mean_a: np.ndarray,
    variance_a: np.ndarray,
    n_b: SupportsFloat,
    mean_b: np.ndarray,
    variance_b: np.ndarray,
) -> StandardisedDifference:
    """Group a minus group b from streamed moments; variances are unbiased (divisor n - 1), all
    arrays have one shape.

    d divides by the pooled standard deviation (Cohen, 1988); t is Student's with n_a + n_b - 2
    degrees of freedom. A column without variance gives d = t = 0 and p = 1 if the means are equal,
    else signed infinity and p = 0.
    """
    n_a, n_b = float(n_a), float(n_b)
    if n_a < 2 or n_b < 2:
        raise ValueError(f"groups of {n_a:g} and {n_b:g}: at least two values are needed in each")
    degrees_of_freedom = n_a + n_b - 2
    difference = np.asarray(mean_a, dtype=np.float64) - np.asarray(mean_b, dtype=np.float64)
    unbiased_a, unbiased_b = (
        np.asarray(variance_a, dtype=np.float64),
        np.asarray(variance_b, dtype=np.float64),
    )
    pooled = np.sqrt(((n_a - 1) * unbiased_a + (n_b - 1) * unbiased_b) / degrees_of_freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(difference == 0, 0.0, difference / pooled)
        t = np.where(difference == 0, 0.0, d / np.sqrt(1 / n_a + 1 / n_b))
    return StandardisedDifference(d, t, 2 * special.stdtr(degrees_of_freedom, -np.abs(t)))


def standardised_difference(a: ArrayLike, b: ArrayLike) -> StandardisedDifference:
    """Group ``a`` [n_a, ...] minus group ``b`` [n_b, ...], per column along the first axis."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"groups of {len(a)} and {len(b)}: at least two values are needed in each")
    return standardised_difference_from_moments(
        len(a), a.mean(axis=0), a.var(axis=0, ddof=1), len(b), b.mean(axis=0), b.var(axis=0, ddof=1)
    )


def paired_t_test_from_moments(
    n: SupportsFloat, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Two-sided p of Student's paired t, from streamed moments of the differences within ``n``
    pairs (variance with divisor n - 1).

    Unlike the unpaired t, valid for correlated pairs. A column without variance has p = 1 if the
    mean is zero, else 0.
    """
    n = float(n)
    if n < 2:
        raise ValueError(f"{n:g} pairs: at least two are needed")
    mean, variance = np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / np.sqrt(variance / n))
    return 2 * special.stdtr(n - 1, -np.abs(t))


def paired_t_test(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Two-sided p of Student's paired t per column; row i of ``a`` [n, ...] belongs to row i of
    ``b`` [n, ...].
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} pairs: at least two are needed")
    return paired_t_test_from_moments(
        len(differences), differences.mean(axis=0), differences.var(axis=0, ddof=1)
    )


def ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1, ties at their mean rank (``scipy.stats.rankdata``)."""
    from scipy.stats import rankdata

    return rankdata(np.asarray(values, dtype=np.float64))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of paired values; NaN if either is constant or with fewer than
    two pairs.
    """
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"{a.size} and {b.size} values cannot be paired")
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    # not scipy's spearmanr, whose equal correlations can differ in the last bits: a permutation
    # test counts ties. Twice the centred ranks are integers, so these are exact.
    a, b = (np.rint(2 * ranks(values) - (values.size + 1)).astype(np.int64) for values in (a, b))
    return float(a @ b) / float(np.sqrt(float(a @ a) * float(b @ b)))


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: probability that a positive scores above a negative, a tie counting
    1/2; NaN if a class is empty.
    """
    labels, scores = (
        np.asarray(labels, dtype=bool).ravel(),
        np.asarray(scores, dtype=np.float64).ravel(),
    )
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN: they have no rank"
        )
    # Mann and Whitney's U. Not scikit-learn's roc_auc_score, which refuses infinite scores and
    # takes a millisecond per call: permutation tests make thousands.
    u = ranks(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(u / (positives * negatives))


def recall_at(labels: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Share of the positives among the ``k`` highest scores; ties at the cut-off count by their
    expected share.
    """
    labels, scores = (
        np.asarray(labels, dtype=bool).ravel(),
        np.asarray(scores, dtype=np.float64).ravel(),
    )
    if not labels.any():
        return float("nan")
    k = min(int(k), scores.size)
    if k < 1:
        return 0.0
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    is_above, is_tied = scores > threshold, scores == threshold
    n_found = labels[is_above].sum() + labels[is_tied].sum() * (k - is_above.sum()) / is_tied.sum()
    return float(n_found / labels.sum())


def minimum_detectable_effect(null: ArrayLike, alpha: float = 0.05) -> float:
    """Minimum detectable effect: the bound that an effect must exceed for ``permutation_p(effect,
    null) <= alpha``.

    It is one of the null draws, the (floor(alpha * (1 + n)))-th largest. Infinity if n is too small
    for any effect to reach ``alpha`` (fewer than 19 draws at 0.05).
    """
    null = np.asarray(null, dtype=np.float64).ravel()
    null = np.where(np.isnan(null), np.inf, null)
    # the small addend keeps 0.05 * 20 from falling below 1 in binary arithmetic
    rank = int(np.floor(alpha * (1 + null.size) + 1e-9)) - 1
    return float("inf") if rank < 0 or null.size == 0 else float(np.sort(null)[::-1][rank])


def _mean_by_dose(k: ArrayLike, effect: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    k, effect = (
        np.asarray(k, dtype=np.float64).ravel(),
        np.asarray(effect, dtype=np.float64).ravel(),
    )
    if k.size != effect.size or not k.size:
        raise ValueError(
            f"{k.size} doses and {effect.size} effects: expected as many of both, at least one"
        )
    doses, group = np.unique(k, return_inverse=True)
    return doses, np.bincount(group, weights=effect) / np.bincount(group)


def area_under_dose(k: ArrayLike, effect: ArrayLike) -> float:
    """Mean height of the dose-response curve over log2 k, in the units of ``effect``.

    Trapezoidal rule between the smallest and the largest k at or above 1, divided by the width, so
    that a constant effect of 1 gives 1. Rows at k = 0 are left out; equal doses are averaged first.
    Comparable between methods only on the same grid of k.
    """
    doses, heights = _mean_by_dose(k, effect)
    doses, heights = doses[doses >= 1], heights[doses >= 1]
    if doses.size == 0:
        raise ValueError("no dose at or above 1: the area under the dose-response curve needs one")
    if doses.size == 1:
        return float(heights[0])
    x = np.log2(doses)
    return float(np.trapezoid(heights, x) / (x[-1] - x[0]))


def smallest_dose(k: ArrayLike, effect: ArrayLike, threshold: float = 0.95) -> int | None:
    """Smallest k at which the effect is at least ``threshold`` (k95 at 0.95); None if no dose
    reaches it.
    """
    doses, heights = _mean_by_dose(k, effect)
    reaching = doses[heights >= threshold - 1e-12]
    return int(reaching[0]) if reaching.size else None


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al., 2015): sum over bins of ``n_b / n * |accuracy_b -
    confidence_b|``.

    ``bins`` of equal width divide [0, 1], each closed above (0 is in the first). ``confidence`` [n]
    is in [0, 1]; ``correct`` [n] is boolean. Raises ValueError for confidences outside [0, 1],
    unequal lengths or empty input.
    """
    confidence, correct = (
        np.asarray(confidence, np.float64).ravel(),
        np.asarray(correct, np.float64).ravel(),
    )
    if confidence.size != correct.size or not confidence.size or bins < 1:
        raise ValueError(
            f"{confidence.size} confidences, {correct.size} outcomes in {bins} bins cannot be"
            " compared"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(
            f"confidences from {confidence.min():g} to {confidence.max():g}: expected 0 to 1"
        )
    bin_index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / confidence.size)
