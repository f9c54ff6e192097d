"""Prediction intervals: coverage by exact sums over two binomials, the normal case by scipy, and
values that are not estimates.
"""

import numpy as np
import pytest
from scipy import stats

from interp.maths.intervals import cluster_interval
from interp.maths.prediction import prediction_interval
from interp.maths.statistics import clopper_pearson

SHARES = (0.01, 0.05, 0.3, 0.5, 0.9, 0.98, 0.995)


def outside(n: int, m: int, share: float, other: float, tests: int) -> float:
    """Chance that a true replication of ``n`` trials by ``m`` is outside: summed over all outcomes,
    nothing drawn.
    """
    chance = 0.0
    first = stats.binom.pmf(np.arange(n + 1), n, share)
    second = stats.binom.pmf(np.arange(m + 1), m, other)
    for x in np.flatnonzero(first > 1e-9):
        for y in np.flatnonzero(second > 1e-9):
            old, new = (x / n, *clopper_pearson(int(x), n)), (y / m, *clopper_pearson(int(y), m))
            low, high = prediction_interval(old, new, tests)
            chance += first[x] * second[y] * (not low <= new[0] <= high)
    return chance


@pytest.mark.parametrize(("n", "m", "tests"), [(20, 20, 1), (12, 40, 1), (40, 12, 5), (30, 30, 20)])
def test_a_true_share_is_outside_no_oftener_than_stated(n, m, tests):
    assert max(outside(n, m, share, share, tests) for share in SHARES) <= 0.05 / tests


def test_a_share_that_fell_by_half_is_outside():
    assert outside(36, 36, 0.99, 0.5, 5) > 0.95


def test_normal_estimates_are_outside_as_often_as_stated():
    """Of two means with known errors the interval is exact, whatever the number of tests: scipy
    says its half-width.
    """
    generator = np.random.default_rng(0)
    error, other = 1.5, 0.7
    old, new = generator.normal(0, error, 20000), generator.normal(0, other, 20000)
    for tests in (1, 8):
        low, high = prediction_interval(
            (0.0, -1.96 * error, 1.96 * error), (0.0, -1.96 * other, 1.96 * other), tests
        )
        expected = stats.norm.ppf(1 - 0.025 / tests) * np.hypot(error, other)
        np.testing.assert_allclose([-low, high], expected, rtol=1e-4)
        assert abs(np.mean(np.abs(new - old) > high) - 0.05 / tests) < 4 * np.sqrt(
            0.05 / tests / old.size
        )


def test_clustered_shares_keep_the_level_where_rows_of_a_cluster_say_the_same():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(24), 3)

    def measured():
        return cluster_interval(np.repeat(generator.random(24) < 0.8, 3), clusters)

    found = [(measured(), measured()) for _ in range(200)]
    missed = sum(
        not np.less_equal(*(prediction_interval(a, b)[0], b[0]))
        or b[0] > prediction_interval(a, b)[1]
        for a, b in found
    )
    assert missed <= stats.binom.ppf(0.999, len(found), 0.05)


def test_the_side_that_faces_the_other_counts():
    """A share of 1 with an exact interval can fall; that another is above it needs the other's
    lower end.
    """
    low, high = prediction_interval((1.0, 0.9, 1.0), (0.95, 0.9, 0.99))
    assert low == pytest.approx(1 - np.hypot(0.1, 0.04))
    assert high == pytest.approx(1 + 0.05)


def test_more_tests_and_a_higher_level_are_wider():
    estimate = (0.5, 0.4, 0.6)
    widths = [np.ptp(prediction_interval(estimate, estimate, tests)) for tests in (1, 2, 10)]
    assert widths == sorted(widths)
    assert np.ptp(prediction_interval(estimate, estimate, 2)) == pytest.approx(
        np.ptp(prediction_interval(estimate, estimate, level=0.975))
    )


@pytest.mark.parametrize(
    "estimate", [(0.5, float("nan"), 1.0), (0.5, 0.6, 0.7), (0.5, -float("inf"), 1.0)]
)
def test_what_is_no_estimate_is_refused(estimate):
    with pytest.raises(ValueError, match="is not an estimate"):
        prediction_interval(estimate, (0.5, 0.4, 0.6))


def test_levels_and_counts_are_checked():
    with pytest.raises(ValueError, match="0 tests"):
        prediction_interval((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), n_tests=0)
