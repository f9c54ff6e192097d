"""Concept shift vectors: how fine-tuning moves concepts in a base's hidden states (Khayatan et al.
2025, arXiv 2501.03012).

``a`` are hidden states of the base and ``b`` of the tuned model at the same tokens. Each token
belongs to one concept, by the base's state. A concept ``u`` is the mean of its states, its shift is
the mean of ``b - a``, and ``u + shift`` is the shifted concept. Two nulls: exchanging the models
per document (is there a shift?), and assigning concepts to other clusters' shifts (does the shift
differ from those of other concepts?). Any fine-tuning passes both, so the claims are that concepts
move further than in a control fine-tune (``excess``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from interp.errors import OptionError
from interp.maths.intervals import effective_clusters, jackknife
from interp.maths.statistics import benjamini_hochberg
from interp.sae.analysis.token_labels import Texts

MIN_TOKENS = 10
"""Minimum number of tokens of a concept."""

CONTROL_FACTOR = 2.0
"""A concept has to move this many times as far as in the control; two fine-tunes of one recipe
differ by less.
"""


class Shifts(NamedTuple):
    """Shifts of K concepts; NaN for concepts with too few tokens, and cosines are NaN if nothing
    moves.

    ``pairwise``: mean cosine of the shifts of two tokens from different clusters of documents.
    ``aligned``: mean cosine of a token's shift and its concept's. Both with intervals.
    ``exchange_p`` and ``permuted_p`` are not corrected for multiplicity.
    """

    tokens: Int[NDArray[np.int64], " K"]
    concepts: Float[NDArray[np.float64], "K D"]
    shift: Float[NDArray[np.float64], "K D"]
    overall: Float[NDArray[np.float64], " D"]
    pairwise: Float[NDArray[np.float64], "K three"]
    aligned: Float[NDArray[np.float64], "K three"]
    exchange_p: Float[NDArray[np.float64], " K"]
    permuted_p: Float[NDArray[np.float64], " K"]

    @property
    def size(self) -> Float[NDArray[np.float64], " K"]:
        """Length of each shift."""
        return np.linalg.norm(self.shift, axis=1)

    @property
    def own(self) -> Float[NDArray[np.float64], " K"]:
        """Length of each shift after subtracting the mean shift of all tokens."""
        return np.linalg.norm(self.shift - self.overall, axis=1)


class ConceptRecovery(NamedTuple):
    """How much closer each shifted concept is to the tuned model's concept, by distance and by
    cosine.

    ``match``: the matched concept of the tuned model. ``by_overall``: distance gained by the mean
    shift of all tokens instead of the concept's shift.
    """

    match: Int[NDArray[np.int64], " K"]
    gain: Float[NDArray[np.float64], " K"]
    by_overall: Float[NDArray[np.float64], " K"]
    cosine_gain: Float[NDArray[np.float64], " K"]


@dataclass(frozen=True)
class ShiftEstimator:
    """Estimates shifts of concepts, with ``draws`` draws of each null."""

    draws: int = 199
    seed: int = 0

    def __call__(
        self,
        base: Float[NDArray, "N D"],
        tuned: Float[NDArray, "N D"],
        concepts: Int[NDArray, " N"],
        texts: Texts,
        count: int | None = None,
    ) -> Shifts:
        """Shifts of ``count`` concepts (default: the largest in ``concepts`` [N], plus one). Raises
        OptionError for a negative concept.
        """
        base, concepts = np.asarray(base, np.float64), np.asarray(concepts, np.int64)
        if len(concepts) and concepts.min() < 0:
            raise OptionError(f"concept {concepts.min()} is negative; concepts are numbered from 0")
        differences = np.asarray(tuned, np.float64) - base
        n_concepts = int(concepts.max(initial=-1)) + 1 if count is None else count
        tokens = np.bincount(concepts, minlength=n_concepts)
        enough = tokens >= MIN_TOKENS
        divisor = np.where(enough, tokens, 1)[:, None]
        shift = np.where(
            enough[:, None], _group_sums(differences, concepts, n_concepts) / divisor, np.nan
        )
        concept_means = np.where(
            enough[:, None], _group_sums(base, concepts, n_concepts) / divisor, np.nan
        )
        pairwise, aligned = self._consistency(
            differences, concepts, shift, texts.clusters, n_concepts
        )
        exchange, permuted = self._nulls(differences, concepts, shift, texts, tokens)
        return Shifts(
            tokens, concept_means, shift, differences.mean(0), pairwise, aligned, exchange, permuted
        )

    def _consistency(
        self,
        differences: NDArray,
        concepts: NDArray,
        shift: NDArray,
        clusters: NDArray,
        n_concepts: int,
    ) -> tuple[NDArray, NDArray]:
        size = np.linalg.norm(differences, axis=1)
        unit = differences / np.where(size > 0, size, 1.0)[:, None]
        unit_shift = shift / np.maximum(
            np.linalg.norm(shift, axis=1, keepdims=True), np.finfo(float).tiny
        )
        pairwise, aligned = np.full((2, n_concepts, 3), np.nan)
        for concept in range(n_concepts):
            members = (concepts == concept) & (size > 0)
            names, code = np.unique(clusters[members], return_inverse=True)
            if members.sum() < MIN_TOKENS or len(names) < 2:
                continue
            counts, freedom = np.bincount(code), effective_clusters(code) - 1
            along = np.bincount(code, unit[members] @ unit_shift[concept])
            without_cluster = (along.sum() - along) / (counts.sum() - counts)
            between = _cross_cluster_product(_group_sums(unit[members], code, len(names)), counts)
            pairwise[concept] = jackknife(between[0], between[1:], freedom)
            aligned[concept] = jackknife(along.sum() / counts.sum(), without_cluster, freedom)
        return pairwise, aligned

    def _nulls(
        self, differences: NDArray, concepts: NDArray, shift: NDArray, texts: Texts, tokens: NDArray
    ) -> tuple[NDArray, NDArray]:
        n_concepts, generator = len(tokens), np.random.default_rng(self.seed)
        divisor = np.maximum(tokens, 1)[:, None]
        names, code = np.unique(texts.clusters, return_inverse=True)
        overall = differences.mean(0)
        observed = np.linalg.norm(shift, axis=1), np.linalg.norm(shift - overall, axis=1)
        reached = np.zeros((2, n_concepts))
        for _ in range(self.draws):
            signs = generator.choice((-1.0, 1.0), len(names))[code]
            shuffled_concepts = concepts[texts.shuffled(generator)]
            drawn = (
                np.linalg.norm(
                    _group_sums(differences * signs[:, None], concepts, n_concepts) / divisor,
                    axis=1,
                ),
                np.linalg.norm(
                    _group_sums(differences, shuffled_concepts, n_concepts) / divisor - overall,
                    axis=1,
                ),
            )
            for null in range(2):
                # a tolerance, so that an equal sum in another order does not count as smaller
                reached[null] += drawn[null] >= observed[null] * (1 - 1e-9)
        # with one concept, or equal shifts everywhere, rounding alone would decide
        floor = 1e-6 * np.sqrt(np.square(differences).sum(1).mean()) if len(differences) else 0.0
        p = (1 + reached) / (1 + self.draws)
        p = np.where(np.isfinite(np.stack(observed)), p, np.nan)
        exchange_p, permuted_p = (
            np.where(each <= floor, 1.0, one) for each, one in zip(observed, p, strict=True)
        )
        return exchange_p, permuted_p


def excess(
    differences: Float[NDArray, "N D"],
    control_differences: Float[NDArray, "N D"],
    concepts: Int[NDArray, " N"],
    clusters: Int[NDArray, " N"],
    count: int,
    factor: float = CONTROL_FACTOR,
) -> Float[NDArray[np.float64], "K three"]:
    """Squared shift of each concept minus ``factor`` squared times the control's, with its interval
    over clusters.

    ``differences``, ``control_differences``: states minus the base's, of the tuned model and of the
    control at the same tokens. A squared shift is the mean inner product of the shifts of two
    tokens from different clusters, so noise of a token or a document does not bias it. NaN for
    concepts with fewer than ``MIN_TOKENS`` tokens or two clusters.
    """
    intervals = np.full((count, 3), np.nan)
    for concept in range(count):
        members = concepts == concept
        names, code = np.unique(clusters[members], return_inverse=True)
        if members.sum() < MIN_TOKENS or len(names) < 2:
            continue
        squared, control_squared = (
            _cross_cluster_product(
                _group_sums(np.asarray(rows[members], np.float64), code, len(names)),
                np.bincount(code),
            )
            for rows in (differences, control_differences)
        )
        values = squared - factor**2 * control_squared
        intervals[concept] = jackknife(values[0], values[1:], effective_clusters(code) - 1)
    return intervals


def concept_recovery(shifts: Shifts, tuned: Float[NDArray, "J D"]) -> ConceptRecovery:
    """Compare shifted concepts with the tuned model's concepts ``tuned``, matched by cosine to the
    original concepts.

    Matching uses unshifted concepts, so it does not favour the shift. NaN, and match -1, for
    concepts without a shift or a match.
    """
    has_shift = np.all(np.isfinite(shifts.shift), axis=1)
    tuned_concepts = np.flatnonzero(np.isfinite(tuned).all(1))
    match = np.full(len(has_shift), -1)
    rows, columns = linear_sum_assignment(
        -_cosine(shifts.concepts[has_shift][:, None], tuned[tuned_concepts][None])
    )
    match[np.flatnonzero(has_shift)[rows]] = tuned_concepts[columns]
    paired = match >= 0
    gain, by_overall, cosine_gain = np.full((3, len(has_shift)), np.nan)
    u, v, shift = shifts.concepts[paired], tuned[match[paired]], shifts.shift[paired]
    before = np.linalg.norm(v - u, axis=1)
    gain[paired] = before - np.linalg.norm(v - u - shift, axis=1)
    by_overall[paired] = before - np.linalg.norm(v - u - shifts.overall, axis=1)
    cosine_gain[paired] = _cosine(v, u + shift) - _cosine(v, u)
    return ConceptRecovery(match, gain, by_overall, cosine_gain)


def kmeans_concepts(
    rows: Float[NDArray, "N D"], count: int, seed: int = 0
) -> Int[NDArray[np.int64], " N"]:
    """Concept of each row by k-means, numbered by decreasing size. Raises OptionError for fewer
    rows than concepts.
    """
    if not 1 <= count <= len(rows):
        raise OptionError(
            f"{len(rows)} tokens cannot be clustered into {count} concepts; use fewer concepts"
            " or more text"
        )
    from sklearn.cluster import KMeans

    # scikit-learn has no annotations: a type checker infers str for n_init from its default "auto"
    settings: dict[str, Any] = {"n_init": 4, "random_state": seed}
    labels = KMeans(count, **settings).fit_predict(np.asarray(rows, np.float64))
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels]


def corrected_p(p: ArrayLike) -> Float[NDArray[np.float64], " K"]:
    """p, corrected for the number of concepts (Benjamini and Hochberg 1995)."""
    return benjamini_hochberg(p)


def mean_per_concept(
    rows: Float[NDArray, "N D"], concepts: Int[NDArray, " N"], count: int
) -> Float[NDArray[np.float64], "K D"]:
    """Mean row of each concept; NaN with fewer than ``MIN_TOKENS`` rows."""
    tokens = np.bincount(concepts, minlength=count)[:, None]
    return np.where(
        tokens >= MIN_TOKENS,
        _group_sums(np.asarray(rows, np.float64), concepts, count) / np.maximum(tokens, 1),
        np.nan,
    )


def _group_sums(rows: NDArray, code: NDArray, count: int) -> NDArray:
    from scipy.sparse import csr_array

    where = csr_array((np.ones(len(code)), (code, np.arange(len(code)))), shape=(count, len(code)))
    return where @ rows


def _cross_cluster_product(
    sums: Float[NDArray, "m D"], counts: Int[NDArray, " m"]
) -> Float[NDArray[np.float64], " m1"]:
    """Mean inner product of two rows from different clusters: with all m clusters, then without
    each one.

    ``sums`` and ``counts`` per cluster; NaN if fewer than two clusters are left.
    """
    total, squares, n = sums.sum(0), np.square(sums).sum(1), counts.sum()
    inner = np.concatenate([[0.0], 2 * squares - 2 * sums @ total]) + total @ total - squares.sum()
    pairs = np.concatenate([[0], 2 * counts**2 - 2 * n * counts]) + n**2 - (counts**2).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, inner / pairs, np.nan)


def _cosine(a: NDArray, b: NDArray) -> NDArray:
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.where(size > 0, size, 1.0)
