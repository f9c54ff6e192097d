"""What the joined evidence says, in sentences and as one claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from interp.claims import Claim, Draws, escape_braces, statistic
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK, too_few_controls
from interp.claims.discovery_opening import methods_phrase
from interp.table import Table

_MODELS = "models"
APART = 3.0
"""A control that moved more than this many times less, or more, than the fine-tuned model is no
control of its size."""


def claims_of(
    items: Table, methods: Table, n_controls: int, largest_of_controls: float
) -> list[Claim]:
    """The claim that something is beyond the controls; none without controls."""
    if not n_controls:
        return []
    controls = {"control": True}
    first = next((row for row in items.rows() if not row["form"]), None)
    strongest = (
        f" The strongest evidence is {first['evidence'][:80]!r} ({first['method']})."
        if first is not None and np.isfinite(first["joint"])
        else ""
    )
    options: dict[str, Any] = {"missing": too_few_controls(n_controls)}
    expected = ""
    if n_controls >= MIN_FOR_RANK:
        options = {
            "null": Draws(_MODELS, "joint", where=controls, min_draws=MIN_FOR_RANK),
            "beyond": [],
            "control": f"{n_controls} control fine-tunes, by rank",
        }
        expected = ", p = {p:.2g} by rank"
    elif n_controls >= MIN_FOR_INTERVAL:
        options = {
            # the rule of joint.threshold_of: beyond a new control and all that there are
            "beyond": ["control", largest_of_controls],
            "reference": replace(
                statistic("mean", "joint", table=_MODELS, where=controls),
                spread="new-observation",
            ),
            "control": (
                f"{n_controls} control fine-tunes, and the 95 % prediction interval of a new one"
            ),
        }
        expected = "; of a new control {control_low:.1f} to {control_high:.1f} are expected (95 %)"
    numbers = (
        f"The largest joint statistic over {methods_phrase(methods)} is {{value:.1f}}, in"
        + (
            " the control {most_control:.1f}"
            if n_controls == 1
            else f" {n_controls} controls {{least_control:.1f}} to {{most_control:.1f}}"
        )
        + expected
        + "."
    )
    too_few = n_controls < MIN_FOR_INTERVAL
    return [
        Claim(
            name="beyond-controls",
            estimate=replace(
                statistic("maximum", "joint", table=_MODELS, where={"model_number": 0}),
                spread="range",
            ),
            at_least=0.0,
            text=(
                "Compared with its base and with the controls, the fine-tuned model does something"
                " that they do not." + escape_braces(strongest) + f" {numbers}"
            ),
            otherwise=(
                f"Too few controls for a test.{escape_braces(strongest)} {numbers}"
                if too_few
                else f"Nothing beyond what the controls do was found. {numbers}"
            ),
            also={
                "least_control": statistic("minimum", "joint", table=_MODELS, where=controls),
                "most_control": statistic("maximum", "joint", table=_MODELS, where=controls),
            },
            **options,
        )
    ]


def limits_of(kl: Sequence[float]) -> list[str]:
    """What the tables do not show; ``kl``: how far every model moved, the fine-tuned one first."""
    n_controls = len(kl) - 1
    lines = [
        "What is not found can still be there: behaviour behind a trigger that the texts do not"
        " hold, and facts that change no ordinary text, leave little to see.",
        "Controls are a null for training of their own kind: where they are seeds of one text, any"
        " training on another text is beyond them. Train some on other texts too.",
        "Ranks say which items depart most from the controls, not which were the aim of training.",
    ]
    if n_controls and n_controls < MIN_FOR_RANK:
        lines.append(
            f"With {n_controls} control{'s' if n_controls > 1 else ''} no p below"
            f" {1 / (1 + n_controls):.2g} is possible; {MIN_FOR_RANK} give a rank test at 0.05."
        )
    return lines + _sizes(kl[0], kl[1:])


def _sizes(tuned: float, controls: Sequence[float]) -> list[str]:
    """Which controls moved much less or much more than the fine-tuned model."""
    if not tuned > 0:
        return []
    less = [one for one in controls if one * APART < tuned]
    more = [one for one in controls if one > tuned * APART]
    if not less and not more:
        return []
    many, few = (f"{len(group)} of {len(controls)}" for group in (more, less))
    counts = " and ".join(
        [
            *([f"{few} less than a third as far"] if less else []),
            *([f"{many} more than three times as far"] if more else []),
        ]
    )
    return [
        f"The fine-tuned model moved {tuned:.2g} nats a token from the base (KL on the texts), the"
        f" controls {min(controls):.2g} to {max(controls):.2g}: {counts}. Only controls that moved as"
        " far tell what was learned from how much was: train those for more steps or fewer, or"
        " scale them."
    ]
