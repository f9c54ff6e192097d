"""Tables and claims of probes for the base's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.wrapped_probes.compute import Labelled, Probed
from interp.claims import Claim, Draws, mean
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control, controls_table
from interp.experiments.base_answers import (
    BASE,
    CHANGED,
    TUNED,
    BaseAnswers,
    ChangedRow,
    ModelRow,
    changed_claim,
)
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, flag, key, measure, rows_table
from interp.table import Table

MARGIN = 0.1
"""Accuracy that a probe of the fine-tuned model may lose for its stream to tell as much."""

VERDICT = "still-readable"


class ProbeDepthRow(ModelRow):
    """A row per model and depth, cross-validated by cluster."""

    depth: int = key("blocks that the stream has passed; 0 for words of the prompt")
    chosen: bool = flag("the depth chosen by the base on the selection split")
    accuracy: float = measure("share of held-out prompts whose label the probe gives")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    selection: float = measure("the same share on the selection split")
    largest: float = measure("share of the most frequent label, on the held-out split")


class ProbedRow(ChangedRow):
    """A row per held-out prompt: which probes give its label at the chosen depth."""

    label: int = key("number of the label, the base's answer token")
    base: bool = flag("a probe of the base's stream")
    tuned: bool = flag("a probe of the fine-tuned model's stream")
    words: bool = flag("a probe of the prompt's token counts")
    random: bool = flag("a probe of the stream of a random start of the architecture")


class ShuffledRow(DrawRow):
    """A row per shuffle of the labels, at the chosen depth."""

    role: str = key("base or tuned")
    accuracy: float = measure("share of held-out prompts whose shuffled label the probe gives")


class ProbedControlRow(ControlRow):
    """A row per control fine-tune, at the chosen depth."""

    lost: float = measure("accuracy of the base's probe minus that of the control's")


def depths_table(
    labelled: Labelled, depth: int, probed: Sequence[tuple[dict[str, Any], Probed]]
) -> Table:
    """One row per model and depth; ``probed``: each with the columns of ``ModelRow``."""
    rows: list[dict[str, Any]] = []
    clusters = [labelled.clusters[row] for row in labelled.held_out.tolist()]
    for columns, one in probed:
        for at, (selection, held_out) in enumerate(zip(one.selection, one.held_out, strict=True)):
            interval = cluster_interval(held_out, clusters)
            rows.append(
                {
                    **columns,
                    "depth": at,
                    "chosen": at == depth,
                    "accuracy": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "selection": float(selection.mean()),
                    "largest": labelled.largest,
                }
            )
    return rows_table(
        ProbeDepthRow, "wrapped-probes", {name: [row[name] for row in rows] for name in rows[0]}
    )


def answers_table(
    answers: BaseAnswers,
    labelled: Labelled,
    depth: int,
    base: Probed,
    tuned: Probed,
    words: Probed,
    random: Probed,
) -> Table:
    """The held-out prompts at the chosen depth."""
    rows = labelled.held_out
    return rows_table(
        ProbedRow,
        "",
        {
            **answers.columns(rows),
            "label": labelled.labels[rows],
            "base": base.held_out[depth],
            "tuned": tuned.held_out[depth],
            "words": words.held_out[0],
            "random": random.held_out[depth],
        },
    )


def shuffled_table(base: np.ndarray, tuned: np.ndarray) -> Table:
    """Accuracies for shuffled labels, of the base and of the fine-tuned model."""
    return rows_table(
        ShuffledRow,
        "",
        {
            "draw": np.concatenate([np.arange(len(base)), np.arange(len(tuned))]),
            "role": [BASE] * len(base) + [TUNED] * len(tuned),
            "accuracy": np.concatenate([base, tuned]),
        },
    )


def controls_rows(base: Probed, controls: Sequence[Probed], depth: int) -> Table:
    """What the probe of every control loses."""
    own = float(base.held_out[depth].mean())
    lost = [own - float(one.held_out[depth].mean()) for one in controls]
    names = [one.name for one in controls]
    return controls_table(names, row=ProbedControlRow, numbers={"lost": lost})


def claims_of(
    answers: BaseAnswers, labelled: Labelled, depth: int, n_blocks: int, n_controls: int
) -> list[Claim]:
    """That the stream tells the label, as much as the base's, more than words, less than controls.

    Only that answers changed is claimed where none did, or there is no label.
    """
    changed = changed_claim("answers")
    if labelled.n_labels < 2 or not answers.changed[labelled.held_out].any():
        return [changed]
    return [
        _readable(labelled, depth, n_blocks),
        _as_in_base(),
        _beyond_words(),
        *_lost(n_controls),
        changed,
    ]


def _readable(labelled: Labelled, depth: int, n_blocks: int) -> Claim:
    return Claim(
        name=VERDICT,
        estimate=mean("tuned", table="answers"),
        at_least=labelled.largest,
        null=Draws("shuffled", "accuracy", where={"role": TUNED}),
        control="probes of labels shuffled by cluster",
        requires=[CHANGED],
        text=(
            f"After {depth} of {n_blocks} blocks (chosen by the base on other prompts) a linear"
            f" probe of the fine-tuned model's stream tells token {labelled.token + 1} of the"
            f" base's answer, {labelled.n_labels} labels, for {{value:.1%}} [{{low:.1%}},"
            " {high:.1%}] of the held-out prompts, one of the base's stream for {base:.1%};"
            f" shuffled labels {{control:.1%}}, at most {{control_max:.1%}}; always the most"
            f" frequent label {labelled.largest:.1%}."
        ),
        also={"base": mean("base", table="answers")},
    )


def _as_in_base() -> Claim:
    return Claim(
        name="readable-as-in-base",
        estimate=mean("tuned", table="answers", minus={"column": "base"}),
        at_least=-MARGIN,
        reference=mean("base", table="answers"),
        control="a probe of the base's stream",
        requires=[VERDICT],
        text=(
            "The fine-tuned model's probe is right {value:+.1%} [{low:+.1%}, {high:+.1%}] more"
            f" often than the base's ({{control:.1%}}); a loss of {MARGIN:.0%} is allowed."
        ),
    )


def _beyond_words() -> Claim:
    return Claim(
        name="readable-beyond-words",
        estimate=mean("tuned", table="answers", minus={"column": "words"}),
        at_least=0.0,
        reference=mean("words", table="answers"),
        control="a probe of how often each token is in the prompt",
        requires=[VERDICT],
        text=(
            "It is right {value:+.1%} [{low:+.1%}, {high:+.1%}] more often than a probe of the"
            " prompt's words ({control:.1%}), and a probe of a random start of the architecture is"
            " right for {random:.1%}."
        ),
        also={"random": mean("random", table="answers")},
    )


def _lost(n_controls: int) -> list[Claim]:
    if not n_controls:
        return []
    return [
        beyond_new_control(
            "lost-beyond-controls",
            mean("base", table="answers", minus={"column": "tuned"}),
            "lost",
            n_controls,
            "the accuracy that the probe loses through fine-tuning",
            "+.3f",
        )
    ]
