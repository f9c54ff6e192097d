"""Intervals over clusters against scipy, brute force, and the level that they state."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.maths.auc import auc_difference_interval, auc_interval, pairwise_order
from interp.maths.intervals import (
    cluster_interval,
    effective_clusters,
    exact_interval,
    jackknife_rows,
    tango_interval,
)

FAST = settings(max_examples=50, deadline=None, derandomize=True)
LEVEL = 0.95


def rows(seed=0, clusters=9, each=5):
    generator = np.random.default_rng(seed)
    code = np.repeat(np.arange(clusters), each)
    return generator.normal(size=clusters)[code] + generator.normal(size=code.size), code


def unequal(seed=0):
    generator = np.random.default_rng(seed)
    code = np.repeat(np.arange(7), [1, 2, 3, 5, 8, 1, 4])
    return generator.normal(size=7)[code] + generator.normal(size=code.size), code


def brute(statistic, clusters, freedom):
    """The jackknife written out in float64, with scipy's t."""
    names = np.unique(clusters)
    full = statistic(np.arange(len(clusters)))
    out = np.array([statistic(np.flatnonzero(clusters != name)) for name in names])
    error = np.sqrt((len(names) - 1) / len(names) * ((out - full) ** 2).sum())
    reach = scipy.stats.t.ppf(0.975, freedom) * error
    return full, full - reach, full + reach


@pytest.mark.parametrize("clusters", [2, 4, 8, 48])
def test_of_equal_clusters_a_mean_has_students_t_over_cluster_means(clusters):
    values, code = rows(clusters=clusters)
    means = values.reshape(clusters, 5).mean(1)
    oracle = scipy.stats.t.interval(LEVEL, clusters - 1, means.mean(), scipy.stats.sem(means))
    np.testing.assert_allclose(cluster_interval(values, code), (means.mean(), *oracle), rtol=1e-9)


def test_unequal_clusters_have_the_jackknife_and_kishs_degrees_of_freedom():
    values, code = unequal()
    sizes = np.unique(code, return_counts=True)[1]
    freedom = sizes.sum() ** 2 / (sizes**2).sum() - 1
    assert effective_clusters(code) == pytest.approx(freedom + 1)
    oracle = brute(lambda at: values[at].mean(), code, freedom)
    np.testing.assert_allclose(cluster_interval(values, code), oracle, rtol=1e-9)
    np.testing.assert_allclose(
        jackknife_rows(lambda at: values[at].mean(), code), oracle, rtol=1e-9
    )


def test_a_dominant_cluster_leaves_few_effective_ones():
    code = np.r_[np.zeros(50), np.arange(1, 51)]
    assert effective_clusters(code) < 4
    assert effective_clusters(np.arange(10)) == pytest.approx(10)
    assert effective_clusters([]) == 0


@FAST
@given(st.integers(0, 10_000), st.sampled_from([2, 20]))
def test_copies_of_rows_change_nothing(seed, copies):
    values, code = unequal(seed)
    flags = values > 0
    for given_, options in (
        (values, {}),
        (flags, {}),
        (values, {"minus": values**2}),
        (flags, {"minus": values > 1}),
    ):
        many = {name: np.repeat(value, copies) for name, value in options.items()}
        once = cluster_interval(given_, code, **options)
        np.testing.assert_allclose(
            cluster_interval(np.repeat(given_, copies), np.repeat(code, copies), **many), once
        )


@FAST
@given(st.integers(0, 10_000))
def test_neither_order_nor_names_of_clusters_count(seed):
    values, code = unequal(seed)
    order = np.random.default_rng(seed).permutation(len(values))
    names = np.array([f"c{9 - name}" for name in code], dtype=object)
    np.testing.assert_allclose(
        cluster_interval(values[order], names[order]), cluster_interval(values, code)
    )


@FAST
@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(-20, 20))
def test_scale_and_shift_carry_over(seed, scale, shift):
    values, code = unequal(seed)
    moved = scale * np.array(cluster_interval(values, code)) + shift
    np.testing.assert_allclose(
        cluster_interval(scale * values + shift, code), moved, rtol=1e-6, atol=1e-9
    )


def test_paired_differences_are_students_paired_t():
    a, _ = rows(1, clusters=20, each=1)
    b = a + 0.3 * rows(2, clusters=20, each=1)[0]
    oracle = scipy.stats.ttest_rel(a, b).confidence_interval(LEVEL)
    np.testing.assert_allclose(cluster_interval(a, np.arange(20), minus=b)[1:], oracle, rtol=1e-9)


def test_two_groups_have_welchs_interval():
    a, b = rows(3, clusters=12, each=1)[0], 3 * rows(4, clusters=30, each=1)[0]
    oracle = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    found = cluster_interval(a, np.arange(12), minus=b, minus_clusters=100 + np.arange(30))
    np.testing.assert_allclose(found[1:], oracle, rtol=1e-9)


