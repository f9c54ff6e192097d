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

FEWEST = 10
"""Minimum number of tokens of a concept."""

FACTOR = 2.0
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


class Recovery(NamedTuple):
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
class ConceptShift:
    """Estimates shifts of concepts, with ``draws`` draws of each null."""

    draws: int = 199
    seed: int = 0

    def __call__(
        self,
        a: Float[NDArray, "N D"],
        b: Float[NDArray, "N D"],
        concepts: Int[NDArray, " N"],
        texts: Texts,
        count: int | None = None,
    ) -> Shifts:
        """Shifts of ``count`` concepts (default: the largest in ``concepts`` [N], plus one). Raises
        OptionError for a negative concept.
        """
        a, concepts = np.asarray(a, np.float64), np.asarray(concepts, np.int64)
        if len(concepts) and concepts.min() < 0:
            raise OptionError(f"concept {concepts.min()} is negative; concepts are numbered from 0")
        moved = np.asarray(b, np.float64) - a
        k = int(concepts.max(initial=-1)) + 1 if count is None else count
        tokens = np.bincount(concepts, minlength=k)
        enough = tokens >= FEWEST
        over = np.where(enough, tokens, 1)[:, None]
        shift = np.where(enough[:, None], _sums(moved, concepts, k) / over, np.nan)
        found = np.where(enough[:, None], _sums(a, concepts, k) / over, np.nan)
        pairwise, aligned = self._consistency(moved, concepts, shift, texts.clusters, k)
        exchange, permuted = self._nulls(moved, concepts, shift, texts, tokens)
        return Shifts(tokens, found, shift, moved.mean(0), pairwise, aligned, exchange, permuted)

    def _consistency(
        self, moved: NDArray, concepts: NDArray, shift: NDArray, clusters: NDArray, k: int
    ) -> tuple[NDArray, NDArray]:
        size = np.linalg.norm(moved, axis=1)
        unit = moved / np.where(size > 0, size, 1.0)[:, None]
        toward = shift / np.maximum(
            np.linalg.norm(shift, axis=1, keepdims=True), np.finfo(float).tiny
        )
        pairwise, aligned = np.full((2, k, 3), np.nan)
        for concept in range(k):
            mine = (concepts == concept) & (size > 0)
            names, code = np.unique(clusters[mine], return_inverse=True)
            if mine.sum() < FEWEST or len(names) < 2:
                continue
            counts, freedom = np.bincount(code), effective_clusters(code) - 1
            along = np.bincount(code, unit[mine] @ toward[concept])
            left = (along.sum() - along) / (counts.sum() - counts)
            between = _between(_sums(unit[mine], code, len(names)), counts)
            pairwise[concept] = jackknife(between[0], between[1:], freedom)
            aligned[concept] = jackknife(along.sum() / counts.sum(), left, freedom)
        return pairwise, aligned

    def _nulls(
        self, moved: NDArray, concepts: NDArray, shift: NDArray, texts: Texts, tokens: NDArray
    ) -> tuple[NDArray, NDArray]:
        k, generator = len(tokens), np.random.default_rng(self.seed)
        over = np.maximum(tokens, 1)[:, None]
        names, code = np.unique(texts.clusters, return_inverse=True)
        overall = moved.mean(0)
        observed = np.linalg.norm(shift, axis=1), np.linalg.norm(shift - overall, axis=1)
        reached = np.zeros((2, k))
        for _ in range(self.draws):
            signs = generator.choice((-1.0, 1.0), len(names))[code]
            other = concepts[texts.shuffled(generator)]
            drawn = (
                np.linalg.norm(_sums(moved * signs[:, None], concepts, k) / over, axis=1),
                np.linalg.norm(_sums(moved, other, k) / over - overall, axis=1),
            )
            for at in range(2):
                # a tolerance, so that an equal sum in another order does not count as smaller
                reached[at] += drawn[at] >= observed[at] * (1 - 1e-9)
        # with one concept, or equal shifts everywhere, rounding alone would decide
        floor = 1e-6 * np.sqrt(np.square(moved).sum(1).mean()) if len(moved) else 0.0
        p = (1 + reached) / (1 + self.draws)
        p = np.where(np.isfinite(np.stack(observed)), p, np.nan)
        size, own = (
            np.where(each <= floor, 1.0, one) for each, one in zip(observed, p, strict=True)
        )
        return size, own


