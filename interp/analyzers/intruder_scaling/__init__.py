"""``IntruderScaling``: scale the singular values of intruders in the fine-tuned model.

``W(s) = W + (s - 1) sigma u v^T`` for the strongest intruder of every matrix, or for all intruders
(Shuttleworth et al., arXiv 2410.21228; PEFT scales all). On plain text the loss and the divergence
from the base are measured (forgetting is the loss above the base's), and the task where one is
given. There are two controls at every scale: instead of each intruder, the vector of the same
matrix with the nearest singular value that is not an intruder (its neighbour); and the whole update
scaled, which also trades the task against forgetting.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.intruder_scaling.compute import measure_scales, text_class
from interp.analyzers.intruder_scaling.findings import REPORTED_SCALE, claims_of
from interp.analyzers.intruder_scaling.tables import (
    EditedRow,
    ScaleRow,
    TaskPromptRow,
    TextRow,
    prompts_table,
    rows_with_metric,
)
from interp.errors import OptionError, UnsupportedModel
from interp.maths import subspaces
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.rescale import SingularDirection, rescaled, update_scaled
from interp.rows import columns_of, rows_table
from interp.sites import MATRICES, Weight
from interp.study import Study
from interp.table import Table

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class IntruderScaling(Analyzer):
    """Scale the intruders found by a run of ``Intruders`` (``located``) in the study's fine-tuned
    model, with two controls.

    Positive prompts of the study measure the task, negative prompts are the plain text; a single
    class without a metric is the plain text. A base is needed. ``scale_set``: ``top1`` for the
    strongest intruder of every matrix, or ``all``. Returns a table of kind ``intruder-scaling``,
    one row per kind and scale.
    """

    name: ClassVar[str] = "intruder-scaling"
    version: ClassVar[int] = 5
    needs: ClassVar[Needs] = Needs(base=True)

    located: Table | None = option(
        None, "The run whose intruders are scaled.", kind="intruders", from_parent=True
    )
    scale_set: str = option("top1", "Scale top1 of each matrix, or all.", choices=("top1", "all"))
    scales: tuple[float, ...] = option(
        SCALES, "Factors on the singular values; 1 is measured in any case."
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for scales that are negative or not finite, and for 1 alone."""
        del known
        if any(not math.isfinite(scale) or scale < 0 for scale in self.scales) or not set(
            self.scales
        ) - {1.0}:
            raise OptionError(
                f"scales are {self.scales}; give finite numbers of 0 or more, not only 1, such as"
                " 0,0.5,1,1.5"
            )

    def run(self, study: Study) -> Result:
        """Select vectors, scale them, measure; the weights are restored exactly afterwards."""
        if self.located is None:
            raise OptionError("no run of interp intruders was given; pass its table as located")
        base, scales = study.pair.require_base(self.name), sorted({*map(float, self.scales), 1.0})
        directions, edited, notes = self._select_directions(study, self.located)
        kinds = _scalable_kinds(study, directions, notes)
        by_setting, unscaled, base_loss = measure_scales(
            study, base, kinds, scales, partial(_scaled, study, directions)
        )
        names, row = ["loss", "kl"], ScaleRow
        tables = {
            "texts": prompts_table(TextRow, study.prompts(text_class(study)), by_setting, names),
            "edited": edited,
        }
        if study.metric is None:
            notes.append(
                "no task was given, so whether the fine-tuned skill is kept was not measured"
            )
        else:
            names, labels = ["metric", *names], study.metric.labels
            row = rows_with_metric(ScaleRow, labels.number, labels.unit)
            task_row = rows_with_metric(TaskPromptRow, labels.number, labels.prompt_unit)
            prompts = study.prompts("positive")
            tables = {
                "prompts": prompts_table(task_row, prompts, by_setting, ["metric"]),
                **tables,
            }
        means = {
            name: np.array([getattr(measured, name).mean() for measured in by_setting.values()])
            for name in names
        }
        rows = {
            "kind": [kind for kind, _ in by_setting],
            "scale": np.array([scale for _, scale in by_setting]),
            "forgetting": means["loss"] - base_loss.mean(),
        }
        return Result(
            rows_table(row, "", rows | means),
            tables,
            claims_of(study, by_setting, scales) if directions["intruder"] else [],
            summary={
                "edited": len(directions["intruder"]),
                "base_loss": float(base_loss.mean()),
                "tuned_loss": float(unscaled.loss.mean()),
                "tuned_kl": float(unscaled.kl.mean()),
                "tuned_metric": None if study.metric is None else float(unscaled.task.mean()),
            },
            limits=[f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes)],
            lead=(
                ""
                if directions["intruder"]
                else "The run has no intruder in a matrix of a block, so only the whole update was"
                " scaled."
            ),
        )

    def _select_directions(
        self, study: Study, vectors: Table
    ) -> tuple[dict[str, list[SingularDirection]], Table, list[str]]:
        """Directions of intruders and neighbours, as a table too, and notes on what is left out."""
        side = vectors.require_provenance().options["side"]
        directions: dict[str, list[SingularDirection]] = {"intruder": [], "neighbour": []}
        notes, edited = [], []
        for layer, part in sorted({(int(row["layer"]), row["part"]) for row in vectors.rows()}):
            in_matrix = vectors.select((vectors["layer"] == layer) & (vectors["part"] == part))
            flags, sigmas = in_matrix["is_intruder"], in_matrix["sigma"]
            if not flags.any():
                continue
            if layer < 0 or part not in MATRICES:
                notes.append(
                    f"intruders of {part} cannot be scaled in memory, because it is not a separate"
                    " matrix of a block"
                )
                continue
            weight = Weight(layer, part)
            triplets = _triplets(study.pair.tuned, weight, side, len(in_matrix))
            _require_same_values(sigmas, triplets.values, weight)
            candidates = list(map(int, np.flatnonzero(~flags)))
            for index in map(int, np.flatnonzero(flags)[: 1 if self.scale_set == "top1" else None]):
                to_scale = [("intruder", index)]
                if candidates:
                    neighbour = min(
                        candidates, key=lambda other: abs(sigmas[other] - sigmas[index])
                    )
                    candidates.remove(neighbour)
                    to_scale.append(("neighbour", neighbour))
                for kind, column in to_scale:
                    sigma = float(to_host(triplets.values[column]))
                    left, right = triplets.left[:, column], triplets.right[:, column]
                    directions[kind].append(
                        SingularDirection(weight, left.float(), sigma, right.float())
                    )
                    edited.append((kind, layer, part, column + 1, sigma))
        columns = enumerate(columns_of(EditedRow))
        data = {name: [row[at] for row in edited] for at, name in columns}
        return directions, rows_table(EditedRow, "", data), notes


