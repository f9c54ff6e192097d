"""Tables and claims of reverse fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.wrapped_reversal.compute import Curve, step_of_return
from interp.claims import Claim, mean
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control, controls_table
from interp.experiments.base_answers import (
    CHANGED,
    BaseAnswers,
    ChangedRow,
    ModelRow,
    changed_claim,
)
from interp.maths.intervals import cluster_interval
from interp.rows import flag, key, measure, rows_table
from interp.table import Table

NAN = float("nan")
VERDICT = "returns-before-random-start"


class StepRow(ModelRow):
    """A row per model and number of steps, on the held-out split."""

    step: int = key("steps of training on the base's answers", "steps")
    chosen: bool = flag("the step at which the changed answers return on the selection split")
    writes: float = measure("share of prompts to which it writes the base's answer")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    returned: float = measure("the same share of prompts whose answer fine-tuning changed")
    loss: float = measure("mean loss of the base's answers", "nats per token")
    selection: float = measure("share of the prompts trained on with the base's answer")
    training: float = measure(
        "loss of the batch of the last step before it was taken; NaN at 0", "nats per token"
    )


class ReturnRow(ChangedRow):
    """A row per held-out prompt, at the step of return."""

    before: bool = flag("the fine-tuned model as it is writes the base's answer")
    after: bool = flag("the fine-tuned model, trained back, writes the base's answer")
    scratch: bool = flag("the random start, trained as long, writes the base's answer")
    missing: float = measure(
        "share of the readings of the fine-tuned model without the base's answer"
    )


class ReversedControlRow(ControlRow):
    """A row per control fine-tune, trained back in the same way."""

    step: int = key("the step at which its answers return, by the same rule", "steps")
    missing: float = measure("mean share of its readings without the base's answer")


def steps_table(
    answers: BaseAnswers, curves: Sequence[tuple[dict[str, Any], Curve]], step: int
) -> Table:
    """One row per model and number of steps; ``curves``: each with the columns of ``ModelRow``."""
    rows: list[dict[str, Any]] = []
    changed = answers.changed[answers.held_out]
    clusters = [answers.clusters[row] for row in answers.held_out.tolist()]
    for columns, curve in curves:
        for number, reading in curve.readings.items():
            held_out = reading[answers.held_out]
            interval = cluster_interval(held_out.writes, clusters)
            rows.append(
                {
                    **columns,
                    "step": number,
                    "chosen": number == step,
                    "writes": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "returned": float(held_out.writes[changed].mean()) if changed.any() else NAN,
                    "loss": float(held_out.loss.mean()),
                    "selection": float(reading[answers.selection].writes.mean()),
                    "training": curve.losses[number - 1] if number else NAN,
                }
            )
    return rows_table(
        StepRow, "wrapped-reversal", {name: [row[name] for row in rows] for name in rows[0]}
    )


def answers_table(answers: BaseAnswers, tuned: Curve, scratch: Curve, step: int) -> Table:
    """The held-out prompts at the step of return."""
    rows = answers.held_out
    return rows_table(
        ReturnRow,
        "",
        {
            **answers.columns(rows),
            "before": tuned.readings[0].writes[rows],
            "after": tuned.readings[step].writes[rows],
            "scratch": scratch.readings[step].writes[rows],
            "missing": tuned.missing(rows),
        },
    )


def controls_rows(
    answers: BaseAnswers, names: Sequence[str], curves: Sequence[Curve], level: float
) -> Table:
    """When the answers return in every control, and what is missing until then."""
    return controls_table(
        names,
        row=ReversedControlRow,
        numbers={
            "step": [step_of_return(answers, curve, level) for curve in curves],
            "missing": [float(np.mean(curve.missing(answers.held_out))) for curve in curves],
        },
    )


def claims_of(
    answers: BaseAnswers, step: int, options: str, last: int, n_controls: int
) -> list[Claim]:
    """That answers changed, return earlier than in a random start, and later than in controls.

    Only the first is made where no held-out answer changed.
    """
    changed = changed_claim("answers")
    if not answers.changed[answers.held_out].any():
        return [changed]
    rows = {"table": "answers", "where": {"changed": True}}
    steps = f"{step:,} step{'s' * (step != 1)}"
    claims = [
        Claim(
            name=VERDICT,
            estimate=mean("after", minus={"column": "scratch"}, **rows),
            at_least=0.0,
            reference=mean("scratch", **rows),
            control="a random start of the same architecture, trained on the same batches",
            requires=[CHANGED],
            text=(
                f"After {steps} of training on the base's answers to other prompts ({options}) the"
                " fine-tuned model writes the base's answer to {after:.1%} of the held-out prompts"
                " whose answer fine-tuning changed ({before:.1%} before), a random start of the"
                " same architecture to {control:.1%}: {value:+.1%} [{low:+.1%}, {high:+.1%}]."
            ),
            also={"after": mean("after", **rows), "before": mean("before", **rows)},
        )
    ]
    if n_controls:
        claims.append(
            beyond_new_control(
                "missing-beyond-controls",
                mean("missing", table="answers"),
                "missing",
                n_controls,
                f"the share of readings over {last:,} steps without the base's answer",
                ".3f",
            )
        )
    return [*claims, changed]
