"""Scores of the rows of a pool by their resemblance to target rows, or by what the pool lacks of them.

Optimal transport (GOT-D, Kang et al. 2024, arXiv 2405.02774, with the calibrated gradient of LAVA,
Just et al. 2023, arXiv 2305.00054), the generalised Jaccard similarity of sparse codes (MONA, 2025,
arXiv 2503.15573), and BM25 (Robertson and Zaragoza 2009). Every function returns one number per row
of the pool; of GOT-D the smallest are taken first, of the others the largest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse, stats
from scipy.special import logsumexp

WORD = re.compile(r"\w+")


class Transport(NamedTuple):
    """Entropic optimal transport between two uniform samples.

    ``pool`` [n] and ``target`` [m] are the dual potentials in units of the cost, determined up to a
    constant that is added to one and subtracted from the other. ``error``: by how much the plan's
    row sums differ from 1 / n, or its column sums from 1 / m, as a share of these, mean over rows
    or columns, the larger of both.
    """

    pool: Float[np.ndarray, " n"]
    target: Float[np.ndarray, " m"]
    plan: Float[np.ndarray, "n m"]
    error: float
    iterations: int


def squared_distances(
    pool: Float[np.ndarray, "n D"], target: Float[np.ndarray, "m D"]
) -> Float[np.ndarray, "n m"]:
    """Squared Euclidean distances over their median, in float64; not divided where that is 0."""
    # the mean of both is taken off first: far from the origin the squares would cancel
    centre = target.astype(np.float64).mean(0)
    a, b = pool.astype(np.float64) - centre, target.astype(np.float64) - centre
    squares = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)
    median = float(np.median(squares))
    return squares / median if median > 0 else squares


def transport(
    cost: Float[np.ndarray, "n m"],
    epsilon: float = 0.05,
    tolerance: float = 1e-6,
    max_iterations: int = 5000,
) -> Transport:
    """Sinkhorn's iteration in the log domain, for uniform weights on both sides (Cuturi 2013).

    ``epsilon``: weight of the entropy, in units of the cost. It is reached in steps of a half from
    1 on, each beginning with the potentials of the one before, since small values converge slowly.
    Both potentials move half of the way at once, so that two equal samples get equal potentials
    (Feydy et al. 2019, arXiv 1810.08278). Ends when ``error`` is at most ``tolerance``, or after
    ``max_iterations`` at one value. Raises ValueError for an epsilon that is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}; expected a positive number")
    n, m = cost.shape
    f, g, error, done = np.zeros(n), np.zeros(m), np.inf, 0
    for width in _widths(epsilon):
        last = width == epsilon
        for _ in range(max_iterations if last else 20):
            to_f = -width * (logsumexp((g - cost) / width, axis=1) - np.log(m))
            to_g = -width * (logsumexp((f[:, None] - cost) / width, axis=0) - np.log(n))
            off = (np.abs(np.expm1((f - to_f) / width)), np.abs(np.expm1((g - to_g) / width)))
            error, done = float(max(each.mean() for each in off)), done + 1
            if last and error <= tolerance:
                break
            f, g = (f + to_f) / 2, (g + to_g) / 2
    plan = np.exp((f[:, None] + g - cost) / epsilon) / (n * m)
    return Transport(f, g, plan, error, done)


def _widths(epsilon: float) -> list[float]:
    widths, width = [], 1.0
    while width > epsilon:
        widths.append(width)
        width /= 2
    return [*widths, epsilon]


