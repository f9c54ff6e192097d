"""The share of a population that a judge who errs says has something, corrected for how often it errs."""

from __future__ import annotations

from typing import NamedTuple, SupportsFloat

from scipy import special

from interp.maths.intervals import NAN


class Corrected(NamedTuple):
    """The judged share, the corrected one, and both ends of the corrected one's interval."""

    judged: float
    value: float
    low: float
    high: float


def corrected_share(
    yes: SupportsFloat,
    n: SupportsFloat,
    true_yes: int,
    positives: int,
    true_no: int,
    negatives: int,
    level: float = 0.95,
) -> Corrected:
    """Rogan and Gladen's (1978) estimate ``(p + specificity - 1) / (sensitivity + specificity - 1)``, within 0 and 1.

    ``yes`` of ``n`` (perhaps effective, not whole) judged items; of ``positives`` labelled yes ``true_yes`` were judged
    so, of ``negatives`` labelled no ``true_no``. The interval is Lang and Reiczigel's (2014): the delta method's
    variance, with the binomial errors of all three shares, after pseudo-counts have been added to each, about an
    estimate that is shifted by its bias. NaN where the judge says yes no more often of what is labelled yes.

    Rogan and Gladen, American Journal of Epidemiology 107; Lang and Reiczigel, Preventive Veterinary Medicine 113.
    Raises ValueError for no items or no labels.
    """
    yes, n = float(yes), float(n)
    if n <= 0 or positives < 1 or negatives < 1:
        raise ValueError(f"{n:g} judged items, {positives} and {negatives} labels: each has to be at least one")
    sensitivity, specificity = true_yes / positives, true_no / negatives
    if sensitivity + specificity <= 1:
        return Corrected(yes / n, NAN, NAN, NAN)
    value = _estimate(yes / n, sensitivity, specificity)
    z = float(special.ndtri((1 + level) / 2))
    size, more, less = n + z**2, positives + 2, negatives + 2
    share = (yes + z**2 / 2) / size
    sensitivity, specificity = (true_yes + 1) / more, (true_no + 1) / less
    reach = sensitivity + specificity - 1
    if reach <= 0:
        return Corrected(yes / n, min(max(value, 0.0), 1.0), NAN, NAN)
    middle = _estimate(share, sensitivity, specificity)
    of_yes, of_no = sensitivity * (1 - sensitivity) / more, specificity * (1 - specificity) / less
    shift = 2 * z**2 * (middle * of_yes - (1 - middle) * of_no)
    error = (share * (1 - share) / size + middle**2 * of_yes + (1 - middle) ** 2 * of_no) ** 0.5 / reach
    ends = (middle + shift - z * error, middle + shift + z * error)
    return Corrected(yes / n, *(min(max(each, 0.0), 1.0) for each in (value, *ends)))


def _estimate(share: float, sensitivity: float, specificity: float) -> float:
    return (share + specificity - 1) / (sensitivity + specificity - 1)
