"""Is one model further from the others than they are from each other? Every model is held out in
turn and compared with the rest.

A fine-tuned model differs from its base in any case, and so do control fine-tunes: permutations
within one pair of models reject for both. The variance that matters is between models. With K
controls of the same recipe, all K + 1 models are exchangeable under the hypothesis that the
fine-tuned model is one of them, so that the rank of its largest statistic is an exact test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

ROUNDING = 1e-13
"""A difference from the others' mean that is smaller than this share of the scores is none."""


@dataclass(frozen=True)
class BetweenModels:
    """The first model's statistics, and the largest of every model.

    ``statistic`` [V]: of every item of the first model, signed. ``maxima`` [M]: the largest
    statistic of every model (in size, unless the alternative is "greater"), the first model's
    first; ``largest`` [M] the item where it is. ``detectable``: the smallest difference from the
    mean of the other models that exceeds the largest maximum of the others, for an item in which
    the others agree; NaN with fewer than two others.
    """

    statistic: Float[np.ndarray, " V"]
    maxima: Float[np.ndarray, " M"]
    largest: Int[np.ndarray, " M"]
    detectable: float


def between_models(
    scores: Float[np.ndarray, "M V"],
    spread: float,
    alternative: Literal["two-sided", "away-from-zero", "greater"] = "two-sided",
) -> BetweenModels:
    """Every model held out in turn: its scores minus the mean of the others, over their spread.

    ``T_v = (m_v - mean_k m_v) / sqrt((s_v^2 + s_0^2) (1 + 1/K))`` with the standard deviation
    ``s_v`` of the K other models and ``spread`` s_0 > 0, which all items share: with few models
    s_v is small by chance in some of many items (as in the moderated t of Smyth 2004). The first
    model's statistics are referred to the maxima of the others by ``rank_p``.

    ``alternative``: "away-from-zero" is for scores that are 0 where nothing changed: the difference
    counts only where its sign is that of the model's own score, and at most as far as the score,
    since that a model lacks a change which all others have is not a change. "greater": maxima are
    of the signed statistics.

    With two models both statistics are equal in size, so that nothing can be said of one of them;
    with one model all statistics are NaN.
    """
    if not spread > 0:
        raise ValueError(f"the shared standard deviation is {spread!r}; give a number above 0")
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite; no model can be compared with the others")
    n_models, n_items = scores.shape
    if n_models < 2 or not n_items:
        nothing = np.full(n_models, np.nan if n_models < 2 else 0.0)
        return BetweenModels(
            np.full(n_items, np.nan), nothing, np.zeros(n_models, np.int64), np.nan
        )
    n_others = n_models - 1
    widening = 1 + 1 / n_others
    statistic, maxima, largest = np.zeros(n_items), np.zeros(n_models), np.zeros(n_models, np.int64)
    # others in order of size: rounding then is the same for models with equal scores, which tie
    order = scores.argsort(axis=0)
    ordered, ranks = np.take_along_axis(scores, order, 0), order.argsort(axis=0)
    rounding = ROUNDING * np.abs(ordered[[0, -1]]).max(axis=0)
    for held_out in range(n_models):
        others = np.where(np.arange(n_others)[:, None] < ranks[held_out], ordered[:-1], ordered[1:])
        variance = others.var(axis=0, ddof=1) if n_others > 1 else np.zeros(n_items)
        beyond = scores[held_out] - others.mean(axis=0)
        beyond = np.where(np.abs(beyond) <= rounding, 0.0, beyond)
        if alternative == "away-from-zero":
            counted = np.minimum(np.abs(beyond), np.abs(scores[held_out])) * np.sign(beyond)
            beyond = np.where(beyond * scores[held_out] > 0, counted, 0.0)
        own = beyond / np.sqrt((variance + spread**2) * widening)
        size = own if alternative == "greater" else np.abs(own)
        largest[held_out] = size.argmax()
        maxima[held_out] = size[largest[held_out]]
        if held_out == 0:
            statistic = own
    threshold = float(maxima[1:].max()) if n_others > 1 else np.nan
    return BetweenModels(statistic, maxima, largest, threshold * spread * np.sqrt(widening))


def rank_p(
    size: Float[np.ndarray, " V"], maxima: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " V"]:
    """Single-step max-T p of one model's statistics (their size) among the maxima of K others.

    ``(1 + number of maxima that are as large) / (1 + K)``, corrected for all items of the family;
    NaN with fewer than two others.
    """
    size = np.asarray(size, np.float64)
    if len(maxima) < 2:
        return np.full(size.shape, np.nan)
    reached = np.sort(np.asarray(maxima, np.float64))
    n_as_large = len(reached) - np.searchsorted(reached, size, side="left")
    return np.where(np.isnan(size), np.nan, (1 + n_as_large) / (1 + len(reached)))