def calibrated_gradients(potentials: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Every potential minus the mean of the others: how the transport cost changes with the weight
    of one row, when the other rows give that weight in equal parts (LAVA, equation 6).

    The sum is 0, and a constant added to all potentials changes nothing. Zeros for a single row.
    """
    n = len(potentials)
    return n / (n - 1) * (potentials - potentials.mean()) if n > 1 else np.zeros(n)


def jaccard(rows: sparse.csr_matrix, prototype: Float[np.ndarray, " F"]) -> Float[np.ndarray, " n"]:
    """Sum of the smaller over sum of the larger of two non-negative codes, row by row; 1 where both
    are zero.

    Uses min + max = sum, so that only non-zero entries of the rows are read.
    """
    smaller = rows.astype(np.float64).tocsr()
    totals = np.asarray(smaller.sum(1)).ravel() + prototype.sum()
    smaller.data = np.minimum(smaller.data, prototype[smaller.indices])
    shared = np.asarray(smaller.sum(1)).ravel()
    larger = totals - shared
    return np.divide(shared, larger, out=np.ones(len(shared)), where=larger > 0)


def stacked(*parts: sparse.csr_matrix) -> sparse.csr_matrix:
    """The rows of all parts, one part after the other."""
    return sparse.csr_matrix(sparse.vstack(parts))


def scaled_codes(codes: sparse.csr_matrix, scale: str) -> sparse.csr_matrix:
    """Codes of all rows, as they are ("none"), each divided by its sum ("row"), or each latent by its
    largest value among all rows ("latent"); zeros stay zeros.
    """
    if scale == "none":
        return codes
    sums = codes.sum(1) if scale == "row" else codes.max(0).toarray()
    sizes = np.asarray(sums, np.float64).ravel()
    factors = np.divide(1.0, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    diagonal = sparse.diags(factors)
    return sparse.csr_matrix(diagonal @ codes if scale == "row" else codes @ diagonal)


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded."""
    return WORD.findall(text.casefold())


def bm25(
    pool: Sequence[Sequence[str]],
    target: Sequence[Sequence[str]],
    k1: float = 1.5,
    b: float = 0.75,
) -> Float[np.ndarray, " n"]:
    """BM25 of the pool's rows for every target row as a query, mean over target rows.

    The weight of a word is log(1 + (n - d + 1/2) / (d + 1/2)) with d of n rows that have it, which
    is never negative; a word counts as often as the query has it. Rows are lists of words.
    """
    vocabulary: dict[str, int] = {}
    entries = [
        (row, vocabulary.setdefault(word, len(vocabulary)), count)
        for row, text in enumerate(pool)
        for word, count in Counter(text).items()
    ]
    if not entries or not target:
        return np.zeros(len(pool))
    at, column, counts = (np.array(part) for part in zip(*entries, strict=True))
    lengths = np.array([len(text) for text in pool], np.float64)
    frequency = np.bincount(column, minlength=len(vocabulary))
    weight = np.log1p((len(pool) - frequency + 0.5) / (frequency + 0.5))
    norm = k1 * (1 - b + b * lengths / lengths.mean())
    values = weight[column] * counts * (k1 + 1) / (counts + norm[at])
    matrix = sparse.csr_matrix((values, (at, column)), (len(pool), len(vocabulary)))
    query = np.zeros(len(vocabulary))
    for text in target:
        for word in text:
            if word in vocabulary:
                query[vocabulary[word]] += 1
    return matrix @ query / len(target)


def places(scores: Float[np.ndarray, " n"], smallest_first: bool = False) -> Int[np.ndarray, " n"]:
    """The place of every row in the order of its score, from 1; ties by position."""
    order = np.argsort(scores if smallest_first else -scores, kind="stable")
    ranks = np.empty(len(scores), np.int64)
    ranks[order] = np.arange(1, len(scores) + 1)
    return ranks


def recall(ranks: Int[np.ndarray, " n"], marked: Bool[np.ndarray, " n"]) -> float:
    """Share of the marked rows among as many rows that were taken first."""
    return float((ranks[marked] <= marked.sum()).mean())


def random_recall(rows: int, marked: int, level: float = 0.95) -> tuple[float, float, float]:
    """Recall of as many rows taken at random as are marked: its mean and its central interval, by
    the hypergeometric distribution.
    """
    low, high = stats.hypergeom(rows, marked, marked).interval(level)
    return marked / rows, float(low) / marked, float(high) / marked
