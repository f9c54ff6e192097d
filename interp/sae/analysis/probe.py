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

FEWEST = 8
"""Minimum number of clusters in each half."""


class Probed(NamedTuple):
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
    ) -> Probed:
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
            training = _half(labels, clusters, len(names), generator)
        training = np.asarray(training, dtype=bool)
        _require(labels, clusters, training, len(names))
        latents, weights, scores = self._fitted(codes, labels, clusters, training)
        held = ~training
        auc, low, high = auc_interval(
            scores[held & labels],
            scores[held & ~labels],
            clusters[held & labels],
            clusters[held & ~labels],
        )
        null = [
            roc_auc(
                drawn[held], self._fitted(codes, drawn, clusters, training, ranks=True)[2][held]
            )
            for drawn in _permuted(labels, clusters, self.draws, generator)
        ]
        p = permutation_p(auc, null)
        return Probed(latents, weights, auc, low, high, np.array(null), p, scores, training)

    def _fitted(
        self,
        codes: NDArray,
        labels: NDArray,
        clusters: NDArray,
        training: NDArray,
        ranks: bool = False,
    ) -> tuple[NDArray, NDArray, NDArray]:
        """The k latents that best separate the classes in the training half, their regression
        weights, and scores of all rows.

        ``ranks``: only the order of scores is needed.
        """
        # a permutation can leave fewer than two rows of a class: no probe is fitted
        if np.bincount(labels[training], minlength=2).min() < 2:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(len(labels))
        d = standardised_difference(codes[training & labels], codes[training & ~labels]).d
        # round, so that ties are broken by index on every machine
        d = np.round(np.nan_to_num(d), 8)
        latents = np.argsort(-(d if self.firing else np.abs(d)), kind="stable")[: self.k]
        chosen = codes[:, latents]
        if ranks and self.k == 1:
            # a regression on one latent keeps or reverses its order
            sign = np.sign(d[latents])
            return latents, sign, (sign * chosen)[:, 0]
        from sklearn.linear_model import LogisticRegression

        size = chosen[training].std(0)
        chosen = (chosen - chosen[training].mean(0)) / np.where(size > 0, size, 1.0)
        sides = effective_clusters(2 * clusters[training] + labels[training])
        # scikit-learn weighs the penalty against the sum over rows, which grows with duplicated
        # prompts
        fitted = LogisticRegression(C=sides / training.sum()).fit(
            chosen[training], labels[training]
        )
        return latents, fitted.coef_[0], fitted.decision_function(chosen)


def _half(
    labels: NDArray, clusters: NDArray, count: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Rows of a random half of the clusters, balanced by class."""
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    chosen = np.zeros(count, bool)
    for value in np.unique(share):
        same = generator.permutation(np.flatnonzero(share == value))
        chosen[same[: (len(same) + generator.integers(2)) // 2]] = True
    return chosen[clusters]


def _require(labels: NDArray, clusters: NDArray, training: NDArray, count: int) -> None:
    if shared := set(clusters[training]) & set(clusters[~training]):
        raise OptionError(
            f"{len(shared)} clusters have prompts in both halves; the halves must not share"
            " clusters"
        )
    for half in (training, ~training):
        held = len(np.unique(clusters[half]))
        if held < FEWEST or np.bincount(labels[half], minlength=2).min() < 2:
            raise OptionError(
                f"{count} clusters of prompts leave a half with {held} of them, or with fewer"
                f" than two prompts of a class; each half needs {FEWEST} clusters and two"
                " prompts of each class"
            )


def _permuted(
    labels: NDArray, clusters: NDArray, draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Labels permuted among clusters; in a cluster with both classes, the labels of its two sides
    are exchanged.
    """
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    units, first = np.unique(2 * clusters + labels, return_index=True)
    both = (share > 0) & (share < 1)
    strata = np.where(both, np.arange(len(share)), -1)[clusters]
    places = np.searchsorted(units, 2 * clusters + labels)
    return shuffled_labels(labels, places, strata[first], draws, int(generator.integers(2**32)))
