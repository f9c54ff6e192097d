"""Linear centred kernel alignment of two representations of the same rows (Kornblith et al. 2019),
numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.intervals import Interval, effective_clusters, jackknife


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of two arrays [n, D] and [n, E], in [0, 1]; NaN if either is constant over rows.

    Biased towards 1 when there are few rows per dimension; ``debiased_cka`` is not.
    """
    return float(weighted_cka(_gram(first), _gram(second), np.ones((1, len(first))))[0])


def debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """CKA with unbiased estimates of all three terms (Song et al. 2012); NaN with fewer than four
    rows.
    """
    n = len(first)
    if n < 4:
        return float("nan")
    grams = [_gram(first), _gram(second)]
    for gram in grams:
        np.fill_diagonal(gram, 0.0)

    def term(left: np.ndarray, right: np.ndarray) -> float:
        sums = left.sum(0) @ right.sum(0)
        grand_sum = left.sum() * right.sum() / ((n - 1) * (n - 2))
        return float((left * right).sum() + grand_sum - 2 * sums / (n - 2))

    product = term(grams[0], grams[0]) * term(grams[1], grams[1])
    return term(*grams) / float(np.sqrt(product)) if product > 0 else float("nan")


def cka_interval(
    first: np.ndarray, second: np.ndarray, clusters: ArrayLike, level: float = 0.95
) -> Interval:
    """``linear_cka`` and its interval over clusters of rows, by the jackknife and Student's t.

    The ends are NaN with fewer than two clusters. The estimate and its interval are biased towards
    1; see ``debiased_cka`` for an unbiased estimate.
    """
    grams, (names, code) = (
        (_gram(first), _gram(second)),
        np.unique(np.asarray(clusters), return_inverse=True),
    )
    if len(names) < 2:
        return Interval(linear_cka(first, second), float("nan"), float("nan"))
    weights = np.concatenate(
        [np.ones((1, len(code))), np.arange(len(names))[:, None] != code[None]]
    ).astype(np.float64)
    estimates = weighted_cka(*grams, weights)
    value, low, high = jackknife(
        estimates[0], estimates[1:], effective_clusters(clusters) - 1, level
    )
    low, high = np.clip([low, high], 0, 1).tolist()
    return Interval(value, low, high)


def _gram(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(0)
    return rows @ rows.T


def weighted_cka(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """CKA of two Gram matrices [n, n] for each row of ``weights`` [draws, n], which weights the
    samples.

    Centring by weighted means is written out, so that all draws are a few matrix products.
    """
    total = weights.sum(1)

    def inner(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        sums = weights @ left, weights @ right
        pairs = ((weights @ (left * right)) * weights).sum(1)
        means = (weights * sums[0] * sums[1]).sum(1) / total
        grand_mean = (weights * sums[0]).sum(1) * (weights * sums[1]).sum(1) / total**2
        return pairs - 2 * means + grand_mean

    product = inner(first, first) * inner(second, second)
    # rounding must not count as variance in constant rows
    smallest = (1e-12 * np.linalg.norm(first) * np.linalg.norm(second)) ** 2
    cka = np.full(len(weights), np.nan)
    varies = product > smallest
    cka[varies] = inner(first, second)[varies] / np.sqrt(product[varies])
    return cka
