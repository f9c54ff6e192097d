"""One test over all methods: how far a model's largest statistics lie beyond those of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK
from interp.maths.between_models import between_models
from interp.maths.prediction import observation_interval

SPREAD = 0.1
"""Standard deviation between models of a method's largest statistic that all methods share, in
units of its logarithm: with few controls some methods' own is small by chance."""
LEVEL = 0.05


@dataclass(frozen=True)
class Joint:
    """The maxima of methods on one scale, and their largest over methods for every model.

    A method's maximum x is taken as log(1 + x / m), m the median over all models, since methods
    have other units and tails. Over methods, each model held out in turn gives one joint statistic
    (``interp.maths.between_models``, largest over methods): the fine-tuned model's rank among those
    of the controls is exact, and no further correction over methods is needed. Holm's correction
    would need more controls than anybody trains: 19 give no p below 0.05.

    ``typical`` [m]: the medians; ``maxima`` [M] and ``largest`` [M]: the joint statistic of every
    model and the method where it is; ``threshold``: what an item has to exceed.
    """

    typical: Float[np.ndarray, " m"]
    mean: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]
    maxima: Float[np.ndarray, " M"]
    largest: np.ndarray
    threshold: float

    def statistic(self, method: int, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The joint statistic of items of a method with these statistics (of either sign)."""
        size = np.log1p(np.abs(values) / self.typical[method])
        return (size - self.mean[method]) / self.scale[method]

    def passing(self, method: int) -> float:
        """The smallest statistic of a method's item that lies beyond the controls; NaN without a
        threshold.
        """
        size = self.mean[method] + self.threshold * self.scale[method]
        return float(self.typical[method] * np.expm1(max(size, 0.0)))


def joint_statistic(maxima: Float[np.ndarray, "M m"]) -> Joint:
    """The joint statistic from every model's largest statistic in every method, the fine-tuned
    model's first.

    The threshold: with 19 controls or more, the largest joint statistic that at most 5 % of all
    models reach; with 5 or more, the upper end of the 95 % prediction interval of a new control,
    and at least the largest of the controls; with 2 to 4 the latter, which is a description. NaN
    with fewer, since two models differ from each other equally.
    """
    maxima = np.asarray(maxima, np.float64)
    n_models, n_methods = maxima.shape
    nothing = np.full(n_methods, np.nan)
    if n_models < 2:
        return Joint(
            np.ones(n_methods), nothing, nothing, np.full(1, np.nan), np.zeros(1, int), np.nan
        )
    typical = np.median(maxima, axis=0)
    typical = np.where(typical > 0, typical, 1.0)
    sizes = np.log1p(maxima / typical)
    result = between_models(sizes, SPREAD, "greater")
    others = sizes[1:]
    n_controls = len(others)
    variance = others.var(axis=0, ddof=1) if n_controls > 1 else np.zeros(n_methods)
    scale = np.sqrt((variance + SPREAD**2) * (1 + 1 / n_controls))
    return Joint(
        typical,
        others.mean(axis=0),
        scale,
        result.maxima,
        result.largest,
        threshold_of(result.maxima[1:]),
    )


def threshold_of(controls: Float[np.ndarray, " K"]) -> float:
    """What a joint statistic has to exceed, from those of the controls; see ``joint_statistic``."""
    if len(controls) < 2:
        return np.nan
    highest = np.sort(controls)[::-1]
    if len(controls) >= MIN_FOR_RANK:
        # p = (1 + b) / (1 + K) is at most the level for at most this many as large
        allowed = int(np.floor(LEVEL * (1 + len(controls)) + 1e-9)) - 1
        return float(highest[allowed])
    if len(controls) >= MIN_FOR_INTERVAL:
        return max(float(highest[0]), observation_interval(controls)[1])
    return float(highest[0])
