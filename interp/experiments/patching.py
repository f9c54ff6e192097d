"""Which half of a contribution does it: activation h and write weights W, each from the donor or
from the receiver.

A unit writes h W. Exchanging both is contribution patching; the donor's h through the receiver's W
is activation patching (Chen et al. 2024, arXiv 2406.14144); the receiver's own h through the
donor's W exchanges the columns alone. The effect is the normalised causal effect of that paper on
the metric's number where the answer begins: the share of the gap between the two models that is
closed, (number under the patch - receiver's own) / (donor's own - receiver's own), a ratio of means
over prompts.
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
    """The two by two of one direction, over the control prompts (rows ascending).

    ``receiver``, ``donor``: both models' own numbers [prompts]. By cell (activation from, weights
    from), [prompts]: ``numbers`` under the patch; ``exhibits``, whether the answer shows the
    behaviour. ``random``: by cell the mean number under each matched random set.
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
    """All four cells of a located set, and of every random set their numbers; ``outcomes``: of the
    same direction.

    ``known``: mean numbers under the random sets, in their order, that were measured before;
    ``numbers``: of the same rows and direction, where there are some already.

    Passes over the rows of ``outcomes``: two to begin with (the donor read, the receiver alone),
    and for each of the three cells that patch something one for the located set and, where it is
    not known, one for every random set. Only the located set's answers are read and written, as far
    as they decide.
    """
    units = {unit for chosen in (located, *sets) for unit in chosen}
    numbers = numbers or Numbers(study, donors, outcomes.rows, direction, units)
    found = Patched(numbers.under(None), outcomes.donor.number)
    for cell in CELLS:
        intervention = donors.cell(direction, located, *cell).intervention
        found.numbers[cell] = numbers.under(intervention) if intervention else found.receiver
        found.exhibits[cell], found.random[cell] = outcomes.under([intervention])[0].exhibits, []
    known = known or {}
    for place, chosen in enumerate(study.progress(sets, f"{direction}, two by two")):
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
