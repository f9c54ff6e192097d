"""Models compared with each other: exact under exchangeability, and the definition written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.maths.between_models import between_models, rank_p

FAST = settings(max_examples=25, deadline=None, derandomize=True)
ALTERNATIVES = ("two-sided", "away-from-zero", "greater")


def drawn(kind, n_models, n_items, generator):
    """Scores [M, V] of exchangeable models; correlated ones share changes within a model."""
    shape = (n_models, n_items)
    if kind == "gaussian":
        return generator.normal(0, 0.1, shape)
    if kind == "heavy":
        return 0.05 * generator.standard_t(1.5, shape)
    own = generator.normal(0, 1, (n_models, 3)) @ generator.normal(0, 0.1, (3, n_items))
    return own + generator.normal(0.2, 0.02, shape)


def by_hand(scores, spread, alternative):
    """The definition in plain loops: statistics of the first model, maxima of all, its items."""
    n_models, n_items = len(scores), len(scores[0])
    first, maxima, largest = [], [], []
    for held_out in range(n_models):
        found = []
        for item in range(n_items):
            others = [scores[k][item] for k in range(n_models) if k != held_out]
            mean = sum(others) / len(others)
            variance = 0.0
            if len(others) > 1:
                variance = sum((x - mean) ** 2 for x in others) / (len(others) - 1)
            own = scores[held_out][item]
            beyond = own - mean
            if alternative == "away-from-zero":
                if beyond * own <= 0:
                    beyond = 0.0
                elif abs(beyond) > abs(own):
                    beyond = own
            value = beyond / ((variance + spread**2) * (1 + 1 / len(others))) ** 0.5
            found.append(value)
        sizes = found if alternative == "greater" else [abs(value) for value in found]
        maxima.append(max(sizes))
        largest.append(sizes.index(max(sizes)))
        first = found if held_out == 0 else first
    return first, maxima, largest


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("kind", ["gaussian", "heavy", "correlated"])
def test_is_the_definition_in_plain_loops(kind, alternative):
    for n_models, n_items in ((2, 5), (3, 1), (6, 9)):
        scores = drawn(kind, n_models, n_items, np.random.default_rng(n_models))
        result = between_models(scores, 0.05, alternative)
        statistic, maxima, largest = by_hand(scores.tolist(), 0.05, alternative)
        np.testing.assert_allclose(result.statistic, statistic, atol=1e-12)
        np.testing.assert_allclose(result.maxima, maxima, atol=1e-12)
        assert result.largest.tolist() == largest


KINDS = ("gaussian", "heavy", "correlated")


@pytest.mark.parametrize(
    ("kind", "n_controls", "level", "runs"),
    [(kind, 4, 0.2, 600) for kind in KINDS]
    + [("heavy", 19, 0.05, 250)]
    + [pytest.param(kind, 19, 0.05, 4000, marks=pytest.mark.slow) for kind in KINDS],
)
def test_the_rank_is_exact_where_models_are_exchangeable(kind, n_controls, level, runs):
    """With K controls, p is at most 1 / (1 + K) in exactly that share of draws: also with heavy
    tails, and where items are correlated. Only the first model's rank is looked at.
    """
    generator = np.random.default_rng(0)
    p = np.empty(runs)
    for run in range(runs):
        scores = drawn(kind, n_controls + 1, 20, generator)
        maxima = between_models(scores, 0.05, "away-from-zero").maxima
        p[run] = rank_p(maxima[:1], maxima[1:])[0]
    for wanted in (level, 0.6):
        deviation = np.sqrt(wanted * (1 - wanted) / runs)
        assert (p <= wanted + 1e-9).mean() == pytest.approx(wanted, abs=3.3 * deviation)


def test_a_test_that_treats_the_first_model_otherwise_would_be_seen():
    """Controls that are held out among themselves alone differ from the first model: with four of
    them the same p is not exact.
    """
    generator, p = np.random.default_rng(0), []
    for _ in range(700):
        scores = drawn("gaussian", 5, 30, generator)
        own = between_models(scores, 0.05).maxima[:1]
        p += rank_p(own, between_models(scores[1:], 0.05).maxima).tolist()
    assert abs(np.mean(np.array(p) <= 0.2) - 0.2) > 0.05


@FAST
@given(st.integers(2, 7), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from(ALTERNATIVES))
def test_models_and_items_in_another_order_are_the_same_in_another_order(
    n_models, n_items, seed, alternative
):
    """From this follows that the rank is exact: no model is treated differently."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 0.2, (n_models, n_items))
    models, items = generator.permutation(n_models), generator.permutation(n_items)
    result = between_models(scores, 0.1, alternative)
    permuted = between_models(scores[models][:, items], 0.1, alternative)
    np.testing.assert_allclose(permuted.maxima, result.maxima[models], atol=1e-9)
    assert items[permuted.largest].tolist() == result.largest[models].tolist()


@FAST
@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(0.01, 100))
def test_the_unit_of_the_scores_does_not_matter(n_items, seed, unit):
    scores = np.random.default_rng(seed).normal(0, 0.2, (5, n_items))
    result, scaled = between_models(scores, 0.05), between_models(scores * unit, 0.05 * unit)
    np.testing.assert_allclose(scaled.statistic, result.statistic, rtol=1e-9)
    np.testing.assert_allclose(scaled.detectable, result.detectable * unit, rtol=1e-9)


