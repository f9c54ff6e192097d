"""One test over all methods: how far a model's largest statistics lie beyond those of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK
from interp.maths.between_models import between_models, rank_p
from interp.maths.prediction import observation_interval

SPREAD = 0.1
"""Standard deviation between models of a method's largest statistic that all methods share, in
units of its logarithm: with few controls some methods' own is small by chance."""
LEVEL = 0.05
_GRID, _HALVINGS = 16, 25


@dataclass(frozen=True)
class Joint:
    """The maxima of methods on one scale, and their largest over methods for every model.

    A method's maximum x is taken as log(1 + x / m), m the median over all models, since methods
    have other units and tails. Over methods, each model held out in turn gives one joint statistic
    (``interp.maths.between_models``, largest over methods): the fine-tuned model's rank among those
    of the controls is exact, and no further correction over methods is needed. Holm's correction
    would need more controls than anybody trains: 19 give no p below 0.05.

    ``typical`` [m]: the medians; ``maxima`` [M] and ``largest`` [M]: the joint statistic of every
    model and the method where it is; ``threshold``: what an item has to exceed. ``sizes`` [M, m]:
    the maxima on the common scale.
    """

    typical: Float[np.ndarray, " m"]
    mean: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]
    maxima: Float[np.ndarray, " M"]
    largest: np.ndarray
    threshold: float
    sizes: Float[np.ndarray, "M m"]

    def statistic(self, method: int, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The joint statistic of items of a method with these statistics (of either sign)."""
        size = np.log1p(np.abs(values) / self.typical[method])
        return (size - self.mean[method]) / self.scale[method]

    def of_controls(self, value: float) -> Float[np.ndarray, " K"]:
        """The joint statistics of the controls if the fine-tuned model's largest one were ``value``.

        The fine-tuned model is among the others of every control that is held out, so that one
        strong item of it makes all controls look small. An item is compared with the controls as if
        it were the strongest (a step-down test, Westfall and Young 1993).
        """
        return _of_controls(self.sizes, self.mean, self.mean + value * self.scale)

    def p(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The p of items with these joint statistics, no smaller than that of a stronger item."""
        values = np.asarray(values, np.float64)
        if len(self.maxima) < 3:
            return np.full(values.shape, np.nan)
        p = np.array([float(rank_p(one[None], self.of_controls(one))[0]) for one in values])
        order = np.argsort(-values, kind="stable")
        # NaN, of what was not computed, is last
        p[order] = np.maximum.accumulate(p[order])
        return p.reshape(values.shape)

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
    with fewer, since two models differ from each other equally. It is that of the weakest item
    which, were it the fine-tuned model's strongest, would still be beyond: see ``Joint.of_controls``.
    """
    maxima = np.asarray(maxima, np.float64)
    n_models, n_methods = maxima.shape
    nothing = np.full(n_methods, np.nan)
    if n_models < 2:
        return Joint(
            np.ones(n_methods),
            nothing,
            nothing,
            np.full(1, np.nan),
            np.zeros(1, int),
            np.nan,
            np.log1p(maxima),
        )
    typical = np.median(maxima, axis=0)
    typical = np.where(typical > 0, typical, 1.0)
    sizes = np.log1p(maxima / typical)
    result = between_models(sizes, SPREAD, "greater")
    others = np.sort(sizes[1:], axis=0)  # rounded as in between_models, so that ties are ties
    n_controls = len(others)
    variance = others.var(axis=0, ddof=1) if n_controls > 1 else np.zeros(n_methods)
    scale = np.sqrt((variance + SPREAD**2) * (1 + 1 / n_controls))
    mean = others.mean(axis=0)
    threshold = _step_down(sizes, mean, scale, float(result.maxima[0]), result.maxima[1:])
    return Joint(typical, mean, scale, result.maxima, result.largest, threshold, sizes)


def _of_controls(
    sizes: Float[np.ndarray, "M m"],
    mean: Float[np.ndarray, " m"],
    largest: Float[np.ndarray, " m"],
) -> Float[np.ndarray, " K"]:
    """Joint statistics of the controls, the first model's sizes cut at ``largest``; where one was
    cut, also set to the controls' ``mean``, of which each control's larger statistic counts: what
    is left of such a method without its stronger items is not known.
    """
    was_cut = sizes[0] > largest + 1e-12
    rows = [np.where(was_cut, to, sizes[0]) for to in (largest, mean)]
    maxima = [
        between_models(np.vstack([own, sizes[1:]]), SPREAD, "greater").maxima[1:] for own in rows
    ]
    return np.maximum(*maxima)


def _step_down(
    sizes: Float[np.ndarray, "M m"],
    mean: Float[np.ndarray, " m"],
    scale: Float[np.ndarray, " m"],
    largest: float,
    controls: Float[np.ndarray, " K"],
) -> float:
    """The smallest joint statistic above which an item is beyond the controls as the strongest."""
    lowest = threshold_of(controls)
    if not largest > lowest:
        return lowest

    def is_beyond(value: float) -> bool:
        return value > threshold_of(_of_controls(sizes, mean, mean + value * scale))

    grid = np.linspace(lowest, largest, _GRID)
    failing = [at for at, value in enumerate(grid) if not is_beyond(float(value))]
    if not failing or failing[-1] + 1 == len(grid):
        return lowest if not failing else largest
    low, high = (float(value) for value in grid[failing[-1] : failing[-1] + 2])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return low


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
