"""Permutations of labels for a null: units that keep one label, and strata that exchange labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.auc import count_label_arrangements, shuffled_auc, shuffled_labels
from interp.maths.statistics import roc_auc

MIN_ARRANGEMENTS = 20  # arrangements of labels at which the observed one alone is 5 %


@dataclass(frozen=True)
class LabelPermutations:
    """Label, length and unit of every prompt, positive ones first; the stratum of each unit.

    Prompts of a cluster are dependent, so that permuting single prompts would give a null that is
    too narrow. A unit is the prompts of one class in a cluster. Clusters of one class exchange
    labels with each other; a cluster with both classes, such as twins, exchanges the labels of its
    two units.
    """

    labels: np.ndarray
    lengths: np.ndarray
    units: np.ndarray
    strata: np.ndarray

    @classmethod
    def from_clusters(
        cls, labels: Sequence[bool], clusters: Sequence[str], lengths: ArrayLike
    ) -> LabelPermutations:
        """By prompt: whether it is positive, its cluster, its number of tokens."""
        classes: dict[str, set[bool]] = defaultdict(set)
        for name, label in zip(clusters, labels, strict=True):
            classes[name].add(bool(label))
        units = _codes([(name, bool(label)) for name, label in zip(clusters, labels, strict=True)])
        strata = _codes([name if len(classes[name]) == 2 else None for name in clusters])
        first = np.unique(units, return_index=True)[1]
        return cls(np.asarray(labels, bool), np.asarray(lengths), units, strata[first])

    @property
    def n_permutations(self) -> int:
        """Number of distinct arrangements of the labels."""
        return count_label_arrangements(self.labels, self.units, self.strata)

    def drawn(self, draws: int, seed: int) -> Iterator[np.ndarray]:
        """Permuted labels [n], one array per draw."""
        return shuffled_labels(self.labels, self.units, self.strata, draws, seed)

    def auc(self, values: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """AUCs with labels permuted."""
        return np.array([roc_auc(labels, values) for labels in self.drawn(draws, seed)])

    def matched_auc(self, values: np.ndarray, caliper: int, draws: int, seed: int) -> np.ndarray:
        """AUCs over pairs within ``caliper``, labels permuted among units of equal (rounded) mean
        length.
        """
        return shuffled_auc(values, self.labels, self.lengths, caliper, draws, seed, self.units)

    @property
    def n_matched_permutations(self) -> int:
        """Number of distinct arrangements for ``matched_auc``."""
        means = np.round(np.bincount(self.units, weights=self.lengths) / np.bincount(self.units))
        return count_label_arrangements(self.labels, self.units, means)


def too_few_note(n_permutations: int) -> str:
    """Addition to a sentence where the null cannot reach p = 5 %; else empty."""
    if n_permutations >= MIN_ARRANGEMENTS:
        return ""
    return (
        f" Labels of whole clusters can be permuted in only {n_permutations}"
        f" way{'s' * (n_permutations != 1)}: too few for p of 5 %."
    )


def _codes(keys: Sequence[Hashable]) -> np.ndarray:
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([codes[key] for key in keys])
