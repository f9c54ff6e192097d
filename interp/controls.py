"""Controls: matched random sets of neurons, and label permutations within twins."""

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
    neighbours: int = 40,
) -> list[Pairs]:
    """Random sets with the located set's count in every layer and like contribution norms.

    ``norms`` ``[L, N]``: how large a neuron's contribution is in the base (root mean square activation times the norm
    of its write weights). Each located neuron, in random order, is replaced by one drawn among the ``neighbours``
    nearest in norm of its own layer, never a located or excluded one and never the same twice. Where a layer has too
    few others left, the set takes all of them and is smaller; the k-th neuron of a set stands for the k-th located.
    """
    if draws < 1:
        raise OptionError(f"{draws} random sets is no control; use at least 1")
    generator = np.random.default_rng(seed)
    taken = {*located, *exclude}
    nearest: dict[tuple[int, int], list[int]] = {}
    for layer, neuron in located:
        order = np.argsort(np.abs(norms[layer] - norms[layer, neuron]), kind="stable")
        nearest[layer, neuron] = [int(other) for other in order if (layer, int(other)) not in taken]
    sets = []
    for _ in range(draws):
        chosen: dict[tuple[int, int], tuple[int, int]] = {}
        used: set[tuple[int, int]] = set()
        for index in generator.permutation(len(located)):
            layer, neuron = located[index]
            free = [other for other in nearest[layer, neuron] if (layer, other) not in used][:neighbours]
            if free:
                pick = (layer, free[generator.integers(len(free))])
                used.add(pick)
                chosen[layer, neuron] = pick
        sets.append([chosen[pair] for pair in located if pair in chosen])
    return sets


def permute_within_twins(count: int, draws: int, seed: int) -> np.ndarray:
    """Which twin pairs swap their labels in each draw, ``bool[draws, count]``: each with probability one half."""
    return np.random.default_rng(seed).random((draws, count)) < 0.5
