"""Every statistic against an independent oracle: scipy.stats, scikit-learn, or the definition
written out.
"""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp.maths import statistics as s

FAST = settings(max_examples=25, deadline=None, derandomize=True)


@FAST
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_is_scipys_exact_interval(successes, failures, level):
    n = successes + failures
    if n == 0:
        assert s.clopper_pearson(0, 0) == (0.0, 1.0)
        return
    exact = scipy.stats.binomtest(successes, n).proportion_ci(level, method="exact")
    np.testing.assert_allclose(
        s.clopper_pearson(successes, n, level), (exact.low, exact.high), atol=1e-10
    )


def test_clopper_pearson_refuses_what_is_no_share():
    with pytest.raises(ValueError, match="5 successes out of 3"):
        s.clopper_pearson(5, 3)


@pytest.mark.parametrize(
    ("observed", "alternative", "p"),
    [
        (3.0, "greater", 2 / 5),
        (9.0, "greater", 1 / 5),
        (3.0, "less", 5 / 5),
        (0.5, "less", 1 / 5),
        (9.0, "two-sided", 0.4),
    ],
)
def test_permutation_p_counts_the_observation_itself(observed, alternative, p):
    assert s.permutation_p(observed, [1.0, 2.0, 2.5, 3.0], alternative) == pytest.approx(p)


def test_permutation_p_is_cautious_where_nothing_is_known():
    assert s.permutation_p(9.0, [1.0, np.nan, 2.0, 3.0]) == pytest.approx(2 / 5)
    assert np.isnan(s.permutation_p(np.nan, [1.0]))
    assert np.isnan(s.permutation_p(1.0, []))
    with pytest.raises(ValueError, match="sideways"):
        s.permutation_p(1.0, [1.0], "sideways")


def test_permutation_p_holds_its_level():
    draws = np.random.default_rng(0).normal(size=(4000, 40))
    p = np.array([s.permutation_p(row[0], row[1:]) for row in draws])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.012)


@FAST
@given(st.lists(st.floats(0, 1), max_size=40))
def test_benjamini_hochberg_is_its_definition(p):
    """The smallest level at which the step-up procedure rejects: over larger or equal p-values the
    minimum of p times tests by rank.
    """
    expected = [
        min(min(1.0, other * len(p) / sum(x <= other for x in p)) for other in p if other >= value)
        for value in p
    ]
    np.testing.assert_allclose(s.benjamini_hochberg(p), expected, atol=1e-12)


def test_benjamini_hochberg_leaves_out_what_was_not_tested():
    adjusted = s.benjamini_hochberg([[0.01, np.nan], [0.04, 0.5]])
    np.testing.assert_allclose(adjusted, [[0.03, np.nan], [0.06, 0.5]])


def test_standardised_difference_is_students():
    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 2, (30, 5, 3)), generator.normal(0, 2, (17, 5, 3))
    found = s.standardised_difference(a, b)
    oracle = scipy.stats.ttest_ind(a, b)
    np.testing.assert_allclose(found.t, oracle.statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p, oracle.pvalue, rtol=1e-9)
    pooled = np.sqrt((29 * a.var(0, ddof=1) + 16 * b.var(0, ddof=1)) / 45)
    np.testing.assert_allclose(found.d, (a.mean(0) - b.mean(0)) / pooled, rtol=1e-12)


def test_standardised_difference_without_spread():
    found = s.standardised_difference(np.array([[1.0, 2.0]] * 3), np.array([[1.0, 1.0]] * 3))
    np.testing.assert_array_equal(found.d, [0.0, np.inf])
    np.testing.assert_array_equal(found.t, [0.0, np.inf])
    np.testing.assert_array_equal(found.p, [1.0, 0.0])
    with pytest.raises(ValueError, match="groups of 1 and 3"):
        s.standardised_difference([1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="groups of 1 and 3"):
        s.standardised_difference_from_moments(1, *np.ones((2, 4)), 3, *np.ones((2, 4)))


def test_paired_difference_is_students_paired_t():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 2, (30, 5, 3)), generator.normal(0, 2, (30, 5, 3))
    np.testing.assert_allclose(s.paired_t_test(a, b), scipy.stats.ttest_rel(a, b).pvalue, rtol=1e-9)
    flat = s.paired_t_test(np.array([[1.0, 2.0]] * 3), np.array([[1.0, 1.0]] * 3))
    np.testing.assert_array_equal(flat, [1.0, 0.0])
    with pytest.raises(ValueError, match="1 pairs: at least two"):
        s.paired_t_test([1.0], [2.0])
    with pytest.raises(ValueError, match="1 pairs: at least two"):
        s.paired_t_test_from_moments(1, *np.ones((2, 4)))


