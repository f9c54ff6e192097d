"""Rows and claims of a trait shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.analyzers.trait_shift.movement import Half, Movement
from interp.claims import Claim, Draws, mean
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control
from interp.experiments.discovery.trait_directions import RANDOM, SHUFFLED, Choice, Directions
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import roc_auc
from interp.rows import DrawRow, PromptRow, flag, key, measure, rows_table
from interp.table import Table

UNIT = "distances between the classes"
_OF_CONTROLS = (("mean", np.mean), ("low", np.min), ("high", np.max))


class DepthRow:
    """A row per depth at which the classes differ, measured on the held-out split."""

    depth: int = key("blocks that the stream has passed")
    eligible: bool = flag(
        "the base separates the classes there on the selection split, so that it can be chosen"
    )
    chosen: bool = flag("the depth chosen on the selection split")
    shift: float = measure(
        "mean change of the stream along the direction between the classes, towards the positive"
        " class where it is above 0",
        UNIT,
    )
    low: float = measure("lower end of its 95 % interval over clusters", UNIT)
    high: float = measure("upper end of its 95 % interval over clusters", UNIT)
    positive: float = measure("the same over positive prompts alone", UNIT)
    negative: float = measure("the same over negative prompts alone", UNIT)
    selection: float = measure("the same on the selection split, which chooses the depth", UNIT)
    distance: float = measure("distance between the classes' means in the base")
    separation: float = measure(
        "AUC of the base's held-out streams along the direction: 0.5 where it does not separate the"
        " classes"
    )
    shuffled_low: float = measure("2.5 % quantile along directions of shuffled labels", UNIT)
    shuffled_high: float = measure("97.5 % quantile along directions of shuffled labels", UNIT)
    random_low: float = measure("2.5 % quantile along random directions", UNIT)
    random_high: float = measure("97.5 % quantile along random directions", UNIT)
    control_mean: float = measure("mean shift of the controls", UNIT, optional=True)
    control_low: float = measure("smallest shift of a control", UNIT, optional=True)
    control_high: float = measure("largest shift of a control", UNIT, optional=True)


class ShiftRow(PromptRow):
    """A row per held-out prompt, at the chosen depth."""

    moved: float = measure(
        "change along the direction, in the sense chosen on the other half", UNIT
    )


class NullRow(DrawRow):
    """A row per direction of a null, at the chosen depth."""

    kind: str = key("shuffled (labels permuted within twins) or random")
    moved: float = measure("mean change along it, in the sense chosen on the other half", UNIT)


class ShiftControlRow(ControlRow):
    """A row per control fine-tune, which chooses its own depth and sense on the selection split."""

    depth: int = key("blocks that the stream has passed, as chosen for this control")
    moved: float = measure("its mean change along the direction, in the sense chosen", UNIT)


def depth_table(
    depths: Int[np.ndarray, " usable"],
    eligible: Bool[np.ndarray, " depths"],
    directions: Directions,
    base: Float[np.ndarray, "m depths D"],
    held_out: Half,
    movements: Sequence[Movement],
) -> Table:
    """One row for each of ``depths``; ``base``: its streams on the held-out prompts;
    ``movements``: of the fine-tuned model, then of every control.
    """
    tuned, labels = movements[0], held_out.labels.labels
    shifts, separated = tuned.shifts[:, depths], directions.by_prompt(base)[:, depths]
    intervals = np.array([cluster_interval(values, held_out.clusters) for values in shifts.T])
    bands = {
        f"{kind}_{end}": np.quantile(directions.along(kind, tuned.change)[:, depths], level, axis=0)
        for kind in (SHUFFLED, RANDOM)
        for end, level in (("low", 0.025), ("high", 0.975))
    }
    data: dict[str, Any] = {
        "depth": depths,
        "eligible": eligible[depths],
        "chosen": depths == tuned.choice.depth,
        **dict(zip(("shift", "low", "high"), intervals.T, strict=True)),
        "positive": shifts[labels].mean(0),
        "negative": shifts[~labels].mean(0),
        "selection": tuned.selection[depths],
        "distance": directions.distance[depths],
        "separation": np.array([roc_auc(labels, values) for values in separated.T]),
        **bands,
    }
    if controls := [movement.shifts.mean(0)[depths] for movement in movements[1:]]:
        data |= {f"control_{name}": over(controls, axis=0) for name, over in _OF_CONTROLS}
    arrays = {"direction": directions.direction[tuned.choice.depth]}
    return rows_table(DepthRow, "trait-shift", data, arrays=arrays)


def null_table(directions: Directions, tuned: Movement) -> Table:
    """One row per direction of each null, at the chosen depth."""
    moved = {
        kind: tuned.choice.sign * directions.along(kind, tuned.change)[:, tuned.choice.depth]
        for kind in (SHUFFLED, RANDOM)
    }
    return rows_table(
        NullRow,
        "",
        {
            "draw": np.concatenate([np.arange(len(values)) for values in moved.values()]),
            "kind": [kind for kind, values in moved.items() for _ in values],
            "moved": np.concatenate(list(moved.values())),
        },
    )


def claims_of(choice: Choice, n_blocks: int, arrangements: float, n_controls: int) -> list[Claim]:
    """That the fine-tuned model moved along the direction, compared with both nulls and with
    controls.
    """
    estimate = mean("moved", table="prompts")
    sense = "towards" if choice.sign > 0 else "away from"
    where = (
        f"After {choice.depth} of {n_blocks} blocks (chosen on other prompts) the fine-tuned model"
        f" moved {sense} the positive class by {{value:.3g}} [{{low:.3g}}, {{high:.3g}}] of the"
        " distance between the classes"
    )
    claims = [
        Claim(
            name="moved-along-trait",
            estimate=estimate,
            at_least=0.0,
            null=Draws("null", "moved", where={"kind": SHUFFLED}, arrangements=arrangements),
            control="directions between classes with shuffled labels",
            text=(
                f"{where}; along directions of shuffled labels by {{control_low:.3g}} to"
                " {control_high:.3g} (95 %), p = {p:.2g}."
            ),
        ),
        Claim(
            name="moved-beyond-random",
            estimate=estimate,
            at_least=0.0,
            null=Draws("null", "moved", where={"kind": RANDOM}),
            control="random combinations of the prompts' streams",
            text=(
                "Along random combinations of the prompts' streams it moved by {control_low:.3g} to"
                " {control_high:.3g} (95 %), and by {value:.3g} along the direction between the"
                " classes, p = {p:.2g}."
            ),
        ),
    ]
    if n_controls:
        claims.append(
            beyond_new_control(
                "shift-beyond-controls",
                estimate,
                "moved",
                n_controls,
                "the fine-tuned model's shift",
                ".3g",
            )
        )
    return claims
