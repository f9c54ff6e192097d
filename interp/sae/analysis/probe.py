"""Which few latents tell a behaviour: a k-sparse probe, by held-out AUC beside the best of all
latents by chance.

k latents are chosen on one half of the clusters and a logistic regression is fitted there (Gurnee
et al. 2023, arXiv 2305.01610); its AUC is measured on the other half. The best of many latents
predicts anything a little: the null permutes labels and chooses anew among all latents, every time.
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
"""Clusters that a half must have."""


class Probed(NamedTuple):
    """The chosen ``latents`` (best first), held-out AUC with its interval over clusters, the null's
    AUCs, and p.

    ``scores`` [N] of all rows, of which those of the half that chose flatter; ``training`` [N] says
    which those are.
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
    """Options of a k-sparse probe: how many latents, draws of the null, seed of the split and the
    null.

    ``firing``: only latents that are larger with the label are chosen, in the null too. The
    regression is on codes by their spread, with half the squared length of its weights as the
    penalty beside the mean loss times the effective number of sides of clusters, a side being the
    rows of one class: scikit-learn's own strength where every row is a side of its own, as with
    twins, and the same however often each prompt is there.
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
        """Probe codes [N, F] for labels [N]; rows of one cluster fall into one half.

        ``training`` [N]: the rows that choose and fit, by default those of a random half of the
        clusters. Labels are permuted within clusters that hold both (twins), else among whole
        clusters. Raises OptionError where clusters are too few, a half has one class only, or a
        cluster lies in both halves.
        """
        codes, labels = np.asarray(codes, dtype=np.float64), np.asarray(labels, dtype=bool)
        names, clusters = np.unique(np.asarray(clusters), return_inverse=True)
        if not 1 <= self.k <= codes.shape[1]:
            raise OptionError(f"{self.k} latents of {codes.shape[1]} cannot be chosen")
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
        """The k latents that part the training half best, weights of their regression, and scores
        of all rows.

        ``ranks``: only the order of scores is wanted.
        """
        # a permutation can leave one row of a class, or none: nothing parts it from the other
        if np.bincount(labels[training], minlength=2).min() < 2:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(len(labels))
        d = standardised_difference(codes[training & labels], codes[training & ~labels]).d
        # latents that fire on as many prompts have the same d but for rounding: the first of them,
        # on every machine
        d = np.round(np.nan_to_num(d), 8)
        latents = np.argsort(-(d if self.firing else np.abs(d)), kind="stable")[: self.k]
        chosen = codes[:, latents]
        if ranks and self.k == 1:
            # a regression on one latent keeps its order, or turns it around
            sign = np.sign(d[latents])
            return latents, sign, (sign * chosen)[:, 0]
        from sklearn.linear_model import LogisticRegression

        size = chosen[training].std(0)
        chosen = (chosen - chosen[training].mean(0)) / np.where(size > 0, size, 1.0)
        sides = effective_clusters(2 * clusters[training] + labels[training])
        # scikit-learn weighs the penalty against the sum over rows, which copies of prompts add to
        fitted = LogisticRegression(C=sides / training.sum()).fit(
            chosen[training], labels[training]
        )
        return latents, fitted.coef_[0], fitted.decision_function(chosen)


def _half(
    labels: NDArray, clusters: NDArray, count: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Rows of a random half of the clusters, of each class alike."""
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    chosen = np.zeros(count, bool)
    for value in np.unique(share):
        same = generator.permutation(np.flatnonzero(share == value))
        chosen[same[: (len(same) + generator.integers(2)) // 2]] = True
    return chosen[clusters]


def _require(labels: NDArray, clusters: NDArray, training: NDArray, count: int) -> None:
    if shared := set(clusters[training]) & set(clusters[~training]):
        raise OptionError(
            f"{len(shared)} clusters have prompts in both halves; a probe needs halves that share"
            " none"
        )
    for half in (training, ~training):
        held = len(np.unique(clusters[half]))
        if held < FEWEST or np.bincount(labels[half], minlength=2).min() < 2:
            raise OptionError(
                f"{count} clusters of prompts leave a half with {held} of them, or with fewer than"
                f" two prompts of a class; a probe needs {FEWEST} clusters in each half, and two"
                " prompts of both classes"
            )


def _permuted(
    labels: NDArray, clusters: NDArray, draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Labels of whole clusters permuted; a cluster that has rows of both classes exchanges the
    labels of its two.
    """
    share = np.bincount(clusters, labels) / np.bincount(clusters)
    units, first = np.unique(2 * clusters + labels, return_index=True)
    both = (share > 0) & (share < 1)
    strata = np.where(both, np.arange(len(share)), -1)[clusters]
    places = np.searchsorted(units, 2 * clusters + labels)
    return shuffled_labels(labels, places, strata[first], draws, int(generator.integers(2**32)))