def test_paired_difference_keeps_its_level_where_twins_are_opposed():
    """Under swaps within opposed twins the unpaired t finds too much, which is why the paired one
    is used.
    """
    generator = np.random.default_rng(1)
    side = generator.normal(0, 1, (40, 2000))
    swap = np.where(generator.random((40, 2000)) < 0.5, -1, 1) * side
    paired, unpaired = s.paired_t_test(swap, -swap), s.standardised_difference(swap, -swap).p
    assert (paired <= 0.05).mean() < 0.065
    assert (unpaired <= 0.05).mean() > 0.1


@FAST
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=50))
def test_roc_auc_is_scikit_learns(rows):
    labels, scores = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    found = s.roc_auc(labels, scores)
    if labels.all() or not labels.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_roc_auc_ranks_infinity_and_refuses_nan():
    assert s.roc_auc([True, False], [np.inf, -np.inf]) == 1.0
    with pytest.raises(ValueError, match="NaN"):
        s.roc_auc([True, False], [np.nan, 0.0])


def test_recall_at_gives_ties_their_expected_share():
    labels = [True, True, False, False]
    assert s.recall_at(labels, [4, 3, 2, 1], 2) == 1.0
    assert s.recall_at(labels, [4, 1, 2, 3], 2) == 0.5
    assert s.recall_at(labels, [0, 0, 0, 0], 1) == pytest.approx(0.25)
    assert s.recall_at(labels, [1, 0, 0, 0], 2) == pytest.approx(0.5 + 0.5 / 3)
    assert s.recall_at(labels, [4, 3, 2, 1], 99) == 1.0
    assert s.recall_at(labels, [4, 3, 2, 1], 0) == 0.0
    assert np.isnan(s.recall_at([False], [1.0], 1))


@FAST
@given(st.lists(st.floats(-5, 5), min_size=0, max_size=60), st.sampled_from([0.01, 0.05, 0.1]))
def test_smallest_effect_is_where_the_p_value_turns(null, alpha):
    bound = s.minimum_detectable_effect(null, alpha)
    if np.isinf(bound):
        assert s.permutation_p(1e9, null) > alpha or not null
    else:
        assert s.permutation_p(np.nextafter(bound, np.inf), null) <= alpha + 1e-9
        assert s.permutation_p(bound, null) > alpha


def test_smallest_effect_by_hand():
    assert s.minimum_detectable_effect(np.arange(19.0)) == 18.0
    assert s.minimum_detectable_effect(np.arange(199.0)) == 189.0
    assert s.minimum_detectable_effect(np.arange(18.0)) == np.inf
    assert s.minimum_detectable_effect([*np.arange(18.0), np.nan]) == np.inf


def test_area_under_dose():
    assert s.area_under_dose([1, 4, 16], [1, 1, 1]) == pytest.approx(1.0)
    assert s.area_under_dose([16, 1, 4, 0], [1, 0, 0.5, 9]) == pytest.approx(0.5)
    assert s.area_under_dose([1, 2, 2], [0, 0, 2]) == pytest.approx(0.5)
    assert s.area_under_dose([8], [0.25]) == 0.25
    with pytest.raises(ValueError, match="no dose"):
        s.area_under_dose([0], [1.0])
    with pytest.raises(ValueError, match="2 doses and 1 effects"):
        s.area_under_dose([1, 2], [1.0])


def test_smallest_dose():
    assert s.smallest_dose([1, 2, 4, 8], [0.1, 0.96, 0.2, 1.0]) == 2
    assert s.smallest_dose([4, 1], [0.95, 0.5]) == 4
    assert s.smallest_dose([1, 2], [0.1, 0.2]) is None
