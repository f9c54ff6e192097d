"""``IntruderScaling``: scale the singular values of intruders in the fine-tuned model.

``W(s) = W + (s - 1) sigma u v^T`` for the strongest intruder of every matrix, or for all intruders
(Shuttleworth et al., arXiv 2410.21228; PEFT scales all). On plain text the loss and the divergence
from the base are measured (forgetting is the loss above the base's), and the task where one is
given. There are two controls at every scale: instead of each intruder, the vector of the same
matrix with the nearest singular value that is not an intruder (its neighbour); and the whole update
scaled, which also trades the task against forgetting.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from interp.analyzers.base import Analyzer
from interp.analyzers.intruder_scaling.compute import measure_scales, text_class
from interp.analyzers.intruder_scaling.findings import REPORTED_SCALE, claims_of
from interp.claims import conclude
from interp.errors import OptionError, UnsupportedModel
from interp.maths import subspaces
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.rescale import SingularDirection, rescaled, update_scaled
from interp.prompts import PromptSet
from interp.sites import MATRICES, Weight
from interp.study import Study
from interp.table import Table, table

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
KINDS = ("intruder", "neighbour", "update")


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
    takes: ClassVar[dict[str, str]] = {"located": "intruders"}

    located: Table | None = field(default=None, metadata={"from_parent": True})
    scale_set: str = "top1"
    scales: tuple[float, ...] = SCALES

    @classmethod
    def of(cls, located: Table, **options) -> "IntruderScaling":
        """The analyzer for a run of ``Intruders``."""
        return cls(located=located, parent=located.require_provenance().key, **options)

    def __call__(self, study: Study) -> Table:
        """Select vectors, scale them, measure; the weights are restored exactly afterwards."""
        base = study.pair.require_base("scaling intruders")
        if self.located is None or self.located.kind != "intruders":
            raise OptionError("no run of interp intruders was given; pass its table as located")
        scales = self.require()
        directions, edited, notes = self._select_directions(study, self.located)
        kinds = _scalable_kinds(study, directions, notes)
        by_setting, unscaled, base_loss = measure_scales(
            study, base, kinds, scales, partial(_scaled, study, directions)
        )
        if study.metric is None:
            notes.append(
                "no task was given, so whether the fine-tuned skill is kept was not measured"
            )
        keys = list(by_setting)
        losses, kls = (
            np.array([getattr(scaled, name).mean() for scaled in by_setting.values()])
            for name in ("loss", "kl")
        )
        task, prompts = {}, {}
        if study.metric is not None:
            labels, means = (
                study.require_metric().labels,
                np.array([scaled.task.mean() for scaled in by_setting.values()]),
            )
            task = {"metric": (means, "measure", labels.number, labels.unit)}
            prompts = {
                "prompts": _by_prompt_table(
                    "prompts",
                    study.prompts("positive"),
                    by_setting,
                    metric=(labels.number, labels.prompt_unit),
                )
            }
        counts = {group: len(study.prompts(group)) for group in study.classes}
        run = table(
            self.name,
            {
                "kind": (
                    [kind for kind, _ in keys],
                    "key",
                    "what is scaled: intruder, neighbour or the whole update",
                ),
                "scale": (
                    np.array([scale for _, scale in keys]),
                    "measure",
                    "factor on the singular value; 1 is the fine-tuned model",
                ),
                **task,
                "loss": (losses, "measure", "loss per token on plain text", "nats"),
                "forgetting": (
                    losses - base_loss.mean(),
                    "measure",
                    "loss minus the base's loss",
                    "nats",
                ),
                "kl": (
                    kls,
                    "measure",
                    "KL(scaled || base) of the next token on plain text, mean over tokens",
                    "nats",
                ),
            },
            provenance=study.provenance(self),
            summary={
                "edited": len(directions["intruder"]),
                "base_loss": float(base_loss.mean()),
                "tuned_loss": float(unscaled.loss.mean()),
                "tuned_kl": float(unscaled.kl.mean()),
                "tuned_metric": float(unscaled.task.mean()) if task else None,
                **counts,
                "limits": [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes)],
            },
            tables={
                **prompts,
                "texts": _by_prompt_table(
                    "texts",
                    study.prompts(text_class(study)),
                    by_setting,
                    loss=("loss per token", "nats"),
                    kl=("KL from the base", "nats"),
                ),
                "edited": edited,
            },
        )
        if not directions["intruder"]:
            return conclude(
                run,
                [],
                lead=(
                    "The run has no intruder in a matrix of a block, so only the whole update was"
                    " scaled."
                ),
            )
        return conclude(run, claims_of(study, by_setting, scales))

    def require(self) -> list[float]:
        """The scales in ascending order, with 1; raises OptionError for invalid options."""
        if self.scale_set not in ("top1", "all"):
            raise OptionError(f"unknown --scale-set {self.scale_set!r}; use top1 or all")
        if any(not math.isfinite(scale) or scale < 0 for scale in self.scales) or not set(
            self.scales
        ) - {1.0}:
            raise OptionError(
                f"scales are {self.scales}; give finite numbers of 0 or more, not only 1, such as"
                " 0,0.5,1,1.5"
            )
        return sorted({*map(float, self.scales), 1.0})

    def _select_directions(
        self, study: Study, vectors: Table
    ) -> tuple[dict[str, list[SingularDirection]], Table, list[str]]:
        """Directions of intruders and neighbours, as a table too, and notes on what is left out."""
        side = vectors.require_provenance().options["side"]
        directions: dict[str, list[SingularDirection]] = {"intruder": [], "neighbour": []}
        notes, edited_rows = [], []
        names = sorted(
            {
                (int(layer), part)
                for layer, part in zip(vectors["layer"], vectors["part"], strict=True)
            }
        )
        for layer, part in names:
            indices = np.flatnonzero((vectors["layer"] == layer) & (vectors["part"] == part))
            flags = vectors["is_intruder"][indices]
            if not flags.any():
                continue
            if layer < 0 or part not in MATRICES:
                notes.append(
                    f"intruders of {part} cannot be scaled in memory, because it is not a separate"
                    " matrix of a block"
                )
                continue
            triplets = _triplets(study.pair.tuned, Weight(layer, part), side, len(indices))
            _require_same_values(vectors["sigma"][indices], triplets.values, Weight(layer, part))
            selected = np.flatnonzero(flags)[: 1 if self.scale_set == "top1" else None]
            candidates = [int(index) for index in np.flatnonzero(~flags)]
            for index in selected:
                to_scale = [("intruder", int(index))]
                if candidates:
                    neighbour = min(
                        candidates,
                        key=lambda other: abs(
                            vectors["sigma"][indices[other]] - vectors["sigma"][indices[index]]
                        ),
                    )
                    candidates.remove(neighbour)
                    to_scale.append(("neighbour", neighbour))
                for kind, column in to_scale:
                    sigma = float(to_host(triplets.values[column]))
                    left, right = (
                        triplets.left[:, column].float(),
                        triplets.right[:, column].float(),
                    )
                    directions[kind].append(
                        SingularDirection(Weight(layer, part), left, sigma, right)
                    )
                    edited_rows.append((kind, layer, part, column + 1, sigma))
        return directions, _edited_table(edited_rows), notes


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


def _edited_table(rows: list[tuple]) -> Table:
    kind, layer, part, rank, sigma = zip(*rows, strict=True) if rows else ((),) * 5
    return table(
        "intruder-scaling-edited",
        {
            "kind": (kind, "key", "intruder, or its neighbour, which is not an intruder"),
            "layer": (np.array(layer, np.int64), "key", "block"),
            "part": (part, "key", "matrix of the block"),
            "rank": (np.array(rank, np.int64), "key", "rank of the singular vector, from 1"),
            "sigma": (np.array(sigma, np.float64), "measure", "singular value"),
        },
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
    kinds = [kind for kind in KINDS[:2] if directions[kind]]
    try:
        with update_scaled(study.pair, REPORTED_SCALE):
            return [*kinds, "update"]
    except UnsupportedModel as error:
        notes.append(f"the whole update was not scaled, so this control is missing: {error}")
        return kinds


def _by_prompt_table(
    kind: str, prompts: PromptSet, by_setting: Mapping, **columns: tuple[str, str]
) -> Table:
    count, keys = len(prompts), list(by_setting)
    return table(
        f"intruder-scaling-{kind}",
        {
            "kind": (
                np.repeat(np.array([kind for kind, _ in keys], object), count),
                "key",
                "what is scaled",
            ),
            "scale": (
                np.repeat(np.array([scale for _, scale in keys]), count),
                "measure",
                "factor on the singular value",
            ),
            "prompt_id": (
                np.tile([p.id for p in prompts], len(keys)),
                "key",
                "position in the prompt file",
            ),
            "cluster": (
                np.tile(np.array(prompts.clusters, object), len(keys)),
                "key",
                "dependent prompts",
            ),
            **{
                name: (
                    np.concatenate(
                        [np.zeros(0), *(getattr(scaled, name) for scaled in by_setting.values())]
                    ),
                    "measure",
                    *meaning,
                )
                for name, meaning in columns.items()
            },
        },
    )