def test_two_models_differ_from_each_other_equally():
    scores = np.array([[0.0, 0.5, 0.1], [0.2, 0.1, 0.1]])
    result = between_models(scores, 0.05)
    assert result.maxima[0] == result.maxima[1] == pytest.approx(0.4 / (0.05 * np.sqrt(2)))
    assert result.largest.tolist() == [1, 1]
    assert np.isnan(result.detectable)
    assert np.isnan(rank_p(np.abs(result.statistic), result.maxima[1:])).all()


def test_one_model_is_compared_with_nothing():
    result = between_models(np.array([[0.5, 0.1]]), 0.05)
    assert np.isnan(result.statistic).all()
    assert np.isnan(result.maxima).all()
    assert np.isnan(result.detectable)


def test_no_items_give_maxima_of_zero():
    result = between_models(np.zeros((4, 0)), 0.05)
    assert result.maxima.tolist() == [0, 0, 0, 0]
    assert not result.statistic.size


def test_models_that_are_all_equal_have_no_statistic():
    result = between_models(np.full((4, 3), 0.3), 0.05)
    np.testing.assert_allclose(result.statistic, 0, atol=1e-12)
    np.testing.assert_allclose(result.maxima, 0, atol=1e-12)


def test_what_a_model_lacks_counts_for_nobody_away_from_zero():
    """All controls changed at the first item, the first model did not: that is not a change of it;
    at the second it changed, but less than they did.
    """
    scores = np.array([[0.0, 0.2, 0.4], [0.5, 0.5, 0], [0.6, 0.6, 0], [0.5, 0.5, 0]])
    assert between_models(scores, 0.05, "two-sided").statistic[0] < -2
    result = between_models(scores, 0.05, "away-from-zero")
    assert result.statistic[:2].tolist() == [0, 0]
    assert result.statistic[2] == pytest.approx(0.4 / (0.05 * np.sqrt(4 / 3)))
    # the other side too: a loss counts where the model's own score is one
    assert between_models(-scores, 0.05, "away-from-zero").statistic[2] < -2


def test_a_score_counts_at_most_as_far_as_it_is_away_from_zero():
    """The controls fell, the first model rose a little: the difference is mostly theirs."""
    scores = np.array([[0.01], [-3.0], [-3.0], [-3.0]])
    result = between_models(scores, 0.05, "away-from-zero")
    assert result.statistic[0] == pytest.approx(0.01 / (0.05 * np.sqrt(4 / 3)))


def test_greater_has_the_largest_signed_statistic():
    scores = np.array([[-5.0, 0.1], [0, 0], [0, 0], [0, 0]])
    result = between_models(scores, 0.05, "greater")
    assert result.largest[0] == 1
    assert result.maxima[0] == pytest.approx(result.statistic[1])


def test_the_detectable_difference_is_just_beyond_all_controls():
    """An item in which the controls agree, with a score that much and a little more, passes; with a
    little less it does not.
    """
    scores = np.random.default_rng(0).normal(0, 0.1, (6, 40))
    scores[1:, 7] = 0.02
    scores[0, 7] = 0.02
    least = between_models(scores, 0.05).detectable
    for factor, passes in ((1.05, True), (0.95, False)):
        changed = scores.copy()
        changed[0, 7] += factor * least
        statistic = between_models(changed, 0.05).statistic[7]
        assert (statistic > between_models(scores, 0.05).maxima[1:].max()) == passes


@pytest.mark.parametrize("spread", [0.0, -0.1, np.nan])
def test_refuses_a_spread_that_is_not_above_zero(spread):
    with pytest.raises(ValueError, match="give a number above 0"):
        between_models(np.zeros((3, 2)), spread)


@FAST
@given(st.lists(st.integers(0, 5), min_size=2, max_size=8), st.lists(st.integers(0, 6), max_size=6))
def test_rank_p_is_its_definition(maxima, sizes):
    p = rank_p(np.array(sizes, float), np.array(maxima, float))
    wanted = [(1 + sum(x >= size for x in maxima)) / (1 + len(maxima)) for size in sizes]
    np.testing.assert_allclose(p, wanted)


def test_rank_p_of_nothing_known_is_nan():
    assert np.isnan(rank_p(np.array([3.0]), np.array([1.0]))).all()
    assert np.isnan(rank_p(np.array([np.nan]), np.array([1.0, 2.0]))).all()


def test_models_with_equal_scores_tie():
    """Rounding decides no rank: swapped models swap their maxima, to the last bit."""
    rng = np.random.default_rng(11)
    for _ in range(20):
        scores = rng.integers(0, 8, (20, 30)) / 24 + 0.1
        scores[rng.integers(1, 20)] = scores[0]
        found = between_models(scores, 0.05, "away-from-zero").maxima
        equal = (scores == scores[0]).all(axis=1)
        assert equal.sum() > 1
        assert len(set(found[equal])) == 1
        swapped = between_models(scores[::-1], 0.05, "away-from-zero").maxima
        np.testing.assert_array_equal(found, swapped[::-1])


@pytest.mark.parametrize("n_models", [3, 6, 20])
def test_equal_models_differ_in_nothing(n_models):
    scores = np.tile(np.random.default_rng(12).normal(size=40), (n_models, 1))
    found = between_models(scores, 0.05, "away-from-zero")
    assert not found.maxima.any()
    assert not found.statistic.any()
