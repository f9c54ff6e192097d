"""Doses: how many units do as the other model does, and on how many prompts that gives the other model's behaviour."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from interp.trials.outcomes import Outcome, Outcomes

Set = Sequence[tuple[int, int]]


def returned(outcomes: Outcomes, outcome: Outcome) -> Bool[np.ndarray, " B"]:
    """On which of the prompts the behaviour, the metric's yes or no, is the donor's."""
    return outcome.shown == outcomes.donor.shown


def returns(outcomes: Outcomes, chosen: Set) -> dict[str, float]:
    """What a set of units does on prompts whose behaviour differs between both models.

    ``effect``: share of them whose behaviour becomes the donor's; ``recovery``: share of the gap between both models'
    mean numbers that is closed, NaN where there is none.
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
