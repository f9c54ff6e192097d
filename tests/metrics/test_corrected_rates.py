"""Shares corrected for a judge's errors: the estimate by hand, the interval's level by simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from interp.maths.intervals import Interval, cluster_interval
from interp.maths.judge_correction import corrected_difference, corrected_share


def test_a_judge_without_error_corrects_nothing():
    found = corrected_share(30, 100, 500, 500, 500, 500)
    assert (found.judged, found.value) == (0.3, pytest.approx(0.3))
    assert found.low < 0.3 < found.high


def test_the_estimate_is_rogan_and_gladen_s():
    found = corrected_share(23, 150, 96, 100, 89, 100)
    assert found.value == pytest.approx((23 / 150 + 0.89 - 1) / (0.96 + 0.89 - 1))
    assert corrected_share(1, 100, 96, 100, 80, 100).value == 0.0
    assert corrected_share(99, 100, 80, 100, 96, 100).value == 1.0


def test_with_many_items_the_interval_is_the_delta_method_s():
    yes, n, tp, positives, tn, negatives = 4000, 10000, 9000, 10000, 16000, 20000
    p, se, sp = yes / n, tp / positives, tn / negatives
    value = (p + sp - 1) / (se + sp - 1)
    variance = (
        p * (1 - p) / n
        + value**2 * se * (1 - se) / positives
        + (1 - value) ** 2 * sp * (1 - sp) / negatives
    )
    reach = norm.ppf(0.975) * variance**0.5 / (se + sp - 1)
    found = corrected_share(yes, n, tp, positives, tn, negatives)
    np.testing.assert_allclose((found.low, found.high), (value - reach, value + reach), atol=1e-3)


def test_a_judge_known_on_few_answers_leaves_a_wider_interval():
    few, many = (corrected_share(30, 60, 9 * k, 10 * k, 9 * k, 10 * k) for k in (2, 50))
    assert few.high - few.low > 1.2 * (many.high - many.low)
    assert few.value == pytest.approx(many.value)


@pytest.mark.parametrize(("tp", "tn"), [(10, 10), (5, 9)])
def test_a_judge_that_tells_nothing_corrects_nothing(tp, tn):
    found = corrected_share(5, 10, tp, 20, tn, 20)
    assert found.judged == 0.5
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("numbers", [(0, 0, 1, 1, 1, 1), (1, 2, 0, 0, 1, 1), (1, 2, 1, 1, 0, 0)])
def test_nothing_judged_or_labelled(numbers):
    with pytest.raises(ValueError, match="at least one"):
        corrected_share(*numbers)


CASES = [
    (share, n, se, sp, labels)
    for share in (0.0, 0.05, 0.3, 0.9, 1.0)
    for n in (48, 200)
    for se, sp, labels in ((0.95, 0.95, 20), (0.8, 0.9, 40), (0.7, 0.98, 100))
]


@pytest.mark.parametrize(("share", "n", "se", "sp", "labels"), CASES)
def test_the_interval_covers_the_true_share(share, n, se, sp, labels):
    """Simulated: labelled answers and judged ones, both with the judge's errors; level 95 %."""
    generator, draws = np.random.default_rng([int(100 * share), n, labels]), 1500
    p = share * se + (1 - share) * (1 - sp)
    drawn = [
        generator.binomial(count, rate, draws).tolist()
        for count, rate in ((n, p), (labels, se), (labels, sp))
    ]
    numbers = zip(*drawn, strict=True)
    found = [corrected_share(yes, n, tp, labels, tn, labels) for yes, tp, tn in numbers]
    covered = np.mean([one.low <= share <= one.high for one in found])
    assert covered > 0.925
    naive = np.mean([one.value for one in found])
    assert abs(naive - share) < 0.06


def test_what_the_judge_says_itself_would_not_cover_it():
    """The test above can fail: the interval of the judged share misses the truth nearly always
    here.
    """
    generator = np.random.default_rng(0)
    judged = generator.binomial(200, 0.05 * 0.8 + 0.95 * 0.2, 300) / 200
    error = 1.96 * np.sqrt(judged * (1 - judged) / 200)
    assert np.mean((judged - error <= 0.05) & (judged + error >= 0.05)) < 0.1


def test_a_difference_is_over_what_the_judge_tells_apart():
    judged = Interval(0.3, 0.2, 0.38)
    found = corrected_difference(judged, 9000, 10000, 8000, 10000)
    np.testing.assert_allclose(found, np.array(judged) / 0.7, atol=0.003)
    assert found.low < 0.2 / 0.7 < 0.38 / 0.7 < found.high
    few = corrected_difference(judged, 18, 20, 16, 20)
    assert few.value == pytest.approx(found.value)
    assert few.low < found.low
    assert few.high > found.high
    share, other = (corrected_share(100 * p, 100, 18, 20, 16, 20).value for p in (0.6, 0.3))
    assert few.value == pytest.approx(share - other)


def test_no_difference_has_the_judged_bound_over_the_same():
    found = corrected_difference(Interval(0.0, -0.1, 0.1), 18, 20, 16, 20)
    assert found == pytest.approx((0.0, -0.1 / 0.7, 0.1 / 0.7))
    assert corrected_difference(Interval(0.9, 0.8, 0.95), 18, 20, 16, 20).high == 1.0
    assert np.isnan(corrected_difference(Interval(0.3, 0.2, 0.4), 10, 20, 10, 20)).all()
    with pytest.raises(ValueError, match="at least one"):
        corrected_difference(Interval(0.3, 0.2, 0.4), 0, 0, 1, 1)


@pytest.mark.parametrize(("after", "before"), [(0.9, 0.1), (0.5, 0.3), (0.1, 0.1), (1.0, 0.0)])
@pytest.mark.parametrize(("se", "sp", "labels"), [(0.95, 0.95, 20), (0.8, 0.9, 40)])
def test_the_interval_covers_the_true_difference(after, before, se, sp, labels):
    """Simulated: two answers to each of 60 prompts, judged apart from each other, and labelled
    ones; level 95 %.
    """
    generator, n, draws, covered = np.random.default_rng([int(100 * after), labels]), 60, 400, 0
    for _ in range(draws):
        judged = []
        for rate in (after, before):
            truth = generator.random(n) < rate
            judged.append(generator.random(n) < np.where(truth, se, 1 - sp))
        plain = cluster_interval(judged[0], np.arange(n), minus=judged[1])
        true_yes, true_no = generator.binomial(labels, se), generator.binomial(labels, sp)
        found = corrected_difference(plain, true_yes, labels, true_no, labels)
        covered += found.low <= after - before <= found.high
    assert covered / draws > 0.925
