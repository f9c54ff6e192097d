"""What a latent fires on: token labels by mutual information, tested on held-out documents.

A label is a short list of token ids, made on one half of the clusters of documents. Its score on
the other half is the accuracy of "this token is in the list" as a prediction of "the latent is
active here", on equally many active examples (stratified by quantiles of activation) and quiet
ones, so a constant prediction scores 1/2. Two nulls: labels of other latents, and labels made and
scored again after the latent's firing was moved to other clusters' tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from interp.errors import OptionError
from interp.maths.intervals import Interval, cluster_interval
from interp.maths.statistics import benjamini_hochberg, permutation_p
from interp.prompts import merge_clusters

MIN_ACTIVE = 10
"""Minimum number of active tokens in each half for a latent to be labelled and scored."""

QUANTILES = 10
"""Number of activation quantiles from which examples are drawn evenly."""
NAN = float("nan")


class ActiveTokens(NamedTuple):
    """Positions of the tokens on which a latent is active, increasing, and its codes there."""

    rows: Int[NDArray[np.int64], " n"]
    values: Float[NDArray[np.float64], " n"]


@dataclass(frozen=True, eq=False)
class Texts:
    """N tokens by id, with their document (contiguous), cluster and half.

    ``training``: tokens of a random half of the clusters, used to make labels; the others are used
    to score them.
    """

    tokens: Int[NDArray[np.int64], " N"]
    documents: Int[NDArray[np.int64], " N"]
    clusters: Int[NDArray[np.int64], " N"]
    training: Bool[NDArray[np.bool_], " N"]

    @classmethod
    def from_tokens(
        cls,
        tokens: ArrayLike,
        documents: ArrayLike,
        clusters: ArrayLike | None = None,
        seed: int = 0,
    ) -> Texts:
        """Split into halves with ``seed``; ``clusters`` [N] default to documents, and documents
        with equal tokens share a cluster.

        Raises OptionError for fewer than two clusters.
        """
        tokens, documents = (
            np.asarray(tokens),
            np.unique(np.asarray(documents), return_inverse=True)[1],
        )
        clusters = (
            documents
            if clusters is None
            else np.unique(np.asarray(clusters), return_inverse=True)[1]
        )
        names, clusters = np.unique(
            _merge_equal_documents(tokens, documents, clusters), return_inverse=True
        )
        if len(names) < 2:
            raise OptionError("labels are scored on held-out documents; give 2 documents or more")
        chosen = np.zeros(len(names), bool)
        chosen[np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]] = True
        return cls(tokens, documents, clusters, chosen[clusters])

    def shuffled(self, generator: np.random.Generator) -> Int[NDArray[np.int64], " N"]:
        """A permutation of positions within each half: clusters in random order, each rotated by a
        random offset.

        Neighbouring tokens mostly stay neighbours, so neither bursts of firing nor firing by
        cluster count as evidence.
        """
        permutation = np.arange(len(self.tokens))
        ordered = np.argsort(self.clusters, kind="stable")
        for half in (True, False):
            rows = ordered[self.training[ordered] == half]
            starts = np.flatnonzero(np.diff(self.clusters[rows], prepend=-1))
            lengths = np.diff(starts, append=len(rows))
            cluster_order = generator.permutation(len(starts))
            cluster_sizes = lengths[cluster_order]
            within = np.arange(cluster_sizes.sum()) - np.repeat(
                np.cumsum(cluster_sizes) - cluster_sizes, cluster_sizes
            )
            rotated = (
                within + np.repeat(generator.integers(0, cluster_sizes), cluster_sizes)
            ) % np.repeat(cluster_sizes, cluster_sizes)
            permutation[rows] = rows[np.repeat(starts[cluster_order], cluster_sizes) + rotated]
        return permutation


@dataclass(frozen=True, eq=False)
class Examples:
    """Held-out positions of one latent: ``active`` ones and as many ``quiet`` ones."""

    active: Int[NDArray[np.int64], " n"]
    quiet: Int[NDArray[np.int64], " n"]

    @classmethod
    def draw(
        cls, active: ActiveTokens, texts: Texts, max_examples: int, generator: np.random.Generator
    ) -> Examples | None:
        """At most ``max_examples`` of each, the active ones evenly from all quantiles; None if
        there are too few.
        """
        held_out = ~texts.training[active.rows]
        rows, values = active.rows[held_out], active.values[held_out]
        is_quiet = ~texts.training
        is_quiet[active.rows] = False
        quiet = np.flatnonzero(is_quiet)
        count = min(max_examples, len(rows), len(quiet))
        if count < MIN_ACTIVE:
            return None
        chosen = stratified_sample(values, count, generator)
        return cls(np.sort(rows[chosen]), np.sort(generator.choice(quiet, count, replace=False)))

    def score(
        self, on_active: Bool[NDArray[np.bool_], " n"], on_quiet: Bool[NDArray[np.bool_], " n"]
    ) -> float:
        """Balanced accuracy of predictions ``on_active`` for active and ``on_quiet`` for quiet
        positions.
        """
        return float((on_active.mean() + (~on_quiet).mean()) / 2)

    def predictions(self, tokens: NDArray, label: Iterable[int]) -> tuple[NDArray, NDArray]:
        """Predictions of "this token is in the list" for active and for quiet positions."""
        label = np.fromiter(label, np.int64)
        return np.isin(tokens[self.active], label), np.isin(tokens[self.quiet], label)

    def interval(self, on_active: NDArray, on_quiet: NDArray, clusters: NDArray) -> Interval:
        """The score with its 95 % interval: exact, with the effective number of clusters as trials.

        Perfect accuracy on few clusters is therefore not certain.
        """
        example_clusters = np.concatenate([clusters[self.active], clusters[self.quiet]])
        return cluster_interval(np.concatenate([on_active, ~on_quiet]), example_clusters)


class Label(NamedTuple):
    """Label of one latent: token ids by decreasing share of mutual information, score with
    interval, both nulls, p.

    ``p`` is the larger p of the two nulls. ``examples``: number of active (and of quiet) examples
    scored; 0 if there were too few, and then all values are NaN.
    """

    latent: int
    tokens: tuple[int, ...]
    score: float
    low: float
    high: float
    others: Float[NDArray[np.float64], " k"]
    shuffled: Float[NDArray[np.float64], " m"]
    p: float
    examples: int


def label_latents(
    active: Mapping[int, ActiveTokens],
    texts: Texts,
    latents: Iterable[int],
    *,
    size: int = 5,
    n_other_labels: int = 99,
    draws: int = 199,
    max_examples: int = 100,
    seed: int = 0,
) -> list[Label]:
    """Labels of ``latents``, in their order; labels of all latents of ``active`` serve as the null
    of other labels.
    """
    generator = np.random.default_rng(seed)
    names, codes = np.unique(texts.tokens, return_inverse=True)
    share = np.bincount(codes[texts.training], minlength=len(names)) / max(1, texts.training.sum())
    training_rows = {
        latent: found.rows[texts.training[found.rows]] for latent, found in active.items()
    }
    label_of = {
        latent: _label_tokens(codes[rows], share, size) for latent, rows in training_rows.items()
    }
    latents = [int(latent) for latent in latents]
    examples_of = {
        latent: Examples.draw(active[latent], texts, max_examples, generator) for latent in latents
    }
    examples_of = {
        latent: None if len(training_rows[latent]) < MIN_ACTIVE else found
        for latent, found in examples_of.items()
    }
    shuffled_scores: dict[int, list[float]] = {latent: [] for latent in latents}
    for _ in range(draws):
        shuffled_codes = codes[texts.shuffled(generator)]
        for latent, latent_examples in examples_of.items():
            if latent_examples is not None:
                shuffled_scores[latent].append(
                    latent_examples.score(
                        *latent_examples.predictions(
                            shuffled_codes,
                            _label_tokens(shuffled_codes[training_rows[latent]], share, size),
                        )
                    )
                )
    result = []
    for latent, latent_examples in examples_of.items():
        if latent_examples is None:
            nothing = np.zeros(0)
            result.append(Label(latent, (), NAN, NAN, NAN, nothing, nothing, NAN, 0))
            continue
        predictions = latent_examples.predictions(codes, label_of[latent])
        score = latent_examples.score(*predictions)
        other_latents = [other for other in label_of if other != latent and label_of[other]]
        other_latents = (
            generator.choice(other_latents, min(n_other_labels, len(other_latents)), replace=False)
            if other_latents
            else []
        )
        other_scores = np.array(
            [
                latent_examples.score(*latent_examples.predictions(codes, label_of[int(other)]))
                for other in other_latents
            ]
        )
        # without draws a permutation test has no p: use the other null alone
        p = np.fmax(
            permutation_p(score, other_scores), permutation_p(score, shuffled_scores[latent])
        )
        ids = tuple(int(names[code]) for code in label_of[latent])
        _, low, high = latent_examples.interval(*predictions, texts.clusters)
        result.append(
            Label(
                latent,
                ids,
                score,
                low,
                high,
                other_scores,
                np.array(shuffled_scores[latent]),
                float(p),
                len(latent_examples.active),
            )
        )
    return result


def _merge_equal_documents(tokens: NDArray, documents: NDArray, clusters: NDArray) -> NDArray:
    """The cluster of each token, with clusters merged that contain documents of equal tokens."""
    order = np.argsort(documents, kind="stable")
    starts = np.flatnonzero(np.diff(documents[order], prepend=-1))
    contents = [tokens[rows].tobytes() for rows in np.split(order, starts[1:])]
    return np.array(merge_clusters(clusters[order[starts]].tolist(), contents))[documents]


def adjusted_p(labels: Iterable[Label]) -> Float[NDArray[np.float64], " n"]:
    """p of labels, corrected for multiplicity (Benjamini and Hochberg 1995)."""
    return benjamini_hochberg([label.p for label in labels])


def stratified_sample(
    values: NDArray, count: int, generator: np.random.Generator
) -> Int[NDArray[np.int64], " n"]:
    """Indices of ``count`` values, drawn without replacement from each quantile in turn."""
    parts = [
        generator.permutation(part)
        for part in np.array_split(np.argsort(values, kind="stable"), QUANTILES)
    ]
    turns = sorted(
        (turn, -number, part[turn])
        for number, part in enumerate(parts)
        for turn in range(len(part))
    )
    return np.array([place for _, _, place in turns[:count]], dtype=np.int64)


def _label_tokens(active_tokens: NDArray, share: NDArray, size: int) -> tuple[int, ...]:
    """Tokens with the largest positive term ``p(t, on) log(p(t | on) / p(t))`` of the mutual
    information.
    """
    if len(active_tokens) < MIN_ACTIVE:
        return ()
    tokens, counts = np.unique(active_tokens, return_counts=True)
    active_share, everywhere = counts / len(active_tokens), share[tokens]
    information = active_share * np.log(active_share / everywhere)
    best = np.argsort(-information, kind="stable")[:size]
    # a token must be at least twice as frequent as elsewhere
    return tuple(
        int(tokens[at])
        for at in best
        if information[at] > 0 and active_share[at] >= 2 * everywhere[at]
    )
