"""Which labels a null may shuffle: what keeps one label together, and among what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from interp.maths.auc import arrangements, shuffled_auc, shuffled_labels
from interp.maths.statistics import roc_auc
from interp.prompts import Contrast, OneClass

ENOUGH = 20  # ways to deal out labels, of which the one seen is 5 %


@dataclass(frozen=True)
class Shuffles:
    """Labels of positive, then negative prompts, the unit of every prompt and the stratum of every unit.

    Prompts of a cluster move together, so that single ones shuffled would be more alike than classes of clusters are.
    Clusters of one class exchange labels whole; one that both classes share, within itself, prompts of equal text
    together; twins, where all are paired off, their sides, and those of one cluster at once. ``sides`` are a cluster's
    prompts of one class.
    """

    labels: np.ndarray
    units: np.ndarray
    strata: np.ndarray
    sides: np.ndarray

    @classmethod
    def of(cls, contrast: Contrast | OneClass) -> Shuffles:
        """For the prompts of a contrast."""
        prompts = (*contrast.positive, *contrast.negative)
        labels = np.arange(len(prompts)) < len(contrast.positive)
        clusters, texts = contrast.clusters, [*contrast.positive.keys, *contrast.negative.keys]
        shared = _both(clusters, labels)
        pairs, units, strata = contrast.pairs(), [], []
        twins = (
            set() if pairs is None else {*range(len(contrast.positive)), *(len(contrast.positive) + p for p in pairs)}
        )
        for row, (label, cluster, text) in enumerate(zip(labels, clusters, texts, strict=True)):
            if pairs is not None:
                unit = (cluster, bool(label)) if row in twins else row
                stratum: Hashable = cluster if row in twins else ("alone", row)
            else:
                unit = (text, bool(label)) if cluster in shared else cluster
                stratum = ("shared", cluster) if cluster in shared else ""
            units.append(unit)
            strata.append(stratum)
        code, place = _codes(units), _codes(strata)
        first = np.unique(code, return_index=True)[1]
        sides = _codes([(cluster, bool(label)) for cluster, label in zip(clusters, labels, strict=True)])
        return cls(labels, code, place[first], sides)

    @property
    def ways(self) -> int:
        """In how many ways labels can be dealt out."""
        return arrangements(self.labels, self.units, self.strata)

    def auc(self, values: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """AUCs with labels shuffled."""
        dealt = shuffled_labels(self.labels, self.units, self.strata, draws, seed)
        return np.array([roc_auc(labels, values) for labels in dealt])

    def near_auc(self, values: np.ndarray, lengths: np.ndarray, caliper: int, draws: int, seed: int) -> np.ndarray:
        """AUCs of pairs within ``caliper``, sides shuffled among those of one mean length, rounded."""
        return shuffled_auc(values, self.labels, lengths, caliper, draws, seed, self.sides)

    def near_ways(self, lengths: np.ndarray) -> int:
        """In how many ways these can be dealt out."""
        means = np.round(np.bincount(self.sides, weights=lengths) / np.bincount(self.sides))
        return arrangements(self.labels, self.sides, means)


def too_few(ways: int) -> str:
    """What a sentence adds where no p of 5 % could come of a null."""
    if ways >= ENOUGH:
        return ""
    return f" Labels of whole clusters can be dealt out in only {ways} way{'s' * (ways != 1)}: too few for 5 %."


def _both(names: Sequence[str], labels: np.ndarray) -> set[str]:
    seen: dict[str, set[bool]] = defaultdict(set)
    for name, label in zip(names, labels, strict=True):
        seen[name].add(bool(label))
    return {name for name, found in seen.items() if len(found) == 2}


def _codes(keys: Sequence[Hashable]) -> np.ndarray:
    number = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys])
