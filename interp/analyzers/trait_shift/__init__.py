"""``TraitShift``: how far did the fine-tuned model move along a trait's direction in the base?

The direction is the base's mean residual stream on prompts with the trait (positive) minus that on
prompts without it, at every depth ("persona vectors", Chen et al. 2025, arXiv 2507.21509). The
shift is the mean change of the stream on the same texts, projected on it and divided by the
distance between the classes. On half of the clusters the direction is made, and the depth chosen
among those at which the base separates the classes; the shift is reported on the other half. Every
control fine-tune chooses its depth in the same way.

Where it departs from the reference: directions are of the prompts given, not of answers under
opposed system prompts that a judge filtered; shifts have nulls, and a held-out half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.analyzers.trait_shift.findings import (
    ShiftControlRow,
    ShiftRow,
    claims_of,
    depth_table,
    null_table,
)
from interp.analyzers.trait_shift.movement import Half, Movement
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.discovery.trait_directions import Directions, usable_depths
from interp.experiments.discovery.trait_states import mean_states, read_texts, stream_sites
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.rows import rows_table
from interp.study import Study
from interp.table import Table

NO_CONTROL = (
    "No control fine-tune was given: how far any fine-tuning moves along this direction was not"
    " measured (--control; interp control makes them)."
)
LIMITS = (
    "The direction is that of the given prompts: whatever else differs between the classes (length,"
    " topic, language) is part of it. It measures a trait that is named, and finds none.",
    "A shift of the stream is not a change of the answers: measure those by a behaviour.",
)


@dataclass(frozen=True)
class TraitShift(Analyzer):
    """Shift of the fine-tuned model along the direction between two classes of prompts, in units of
    their distance; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``trait-shift``, one row per depth, with ``prompts`` (at the chosen depth), ``null`` and, with
    controls, ``controls``; the array ``direction`` [D] is of the chosen depth. The base's streams
    of all prompts are kept in memory: prompts x depths x width numbers.
    """

    name: ClassVar[str] = "trait-shift"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, negatives=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    position: str = option(
        "prompt",
        "Tokens that are read: the last of the prompt, or the mean over the base's own answer.",
        choices=("prompt", "answer"),
    )
    prompts: int = option(100, "Prompts of each class at most.", ge=2)
    separation: float = option(
        0.8, "AUC of the classes in the base that a depth needs, on clusters left out.", ge=0, le=1
    )
    draws: int = option(200, "Directions of shuffled labels, and random ones.", ge=39)

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """A pass of the base and of every other model over every prompt, and the base's answers."""
        tokens = 0 if self.position == "prompt" else study.max_new_tokens
        return Work(passes=2 + len(self.controls), tokens=tokens)

    def run(self, study: Study) -> Result:
        """Make the direction on one half of the prompts and measure the shift on the other."""
        contrast = study.require_contrast(self.name).limit(self.prompts)
        study = study.with_prompts(contrast)
        selection, held_out = (
            Half.from_contrasts(contrast, part) for part in contrast.split(study.seed)
        )
        texts = read_texts(study, self.position)
        base_model, tuned_model = study.pair.require_base(self.name), study.pair.tuned
        groups = study.batches(
            texts, tuned_model, 4 * len(stream_sites(tuned_model)) * tuned_model.anatomy.width
        )
        base = mean_states(study, base_model, texts, groups, "base")
        directions = Directions.from_states(
            base[selection.rows], selection.labels, self.draws, study.seed
        )
        usable = usable_depths(base[selection.rows], directions.distance)
        if not usable.any():
            raise OptionError(
                "both classes have the same mean residual stream everywhere: there is no direction"
                " between them; give other prompts"
            )
        separation = directions.separation(selection.clusters)
        eligible = usable & (separation >= self.separation)
        if not eligible.any():
            raise OptionError(
                "the base does not separate the classes: the largest AUC at a depth is"
                f" {separation[usable].max():.2f}, and {self.separation:g} is needed; give more"
                " prompts, or others"
            )
        names, movements = model_names(study, self.controls), []
        for number, pair in each_model(study, self.controls):
            change = mean_states(study, pair.tuned, texts, groups, names[number]) - base
            movements.append(
                Movement.from_changes(
                    directions, eligible, change[selection.rows], change[held_out.rows]
                )
            )
            del pair  # so that it is freed before the next is loaded
        rows = depth_table(
            np.flatnonzero(usable), eligible, directions, base[held_out.rows], held_out, movements
        )
        return self._result(study, rows, directions, (selection, held_out), names, movements)

    def _result(
        self,
        study: Study,
        rows: Table,
        directions: Directions,
        splits: tuple[Half, Half],
        names: list[str],
        movements: Sequence[Movement],
    ) -> Result:
        (selection, held_out), tuned, controls = splits, movements[0], movements[1:]
        tables = {
            "prompts": rows_table(ShiftRow, "", {**held_out.keys, "moved": tuned.moved}),
            "null": null_table(directions, tuned),
        }
        if controls:
            tables["controls"] = controls_table(
                names[1:],
                row=ShiftControlRow,
                numbers={
                    "depth": [movement.choice.depth for movement in controls],
                    "moved": [float(movement.moved.mean()) for movement in controls],
                },
            )
        chosen = next(row for row in rows.rows() if row["chosen"])
        return Result(
            rows,
            tables,
            claims_of(
                tuned.choice,
                study.pair.tuned.anatomy.n_layers,
                selection.labels.arrangements,
                len(controls),
            ),
            {
                "depth": chosen["depth"],
                "position": self.position,
                **{name: chosen[name] for name in ("shift", "separation", "distance")},
                "controls": names[1:],
                "selection_prompts": len(selection.rows),
                "held_out_prompts": len(held_out.rows),
            },
            [*LIMITS, *([] if controls else [NO_CONTROL])],
        )
