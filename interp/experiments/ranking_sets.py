"""What a locating run's table says as sets: scores, ranking, selected units; and how sets agree by
chance.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from interp.models.units import Unit, unit_named
from interp.table import Table

Pair = tuple[int, int]


def unit_of(located: Table) -> Unit:
    """The unit that a locating run scored."""
    return unit_named(located.summary["unit"])


def scores_of(located: Table) -> np.ndarray:
    """Scores ``[L, U]``, every unit in its place."""
    layer, index = located["layer"], located[located.summary["unit"]]
    found = np.zeros((int(layer.max()) + 1, int(index.max()) + 1))
    found[layer, index] = located["score"]
    return found


def ranking_of(located: Table) -> tuple[Pair, ...]:
    """All units: the selected ones in rank order, then the others in rank order (eligibility can
    leave gaps).
    """
    order = np.lexsort((located["rank"], ~located["selected"]))
    unit = located.summary["unit"]
    return tuple(zip(located["layer"][order].tolist(), located[unit][order].tolist(), strict=True))


def selected_of(located: Table) -> list[Pair]:
    """What was selected, in rank order."""
    return list(ranking_of(located)[: int(located["selected"].sum())])


def ranked_set(located: Table) -> dict[str, Any]:
    """What ``VerifyNeurons`` takes of a locating run: its key as ``parent``, ``ranking``,
    ``selected`` and ``unit``.
    """
    key, chosen = located.require_provenance().key, int(located["selected"].sum())
    return {
        "parent": key,
        "ranking": ranking_of(located),
        "selected": chosen,
        "unit": located.summary["unit"],
    }


def jaccard(first: Iterable[Pair], second: Iterable[Pair]) -> float:
    """Shared members over members of either; 0 where both are empty."""
    first, second = set(first), set(second)
    return len(first & second) / len(first | second) if first | second else 0.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; NaN of fewer than three values, and where either does not vary."""
    if len(one) < 3 or not np.ptp(one) or not np.ptp(other):
        return float("nan")
    found: Any = spearmanr(one, other)  # scipy's annotations name no field of it
    return float(found.statistic)


def chance_jaccards(
    first: Sequence[Pair], second: Sequence[Pair], width: int, draws: int, seed: int
) -> np.ndarray:
    """Jaccard indices of random sets with the two sets' counts in every layer of ``width`` units:
    ``[draws]``.
    """
    generator = np.random.default_rng(seed)
    layers = {layer for layer, _ in (*first, *second)}
    shared = np.zeros(draws)
    for layer in sorted(layers):
        one, other = (sum(where == layer for where, _ in part) for part in (first, second))
        shared += generator.hypergeometric(one, width - one, other, size=draws)
    either = len(set(first)) + len(set(second)) - shared
    return np.divide(shared, either, out=np.zeros(draws), where=either > 0)
