"""Sets of units from the table of a locating run, and the agreement of sets by chance."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from interp.models.units import Unit, unit_named
from interp.table import Table

Pair = tuple[int, int]


def unit_of(located: Table) -> Unit:
    """The kind of unit that a locating run scored."""
    return unit_named(located.summary["unit"])


def scores_of(located: Table) -> np.ndarray:
    """Scores ``[L, U]`` by layer and unit."""
    layer, index = located["layer"], located[located.summary["unit"]]
    scores = np.zeros((int(layer.max()) + 1, int(index.max()) + 1))
    scores[layer, index] = located["score"]
    return scores


def ranking_of(located: Table) -> tuple[Pair, ...]:
    """All units: the selected ones by rank, then the others by rank (selection can skip ranks)."""
    order = np.lexsort((located["rank"], ~located["selected"]))
    unit = located.summary["unit"]
    return tuple(zip(located["layer"][order].tolist(), located[unit][order].tolist(), strict=True))


def selected_of(located: Table) -> list[Pair]:
    """The selected units, by rank."""
    return list(ranking_of(located)[: int(located["selected"].sum())])


def verification_set(located: Table) -> dict[str, Any]:
    """The options of ``VerifyNeurons`` that follow from a locating run: ``parent`` (its key),
    ``ranking``, ``selected`` and ``unit``.
    """
    key, n_selected = located.require_provenance().key, int(located["selected"].sum())
    return {
        "parent": key,
        "ranking": ranking_of(located),
        "selected": n_selected,
        "unit": located.summary["unit"],
    }


def jaccard(first: Iterable[Pair], second: Iterable[Pair]) -> float:
    """Jaccard index: size of the intersection over that of the union; 0 where both are empty."""
    first, second = set(first), set(second)
    return len(first & second) / len(first | second) if first | second else 0.0


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; NaN for fewer than three values, and where either is constant."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    result: Any = spearmanr(first, second)  # scipy's annotations name no field of it
    return float(result.statistic)


def chance_jaccards(
    first: Sequence[Pair], second: Sequence[Pair], width: int, draws: int, seed: int
) -> np.ndarray:
    """Jaccard indices of random sets with the two sets' counts in every layer of ``width`` units,
    ``[draws]``.
    """
    generator = np.random.default_rng(seed)
    layers = {layer for layer, _ in (*first, *second)}
    shared = np.zeros(draws)
    for layer in sorted(layers):
        n_first, n_second = (sum(where == layer for where, _ in part) for part in (first, second))
        shared += generator.hypergeometric(n_first, width - n_first, n_second, size=draws)
    union_sizes = len(set(first)) + len(set(second)) - shared
    return np.divide(shared, union_sizes, out=np.zeros(draws), where=union_sizes > 0)
