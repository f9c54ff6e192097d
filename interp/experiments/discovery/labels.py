"""Labels of two classes, permuted for a null: clusters keep together, twins exchange."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.maths.auc import count_label_arrangements, shuffled_labels


@dataclass(frozen=True)
class ClusteredLabels:
    """Labels [n], and the units that keep one label.

    A unit is the rows of one class in a cluster, since rows of a cluster are dependent. Clusters
    that hold one class exchange labels with each other; a cluster that holds both, such as twins,
    exchanges the labels of its two units.
    """

    labels: Bool[np.ndarray, " n"]
    units: Int[np.ndarray, " n"]
    strata: Int[np.ndarray, " units"]

    @classmethod
    def from_clusters(
        cls, labels: Sequence[bool] | Bool[np.ndarray, " n"], clusters: Sequence[str]
    ) -> ClusteredLabels:
        """By row: whether it is of the first class, and its cluster."""
        labels = np.asarray(labels, bool)
        classes: dict[str, set[bool]] = defaultdict(set)
        for name, label in zip(clusters, labels.tolist(), strict=True):
            classes[name].add(label)
        units = _codes(list(zip(clusters, labels.tolist(), strict=True)))
        strata = _codes([name if len(classes[name]) == 2 else None for name in clusters])
        return cls(labels, units, strata[np.unique(units, return_index=True)[1]])

    @property
    def arrangements(self) -> float:
        """Number of distinct permutations of the labels, infinity where it is beyond a float."""
        count = count_label_arrangements(self.labels, self.units, self.strata)
        return float(count) if count < 1 << 1000 else float("inf")

    def permuted(self, draws: int, seed: int) -> Iterator[Bool[np.ndarray, " n"]]:
        """Labels [n] of every draw."""
        yield from shuffled_labels(self.labels, self.units, self.strata, draws, seed)


def _codes(keys: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """The keys as numbers, in the order in which they first occur."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
