"""Which labels a null may permute: what keeps one label together, and among what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from interp.maths.auc import arrangements, shuffled_auc, shuffled_labels
from interp.maths.statistics import roc_auc

ENOUGH = 20  # arrangements of labels, of which the observed one is 5 %


@dataclass(frozen=True)
class Shuffles:
    """Labels of positive, then negative prompts, and the lengths and the unit of each; the stratum
    of each unit.

    Prompts of a cluster move together, so that permuting single ones would give draws that vary
    less than classes of clusters do. A unit is a cluster's prompts of one class. Clusters of one
    class exchange labels with each other; one that has prompts of both classes, such as twins,
    exchanges the labels of its two units.
    """

    labels: np.ndarray
    lengths: np.ndarray
    units: np.ndarray
    strata: np.ndarray

    @classmethod
    def of(cls, labels: Sequence[bool], clusters: Sequence[str], lengths: ArrayLike) -> Shuffles:
        """By prompt: whether it is positive, its cluster, its number of tokens."""
        classes: dict[str, set[bool]] = defaultdict(set)
        for name, label in zip(clusters, labels, strict=True):
            classes[name].add(bool(label))
        units = _codes([(name, bool(label)) for name, label in zip(clusters, labels, strict=True)])
        strata = _codes([name if len(classes[name]) == 2 else None for name in clusters])
        first = np.unique(units, return_index=True)[1]
        return cls(np.asarray(labels, bool), np.asarray(lengths), units, strata[first])

    @property
    def ways(self) -> int:
        """In how many ways labels can be arranged."""
        return arrangements(self.labels, self.units, self.strata)

    def auc(self, values: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """AUCs with labels permuted: a whole number of half pairs over the number of pairs, as the
        observed one is.
        """
        drawn = shuffled_labels(self.labels, self.units, self.strata, draws, seed)
        return np.array([roc_auc(labels, values) for labels in drawn])

    def near_auc(self, values: np.ndarray, caliper: int, draws: int, seed: int) -> np.ndarray:
        """AUCs of pairs within ``caliper``, labels permuted among units of one mean length,
        rounded.
        """
        return shuffled_auc(values, self.labels, self.lengths, caliper, draws, seed, self.units)

    @property
    def near_ways(self) -> int:
        """In how many ways these can be arranged."""
        means = np.round(np.bincount(self.units, weights=self.lengths) / np.bincount(self.units))
        return arrangements(self.labels, self.units, means)


def too_few(ways: int) -> str:
    """What a sentence adds where no p of 5 % could come of a null."""
    if ways >= ENOUGH:
        return ""
    return (
        f" Labels of whole clusters can be permuted in only {ways} way{'s' * (ways != 1)}: too few"
        " for p of 5 %."
    )


def _codes(keys: Sequence[Hashable]) -> np.ndarray:
    number = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys])
