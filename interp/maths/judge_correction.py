"""Correction of a share measured by an imperfect judge for the judge's error rates."""

from __future__ import annotations

from typing import NamedTuple, SupportsFloat

from scipy import special

from interp.maths.intervals import NAN, Interval


class CorrectedShare(NamedTuple):
    """The uncorrected share, the corrected share, and the ends of the corrected interval."""

    judged: float
    value: float
    low: float
    high: float


def corrected_share(
    judged_yes: SupportsFloat,
    n: SupportsFloat,
    true_yes: SupportsFloat,
    positives: SupportsFloat,
    true_no: SupportsFloat,
    negatives: SupportsFloat,
    level: float = 0.95,
) -> CorrectedShare:
    """Rogan and Gladen's (1978) estimate ``(p + specificity - 1) / (sensitivity + specificity -
    1)``, clipped to [0, 1].

    ``judged_yes`` of ``n`` items were judged positive (``n`` may be an effective, fractional
    number). Of ``positives`` items labelled yes, ``true_yes`` were judged yes; of ``negatives``
    items labelled no, ``true_no`` were judged no. The interval is Lang and Reiczigel's (2014): the
    delta method with the binomial errors of all three shares, after pseudo-counts are added to
    each, around an estimate corrected for its bias. NaN if the judge is not better than chance
    (sensitivity + specificity <= 1).

    Rogan and Gladen, American Journal of Epidemiology 107; Lang and Reiczigel, Preventive
    Veterinary Medicine 113. Raises ValueError without items or without labels of either kind.
    """
    judged_yes, n = float(judged_yes), float(n)
    true_yes, positives, true_no, negatives = (
        float(count) for count in (true_yes, positives, true_no, negatives)
    )
    if n <= 0 or positives < 1 or negatives < 1:
        raise ValueError(
            f"{n:g} judged items, {positives} and {negatives} labels: each has to be at least one"
        )
    sensitivity, specificity = true_yes / positives, true_no / negatives
    if sensitivity + specificity <= 1:
        return CorrectedShare(judged_yes / n, NAN, NAN, NAN)
    value = _rogan_gladen(judged_yes / n, sensitivity, specificity)
    z = float(special.ndtri((1 + level) / 2))
    n_adjusted, n_positives, n_negatives = n + z**2, positives + 2, negatives + 2
    share = (judged_yes + z**2 / 2) / n_adjusted
    sensitivity, specificity = (true_yes + 1) / n_positives, (true_no + 1) / n_negatives
    informedness = sensitivity + specificity - 1
    if informedness <= 0:
        return CorrectedShare(judged_yes / n, min(max(value, 0.0), 1.0), NAN, NAN)
    centre = _rogan_gladen(share, sensitivity, specificity)
    sensitivity_variance, specificity_variance = (
        sensitivity * (1 - sensitivity) / n_positives,
        specificity * (1 - specificity) / n_negatives,
    )
    bias = 2 * z**2 * (centre * sensitivity_variance - (1 - centre) * specificity_variance)
    error = (
        share * (1 - share) / n_adjusted
        + centre**2 * sensitivity_variance
        + (1 - centre) ** 2 * specificity_variance
    ) ** 0.5 / informedness
    ends = (centre + bias - z * error, centre + bias + z * error)
    return CorrectedShare(judged_yes / n, *(min(max(share, 0.0), 1.0) for share in (value, *ends)))


def corrected_difference(
    judged: Interval,
    true_yes: SupportsFloat,
    positives: SupportsFloat,
    true_no: SupportsFloat,
    negatives: SupportsFloat,
    level: float = 0.95,
) -> Interval:
    """A difference of two judged shares, with its interval, divided by ``sensitivity + specificity
    - 1``.

    The term ``specificity - 1`` cancels in the difference. The interval combines the ends of the
    uncorrected interval, divided by that divisor, with the delta-method error of the divisor
    (binomial errors with one pseudo-count per label); squared distances add. Clipped to [-1, 1].
    NaN if the judge is not better than chance.
    """
    true_yes, positives, true_no, negatives = (
        float(count) for count in (true_yes, positives, true_no, negatives)
    )
    if positives < 1 or negatives < 1:
        raise ValueError(f"{positives:g} and {negatives:g} labels: each has to be at least one")
    informedness = true_yes / positives + true_no / negatives - 1
    if not 0 < informedness <= 1:
        return Interval(NAN, NAN, NAN)
    value, z = judged.value / informedness, float(special.ndtri((1 + level) / 2))
    shares = (
        ((true_yes + 1) / (positives + 2), positives + 2),
        ((true_no + 1) / (negatives + 2), negatives + 2),
    )
    error = z * abs(value) * sum(share * (1 - share) / count for share, count in shares) ** 0.5
    low, high = (
        ((judged.value - end) ** 2 + error**2) ** 0.5 / informedness
        for end in (judged.low, judged.high)
    )
    return Interval(*(min(max(end, -1.0), 1.0) for end in (value, value - low, value + high)))


def _rogan_gladen(share: float, sensitivity: float, specificity: float) -> float:
    return (share + specificity - 1) / (sensitivity + specificity - 1)