def test_two_groups_of_the_same_clusters_are_paired():
    a, b = rows(3, clusters=12, each=1)[0], rows(4, clusters=12, each=1)[0]
    found = cluster_interval(a, np.arange(12), minus=a + b, minus_clusters=np.arange(12))
    np.testing.assert_allclose(
        found[1:], scipy.stats.ttest_rel(a, a + b).confidence_interval(LEVEL), rtol=1e-9
    )
    turned = cluster_interval(
        a, np.arange(12), minus=(a + b)[::-1], minus_clusters=np.arange(12)[::-1]
    )
    np.testing.assert_allclose(turned, found, rtol=1e-9)


def test_a_share_has_the_exact_interval_of_its_effective_clusters():
    flags, code = np.arange(60) % 3 == 0, np.arange(60) // 6
    exact = scipy.stats.binomtest(0, 10).proportion_ci(LEVEL, method="exact")
    assert cluster_interval(np.zeros(60, bool), code) == pytest.approx((0.0, exact.low, exact.high))
    assert cluster_interval(np.ones(60, bool), code) == pytest.approx((1.0, 1 - exact.high, 1.0))
    share, low, high = cluster_interval(flags, code)
    assert (low, high) == exact_interval(share * 10, 10)
    heavy = np.r_[np.zeros(30), np.arange(1, 31)]
    assert cluster_interval(flags, heavy)[1] < cluster_interval(flags, np.arange(60))[1] - 0.1


@pytest.mark.parametrize("n_clusters", [6, 10, 48])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.7, 0.98])
def test_a_share_covers_what_clusters_share(n_clusters, rate):
    """Clusters that answer alike, between all and nothing."""
    generator, missed = np.random.default_rng(5), 0
    for _ in range(400):
        own = generator.beta(5 * rate, 5 * (1 - rate), n_clusters)
        flags = generator.random((n_clusters, 10)) < own[:, None]
        _, low, high = cluster_interval(flags.ravel(), np.repeat(np.arange(n_clusters), 10))
        missed += not low <= rate <= high
    assert missed / 400 <= 0.06


