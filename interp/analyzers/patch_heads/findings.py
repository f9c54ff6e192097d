"""Claims: fine-tuning changes the metric, and a group of heads carries more of the change than
random groups, and more than the same heads of controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from interp.analyzers.patch_heads.tables import SIDES, Named
from interp.claims import Claim, Draws, Estimate, escape_braces, mean
from interp.claims.control_fine_tunes import beyond_new_control
from interp.metrics import MetricLabels

VERBS = {"inserted": "inserts", "removed": "removes"}
LETTERS = {"inserted": "R", "removed": "N"}
PUT = {
    "inserted": "put from the fine-tuned model into the base, {name} give {share} of the change of",
    "removed": "put from the base into the fine-tuned model, {name} take {share} of the change of",
}
TASK_LABELS = MetricLabels(
    "probability of the answer",
    "share",
    "probability",
    "correct",
    "answers {share} of prompts rightly",
    "right answers",
    "share right",
    "the answer is the most likely token",
    ("were answered rightly", "were not"),
)
KINDS = {
    "layers": "random groups with as many heads in each layer",
    "heads": "random groups of as many heads in all layers",
}
WHAT = {
    "z": "outputs (z)",
    "z+o": "contributions (z and output projection)",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "qkv": "queries, keys and values",
}
MIN_DRAWS = 19


@dataclass(frozen=True)
class Compared:
    """A group of heads, with the random groups that it is tested against: their kind, number, and
    how many groups of this kind there are.
    """

    group: Named
    kind: str
    draws: int
    arrangements: int


def claims_of(
    compared: Sequence[Compared],
    whole: Named,
    rises: bool,
    min_change: float,
    controls: int,
    labels: MetricLabels,
    answers_known: bool,
) -> list[Claim]:
    """All claims; those of groups need that the metric changes.

    ``whole``: all heads. ``rises``: whether fine-tuning raises the metric. ``min_change``: by how
    much at least, or lowers it. ``answers_known``:
    whether random groups have a share of right answers.
    """
    claims = []
    for at, each in enumerate(compared):
        end = "" if at == 0 else f"-{at + 1}"
        for side in SIDES:
            claims.append(_beyond_random(each, whole, side, labels, end))
            if answers_known:
                claims.append(_answers_beyond_random(each, side, labels, end))
    if controls:
        first = compared[0].group if compared else None
        for side in SIDES:
            claims.append(_beyond_control(whole, f"all_{side}", side, controls, "all-"))
            if first is not None:
                claims.append(_beyond_control(first, side, side, controls, ""))
    return [*claims, _changes(rises, min_change, labels)]


def share(patch: Named, side: str, measure: str = "") -> Estimate:
    """R or N of a patch: undefined where the change is not beyond its interval; ``measure``
    ``_right`` for the share of right answers.
    """
    base, tuned, patched = f"base{measure}", f"tuned{measure}", f"{side}{measure}"
    first, second = (patched, base) if side == "inserted" else (tuned, patched)
    return mean(
        first,
        table="effects",
        where={"patch": patch.name, "what": patch.what},
        minus={"column": second},
        over={"column": tuned, "minus": {"column": base}},
    )


def _level(patch: Named, column: str) -> Estimate:
    return mean(column, table="effects", where={"patch": patch.name, "what": patch.what})


def _name(patch: Named) -> str:
    return f"the {WHAT[patch.what]} of {escape_braces(patch.name)}"


def _said(patch: Named, side: str, number: str) -> str:
    text = PUT[side].format(name=_name(patch), share="{value:.1%} [{low:.1%}, {high:.1%}]")
    return f"{text[0].upper()}{text[1:]} the {escape_braces(number)}"


def _beyond_random(
    compared: Compared, whole: Named, side: str, labels: MetricLabels, end: str
) -> Claim:
    group = compared.group
    also: Mapping[str, Estimate] = {}
    after = "."
    if not end:
        both = {what: Named(whole.name, "all", whole.heads, what) for what in ("z", "z+o")}
        also = {
            "all_z": share(both["z"], side),
            "all_o": share(both["z+o"], side),
            "base_share": _level(group, "base_right"),
            "tuned_share": _level(group, "tuned_right"),
            "z_share": _level(both["z"], f"{side}_right"),
            "o_share": _level(both["z+o"], f"{side}_right"),
        }
        after = (
            f". All heads: {{all_z:.1%}}, with their output projection {{all_o:.1%}}. {labels.share.capitalize()}:"
            " base {base_share:.1%}, fine-tuned {tuned_share:.1%}, all heads {z_share:.1%}, with"
            " output projection {o_share:.1%}."
        )
    return Claim(
        name=f"{VERBS[side]}-beyond-random{end}",
        estimate=share(group, side),
        at_least=0.0,
        null=_draws(compared, side),
        control=KINDS[compared.kind],
        requires=["changes"],
        text=(
            f"{_said(group, side, labels.number)}; {compared.draws} {KINDS[compared.kind]} give"
            f" {{control:.1%}} on average, at most {{control_max:.1%}}{after}"
        ),
        undefined=(
            "What heads carry is not stated as a share, since fine-tuning does not change the mean"
            f" {escape_braces(labels.number)} beyond its interval."
        ),
        also=also,
    )


def _draws(compared: Compared, column: str) -> Draws:
    return Draws(
        "random",
        column,
        {"patch": compared.group.name, "kind": compared.kind},
        arrangements=compared.arrangements,
        min_draws=MIN_DRAWS,
    )


def _answers_beyond_random(compared: Compared, side: str, labels: MetricLabels, end: str) -> Claim:
    return Claim(
        name=f"{VERBS[side]}-answers-beyond-random{end}",
        estimate=share(compared.group, side, "_right"),
        at_least=0.0,
        null=_draws(compared, f"{side}_right"),
        control=KINDS[compared.kind],
        requires=["changes"],
        text=(
            f"{_said(compared.group, side, labels.share)} ({{base_share:.1%}} in the base,"
            " {tuned_share:.1%} in the fine-tuned model, {patched_share:.1%} with the patch);"
            f" {compared.draws} {KINDS[compared.kind]} give {{control:.1%}} on average, at most"
            " {control_max:.1%}."
        ),
        undefined=(
            "What heads carry of right answers is not stated as a share, since fine-tuning does not"
            " change them beyond their interval."
        ),
        also={
            "base_share": _level(compared.group, "base_right"),
            "tuned_share": _level(compared.group, "tuned_right"),
            "patched_share": _level(compared.group, f"{side}_right"),
        },
    )


def _beyond_control(patch: Named, column: str, side: str, controls: int, prefix: str) -> Claim:
    claim = beyond_new_control(
        f"{prefix}{VERBS[side]}-beyond-new-control",
        share(patch, side),
        column,
        controls,
        f"{LETTERS[side]} of {_name(patch)}",
        ".1%",
    )
    return replace(claim, requires=["changes"])


def _changes(rises: bool, min_change: float, labels: MetricLabels) -> Claim:
    where = {"patch": "all heads", "what": "z"}
    return Claim(
        name="changes",
        estimate=mean("tuned", table="effects", where=where, minus={"column": "base"}),
        at_least=min_change if rises else None,
        at_most=None if rises else -min_change,
        null=Draws("exchanged", "shift", alternative="two-sided"),
        control="both models exchanged at random, cluster by cluster",
        text=(
            f"The mean {escape_braces(labels.number)} is {{tuned:.3g}} in the fine-tuned model and"
            f" {{base:.3g}} in the base ({escape_braces(labels.unit)}): {{value:+.3g}}"
            " [{low:+.3g}, {high:+.3g}]. A change counts from"
            f" {min_change:g} {escape_braces(labels.unit)} on (--min-change)."
        ),
        also={
            "tuned": mean("tuned", table="effects", where=where),
            "base": mean("base", table="effects", where=where),
        },
    )
