"""``--top smallest``: the smallest set of a ranking that the search finds to return the base's answers.

First the smallest prefix of the ranking under which the tuned model, given these units' base contributions, gives the
base's answer to ``reach`` of the prompts on which the two differ; then units are taken out of it again, in chunks of
half, a quarter, ... and at last one by one, lowest rank first, wherever the effect stays at ``reach``. In what is left
no single unit can be spared: a minimal set, though not always the smallest there is. It is chosen on the prompts it is
located on, and so must be verified on others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.errors import OptionError
from interp.models.units import Unit
from interp.study import Study
from interp.trials.conditions import Donors
from interp.trials.dose import Doses, grid, refine
from interp.trials.rows import changed, some

Set = list[tuple[int, int]]
REACH, PROMPTS = 0.95, 48


@dataclass(frozen=True)
class Found:
    """The set, the prefix of the ranking it was pruned from, its effect, and on how many prompts it was measured."""

    units: Set
    prefix: int
    effect: float
    prompts: int


def smallest(study: Study, unit: Unit, ranking: Sequence[tuple[int, int]], reach: float = REACH) -> Found | None:
    """Search a ranking of units; None where not even all of it reaches, or base and tuned model answer alike."""
    study.pair.require_base("--top smallest")
    differ = changed(study)
    if not differ or not ranking:
        return None
    rows = some(study.prompts("positive"), differ, PROMPTS, study.seed)
    doses = Doses(study, Donors.read(study, unit), "necessity", rows)
    effects: dict[int, float] = {}
    for k in study.progress(grid(len(ranking)), "smallest set"):
        effects[k] = doses.effect(ranking[:k])
        if effects[k] >= reach:
            break
    effects = refine(doses, ranking, effects, reach)
    reached = [k for k, effect in effects.items() if effect >= reach]
    if not reached:
        return None
    prefix = min(reached)
    kept = prune(list(ranking[:prefix]), doses.effect, reach)
    return Found(kept, prefix, doses.effect(kept), len(rows))


def prune(units: Set, effect: Callable[[Set], float], reach: float) -> Set:
    """Take out whatever can be spared, the last first, until no single unit can."""
    size = len(units) // 2
    while size >= 1:
        spared = False
        for start in reversed(range(0, len(units), size)):
            fewer = units[:start] + units[start + size :]
            if fewer and effect(fewer) >= reach:
                units, spared = fewer, True
        # at single units once more whenever one went: without it another may be spared
        size = size // 2 if size > 1 else int(spared)
    return units


def require(top_is_search: bool, has_base: bool) -> None:
    """Raise OptionError for a search without a base to return to."""
    if top_is_search and not has_base:
        raise OptionError("--top smallest needs a base model to return to; add --base MODEL, or give a count")
