"""Doses: how many units do as the other model does, and on how many prompts that gives the other
model's behaviour.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from interp.experiments.outcomes import Outcome, Outcomes

Set = Sequence[tuple[int, int]]


def returned(outcomes: Outcomes, outcome: Outcome) -> Bool[np.ndarray, " B"]:
    """On which of the prompts the behaviour, the metric's yes or no, is the donor's."""
    return outcome.exhibits == outcomes.donor.exhibits


def returns(outcomes: Outcomes, chosen: Set) -> dict[str, float]:
    """What a set of units does on prompts whose behaviour differs between both models.

    ``effect``: share of them whose behaviour becomes the donor's; ``recovery``: share of the gap
    between both models' mean numbers that is closed, NaN where there is none.
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
    """Bisect between the last dose whose ``name`` is below ``reach`` and the first at it: the
    smallest set, exactly.

    Exact where the effect rises with k between those two doses; every measured dose is returned
    with the others.
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
