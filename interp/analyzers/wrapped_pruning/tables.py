"""Tables of a pruning: sizes, held-out answers, random sets, neurons, controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.wrapped_pruning.compute import OwnAnswers, PrunedModel
from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.experiments.base_answers import (
    CONTROL,
    TUNED,
    BaseAnswers,
    ChangedRow,
    ModelRow,
    Reading,
    model_columns,
)
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, UnitRow, flag, key, measure, rows_table
from interp.table import Table

NAN = float("nan")


class SizeRow(ModelRow):
    """A row per model and number of pruned neurons, on the held-out split."""

    size: int = key("neurons set to zero, from the first of the order on", "neurons")
    chosen: bool = flag("the size chosen on the selection split")
    writes: float = measure("share of prompts to which it writes the base's answer")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    revived: float = measure("the same share of prompts whose answer fine-tuning changed")
    kept: float = measure("the same share of prompts whose answer fine-tuning did not change")
    own: float = measure(
        "share of changed prompts to which it still writes the fine-tuned model's own answer"
    )
    loss: float = measure("mean loss of the base's answers", "nats per token")
    selection: float = measure("share of prompts of the selection split with the base's answer")


class PrunedRow(ChangedRow):
    """A row per held-out prompt, the fine-tuned model at the chosen size."""

    before: bool = flag("the model as it is writes the base's answer")
    after: bool = flag("the pruned model writes the base's answer")
    own: bool = flag("the pruned model writes the fine-tuned model's own answer")
    loss_base: float = measure("loss of the base's answer in the base", "nats per token")
    loss_before: float = measure("the same in the fine-tuned model", "nats per token")
    loss_after: float = measure("the same in the pruned model", "nats per token")


class RandomRow(DrawRow):
    """A row per random set of the chosen size."""

    revived: float = measure("share of changed held-out prompts with the base's answer")
    recovered: float = measure("share of the rise of the loss of their answers that is undone")


class PrunedUnitRow(UnitRow):
    """A row per MLP neuron of the fine-tuned model."""

    score: float = measure("weights times gradient of the loss of the base's answers", "nats")
    rank: int = measure("place in the order of pruning, from 1; 0 for one that is never pruned")
    pruned: bool = flag("among the neurons of the chosen size")


class PrunedControlRow(ControlRow):
    """A row per control fine-tune, pruned by its own scores at the size chosen for it."""

    size: int = key("neurons set to zero", "neurons")
    gained: float = measure(
        "share of held-out prompts with the base's answer after pruning, minus that before"
    )


def share(flags: np.ndarray) -> float:
    """The share of true values; NaN where there are none."""
    return float(flags.mean()) if flags.size else NAN


def sizes_table(
    answers: BaseAnswers, names: Sequence[str], pruned: Sequence[PrunedModel], own: OwnAnswers
) -> Table:
    """One row per model and size; ``own`` is of the first model, NaN for the others."""
    changed = answers.changed[answers.held_out]
    clusters = [answers.clusters[row] for row in answers.held_out.tolist()]
    rows: list[dict[str, Any]] = []
    for number, (name, one) in enumerate(zip(names, pruned, strict=True)):
        for size, reading in sorted(one.readings.items()):
            held_out = reading[answers.held_out]
            interval = cluster_interval(held_out.writes, clusters)
            rows.append(
                {
                    **model_columns(CONTROL if number else TUNED, name, number - 1),
                    "size": size,
                    "chosen": size == one.size,
                    "writes": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "revived": share(held_out.writes[changed]),
                    "kept": share(held_out.writes[~changed]),
                    "own": NAN if number else share(own.writes[size][changed]),
                    "loss": float(held_out.loss.mean()),
                    "selection": share(reading[answers.selection].writes),
                }
            )
    return rows_table(
        SizeRow, "wrapped-pruning", {name: [row[name] for row in rows] for name in rows[0]}
    )


def answers_table(answers: BaseAnswers, tuned: PrunedModel, own: OwnAnswers) -> Table:
    """The held-out prompts under the chosen size."""
    rows = answers.held_out
    before, after = (tuned.readings[size][rows] for size in (0, tuned.size))
    return rows_table(
        PrunedRow,
        "",
        {
            **answers.columns(rows),
            "before": before.writes,
            "after": after.writes,
            "own": own.writes[tuned.size],
            "loss_base": answers.base.loss[rows],
            "loss_before": before.loss,
            "loss_after": after.loss,
        },
    )


def random_table(answers: BaseAnswers, random: Sequence[Reading]) -> Table:
    """The random sets, by what they do to the changed held-out prompts."""
    rows = answers.held_out
    changed = answers.changed[rows]
    base, before = answers.base.loss[rows][changed], answers.tuned.loss[rows][changed]
    rise = float((before - base).mean()) if changed.any() else 0.0
    recovered = [
        float((before - one.loss[changed]).mean()) / rise if rise else NAN for one in random
    ]
    return rows_table(
        RandomRow,
        "",
        {
            "draw": np.arange(len(random)),
            "revived": np.array([share(one.writes[changed]) for one in random]),
            "recovered": np.array(recovered, np.float64),
        },
    )


def units_table(tuned: PrunedModel) -> Table:
    """All neurons, block by block."""
    rank = np.zeros(tuned.scores.shape, np.int64)
    for place, (layer, unit) in enumerate(tuned.order, 1):
        rank[layer, unit] = place
    layer, unit = np.indices(tuned.scores.shape).reshape(2, -1)
    return rows_table(
        PrunedUnitRow,
        "",
        {
            "layer": layer,
            "unit": unit,
            "score": tuned.scores.ravel(),
            "rank": rank.ravel(),
            "pruned": ((rank > 0) & (rank <= tuned.size)).ravel(),
        },
        rename={"unit": "neuron"},
    )


def controls_rows(
    answers: BaseAnswers, names: Sequence[str], pruned: Sequence[PrunedModel]
) -> Table:
    """What pruning gained in every control."""
    rows = answers.held_out
    gained = [
        share(one.readings[one.size][rows].writes) - share(one.readings[0][rows].writes)
        for one in pruned
    ]
    return controls_table(
        names,
        row=PrunedControlRow,
        numbers={"size": [one.size for one in pruned], "gained": gained},
    )
