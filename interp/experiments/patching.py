"""Which factor of a contribution has the effect: activation h or output weights W, each from donor
or receiver.

A unit contributes h W. Exchanging both is contribution patching; the donor's h through the
receiver's W is activation patching (Chen et al. 2024, arXiv 2406.14144); the receiver's h through
the donor's W exchanges only the weights. The effect is the normalised causal effect of that paper
on the metric where the answer begins: the share of the gap between the models that is closed,
(metric under the patch - receiver's) / (donor's - receiver's), a ratio of means over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from interp.experiments.ablated_metric import Numbers
from interp.experiments.conditions import CELLS, PatchSource
from interp.experiments.outcomes import Outcomes
from interp.interventions.random_sets import set_name
from interp.study import Study

Set = Sequence[tuple[int, int]]
Cell = tuple[str, str]


@dataclass
class Patched:
    """The 2 x 2 design of one direction, over the control prompts (rows ascending).

    ``receiver``, ``donor``: metric of both unedited models [prompts]. By cell (activation from,
    weights from): ``numbers``, the metric under the patch [prompts]; ``exhibits``, whether the
    answer shows the behaviour [prompts]; ``random``, the mean metric under each matched random set.
    """

    receiver: np.ndarray
    donor: np.ndarray
    numbers: dict[Cell, np.ndarray] = field(default_factory=dict)
    exhibits: dict[Cell, np.ndarray] = field(default_factory=dict)
    random: dict[Cell, list[float]] = field(default_factory=dict)


def patch_cells(
    study: Study,
    donors: PatchSource,
    direction: str,
    located: Set,
    sets: Sequence[Set],
    outcomes: Outcomes,
    known: Mapping[Cell, Sequence[float]] | None = None,
    numbers: Numbers | None = None,
) -> Patched:
    """All four cells of a located set, and the mean metric of every random set in them.

    ``outcomes``: of the same direction. ``known``: mean metrics under the random sets, in their
    order, that were measured before. ``numbers``: the metric under a patch of the same rows and
    direction, where it exists already.

    Passes over the rows of ``outcomes``: two at the start (donor, unedited receiver), and for each
    of the three cells with a patch one for the located set and, where not known, one per random
    set. Answers are generated for the located set only, as far as they decide the behaviour.
    """
    units = {unit for chosen in (located, *sets) for unit in chosen}
    numbers = numbers or Numbers(study, donors, outcomes.rows, direction, units)
    found = Patched(numbers.under(None), outcomes.donor.number)
    for cell in CELLS:
        intervention = donors.cell(direction, located, *cell).intervention
        found.numbers[cell] = numbers.under(intervention) if intervention else found.receiver
        found.exhibits[cell], found.random[cell] = outcomes.under([intervention])[0].exhibits, []
    known = known or {}
    for place, chosen in enumerate(study.progress(sets, f"{direction}, 2 x 2 design")):
        for cell, means in found.random.items():
            if cell in known:
                means.append(known[cell][place])
                continue
            intervention = donors.cell(direction, chosen, *cell).intervention
            if intervention is None:
                means.append(float(found.receiver.mean()))
                continue
            name = f"{direction} {' '.join(cell)} {set_name(chosen)}"
            means.append(
                study.part(name, lambda edit=intervention: float(numbers.under(edit).mean()))
            )
    return found
