"""The parts of the page that are not figures: the claims, the top neurons and what they read, the
limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np

from interp.claims import NOT_TESTED, SUPPORTED, TOO_FEW, Finding, from_table
from interp.display import as_sentence, beside
from interp.report.rendering import Html, render
from interp.report.text import interval, number
from interp.table import Table

NEURONS = 20
MARKS = {SUPPORTED: "✓", TOO_FEW: "–", NOT_TESTED: "–"}
ALWAYS = (
    "Anything about other prompts, other behaviours or other models than those named above.",
    (
        "That these are the only ones: others can carry the same behaviour, and sets can stand in"
        " for each other."
    ),
)
ACTIVE = (
    "What one of them means. Its most activating tokens say where it is active, not what it causes."
)
UNVERIFIED = (
    "That the selected ones cause the behaviour: scores rank, and nothing was intervened on in this"
    " run. Run it without --no-verify to test them against matched random sets."
)
VERIFIED = (
    "How a differently trained child of the same base would behave: intervals are over clusters of"
    " prompts, not over training runs."
)


def claims_of(tables: Sequence[Table]) -> tuple[Finding, ...]:
    """The claims of all runs, in order."""
    return tuple(
        claim
        for table in tables
        if "claims" in table.tables
        for claim in from_table(table.tables["claims"])
    )


def claims_table(claims: Sequence[Finding]) -> Html:
    """One row per claim, with its control; what several claims are compared with is said once,
    below.
    """
    shared = _shared(claims)
    rows = [
        {
            "claim": claim,
            "control": beside(
                interval(claim.control_value, claim.control_low, claim.control_high),
                claim.control_is_level,
            ),
            "compared_with": _compared(claim, shared),
            "bound": _beyond(claim),
            "mark": MARKS.get(claim.verdict, "✗"),
        }
        for claim in claims
    ]
    return render(
        "claims.html", rows=rows, shared=[(names, control) for control, names in shared.items()]
    )


def _shared(claims: Sequence[Finding]) -> dict[str, list[str]]:
    """What more than one claim is compared with, and the names of these claims."""
    found: dict[str, list[str]] = {}
    for claim in claims:
        if claim.control:
            found.setdefault(claim.control, []).append(claim.name)
    return {text: names for text, names in found.items() if len(names) > 1}


def _compared(claim: Finding, shared: Mapping[str, Sequence[str]]) -> str:
    """What a claim is compared with, or the number of the note that says so."""
    return (
        f"control {list(shared).index(claim.control) + 1}"
        if claim.control in shared
        else claim.control
    )


def _beyond(claim: Finding) -> str:
    """What the interval has to lie beyond, where that is another number than the threshold."""
    ends = [end for end in claim.bounds if not np.isnan(end)]
    if not ends:
        return ""
    above = claim.direction == "at least"
    end = max(ends) if above else min(ends)
    side = "above" if above else "up to"
    return "" if end == claim.threshold else f"interval {side} {number(end)}"


def baselines_table(table: Table) -> Html:
    """One row per method: what is left of the behaviour, and what that costs."""
    rows = []
    for row in table.rows():
        shown = [f"{row[name]:.1%}" for name in ("exhibits_behaviour", "low", "high")]
        cost = [
            number(row["divergence"]),
            *("–" if np.isnan(row[n]) else f"{row[n]:.1%}" for n in ("flipped", "malformed")),
        ]
        recovery = interval(row["recovery"], row["recovery_low"], row["recovery_high"])
        rows.append((row, [f"{shown[0]} [{shown[1]}, {shown[2]}]", recovery, *cost]))
    labels = table.summary.get("labels") or {"many": "the behaviour", "number": "number"}
    note = (
        f"Share of positive prompts with {labels['many']}; share of the gap of both models'"
        f" {labels['number']} that is closed; divergence from the fine-tuned model on its answers"
        " to negative prompts, nats a token; share of these that flip; share of answers to"
        " positive prompts that are broken. Intervals are over clusters, of random sets they are"
        " the range. Less of the behaviour at an equal divergence is better, where answers are not"
        " broken."
    )
    return render("baselines.html", rows=rows, note=note)


def examples_table(table: Table) -> Html:
    """What both models answer to a few prompts, and what they answer under the interventions."""
    of_a_prompt = groupby(table.rows(), key=itemgetter("group", "prompt_id"))
    return render("examples.html", prompts=[list(rows) for _, rows in of_a_prompt])


def tokens_table(table: Table, limit: int = NEURONS, folded: bool = False) -> Html:
    """For each of the best neurons (or heads) the tokens on which it is most active, marked in
    their context.

    ``folded``: shown when the reader opens it.
    """
    by_rank: dict[int, list[dict[str, Any]]] = {}
    for row in table.select(np.lexsort((table["order"], table["rank"]))).rows():
        by_rank.setdefault(row["rank"], []).append(row)
    best = list(by_rank.values())[:limit]
    scale = max((abs(row["value"]) for mine in best for row in mine), default=1.0) or 1.0
    for row in chain.from_iterable(best):
        row["strength"] = f"{min(abs(row['value']) / scale, 1):.2f}"
    return render(
        "tokens.html",
        unit=table.columns[1].name,
        units=best,
        total=len(by_rank),
        folded=folded,
    )


def bullets(lines: Sequence[str], css_class: str = "") -> Html:
    """Lines of text as a list."""
    return render("list.html", lines=lines, css_class=css_class)


def limit_lines(tables: Sequence[Table], claims: Sequence[Finding]) -> list[str]:
    """What the runs do not say: claims without support, limits that the analyzers state, and what
    is always so.
    """
    lines = [*own_limits(tables, claims), VERIFIED if claims else UNVERIFIED, *ALWAYS]
    if any(
        "neuron-tokens" in table.tables or "tokens" in table.tables
        for table in tables
        if "score" in table.data
    ):
        lines.append(ACTIVE)
    return list(dict.fromkeys(lines))


def own_limits(tables: Sequence[Table], claims: Sequence[Finding]) -> list[str]:
    """Claims without support, limits that the analyzers state, and notes on models and prompts."""
    lines = [
        f"{claim.verdict.capitalize()}: {claim.sentence}" for claim in claims if not claim.supported
    ]
    for table in tables:
        stated = table.summary.get("limits", [])
        lines += [stated] if isinstance(stated, str) else [str(line) for line in stated]
    said = {line.casefold() for line in lines}
    notes = [
        note
        for table in tables
        if table.provenance
        for note in table.provenance.context.get("notes") or ()
    ]
    return lines + [
        line for line in map(as_sentence, map(str, notes)) if line.casefold() not in said
    ]
