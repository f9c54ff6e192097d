"""Sets of discrete codes per column: how many are seen under one label and never under the other.

O'Neill and Bui (2024, arXiv 2405.12522): a head's code on an example is an integer, and its score is
the number of distinct codes of positive examples that no negative example has. Pairs of heads are
scored by their pairs of codes. A code (or pair) counts if none of its examples is negative, so that
scores under many labellings are one sparse product. Renaming the codes of a column changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy import sparse

PAIRS_AT_A_TIME = 2048


def only_positive(
    codes: Int[np.ndarray, "N K"], labels: Bool[np.ndarray, "S N"]
) -> tuple[Int[np.ndarray, "K S"], Int[np.ndarray, " K"]]:
    """Codes of every column that are seen on positive examples only, under each labelling, and the
    number of distinct codes of the column.
    """
    n, k = codes.shape
    _, flat = np.unique(codes + np.arange(k) * (codes.max() + 1), return_inverse=True)
    groups = flat.reshape(n, k)
    # the codes of a column are consecutive, since they were sorted by column first
    ends = groups.max(0) + 1
    sizes = np.diff(ends, prepend=0)
    examples = np.broadcast_to(np.arange(n)[:, None], (n, k))
    ones = np.ones(n * k, np.float32)
    seen = sparse.csr_matrix((ones, (groups.ravel(), examples.ravel())), (int(ends[-1]), n))
    negatives = np.asarray(seen @ (~labels).T.astype(np.float32))
    counted = (negatives == 0).astype(np.int64)
    return np.add.reduceat(counted, ends - sizes, axis=0), sizes


def pair_chunks(columns: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both members of all unordered pairs of columns, a number of pairs at a time."""
    first, second = np.triu_indices(columns, 1)
    for start in range(0, len(first), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        yield first[part], second[part]


def only_positive_pairs(
    codes: Int[np.ndarray, "N K"], labels: Bool[np.ndarray, "S N"]
) -> Int[np.ndarray, "P S"]:
    """As ``only_positive``, for the pairs of codes of every unordered pair of columns (in the order
    of ``pair_chunks``).
    """
    width = int(codes.max()) + 1
    parts = [
        only_positive(codes[:, first] * width + codes[:, second], labels)[0]
        for first, second in pair_chunks(codes.shape[1])
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(labels)), np.int64)


def pair_sizes(codes: Int[np.ndarray, "N K"], labels: Bool[np.ndarray, " N"]) -> np.ndarray:
    """Distinct pairs of codes on positive plus those on negative examples, by unordered pair [P]:
    what the authors' code divides by.
    """
    width = int(codes.max()) + 1
    everything = np.ones((1, 1), bool)
    parts = []
    for first, second in pair_chunks(codes.shape[1]):
        pairs = codes[:, first] * width + codes[:, second]
        sides = [pairs[labels], pairs[~labels]]
        parts.append(
            sum(only_positive(side, np.repeat(everything, len(side), 1))[1] for side in sides)
        )
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def appearances(scores: Real[np.ndarray, "P S"], columns: int) -> Float[np.ndarray, "K S"]:
    """How often a column is an end of the first pairs, under each labelling.

    The authors list all ordered pairs by descending score, write down both ends of each, and count
    in the first ``K^2 // 2`` entries: an unordered pair fills four of them. Pairs that tie at the
    cut share what is left equally, which is the mean over orders of ties; the authors keep those
    that a sort leaves first. They also list every column with itself at score 0; these are left
    out.
    """
    first, second = np.triu_indices(columns, 1)
    result = np.zeros((columns, scores.shape[1]))
    wanted = min(columns**2 // 2 / 4, float(len(scores)))
    place = min(int(np.ceil(wanted)), len(scores))
    if not place:
        return result
    for at, column in enumerate(scores.T):
        cut = np.partition(column, len(column) - place)[len(column) - place]
        above, tied = column > cut, column == cut
        share = (wanted - above.sum()) / tied.sum()
        # counted in integers, so that heads that tie get equal numbers
        counts = [
            np.bincount(first[chosen], minlength=columns)
            + np.bincount(second[chosen], minlength=columns)
            for chosen in (above, tied)
        ]
        result[:, at] = 2 * (counts[0] + share * counts[1])
    return result


def moderated(scores: Float[np.ndarray, "K S"]) -> Float[np.ndarray, "K S"]:
    """Scores of every column [K] minus their mean over labellings [S], over their deviation plus
    the median deviation (Tusher, Tibshirani and Chu 2001).

    The observed labelling is among those that give mean and deviation, so that all are exchangeable.
    Without the median, a code that is seldom on one side alone would make the largest value of a
    draw. A column that never varies is 0.
    """
    mean, deviation = scores.mean(1, keepdims=True), scores.std(1, keepdims=True)
    varying = deviation[deviation > 1e-12]
    offset = float(np.median(varying)) if varying.size else 1.0
    return np.where(deviation > 1e-12, (scores - mean) / (deviation + offset), 0.0)


def best_f1(labels: Bool[np.ndarray, " K"], scores: Real[np.ndarray, " K"]) -> tuple[float, float]:
    """The largest F1 over all thresholds of the scores, of precision and recall, and as the
    authors' code has it, the harmonic mean of both rates of right answers, ``TPR`` and ``TNR``.

    Both are optimistic, since the threshold is chosen by the labels. NaN if a class is empty.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan"), float("nan")
    chosen = scores[None] >= np.unique(scores)[:, None]
    true = (chosen & labels).sum(1)
    right, wrong = true / positives, (chosen & ~labels).sum(1) / negatives
    usual = 2 * true / (chosen.sum(1) + positives)
    total = right + 1 - wrong
    published = np.divide(2 * right * (1 - wrong), total, out=np.zeros_like(total), where=total > 0)
    return float(usual.max()), float(published.max())
