"""A joint conformal score of many features: one threshold with a stated false positive rate.

Ranges of single features flag most ordinary cases when there are hundreds of features, since each
is left by chance. Here the score of a case is its largest standardised excursion over all features,
and one threshold is calibrated for that (split conformal prediction, Vovk et al. 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

SMALLEST = 1e-6
"""The smallest standard deviation of a feature: that of rounding in float32, for cosines."""


def least_calibration(alpha: float) -> int:
    """The smallest number of calibration cases with which anything can be flagged at ``alpha``."""
    return ceil((1 - alpha) / alpha - 1e-9)


def conformal_threshold(scores: Float[np.ndarray, " n"], alpha: float) -> float:
    """The ``ceil((n + 1)(1 - alpha))``-th smallest score; infinite with too few.

    A new case that is exchangeable with the n cases exceeds it with probability at most alpha,
    whatever the distribution.
    """
    place = ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    if place > len(scores):
        return float("inf")
    return float(np.sort(np.asarray(scores, np.float64))[place - 1])


def rate_bound(n: int, alpha: float, level: float = 0.975) -> float:
    """The false positive rate that one calibration with n independent cases exceeds with
    probability 1 - ``level``.

    At most alpha holds on average over calibrations; the rate of one is distributed as
    Beta(n + 1 - k, k) with k the place of the threshold (Vovk 2012). 1 with too few cases.
    """
    place = ceil((n + 1) * (1 - alpha) - 1e-9)
    return float(special.betaincinv(n + 1 - place, place, level)) if place <= n else 1.0


@dataclass(frozen=True)
class JointScore:
    """Mean and standard deviation of every feature in cases apart from the calibration.

    ``mean`` [F], ``spread`` [F]: infinite for a feature that fewer than two cases have.
    """

    mean: Float[np.ndarray, " F"]
    spread: Float[np.ndarray, " F"]

    @classmethod
    def from_cases(cls, features: Float[np.ndarray, "n F"]) -> JointScore:
        """Standardise on some cases; NaN where a case lacks a feature."""
        values = np.asarray(features, np.float64)
        known = ~np.isnan(values)
        count = known.sum(0)
        mean = np.where(known, values, 0.0).sum(0) / np.maximum(count, 1)
        squares = np.where(known, np.square(values - mean), 0.0).sum(0)
        spread = np.sqrt(squares / np.maximum(count - 1, 1))
        return cls(mean, np.where(count < 2, np.inf, np.maximum(spread, SMALLEST)))

    def of(
        self, features: Float[np.ndarray, "n F"]
    ) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The score of every case, its largest ``(feature - mean) / spread``, and which feature
        gives it. A feature that a case lacks does not count.

        Raises ValueError for a case without any feature.
        """
        values = (np.asarray(features, np.float64) - self.mean) / self.spread
        values = np.where(np.isnan(values), -np.inf, values)
        largest = values.argmax(1)
        score = values[np.arange(len(values)), largest]
        if np.isneginf(score).any():
            raise ValueError("a case has no feature, so it has no score")
        return score, largest


@dataclass(frozen=True)
class Monitored:
    """Scores of the ``calibration`` cases and of the ``judged`` ones, the feature that gives the
    latter, and the threshold beyond which a case is flagged.
    """

    calibration: Float[np.ndarray, " n"]
    judged: Float[np.ndarray, " m"]
    feature: Int[np.ndarray, " m"]
    threshold: float

    @property
    def flagged(self) -> Bool[np.ndarray, " m"]:
        """Which judged cases are beyond the threshold."""
        return self.judged > self.threshold


def monitored(
    ordinary: Float[np.ndarray, "n F"],
    judged: Float[np.ndarray, "m F"],
    in_first_half: Bool[np.ndarray, " n"],
    alpha: float,
) -> Monitored:
    """Standardise on one half of the ordinary cases, calibrate on the other, judge the rest."""
    joint = JointScore.from_cases(ordinary[in_first_half])
    calibration, _ = joint.of(ordinary[~in_first_half])
    scores, feature = joint.of(judged)
    return Monitored(calibration, scores, feature, conformal_threshold(calibration, alpha))
