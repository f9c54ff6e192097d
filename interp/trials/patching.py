"""Which half of a contribution does it: activation h and write weights W, each from the donor or from the receiver.

A unit writes h W. Exchanging both is contribution patching; the donor's h through the receiver's W is activation
patching (Chen et al. 2024, arXiv 2406.14144); the receiver's own h through the donor's W exchanges the columns alone.
The effect is the normalised causal effect of that paper on the metric's number where the answer begins: the share of
the gap between the two models that is closed, (number under the patch - receiver's own) / (donor's own - receiver's
own), a ratio of means over prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from interp.generate import generate
from interp.random_sets import set_name
from interp.study import Study
from interp.trials.conditions import CELLS, RECEIVERS, Donors, Receiver
from interp.trials.numbers import Numbers

Set = Sequence[tuple[int, int]]
Cell = tuple[str, str]


@dataclass
class Patched:
    """The two by two of one direction, over the control prompts (rows ascending).

    ``receiver``, ``donor``: both models' own numbers [prompts]. By cell (activation from, weights from), [prompts]:
    ``numbers`` under the patch; ``equal``, whether the answer is the donor's, token for token; ``shown``, whether it
    shows the behaviour. ``random``: by cell the mean number under each matched random set.
    """

    receiver: np.ndarray
    donor: np.ndarray
    numbers: dict[Cell, np.ndarray] = field(default_factory=dict)
    equal: dict[Cell, np.ndarray] = field(default_factory=dict)
    shown: dict[Cell, np.ndarray] = field(default_factory=dict)
    random: dict[Cell, list[float]] = field(default_factory=dict)


def patch_cells(
    study: Study,
    donors: Donors,
    direction: str,
    located: Set,
    sets: Iterable[Set],
    rows: Sequence[int],
    donor: np.ndarray,
    known: Mapping[Cell, Sequence[float]] | None = None,
) -> Patched:
    """All four cells of a located set, and of every random set their numbers; ``donor``: its own numbers [prompts].

    ``known``: mean numbers under the random sets, in their order, that were measured before.

    Passes over the rows, in batches of at most 96 prompts: two to begin with (the donor read, the receiver alone), and
    for each of the three cells that patch something one for the located set and, where it is not known, one for every
    random set. Only the located set's answers are generated, once for each of the three.
    """
    numbers = Numbers(study, donors, rows, direction)
    found = Patched(numbers.under(None), donor)
    wanted = study.answers(RECEIVERS[direction][1], "positive")
    prompts = [study.prompts("positive").prompts[row] for row in rows]
    for cell in CELLS:
        receiver = donors.cell(direction, located, *cell)
        found.numbers[cell] = numbers.under(receiver.intervention) if receiver.intervention else found.receiver
        answers = _answers(study, receiver, rows)
        found.equal[cell] = np.array([answer == wanted[row] for answer, row in zip(answers, rows, strict=True)], bool)
        found.shown[cell] = study.require_metric().shown(
            prompts, [study.decode(answer) for answer in answers], "positive"
        )
        found.random[cell] = []
    known = known or {}
    for place, chosen in enumerate(sets):
        for cell, means in found.random.items():
            if cell in known:
                means.append(known[cell][place])
                continue
            intervention = donors.cell(direction, chosen, *cell).intervention
            if intervention is None:
                means.append(float(found.receiver.mean()))
                continue
            name = f"{direction} {' '.join(cell)} {set_name(chosen)}"
            means.append(study.part(name, lambda edit=intervention: float(numbers.under(edit).mean())))
    return found


def _answers(study: Study, receiver: Receiver, rows: Sequence[int]) -> list[list[int]]:
    """Greedy answers to some positive prompts, in the order of ``rows``."""
    if receiver.intervention is None:
        own = study.answers(receiver.role, "positive")
        return [own[row] for row in rows]
    model, found = study.pair[receiver.role], {}
    for part in study.batches([study.encoded("positive")[row] for row in rows], model):
        chosen = [rows[at] for at in part]
        text = study.text("positive", chosen)
        answers = generate(study.engine, model, text, study.max_new_tokens, receiver.intervention)
        found |= dict(zip(chosen, answers, strict=True))
    return [found[row] for row in rows]
