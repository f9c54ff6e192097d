"""Claims: fine-tuning changes the metric, and the module that ranks first carries more of it than
random changes and controls of equal norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interp.analyzers.patch_weights.tables import RANDOM, SIDES
from interp.claims import Claim, Draws, Estimate, escape_braces, mean
from interp.claims.control_fine_tunes import beyond_new_control
from interp.models.weight_modules import WeightModule

CONTROLS = {
    "permuted": "its change with the entries permuted within every matrix",
    "rotated": "its change with the singular vectors rotated at random",
}
VERBS = {"inserted": "inserts", "removed": "removes"}
WHAT = {
    "inserted": "alone, inserted in the base, gives {value} of the change of the {number}",
    "removed": (
        "alone, taken out of the fine-tuned model, takes {value} of the change of the {number}"
    ),
}
SHIFT = {"column": "tuned", "minus": {"column": "base"}}


def claims_of(
    module: WeightModule,
    rises: bool,
    min_change: float,
    kinds: Mapping[str, int],
    controls: int,
    labels: Any,
    summary: Mapping[str, Any],
) -> list[Claim]:
    """All claims; those of the first module need that the metric changes.

    ``rises``: whether fine-tuning raises the metric. ``min_change``: by how much at least, or
    lowers it. ``kinds``: draws of each kind of random
    change of the first module.
    """
    claims = []
    for side in SIDES:
        for kind in reversed(RANDOM):
            if kinds.get(kind):
                claims.append(_beyond_random(module, side, kind, kinds[kind], labels, summary))
        if not any(kinds.get(kind) for kind in RANDOM):
            claims.append(_untested(module, side, labels))
        if controls:
            claim = beyond_new_control(
                f"{VERBS[side]}-beyond-new-control",
                share(module, side),
                side,
                controls,
                f"{'R' if side == 'inserted' else 'N'} of {escape_braces(module.name)}",
                ".1%",
            )
            claims.append(replace(claim, requires=["changes"]))
    claims.append(_changes(rises, min_change, labels))
    return [*claims, *([_changes_beyond_controls(rises, controls, labels)] if controls else [])]


def share(module: WeightModule, side: str) -> Estimate:
    """R or N of a module: undefined where the metric's change is not beyond its interval."""
    where = {"layer": module.layer, "part": module.part}
    first, second = (side, "base") if side == "inserted" else ("tuned", side)
    return mean(first, table="effects", where=where, minus={"column": second}, over=SHIFT)


def _said(module: WeightModule, side: str, labels: Any) -> str:
    value = "{value:.1%} [{low:.1%}, {high:.1%}]"
    what = WHAT[side].replace("{value}", value).replace("{number}", escape_braces(labels.number))
    return f"{escape_braces(module.name)} {what}"


def _beyond_random(
    module: WeightModule,
    side: str,
    kind: str,
    draws: int,
    labels: Any,
    summary: Mapping[str, Any],
) -> Claim:
    also: dict[str, Estimate] = {}
    end = "."
    if kind == "rotated" and side == "inserted":
        also = {
            "sum": mean("inserted_sum", table="prompts", over=SHIFT),
            "removed_sum": mean("removed_sum", table="prompts", over=SHIFT),
            "shift": mean("tuned", table="prompts", minus={"column": "base"}),
            "needed": share(module, "removed"),
        }
        end = (
            "; taken out of the fine-tuned model it takes {needed:.1%}. The change is"
            f" {{shift:+.3g}} {escape_braces(labels.unit)}."
            f" Single modules ({summary['exact']} of {summary['modules']}"
            f"{', and the rest at once' if summary['exact'] < summary['modules'] else ''}) sum to"
            " {sum:.1%} inserted and {removed_sum:.1%} taken out: the difference from 100 % is"
            " interaction."
        )
    where = {"kind": kind, "layer": module.layer, "part": module.part}
    return Claim(
        name=f"{VERBS[side]}-beyond-{kind}",
        estimate=share(module, side),
        at_least=0.0,
        null=Draws("random", side, where, family=kind),
        control=CONTROLS[kind],
        requires=["changes"],
        text=(
            f"{_said(module, side, labels)}; {draws} times {CONTROLS[kind]} give"
            f" {{control:.1%}} on average, at most {{control_max:.1%}}{end}"
        ),
        undefined=(
            "What single modules give is not stated as a share, since fine-tuning does not change"
            f" the mean {escape_braces(labels.number)} beyond its interval."
        ),
        also=also,
    )


def _untested(module: WeightModule, side: str, labels: Any) -> Claim:
    return Claim(
        name=f"{VERBS[side]}-beyond-rotated",
        estimate=share(module, side),
        at_least=0.0,
        requires=["changes"],
        missing="no random change was drawn (--draws, --null-modules)",
        text=f"{_said(module, side, labels)}.",
        undefined="There is no change of the metric to state a share of.",
    )


def _changes(rises: bool, min_change: float, labels: Any) -> Claim:
    unit = escape_braces(labels.unit)
    number = (
        f"The mean {escape_braces(labels.number)} is {{tuned:.3g}} in the fine-tuned model and"
        f" {{base:.3g}} in the base ({unit}): {{value:+.3g}} [{{low:+.3g}}, {{high:+.3g}}]"
    )
    return Claim(
        name="changes",
        estimate=mean("tuned", table="prompts", minus={"column": "base"}),
        at_least=min_change if rises else None,
        at_most=None if rises else -min_change,
        null=Draws("exchanged", "shift", alternative="two-sided"),
        control="both models exchanged at random, cluster by cluster",
        text=f"{number}. A change counts from {min_change:g} {unit} on (--min-change).",
        also={"tuned": mean("tuned", table="prompts"), "base": mean("base", table="prompts")},
    )


def _changes_beyond_controls(rises: bool, controls: int, labels: Any) -> Claim:
    ends = ("tuned", "base") if rises else ("base", "tuned")
    claim = beyond_new_control(
        "changes-beyond-new-control",
        mean(ends[0], table="prompts", minus={"column": ends[1]}),
        "shift",
        controls,
        f"the {'rise' if rises else 'fall'} of the mean {escape_braces(labels.number)}",
        "+.3g",
    )
    return replace(claim, requires=["changes"])
