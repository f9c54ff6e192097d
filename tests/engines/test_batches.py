"""Batches of texts of different lengths: the least padding that any division of them has."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from interp.maths.batches import batch_by_length


def cost(lengths, batches, fixed):
    return sum(len(some) * max(lengths[at] for at in some) + fixed for some in batches)


def cheapest(lengths, most, fixed):
    """By trying every division of the texts in order of length."""
    order, found = sorted(range(len(lengths)), key=lambda at: lengths[at]), []
    for count in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), count):
            ends = [0, *cuts, len(lengths)]
            batches = [order[one:other] for one, other in pairwise(ends)]
            if max(map(len, batches)) <= most:
                found.append(cost(lengths, batches, fixed))
    return min(found)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fixed", [0, 7, 48, 1000])
def test_no_division_costs_less(seed, fixed):
    generator = np.random.default_rng(seed)
    lengths, most = generator.integers(1, 60, 9).tolist(), int(generator.integers(2, 10))
    batches = batch_by_length(lengths, most, fixed)
    assert sorted(at for some in batches for at in some) == list(range(9))
    assert max(map(len, batches)) <= most
    assert cost(lengths, batches, fixed) == cheapest(lengths, most, fixed)


def test_a_few_long_texts_have_a_batch_of_their_own():
    assert batch_by_length([20, 48, 20, 21, 47, 20], 6, 10) == [[0, 2, 5, 3], [4, 1]]
    assert batch_by_length([20, 48, 20, 21, 47, 20], 6, 1000) == [[0, 2, 5, 3, 4, 1]]
    assert batch_by_length([], 6, 10) == []
