"""k-sparse probes: which few latents predict a behaviour, by held-out AUC compared with permuted
labels.

k latents are selected and a logistic regression is fitted on one half of the clusters (Gurnee et
al. 2023, arXiv 2305.01610); the AUC is measured on the other half. Selecting the best of many
latents biases the result, so the null permutes labels and repeats the selection among all latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import OptionError
from interp.maths.auc import auc_interval, shuffled_labels
from interp.maths.intervals import effective_clusters
from interp.maths.statistics import permutation_p, roc_auc, standardised_difference

MIN_CLUSTERS = 8
"""Minimum number of clusters in each half."""


class ProbeResult(NamedTuple):
    """The selected ``latents`` (best first), held-out AUC with its interval over clusters, AUCs of
    the null, and p.

    ``scores`` [N] of all rows (optimistic on the selection half); ``training`` [N] marks the
    selection half.
    """

    latents: NDArray[np.int64]
    weights: NDArray[np.float64]
    auc: float
    low: float
    high: float
    null: NDArray[np.float64]
    p: float
    scores: NDArray[np.float64]
    training: NDArray[np.bool_]


@dataclass(frozen=True)
class SparseProbe:
    """Options of a k-sparse probe: number of latents, draws of the null, seed of the split and the
    null.

    ``firing``: select only latents with larger codes for the positive label, in the null too. The
    regression is on standardised codes, with an L2 penalty of half the squared weight norm next to
    the mean loss times the effective number of cluster sides, where a side is the rows of one class
    in a cluster. If every row is its own side, as with twins, this equals scikit-learn's default;
    duplicated prompts do not change it.
    """

    k: int = 1
    draws: int = 99
    seed: int = 0
    firing: bool = False

    def __call__(
        self,
        codes: ArrayLike,
        labels: ArrayLike,
        clusters: ArrayLike,
        training: ArrayLike | None = None,
    ) -> ProbeResult:
        """Probe codes [N, F] for labels [N]; all rows of a cluster are in one half.

        ``training`` [N]: rows for selection and fitting, by default a random half of the clusters.
        Labels are permuted within clusters that have both (twins), otherwise among clusters. Raises
        OptionError if there are too few clusters, a half has only one class, or a cluster is in
        both halves.
        """
        codes, labels = np.asarray(codes, dtype=np.float64), np.asarray(labels, dtype=bool)
        names, clusters = np.unique(np.asarray(clusters), return_inverse=True)
        if not 1 <= self.k <= codes.shape[1]:
            raise OptionError(f"cannot select {self.k} of {codes.shape[1]} latents")
        generator = np.random.default_rng(self.seed)
        if training is None:
            training = _random_half(labels, clusters, len(names), generator)
        training = np.asarray(training, dtype=bool)
        _require_clusters(labels, clusters, training, len(names))
        latents, weights, scores = self._fit(codes, labels, clusters, training)
        held_out = ~training
        auc, low, high = auc_interval(
            scores[held_out & labels],
            scores[held_out & ~labels],
            clusters[held_out & labels],
            clusters[held_out & ~labels],
        )
        null = [
            roc_auc(
                drawn[held_out],
                self._fit(codes, drawn, clusters, training, only_order=True)[2][held_out],
            )
            for drawn in _permuted_labels(labels, clusters, self.draws, generator)
        ]
        p = permutation_p(auc, null)
        return ProbeResult(latents, weights, auc, low, high, np.array(null), p, scores, training)

    def _fit(
        self,
        codes: NDArray,
        labels: NDArray,
        clusters: NDArray,
        training: NDArray,
        only_order: bool = False,
    ) -> tuple[NDArray, NDArray, NDArray]:
        """The k latents that best separate the classes in the training half, their regression
        weights, and scores of all rows.

        ``only_order``: only the order of scores is needed.
        """
        # a permutation can leave fewer than two rows of a class: no probe is fitted
        if np.bincount(labels[training], minlength=2).min() < 2:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(len(labels))
        effect_size = standardised_difference(codes[training & labels], codes[training & ~labels]).d
        # round, so that ties are broken by index on every machine
        effect_size = np.round(np.nan_to_num(effect_size), 8)
        latents = np.argsort(-(effect_size if self.firing else np.abs(effect_size)), kind="stable")[
            : self.k
        ]
        selected = codes[:, latents]
        if only_order and self.k == 1:
            # a regression on one latent keeps or reverses its order
            sign = np.sign(effect_size[latents])
            return latents, sign, (sign * selected)[:, 0]
        from sklearn.linear_model import LogisticRegression

        size = selected[training].std(0)
        selected = (selected - selected[training].mean(0)) / np.where(size > 0, size, 1.0)
        n_sides = effective_clusters(2 * clusters[training] + labels[training])
        # scikit-learn weighs the penalty against the sum over rows, which grows with duplicated
        # prompts
        fitted = LogisticRegression(C=n_sides / training.sum()).fit(
            selected[training], labels[training]
        )
        return latents, fitted.coef_[0], fitted.decision_function(selected)


def _random_half(
    labels: NDArray, clusters: NDArray, count: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Rows of a random half of the clusters, balanced by class."""
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    chosen = np.zeros(count, bool)
    for value in np.unique(share):
        candidates = generator.permutation(np.flatnonzero(share == value))
        chosen[candidates[: (len(candidates) + generator.integers(2)) // 2]] = True
    return chosen[clusters]


def _require_clusters(labels: NDArray, clusters: NDArray, training: NDArray, count: int) -> None:
    if shared := set(clusters[training]) & set(clusters[~training]):
        raise OptionError(
            f"{len(shared)} clusters have prompts in both halves; the halves must not share"
            " clusters"
        )
    for half in (training, ~training):
        n_clusters = len(np.unique(clusters[half]))
        if n_clusters < MIN_CLUSTERS or np.bincount(labels[half], minlength=2).min() < 2:
            raise OptionError(
                f"{count} clusters of prompts leave a half with {n_clusters} of them, or with fewer"
                f" than two prompts of a class; each half needs {MIN_CLUSTERS} clusters and two"
                " prompts of each class"
            )


def _permuted_labels(
    labels: NDArray, clusters: NDArray, draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Labels permuted among clusters; in a cluster with both classes, the labels of its two sides
    are exchanged.
    """
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    units, first = np.unique(2 * clusters + labels, return_index=True)
    is_mixed = (share > 0) & (share < 1)
    strata = np.where(is_mixed, np.arange(len(share)), -1)[clusters]
    side_of_row = np.searchsorted(units, 2 * clusters + labels)
    return shuffled_labels(
        labels, side_of_row, strata[first], draws, int(generator.integers(2**32))
    )
