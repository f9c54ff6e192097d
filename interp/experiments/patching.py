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

from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import CELLS, PatchSource
from interp.experiments.outcomes import Outcomes
from interp.interventions.random_sets import set_name
from interp.study import Study

UnitSet = Sequence[tuple[int, int]]
Cell = tuple[str, str]


@dataclass
class PatchingResult:
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
    patch_source: PatchSource,
    direction: str,
    located: UnitSet,
    sets: Sequence[UnitSet],
    outcomes: Outcomes,
    known_means: Mapping[Cell, Sequence[float]] | None = None,
    ablated_metric: AblatedMetric | None = None,
) -> PatchingResult:
    """All four cells of a located set, and the mean metric of every random set in them.

    ``outcomes``: of the same direction. ``known_means``: mean metrics under the random sets, in
    their order, that were measured before. ``ablated_metric``: the metric under a patch of the same
    rows and direction, where it exists already.

    Passes over the rows of ``outcomes``: two at the start (donor, unedited receiver), and for each
    of the three cells with a patch one for the located set and, where not known, one per random
    set. Answers are generated for the located set only, as far as they decide the behaviour.
    """
    units = {unit for chosen in (located, *sets) for unit in chosen}
    ablated_metric = ablated_metric or AblatedMetric(
        study, patch_source, outcomes.rows, direction, units
    )
    result = PatchingResult(ablated_metric.under(None), outcomes.donor.number)
    for cell in CELLS:
        intervention = patch_source.cell(direction, located, *cell).intervention
        result.numbers[cell] = (
            ablated_metric.under(intervention) if intervention else result.receiver
        )
        result.exhibits[cell], result.random[cell] = outcomes.under([intervention])[0].exhibits, []
    known_means = known_means or {}
    for index, chosen in enumerate(study.progress(sets, f"{direction}, 2 x 2 design")):
        for cell, means in result.random.items():
            if cell in known_means:
                means.append(known_means[cell][index])
                continue
            intervention = patch_source.cell(direction, chosen, *cell).intervention
            if intervention is None:
                means.append(float(result.receiver.mean()))
                continue
            name = f"{direction} {' '.join(cell)} {set_name(chosen)}"
            means.append(
                study.part(name, lambda edit=intervention: float(ablated_metric.under(edit).mean()))
            )
    return result
