"""Dose-response: how many units have to be patched for how many prompts to change behaviour."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from interp.experiments.outcomes import Outcome, Outcomes

Set = Sequence[tuple[int, int]]


def returned(outcomes: Outcomes, outcome: Outcome) -> Bool[np.ndarray, " B"]:
    """On which prompts the behaviour (the metric's yes or no) equals the donor's."""
    return outcome.exhibits == outcomes.donor.exhibits


def returns(outcomes: Outcomes, chosen: Set) -> dict[str, float]:
    """The effect of a set of units on prompts whose behaviour differs between both models.

    ``effect``: share of prompts whose behaviour becomes the donor's. ``recovery``: share of the gap
    between both models' mean metric that is closed, NaN where there is no gap.
    """
    outcome = outcomes.of(chosen)
    return {
        "effect": float(returned(outcomes, outcome).mean()),
        "recovery": outcomes.effects(outcome)["recovery"],
    }


def grid(depth: int) -> list[int]:
    """Doses 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200 ... up to and including ``depth``."""
    steps = [1, 2, 3, 5, 8]
    scale = 10
    while scale <= depth:
        steps += [round(scale * factor) for factor in (1.2, 2, 3, 5, 8)]
        scale *= 10
    return sorted({step for step in steps if step < depth} | {depth})


def refine(
    measure: Callable[[Set], Mapping[str, float]],
    ranking: Set,
    effects: Mapping[int, Mapping[str, float]],
    reach: float,
    name: str,
) -> dict[int, Mapping[str, float]]:
    """Find the smallest dose at which the effect ``name`` is at least ``reach``, by bisection.

    It bisects between the last known dose below ``reach`` and the first that reaches it, and is
    exact where the effect rises with k between these two. Returns all measured doses.
    """
    found = dict(effects)
    reached = [k for k in sorted(found) if found[k][name] >= reach]
    if not reached:
        return found
    high = reached[0]
    low = max((k for k in found if k < high), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = measure(ranking[:middle])
        low, high = (low, middle) if found[middle][name] >= reach else (middle, high)
    return found
