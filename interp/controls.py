"""Controls: matched random sets of neurons, and label permutations within twins."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from interp.errors import OptionError

Pairs = list[tuple[int, int]]


def matched_sets(
    located: Sequence[tuple[int, int]],
    norms: np.ndarray,
    draws: int,
    seed: int,
    exclude: Sequence[tuple[int, int]] = (),
    neighbours: int = 24,
    sparse: float = 0.1,
) -> list[Pairs]:
    """Random sets with the located set's count in every layer and like contribution norms.

    ``norms`` ``[L, N]``: how large a neuron's contribution is in the base (root mean square activation times the norm
    of its write weights). Each located neuron, in random order, is replaced by one drawn among the ``neighbours``
    nearest in norm of its own layer, never the same twice and never an excluded one. Where the located are at most the
    share ``sparse`` of their layer, none of them is drawn either. Where they are more, what they leave is no fair
    sample of the layer (it lacks whatever matters), and they may be drawn like any other. Sets are distinct, so there
    may be fewer than ``draws``; where too many are excluded they are smaller, and no control for the located set. The
    k-th neuron of a set stands for the k-th located.
    """
    if draws < 1:
        raise OptionError(f"{draws} random sets is no control; use at least 1")
    generator = np.random.default_rng(seed)
    crowded = {
        layer for layer, count in Counter(layer for layer, _ in located).items() if count > sparse * norms.shape[1]
    }
    taken = {*(pair for pair in located if pair[0] not in crowded), *exclude}
    nearest: dict[tuple[int, int], list[int]] = {}
    for layer, neuron in located:
        order = np.argsort(np.abs(norms[layer] - norms[layer, neuron]), kind="stable")
        nearest[layer, neuron] = [int(other) for other in order if (layer, int(other)) not in taken]
    sets: dict[frozenset[tuple[int, int]], Pairs] = {}
    for _ in range(20 * draws):
        if len(sets) == draws:
            break
        chosen: dict[tuple[int, int], tuple[int, int]] = {}
        used: set[tuple[int, int]] = set()
        for index in generator.permutation(len(located)):
            layer, neuron = located[index]
            free = [other for other in nearest[layer, neuron] if (layer, other) not in used][:neighbours]
            if free:
                pick = (layer, free[generator.integers(len(free))])
                used.add(pick)
                chosen[layer, neuron] = pick
        found = [chosen[pair] for pair in located if pair in chosen]
        sets.setdefault(frozenset(found), found)
    return list(sets.values())


def norm_ratio(chosen: Sequence[tuple[int, int]], located: Sequence[tuple[int, int]], norms: np.ndarray) -> float:
    """How large a set's contributions are, root of the sum of squares over the located set's; 1 is a perfect match."""
    sizes = [np.sqrt(sum(norms[layer, neuron] ** 2 for layer, neuron in part)) for part in (chosen, located)]
    return float(sizes[0] / sizes[1]) if sizes[1] else float("nan")


def permute_within_twins(count: int, draws: int, seed: int) -> np.ndarray:
    """Which twin pairs swap their labels in each draw, ``bool[draws, count]``: each with probability one half."""
    return np.random.default_rng(seed).random((draws, count)) < 0.5
