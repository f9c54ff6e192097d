"""Shares corrected for a judge's errors: the estimate by hand, the interval's level by simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from interp.maths.judged import corrected_share


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
    variance = p * (1 - p) / n + value**2 * se * (1 - se) / positives + (1 - value) ** 2 * sp * (1 - sp) / negatives
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
    drawn = [generator.binomial(count, rate, draws).tolist() for count, rate in ((n, p), (labels, se), (labels, sp))]
    numbers = zip(*drawn, strict=True)
    found = [corrected_share(yes, n, tp, labels, tn, labels) for yes, tp, tn in numbers]
    covered = np.mean([one.low <= share <= one.high for one in found])
    assert covered > 0.925
    naive = np.mean([one.value for one in found])
    assert abs(naive - share) < 0.06


def test_what_the_judge_says_itself_would_not_cover_it():
    """The test above can fail: the interval of the judged share misses the truth nearly always here."""
    generator = np.random.default_rng(0)
    judged = generator.binomial(200, 0.05 * 0.8 + 0.95 * 0.2, 300) / 200
    error = 1.96 * np.sqrt(judged * (1 - judged) / 200)
    assert np.mean((judged - error <= 0.05) & (judged + error >= 0.05)) < 0.1
