"""Matched random sets of units, the control of a located set."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from interp.errors import OptionError
from interp.provenance import digest

Pairs = list[tuple[int, int]]
TINY = 1e-30


def excluded_note(excluded: Sequence[tuple[int, int]]) -> str:
    """The part of a claim's sentence on excluded units; "" where none were excluded."""
    return f", none of {len(excluded)} excluded units among them" if excluded else ""


def equally_large(drawn: Sequence[Pairs], located: Sequence[tuple[int, int]]) -> list[Pairs]:
    """The random sets as large as the located set; smaller ones are not a control for it."""
    return [draw for draw in drawn if len(draw) == len(located)]


def matched_sets(
    located: Sequence[tuple[int, int]],
    norms: np.ndarray,
    draws: int,
    seed: int,
    exclude: Sequence[tuple[int, int]] = (),
    neighbours: int = 24,
    sparse: float = 0.1,
    changes: np.ndarray | None = None,
) -> list[Pairs]:
    """Random sets with the located set's number of units per layer and similar contributions.

    ``norms`` ``[L, N]``: size of each neuron's contribution in the base (root mean square
    activation times the norm of its write weights). Each located neuron, in random order, is
    replaced by one drawn from the ``neighbours`` nearest in norm of its layer; none is drawn twice,
    and neither excluded nor located neurons are drawn. With ``changes`` ``[L, N]``, the size of the
    change of each contribution between the two models, it is drawn from those whose change is
    within a factor of 2 of the located one's, and by norm only where none is left: a neuron of
    equal norm that hardly changed is a weak control.

    Where located neurons are more than the share ``sparse`` of their layer, the others are not a
    fair sample of it. Such a layer is cut into strata of ``neighbours`` by norm, and from each
    stratum as many neurons are drawn as were located in it, located ones included.

    Sets are distinct, so there may be fewer than ``draws``. Where too many neurons are excluded,
    sets are smaller than the located one and not a control for it. The k-th neuron of a set
    replaces the k-th located neuron.
    """
    if draws < 1:
        raise OptionError(f"{draws} random sets are not a control; use at least 1")
    generator = np.random.default_rng(seed)
    counts = Counter(layer for layer, _ in located)
    crowded = {layer for layer, count in counts.items() if count > sparse * norms.shape[1]}
    sparse_pairs, unavailable = (
        [pair for pair in located if pair[0] not in crowded],
        {*located, *exclude},
    )
    nearest_by_norm = _nearest(sparse_pairs, norms, unavailable)
    nearest_by_change = (
        {}
        if changes is None
        else _nearest(
            sparse_pairs, np.log2(np.maximum(changes, TINY)), unavailable, max_distance=1.0
        )
    )
    strata = _strata(
        [pair for pair in located if pair[0] in crowded], norms, {*exclude}, neighbours
    )
    sets: dict[frozenset[tuple[int, int]], Pairs] = {}
    for _ in range(20 * draws):
        if len(sets) == draws:
            break
        replacements = _draw_strata(strata, generator) | _draw_nearest(
            nearest_by_norm, nearest_by_change, neighbours, generator
        )
        units = [replacements[pair] for pair in located if pair in replacements]
        sets.setdefault(frozenset(units), units)
    return list(sets.values())


def _nearest(
    located: Pairs,
    norms: np.ndarray,
    unavailable: set[tuple[int, int]],
    max_distance: float = np.inf,
) -> dict[tuple[int, int], list[int]]:
    """For each located neuron the free ones of its layer within a distance, nearest norm first."""
    candidates = {}
    for layer, neuron in located:
        distances = np.abs(norms[layer] - norms[layer, neuron])
        order = [
            int(other)
            for other in np.argsort(distances, kind="stable")
            if distances[other] <= max_distance
        ]
        candidates[layer, neuron] = [other for other in order if (layer, other) not in unavailable]
    return candidates


def _draw_nearest(
    nearest_by_norm: dict, nearest_by_change: dict, neighbours: int, generator: np.random.Generator
) -> dict:
    replacements: dict[tuple[int, int], tuple[int, int]] = {}
    used: set[tuple[int, int]] = set()
    located = list(nearest_by_norm)
    for index in generator.permutation(len(located)):
        layer, neuron = located[index]
        for candidates in (
            nearest_by_change.get((layer, neuron), []),
            nearest_by_norm[layer, neuron],
        ):
            if free := [other for other in candidates if (layer, other) not in used][:neighbours]:
                break
        if free:
            pick = (layer, free[generator.integers(len(free))])
            used.add(pick)
            replacements[layer, neuron] = pick
    return replacements


def _strata(
    located: Pairs, norms: np.ndarray, unavailable: set[tuple[int, int]], size: int
) -> list[tuple[Pairs, Pairs]]:
    """By layer and stratum of similar norms: its located neurons, and those that may be drawn."""
    strata = []
    for layer in sorted({layer for layer, _ in located}):
        order = np.argsort(-norms[layer], kind="stable")
        for start in range(0, len(order), size):
            members = {(layer, int(neuron)): None for neuron in order[start : start + size]}
            located_members = [pair for pair in located if pair in members]
            strata.append((located_members, [pair for pair in members if pair not in unavailable]))
    return strata


def _draw_strata(strata: list[tuple[Pairs, Pairs]], generator: np.random.Generator) -> dict:
    replacements = {}
    for located_members, free in strata:
        picks = generator.permutation(len(free))[: len(located_members)]
        replacements |= {
            pair: free[pick] for pair, pick in zip(located_members, picks, strict=False)
        }
    return replacements


def set_name(units: Sequence[tuple[int, int]]) -> str:
    """A digest that identifies a set, whatever the order of its units."""
    return digest(sorted(map(list, units)))[:20]


def matched_share(
    units: Sequence[tuple[int, int]], located: Sequence[tuple[int, int]], changes: np.ndarray
) -> float:
    """Share of a set's units whose change is within a factor of 2 of that of the located unit they
    replace.
    """
    sizes = [
        np.log2(np.maximum([changes[layer, unit] for layer, unit in part], TINY))
        for part in (units, located)
    ]
    return float((np.abs(sizes[0] - sizes[1]) <= 1.0).mean())


def norm_ratio(
    units: Sequence[tuple[int, int]], located: Sequence[tuple[int, int]], norms: np.ndarray
) -> float:
    """Norm of a set's contributions over that of the located set (root of sums of squares); 1 is a
    perfect match.
    """
    sizes = [
        np.sqrt(sum(norms[layer, neuron] ** 2 for layer, neuron in part))
        for part in (units, located)
    ]
    return float(sizes[0] / sizes[1]) if sizes[1] else float("nan")
