"""Dose-response: how many units have to be patched for how many prompts to change behaviour."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from interp.experiments.outcomes import Outcome, Outcomes

UnitSet = Sequence[tuple[int, int]]


def matches_donor(outcomes: Outcomes, outcome: Outcome) -> Bool[np.ndarray, " B"]:
    """On which prompts the behaviour (the metric's yes or no) equals the donor's."""
    return outcome.exhibits == outcomes.donor.exhibits


def dose_effect(outcomes: Outcomes, units: UnitSet) -> dict[str, float]:
    """The effect of a set of units on prompts whose behaviour differs between both models.

    ``effect``: share of prompts whose behaviour becomes the donor's. ``recovery``: share of the gap
    between both models' mean metric that is closed, NaN where there is no gap.
    """
    outcome = outcomes.of(units)
    return {
        "effect": float(matches_donor(outcomes, outcome).mean()),
        "recovery": outcomes.effects(outcome)["recovery"],
    }


def dose_grid(depth: int) -> list[int]:
    """Doses 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200 ... up to and including ``depth``."""
    steps = [1, 2, 3, 5, 8]
    scale = 10
    while scale <= depth:
        steps += [round(scale * factor) for factor in (1.2, 2, 3, 5, 8)]
        scale *= 10
    return sorted({step for step in steps if step < depth} | {depth})


def bisect_dose(
    measure: Callable[[UnitSet], Mapping[str, float]],
    ranking: UnitSet,
    effects: Mapping[int, Mapping[str, float]],
    threshold: float,
    effect_name: str,
) -> dict[int, Mapping[str, float]]:
    """Find the smallest dose at which the effect ``effect_name`` is at least ``threshold``, by
    bisection.

    It bisects between the last known dose below ``threshold`` and the first that reaches it, and is
    exact where the effect rises with k between these two. Returns all measured doses.
    """
    measured = dict(effects)
    reached = [k for k in sorted(measured) if measured[k][effect_name] >= threshold]
    if not reached:
        return measured
    high = reached[0]
    low = max((k for k in measured if k < high), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        measured[middle] = measure(ranking[:middle])
        low, high = (low, middle) if measured[middle][effect_name] >= threshold else (middle, high)
    return measured
