"""Matched random sets and label permutations: what they keep equal, what they leave out, and that
seeds decide.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import OptionError
from interp.interventions.random_sets import matched_sets, norm_ratio
from interp.maths.statistics import permutation_p

NORMS = np.random.default_rng(0).gamma(2.0, size=(3, 50))


def layers(pairs):
    return sorted(layer for layer, _ in pairs)


@settings(deadline=None, max_examples=40)
@given(
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 49)), min_size=1, max_size=12),
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 49)), max_size=12),
    st.integers(0, 50),
)
def test_counts_per_layer_and_exclusion(located, exclude, seed):
    located = sorted(located)
    for drawn in matched_sets(located, NORMS, 5, seed, exclude=sorted(exclude), sparse=1.0):
        assert layers(drawn) == layers(located)
        assert len(set(drawn)) == len(drawn)
        assert not {*located, *exclude} & set(drawn)


def test_the_kth_of_a_set_stands_for_the_kth_located():
    located = [(2, 4), (0, 1), (1, 7), (0, 9)]
    for drawn in matched_sets(located, NORMS, 10, 0):
        assert [layer for layer, _ in drawn] == [2, 0, 1, 0]


def test_replacements_are_among_the_nearest_norms():
    norms = np.arange(50.0)[None]
    for drawn in matched_sets([(0, 20)], norms, 200, 0, neighbours=4):
        assert drawn[0][1] in {18, 19, 21, 22}
    seen = {drawn[0][1] for drawn in matched_sets([(0, 20)], norms, 200, 0, neighbours=4)}
    assert seen == {18, 19, 21, 22}


def test_norms_of_random_sets_are_like_those_of_the_located():
    heavy = [(layer, int(neuron)) for layer in range(3) for neuron in np.argsort(-NORMS[layer])[:4]]
    mean = np.mean([NORMS[pair] for pair in heavy])
    near = np.mean(
        [NORMS[p] for drawn in matched_sets(heavy, NORMS, 50, 0, neighbours=6) for p in drawn]
    )
    assert NORMS.mean() < 0.8 * near < near < mean


def test_the_seed_decides():
    located = [(0, 1), (1, 2), (2, 3)]
    assert matched_sets(located, NORMS, 4, 7) == matched_sets(located, NORMS, 4, 7)
    assert matched_sets(located, NORMS, 4, 7) != matched_sets(located, NORMS, 4, 8)
    draws = matched_sets(located, NORMS, 40, 7)
    assert len({tuple(drawn) for drawn in draws}) > 30
    assert matched_sets(located, NORMS, 2, 7) == draws[:2]


def test_an_exhausted_layer_gives_what_it_has():
    out = [(0, neuron) for neuron in range(47)]
    for drawn in matched_sets(
        [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)], NORMS, 3, 0, exclude=out
    ):
        assert layers(drawn) == [0] * 3 + [1]
        assert {neuron for layer, neuron in drawn if layer == 0} == {47, 48, 49}


def test_sets_for_a_large_share_of_a_layer_may_share_neurons_with_it():
    """What a located half leaves lacks whatever matters: sets drawn from it would make any random
    half look special.
    """
    generator = np.random.default_rng(3)
    special = {(0, 4), (0, 33)}  # nothing happens but where both are in the set
    hits = draws = 0
    for seed in range(60):
        located = [(0, int(neuron)) for neuron in generator.permutation(50)[:25]]
        sets = matched_sets(located, NORMS, 19, seed)
        assert all(layers(drawn) == [0] * 25 for drawn in sets)
        null = [special <= set(drawn) for drawn in sets]
        hits += permutation_p(special <= set(located), null) <= 0.05
        draws += sum(null)
    assert 0.1 < draws / (60 * 19) < 0.4
    assert hits <= 8  # the 99 % quantile of a binomial with 60 draws at 5 %
    # few of a layer are left out, as they were
    for drawn in matched_sets([(1, 3), (1, 9)], NORMS, 50, 0):
        assert not {(1, 3), (1, 9)} & set(drawn)


def test_nothing_located_gives_empty_sets():
    assert matched_sets([], NORMS, 3, 0) == [[]]


def test_the_ratio_of_norms():
    norms = np.array([[3.0, 4.0, 5.0, 0.0]])
    assert norm_ratio([(0, 2)], [(0, 0), (0, 1)], norms) == pytest.approx(1.0)
    assert norm_ratio([(0, 0)], [(0, 2)], norms) == pytest.approx(0.6)
    assert np.isnan(norm_ratio([(0, 0)], [(0, 3)], norms))


def test_sets_are_distinct():
    """Of four neighbours there are four sets of one, however many are asked for."""
    drawn = matched_sets([(0, 20)], np.arange(50.0)[None], 200, 0, neighbours=4)
    assert len(drawn) == len({frozenset(found) for found in drawn}) == 4


def test_no_draws_are_no_control():
    with pytest.raises(OptionError, match="0 random sets are not a control; use at least 1"):
        matched_sets([(0, 1)], NORMS, 0, 0)