@FAST
@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_tangos_ends_are_where_the_score_test_turns(n, up, down):
    """The restricted likelihood is maximised numerically, and the score statistic compared with the
    normal.
    """
    up, down = min(up, n), min(down, n - min(up, n))
    if up + down == 0:
        bound = scipy.stats.binomtest(0, n).proportion_ci(LEVEL, method="exact").high
        assert tango_interval(0, 0, n) == pytest.approx((-bound, bound))
        return
    for end in tango_interval(up, down, n):
        if abs(end) > 0.999:
            continue

        def less_likely(q, end=end):
            parts = np.clip([q + end, q, 1 - 2 * q - end], 1e-300, None)
            return -np.dot([up, down, n - up - down], np.log(parts))

        bounds = (max(0.0, -end), (1 - end) / 2)
        q = scipy.optimize.minimize_scalar(
            less_likely, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        score = abs(up - down - n * end) / np.sqrt(n * (2 * q + end * (1 - end)))
        assert score == pytest.approx(scipy.stats.norm.ppf(0.975), rel=2e-3)


@pytest.mark.parametrize("n", [6, 8, 12, 20, 36])
def test_a_paired_difference_of_shares_holds_its_level_where_nothing_rises_on_balance(n):
    """All outcomes of n pairs, weighed by their chance, at every share of flips: 2.5 % is nominal."""
    outcomes = np.array(
        [(up, down, n - up - down) for up in range(n + 1) for down in range(n + 1 - up)]
    )
    lows = np.array([tango_interval(up, down, n)[0] for up, down, _ in outcomes])
    for flips in np.linspace(0.02, 1, 25):
        chance = scipy.stats.multinomial.pmf(outcomes, n, [flips / 2, flips / 2, 1 - flips])
        assert chance[lows > 1e-9].sum() <= 0.0355


@pytest.mark.parametrize("n", [6, 8, 20])
def test_a_paired_difference_of_shares_misses_little_where_thresholds_are(n):
    """As docs/decisions.md has it: the lower end at true differences up to a half, the upper end up
    to a quarter.
    """
    outcomes = np.array(
        [(up, down, n - up - down) for up in range(n + 1) for down in range(n + 1 - up)]
    )
    ends = np.array([tango_interval(up, down, n) for up, down, _ in outcomes])
    for truth in np.linspace(0, 0.5, 51):
        for falls in np.linspace(0, (1 - truth) / 2, 11):
            chance = scipy.stats.multinomial.pmf(
                outcomes, n, [falls + truth, falls, max(0, 1 - 2 * falls - truth)]
            )
            assert chance[ends[:, 0] > truth + 1e-9].sum() <= 0.051
            assert truth > 0.25 or chance[ends[:, 1] < truth - 1e-9].sum() <= 0.061


def test_a_paired_difference_needs_six_flips_one_way_and_counts_clusters():
    def low(up, down, n, clusters=None):
        after = np.arange(n) < up
        before = (np.arange(n) >= up) & (np.arange(n) < up + down)
        return cluster_interval(
            after, np.arange(n) if clusters is None else clusters, minus=before
        )[1]

    assert low(1, 0, 1) < 0
    assert low(3, 0, 100) < 0 < low(6, 0, 100)
    assert low(100, 0, 100) > 0.9
    assert low(10, 2, 12) > 0
    heavy = np.r_[np.zeros(90), np.arange(1, 11)]
    assert low(90, 0, 100, heavy) < 0
    flags = np.arange(20) < 7
    up, down = (
        cluster_interval(a, np.arange(20), minus=b) for a, b in ((flags, ~flags), (~flags, flags))
    )
    assert up == pytest.approx((-down[0], -down[2], -down[1]))


def test_nothing_lost_among_36_clusters_is_fewer_than_one_in_ten():
    """What the command's help asks for, by both intervals that verdicts rest on; one cluster less
    is not enough.
    """
    for n, enough in ((36, True), (35, False)):
        none = np.zeros(n, bool)
        assert (cluster_interval(none, np.arange(n))[2] <= 0.1) is enough
        assert (cluster_interval(none, np.arange(n), minus=none)[2] <= 0.1) is enough


def test_two_shares_of_different_prompts_have_a_width_at_the_ends():
    value, low, high = cluster_interval(
        np.ones(20, bool),
        np.arange(20),
        minus=np.zeros(20, bool),
        minus_clusters=50 + np.arange(20),
    )
    assert (value, high) == (1.0, 1.0)
    assert low == pytest.approx(1 - np.hypot(*[1 - exact_interval(20, 20)[0]] * 2))


class TestRatio:
    def test_is_the_jackknife_of_a_ratio_of_means(self):
        values, code = unequal()
        top, bottom = values + 5, np.abs(values) + 2
        oracle = brute(
            lambda at: top[at].mean() / bottom[at].mean(), code, effective_clusters(code) - 1
        )
        np.testing.assert_allclose(cluster_interval(top, code, over=bottom), oracle, rtol=1e-9)

    def test_is_refused_where_the_denominator_may_be_zero(self):
        values, code = rows(clusters=10)
        same = cluster_interval(
            values, code, minus=values, over=values + np.sin(code), over_minus=values
        )
        assert np.isnan(same).all()
        gained = cluster_interval(
            values + 1, code, minus=values, over=values + 2, over_minus=values
        )
        np.testing.assert_allclose(gained, 0.5)

    def test_of_right_answers_has_the_width_that_few_questions_allow(self):
        """7 of 7 kept is not 100 % for sure, nor is 0 of 7 nothing for sure."""
        base, tuned = np.zeros(7, bool), np.ones(7, bool)
        all_, none = (
            cluster_interval(g, np.arange(7), minus=base, over=tuned, over_minus=base)
            for g in (tuned, base)
        )
        assert (all_.value, none.value) == (1.0, 0.0)
        assert all_.low < 0.65
        assert none.high > 0.35
        mixed = cluster_interval(
            np.arange(7) < 5, np.arange(7), minus=base, over=tuned, over_minus=base
        )
        assert mixed.low < 5 / 7 < mixed.high

    def test_a_gain_below_zero_is_a_gain_of_the_opposite(self):
        """Yes for no throughout turns both differences around, and leaves their ratio and its
        interval.
        """
        base, tuned = np.zeros(9, bool), np.arange(9) < 8
        for right in (tuned, base, np.arange(9) < 6):
            flags = [right, base, tuned, base]
            own, opposite = (
                cluster_interval(a, np.arange(9), minus=b, over=c, over_minus=d)
                for a, b, c, d in (flags, [~one for one in flags])
            )
            assert own == pytest.approx(opposite)

    def test_a_gain_that_is_not_there_is_refused(self):
        base, tuned = np.arange(40) < 20, np.arange(40) < 21
        assert np.isnan(
            cluster_interval(tuned, np.arange(40), minus=base, over=tuned, over_minus=base)
        ).all()


def test_what_cannot_be_measured():
    assert np.isnan(cluster_interval([1.0, 2.0], ["a", "a"])[1:]).all()
    assert np.isnan(
        cluster_interval([1.0, 2.0], ["a", "a"], minus=[0.0], minus_clusters=["b"])[1:]
    ).all()
    assert cluster_interval([2.0, 2.0], ["a", "b"]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        cluster_interval([], [])
    with pytest.raises(ValueError, match="2 values and 1 clusters"):
        cluster_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="second group"):
        cluster_interval([1.0], ["a"], minus_clusters=["a"])


def test_flags_of_groups_that_share_clusters_vary_as_their_clusters_do():
    """Twins that answer oppositely: 20 clusters, one of each class."""
    one = np.random.default_rng(1).random(20) < 0.5
    tied = cluster_interval(one, np.arange(20), minus=~one, minus_clusters=np.arange(20))
    apart = cluster_interval(one, np.arange(20), minus=~one, minus_clusters=np.arange(20) + 20)
    numbers = cluster_interval(
        one * 1.0, np.arange(20), minus=~one * 1.0, minus_clusters=np.arange(20)
    )
    assert tied.low <= min(apart.low, numbers.low) + 1e-12
    assert tied.high >= max(apart.high, numbers.high) - 1e-12
    assert (tied.low, tied.high) != (apart.low, apart.high)


class TestAuc:
    def test_is_close_to_delong_for_single_rows(self):
        generator = np.random.default_rng(0)
        a, b = generator.normal(1, 1, 60), generator.normal(0, 1, 80)
        above = pairwise_order(a, b)
        variance = above.mean(1).var(ddof=1) / 60 + above.mean(0).var(ddof=1) / 80
        sides = np.arange(60), 100 + np.arange(80)
        value, low, high = auc_interval(a, b, *sides)
        reach = scipy.stats.t.ppf(0.975, 59) * np.sqrt(variance) / (value * (1 - value))
        assert value == above.mean()
        assert scipy.special.logit([low, high]) == pytest.approx(
            scipy.special.logit(value) + np.array([-reach, reach]), rel=0.03
        )

    def test_is_the_jackknife_over_clusters_of_both_sides(self):
        (a, code), (b, _) = rows(1, 8, 3), rows(2, 8, 3)
        near = np.abs(a[:, None] - b[None]) < 1.5
        both, side = np.r_[code, code], np.r_[np.zeros(24), np.ones(24)]

        def statistic(at):
            mine, theirs = at[side[at] == 0], at[side[at] == 1] - 24
            pairs = near[np.ix_(mine, theirs)]
            return pairwise_order(a[mine], b[theirs])[pairs].mean()

        value, _, high = brute(statistic, both, 7)
        found = auc_interval(a, b, code, code, near)
        reach = (high - value) / (value * (1 - value))
        assert found == pytest.approx(
            (value, *scipy.special.expit(scipy.special.logit(value) + np.array([-reach, reach])))
        )

    def test_a_difference_adds_both_distances_less_what_they_share(self):
        (a, code), (b, _) = rows(1, 8, 3), rows(2, 8, 3)
        (noise, _), (other_noise, _) = rows(3, 8, 3), rows(4, 8, 3)
        pairs = [(a, b), (a + noise, b + other_noise)]
        first, second = (auc_interval(*pair, code, code) for pair in pairs)
        left_out = np.array(
            [
                [
                    pairwise_order(*(side[code != each] for side in pair)).mean()
                    for each in np.unique(code)
                ]
                - pairwise_order(*pair).mean()
                for pair in pairs
            ]
        )
        correlation = left_out[0] @ left_out[1] / np.sqrt(np.square(left_out).sum(1).prod())
        ends = [
            (first.value - first.low, second.high - second.value),
            (first.high - first.value, second.value - second.low),
        ]
        down, up = (np.sqrt(x**2 + y**2 - 2 * correlation * x * y) for x, y in ends)
        value = first.value - second.value
        found = auc_difference_interval(*(pairwise_order(*pair) for pair in pairs), code, code)
        assert found == pytest.approx((value, value - down, value + up))
        same = auc_difference_interval(pairwise_order(a, b), pairwise_order(a, b), code, code)
        assert same.value == 0
        assert same.low <= 0 <= same.high
        right = pairwise_order(np.ones(9), np.zeros(9))
        both_right = auc_difference_interval(right, right, range(9), range(9))
        assert both_right.low == pytest.approx(-both_right.high)
        assert both_right.high == pytest.approx(1 - exact_interval(9, 9)[0])

    def test_has_a_width_where_all_pairs_are_right(self):
        value, low, high = auc_interval(np.ones(9), np.zeros(9), np.arange(9), np.arange(9))
        assert (value, high) == (1.0, 1.0)
        assert low == pytest.approx(exact_interval(9, 9)[0])

    def test_of_no_pairs_is_nothing(self):
        assert np.isnan(auc_interval([1.0], [0.0], ["a"], ["b"], np.zeros((1, 1)))).all()
