"""Paired differences judged both ways: found, absent, or neither."""

import numpy as np
import pytest
from scipy import stats

from interp.maths.equivalence import (
    CANNOT_TELL,
    CHANGED,
    NOT_CHANGED,
    WITHIN,
    clusters_needed,
    paired_change,
    verdict,
)
from interp.maths.intervals import tango_interval


def flips(n: int, up: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.zeros(n, bool)
    before[up : up + down] = True
    after = np.zeros(n, bool)
    after[:up] = True
    return before, after


@pytest.mark.parametrize(("n", "expected"), [(58, CANNOT_TELL), (59, NOT_CHANGED)])
def test_59_clusters_without_a_flip_are_needed_for_five_points(n, expected):
    change = paired_change(*flips(n, 0, 0), np.arange(n))
    assert change.p == 1.0
    assert change.high == pytest.approx(1 - 0.05 ** (1 / n))
    assert verdict(change, change.p, 0.05) == expected
    assert clusters_needed(0.05) == 59


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05, 0.1, 0.5])
def test_clusters_needed_are_the_fewest(margin):
    needed = clusters_needed(margin)
    assert 1 - 0.05 ** (1 / needed) < margin <= 1 - 0.05 ** (1 / (needed - 1))


def test_rows_of_a_cluster_are_not_independent():
    before, after = flips(118, 0, 0)
    change = paired_change(before, after, np.arange(118) // 2)
    assert change.clusters == 59
    assert change.high == pytest.approx(1 - 0.05 ** (1 / 59))
    assert verdict(paired_change(before, after, np.arange(118) // 3), 1.0, 0.05) == CANNOT_TELL


@pytest.mark.parametrize(("up", "down"), [(0, 7), (3, 4), (9, 1), (12, 0)])
def test_p_of_yes_and_no_is_mcnemars(up, down):
    change = paired_change(*flips(80, up, down), np.arange(80))
    assert change.p == pytest.approx(stats.binomtest(up, up + down).pvalue)
    assert (change.low, change.high) == pytest.approx(tango_interval(up, down, 80, 0.90))
    assert change.value == pytest.approx((up - down) / 80)


def test_p_of_numbers_is_the_exact_one_of_sign_flips():
    numbers = np.array([0.3, -0.1, 0.8, 0.2, 0.5, 0.4, -0.2, 0.9])
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    sums = (signs * numbers).sum(1)
    one_sided = min((sums >= numbers.sum() - 1e-12).mean(), (sums <= numbers.sum() + 1e-12).mean())
    change = paired_change(np.zeros(8), numbers, np.arange(8))
    assert change.p == pytest.approx(2 * one_sided)
    low, high = stats.t.interval(0.9, 7, numbers.mean(), stats.sem(numbers))
    assert (change.low, change.high) == pytest.approx((low, high))


def test_bounded_scores_without_a_difference_have_the_exact_bound():
    scores = np.random.default_rng(0).random(59)
    same = paired_change(scores, scores, np.arange(59), bounded=True)
    assert same.high == pytest.approx(1 - 0.05 ** (1 / 59))
    assert paired_change(scores, scores, np.arange(59)).high == 0.0


def test_verdicts():
    few = paired_change(*flips(2_000, 0, 20), np.arange(2_000))
    assert verdict(few, few.p, 0.05) == WITHIN
    many = paired_change(*flips(100, 0, 40), np.arange(100))
    assert verdict(many, many.p, 0.05) == CHANGED
    assert verdict(many, 0.2, 0.05) == CANNOT_TELL
    assert verdict(many, 0.2, 0.9) == NOT_CHANGED


def test_fewer_than_six_clusters_cannot_tell():
    change = paired_change(np.ones(40, bool), np.zeros(40, bool), np.arange(40) % 5)
    assert np.isnan([change.low, change.high, change.p, change.smallest_effect]).all()
    assert verdict(change, change.p, 0.05) == CANNOT_TELL


def test_at_the_margin_not_changed_is_said_at_the_nominal_rate():
    """The true difference is the margin: at most 5 % of samples may say that it is smaller."""
    generator, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        down = generator.random(100) < 0.05
        change = paired_change(down, np.zeros(100, bool), np.arange(100))
        wrong += change.high < 0.05 and change.low > -0.05
    assert wrong / 400 <= 0.08


def test_the_smallest_effect_is_found_in_most_samples():
    change = paired_change(*flips(100, 5, 5), np.arange(100))
    generator, found = np.random.default_rng(2), 0
    for _ in range(300):
        up = generator.random(100) < change.smallest_effect / 2 + 0.05
        down = ~up & (generator.random(100) < 0.05 - change.smallest_effect / 2 + 1e-9)
        found += paired_change(down, up, np.arange(100)).p <= 0.05
    assert found / 300 > 0.5


@pytest.mark.parametrize("sizes", [(3, 4, 4), (4, 3, 4), (4, 4, 3), (0, 0, 0)])
def test_lengths_that_differ_are_refused(sizes):
    with pytest.raises(ValueError, match="expected as many"):
        paired_change(*(np.zeros(size) for size in sizes))


def test_a_margin_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="expected a share"):
        clusters_needed(1.0)
