"""A joint conformal score: the stated rate of false positives holds, whatever the features."""

import numpy as np
import pytest
from scipy import stats

from interp.maths.conformal import (
    JointScore,
    conformal_threshold,
    least_calibration,
    monitored,
    rate_bound,
)


def ordinary(rng, cases, features=240):
    """Dependent features of several scales, with heavy tails."""
    common = rng.standard_normal((cases, 5)) @ rng.standard_normal((5, features))
    return (common + rng.standard_t(3, (cases, features))) * 10.0 ** rng.integers(-3, 4, features)


def rates(alpha, repeats, calibration=100, judged=100):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(repeats):
        cases = ordinary(rng, 2 * calibration + judged)
        half = np.arange(2 * calibration) < calibration
        result = monitored(cases[: 2 * calibration], cases[2 * calibration :], half, alpha)
        found.append(result.flagged.mean())
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_exchangeable_texts_are_flagged_at_most_at_the_stated_rate(alpha):
    found = rates(alpha, 200)
    error = found.std(ddof=1) / 200**0.5
    assert found.mean() <= alpha + 3 * error
    assert found.mean() >= alpha - 1 / 101 - 3 * error  # and not by flagging nothing


def test_ranges_of_single_features_would_flag_most():
    rng = np.random.default_rng(1)
    cases, fresh = ordinary(rng, 200), ordinary(np.random.default_rng(1), 400)[200:]
    outside = (fresh > cases.max(0)) | (fresh < cases.min(0))
    assert outside.any(1).mean() > 0.3


def test_the_threshold_is_the_stated_order_statistic():
    scores = np.random.default_rng(2).permutation(np.arange(1.0, 20.0))
    assert conformal_threshold(scores, 0.05) == 19.0
    assert conformal_threshold(scores, 0.1) == 18.0
    assert conformal_threshold(scores[:18], 0.05) == np.inf
    for alpha in (0.01, 0.05, 0.1, 0.3):
        least = least_calibration(alpha)
        assert np.isfinite(conformal_threshold(np.arange(least * 1.0), alpha))
        assert np.isinf(conformal_threshold(np.arange(least - 1.0), alpha))


def test_the_rate_of_one_calibration_stays_within_its_bound():
    rng, n, alpha = np.random.default_rng(3), 60, 0.05
    thresholds = [conformal_threshold(rng.uniform(size=n), alpha) for _ in range(4000)]
    beyond = np.mean(1 - np.array(thresholds) > rate_bound(n, alpha))
    assert abs(beyond - 0.025) < 3 * (0.025 * 0.975 / 4000) ** 0.5
    assert rate_bound(n, alpha) == pytest.approx(stats.beta.ppf(0.975, 3, 58))
    assert rate_bound(18, alpha) == 1.0
    assert alpha < rate_bound(10_000, alpha) < 0.055


def test_scores_are_those_of_plain_loops():
    rng = np.random.default_rng(4)
    reference, cases = ordinary(rng, 30, 7), ordinary(rng, 9, 7)
    scores, which = JointScore.from_cases(reference).of(cases)
    for case in range(9):
        own = [
            (cases[case, at] - np.mean(reference[:, at])) / np.std(reference[:, at], ddof=1)
            for at in range(7)
        ]
        assert scores[case] == pytest.approx(max(own))
        assert which[case] == int(np.argmax(own))


def test_scale_and_place_of_features_do_not_count():
    rng = np.random.default_rng(5)
    cases, half = ordinary(rng, 120, 30), np.arange(80) < 40
    factors, shifts = 10.0 ** rng.integers(0, 3, 30), rng.standard_normal(30)
    # large enough for every feature that none is held at the smallest standard deviation
    plain, moved = (
        monitored(part[:80], part[80:], half, 0.1)
        for part in (1e3 * cases, 1e3 * cases * factors + shifts)
    )
    np.testing.assert_allclose(moved.judged, plain.judged, rtol=1e-8)
    assert (moved.flagged == plain.flagged).all()


def test_features_that_a_case_lacks_do_not_count():
    reference = np.array([[0.0, np.nan], [2.0, np.nan], [1.0, 5.0]])
    joint = JointScore.from_cases(reference)
    assert joint.spread[1] == np.inf
    scores, which = joint.of(np.array([[np.nan, 90.0], [3.0, np.nan]]))
    assert scores.tolist() == [0.0, 2.0]
    assert which.tolist() == [1, 0]
    with pytest.raises(ValueError, match="no feature"):
        joint.of(np.full((1, 2), np.nan))


def test_a_constant_feature_has_the_standard_deviation_of_rounding():
    joint = JointScore.from_cases(np.ones((5, 1)))
    assert joint.of(np.ones((1, 1)))[0].tolist() == [0.0]
    assert joint.of(np.full((1, 1), 1.1))[0][0] > 1e4
