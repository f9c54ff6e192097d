"""The AUC, its difference and its permutations beside what others compute."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.maths.auc import auc_difference_interval, auc_interval, pairwise_order, shuffled_auc


def test_auc_is_that_of_others_and_can_be_kept_to_pairs():
    generator = np.random.default_rng(0)
    one, other = generator.normal(0.5, 1, 40).round(1), generator.normal(0, 1, 50).round(1)
    value, low, high = auc_interval(one, other, np.arange(40), np.arange(50) + 40)
    assert value == pytest.approx(roc_auc_score([1] * 40 + [0] * 50, np.r_[one, other]))
    assert low < value < high
    # of two classes that differ in length alone, nothing is left at equal length
    lengths = generator.integers(5, 30, 200), generator.integers(15, 40, 200)
    values = [length + generator.normal(0, 0.3, 200) for length in lengths]
    near = np.abs(lengths[0][:, None] - lengths[1]) == 0
    free, kept = (
        auc_interval(*values, range(200), range(200, 400), within) for within in (None, near)
    )
    assert free[2] < 0.3
    assert kept[1] < 0.5 < kept[2]
    assert auc_interval([1.0], [0.0], ["a"], ["b"])[0] == 1
    low = auc_interval(np.ones(10), np.zeros(10), range(10), range(10, 20))[1]
    assert low == pytest.approx(0.6915, abs=1e-3)  # ten of ten is not certainty
    assert np.isnan(auc_interval([1.0], [0.0], ["a"], ["b"], np.zeros((1, 1)))).all()


def test_the_auc_exceeds_another_number_s_only_where_it_does():
    """Of two numbers that tell classes apart equally well in at most 5 % of draws; of one that does
    better in most.
    """
    generator = np.random.default_rng(0)
    names, seen, found = (np.arange(30), np.arange(30)), 0, 0
    for _ in range(60):
        shared = generator.normal([[0.5], [0]], 1, (2, 30))
        first, second = ([part + generator.normal(0, 0.7, 30) for part in shared] for _ in range(2))
        value, low, high = auc_difference_interval(
            pairwise_order(*first), pairwise_order(*second), *names
        )
        assert low <= value <= high
        assert value == pytest.approx(
            auc_interval(*first, *names)[0] - auc_interval(*second, *names)[0]
        )
        seen += low > 0
        found += (
            auc_difference_interval(
                pairwise_order(first[0] + 3, first[1]), pairwise_order(*second), *names
            ).low
            > 0
        )
    assert seen <= 3
    assert found >= 48
    same = pairwise_order(*first)
    assert auc_difference_interval(same, same, *names)[0] == 0
    assert np.isnan(auc_difference_interval(same, same, *names, pair_mask=np.zeros((30, 30)))).all()


def test_labels_shuffled_at_equal_length_keep_what_length_does():
    """A number that follows length alone is no more than its null, although the AUC is far from one
    half.
    """
    generator, small = np.random.default_rng(0), 0
    for draw in range(30):
        lengths = np.r_[generator.integers(8, 14, 40), generator.integers(10, 16, 40)]
        labels, values = np.arange(80) < 40, lengths + generator.normal(0, 0.5, 80)
        near = np.abs(lengths[:40, None] - lengths[40:]) <= 1
        observed = auc_interval(values[:40], values[40:], range(40), range(40, 80), near).value
        null = shuffled_auc(values, labels, lengths, 1, 40, draw)
        small += (np.sum(null <= observed) + 1) / 41 <= 0.1
        shifted = np.where(labels, values + 1, values)
        again = auc_interval(shifted[:40], shifted[40:], range(40), range(40, 80), near).value
        assert again > shuffled_auc(shifted, labels, lengths, 1, 20, draw).mean()
    assert observed < 0.45  # at most a token apart is not yet equally long
    assert small <= 7
    assert np.isnan(shuffled_auc([1.0, 2.0], [True, False], [1, 9], 1, 3, 0)).all()
