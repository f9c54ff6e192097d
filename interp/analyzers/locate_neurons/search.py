"""``--top smallest``: the smallest set of a ranking that the search finds to return the base's
behaviour.

First the smallest prefix of the ranking under which the fine-tuned model, given these units' base
contributions, shows or does not show the behaviour as the base does on ``reach`` of the prompts on
which the two differ in it; then units are removed from it again, in chunks of half, a quarter, ...
and at last one by one, lowest rank first, wherever the effect stays at ``reach``. The result is
minimal: no single unit can be removed. It need not be the smallest set there is. It is chosen on
the selection split and must be verified on the held-out split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from interp.experiments.conditions import PatchSource
from interp.experiments.dose import bisect_dose, dose_effect, dose_grid
from interp.experiments.outcomes import Outcomes
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.models.units import Unit
from interp.study import Study

Set = list[tuple[int, int]]
REACH, PROMPTS = 0.95, 48


@dataclass(frozen=True)
class SmallestSet:
    """The set, the prefix of the ranking it was pruned from, and its effect on ``prompts`` prompts.

    Without units, and None elsewhere, where no set was found. ``effect``: share of the prompts on
    which the base's behaviour returns; ``recovery``: share of the gap between both models' mean
    numbers that is closed, None where there is no gap.
    """

    units: Set
    prefix: int | None
    effect: float | None
    recovery: float | None
    prompts: int


def smallest_set(
    study: Study, unit: Unit, ranking: Sequence[tuple[int, int]], reach: float = REACH
) -> SmallestSet:
    """Search a ranking of units; empty where the whole ranking has too little effect, or the models
    differ on no prompt.
    """
    study.pair.require_base("--top smallest")
    rows = sample_rows(study.prompts("positive"), changed_rows(study), PROMPTS, study.seed)
    empty = SmallestSet([], None, None, None, len(rows))
    if not rows or not ranking:
        return empty
    outcomes = Outcomes(study, PatchSource.from_study(study, unit), "necessity", rows)
    measure = partial(dose_effect, outcomes)
    effects: dict[int, Mapping[str, float]] = {}
    for k in study.progress(dose_grid(len(ranking)), "smallest set"):
        effects[k] = measure(ranking[:k])
        if effects[k]["effect"] >= reach:
            break
    effects = bisect_dose(measure, ranking, effects, reach, "effect")
    reached = [k for k, one in effects.items() if one["effect"] >= reach]
    if not reached:
        return empty
    prefix = min(reached)
    pruned = prune(list(ranking[:prefix]), lambda chosen: measure(chosen)["effect"], reach)
    result = measure(pruned)
    recovery = result["recovery"] if np.isfinite(result["recovery"]) else None
    return SmallestSet(pruned, prefix, result["effect"], recovery, len(rows))


def prune(units: Set, effect: Callable[[Set], float], reach: float) -> Set:
    """Remove units whose removal keeps the effect, the last first, until no single unit can go."""
    size = len(units) // 2
    while size >= 1:
        has_removed = False
        for start in reversed(range(0, len(units), size)):
            remaining = units[:start] + units[start + size :]
            if remaining and effect(remaining) >= reach:
                units, has_removed = remaining, True
        # at single units again whenever one was removed: without it another may be removable
        size = size // 2 if size > 1 else int(has_removed)
    return units