def _triplets(model: Model, weight: Weight, side: str, count: int) -> subspaces.SingularBasis:
    matrix = model.weight(weight)
    if side == "left":
        return subspaces.leading_triplets(matrix, count)
    leading = subspaces.leading_triplets(matrix.T, count)
    return subspaces.SingularBasis(leading.right, leading.values, leading.left)


def _require_same_values(stored: np.ndarray, values: torch.Tensor, weight: Weight) -> None:
    present = to_host(values)
    if not np.allclose(present, stored, rtol=1e-2, atol=1e-6):
        raise OptionError(
            f"the largest singular value of {weight} is {present[0]:.4g} here and {stored[0]:.4g}"
            " in the run; give the model that the run was made from"
        )


def _scaled(
    study: Study, directions: dict[str, list[SingularDirection]], kind: str, scale: float
) -> AbstractContextManager:
    """A context in which the fine-tuned model is scaled."""
    if kind == "update":
        return update_scaled(study.pair, scale)
    return rescaled(study.pair.tuned, directions.get(kind, ()), scale)


def _scalable_kinds(
    study: Study, directions: dict[str, list[SingularDirection]], notes: list[str]
) -> list[str]:
    """Kinds that can be scaled; adds a note where the update cannot."""
    kinds = [kind for kind, vectors in directions.items() if vectors]
    try:
        with update_scaled(study.pair, REPORTED_SCALE):
            return [*kinds, "update"]
    except UnsupportedModel as error:
        notes.append(f"the whole update was not scaled, so this control is missing: {error}")
        return kinds