def excess(
    moved: Float[NDArray, "N D"],
    control: Float[NDArray, "N D"],
    concepts: Int[NDArray, " N"],
    clusters: Int[NDArray, " N"],
    count: int,
    factor: float = FACTOR,
) -> Float[NDArray[np.float64], "K three"]:
    """Squared shift of each concept minus ``factor`` squared times the control's, with its interval
    over clusters.

    ``moved``, ``control``: states minus the base's, of the tuned model and of the control at the
    same tokens. A squared shift is the mean inner product of the shifts of two tokens from
    different clusters, so noise of a token or a document does not bias it. NaN for concepts with
    fewer than ``FEWEST`` tokens or two clusters.
    """
    found = np.full((count, 3), np.nan)
    for concept in range(count):
        mine = concepts == concept
        names, code = np.unique(clusters[mine], return_inverse=True)
        if mine.sum() < FEWEST or len(names) < 2:
            continue
        own, other = (
            _between(_sums(np.asarray(rows[mine], np.float64), code, len(names)), np.bincount(code))
            for rows in (moved, control)
        )
        values = own - factor**2 * other
        found[concept] = jackknife(values[0], values[1:], effective_clusters(code) - 1)
    return found


def recovery(found: Shifts, tuned: Float[NDArray, "J D"]) -> Recovery:
    """Compare shifted concepts with the tuned model's concepts ``tuned``, matched by cosine to the
    original concepts.

    Matching uses unshifted concepts, so it does not favour the shift. NaN, and match -1, for
    concepts without a shift or a match.
    """
    known = np.all(np.isfinite(found.shift), axis=1)
    there = np.flatnonzero(np.isfinite(tuned).all(1))
    match = np.full(len(known), -1)
    rows, columns = linear_sum_assignment(
        -_cosine(found.concepts[known][:, None], tuned[there][None])
    )
    match[np.flatnonzero(known)[rows]] = there[columns]
    paired = match >= 0
    gain, by_overall, nearer = np.full((3, len(known)), np.nan)
    u, v, shift = found.concepts[paired], tuned[match[paired]], found.shift[paired]
    before = np.linalg.norm(v - u, axis=1)
    gain[paired] = before - np.linalg.norm(v - u - shift, axis=1)
    by_overall[paired] = before - np.linalg.norm(v - u - found.overall, axis=1)
    nearer[paired] = _cosine(v, u + shift) - _cosine(v, u)
    return Recovery(match, gain, by_overall, nearer)


def clustered(
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
    found = KMeans(count, **settings).fit_predict(np.asarray(rows, np.float64))
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(order)[found]


def corrected(p: ArrayLike) -> Float[NDArray[np.float64], " K"]:
    """p, corrected for the number of concepts (Benjamini and Hochberg 1995)."""
    return benjamini_hochberg(p)


def means(
    rows: Float[NDArray, "N D"], concepts: Int[NDArray, " N"], count: int
) -> Float[NDArray[np.float64], "K D"]:
    """Mean row of each concept; NaN with fewer than ``FEWEST`` rows."""
    tokens = np.bincount(concepts, minlength=count)[:, None]
    return np.where(
        tokens >= FEWEST,
        _sums(np.asarray(rows, np.float64), concepts, count) / np.maximum(tokens, 1),
        np.nan,
    )


def _sums(rows: NDArray, code: NDArray, count: int) -> NDArray:
    from scipy.sparse import csr_array

    where = csr_array((np.ones(len(code)), (code, np.arange(len(code)))), shape=(count, len(code)))
    return where @ rows


def _between(
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
