"""The parts of the page that are not figures: claims, example answers, most activating tokens, and
limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np

from interp.claims import NOT_TESTED, SUPPORTED, TOO_FEW, Finding, from_table
from interp.claims.audit_lines import COLUMNS, audit_cells, audit_headline
from interp.display import as_sentence, control_text
from interp.report.rendering import Html, render
from interp.report.text import format_interval, format_number
from interp.table import Table

MAX_UNITS = 20
MARKS = {SUPPORTED: "✓", TOO_FEW: "–", NOT_TESTED: "–"}
GENERAL_LIMITS = (
    "Anything about other prompts, behaviours or models than those named above.",
    (
        "That these units are the only ones: others can carry the same behaviour, and one set"
        " can replace another."
    ),
)
ACTIVITY_LIMIT = (
    "What a single unit means. Its most activating tokens show where it is active, not what it"
    " causes."
)
UNVERIFIED_LIMIT = (
    "That the selected units cause the behaviour: scores are a ranking, and this run made no"
    " intervention. Run it without --no-verify to test them against matched random sets."
)
VERIFIED_LIMIT = (
    "How another fine-tuned model of the same base would behave: intervals are over clusters"
    " of prompts, not over training runs."
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
    """One row per claim with its control; a control that several claims share is described once, in
    a note.
    """
    shared = _shared_controls(claims)
    rows = [
        {
            "claim": claim,
            "control": control_text(
                format_interval(claim.control_value, claim.control_low, claim.control_high),
                claim.control_is_level,
            ),
            "compared_with": _control_text(claim, shared),
            "bound": _interval_bound(claim),
            "mark": MARKS.get(claim.verdict, "✗"),
        }
        for claim in claims
    ]
    return render(
        "claims.html", rows=rows, shared=[(names, control) for control, names in shared.items()]
    )


def _shared_controls(claims: Sequence[Finding]) -> dict[str, list[str]]:
    """Controls of more than one claim, with the names of these claims."""
    names_by_control: dict[str, list[str]] = {}
    for claim in claims:
        if claim.control:
            names_by_control.setdefault(claim.control, []).append(claim.name)
    return {text: names for text, names in names_by_control.items() if len(names) > 1}


def _control_text(claim: Finding, shared: Mapping[str, Sequence[str]]) -> str:
    """The control of a claim, or the number of the note that describes it."""
    return (
        f"control {list(shared).index(claim.control) + 1}"
        if claim.control in shared
        else claim.control
    )


def _interval_bound(claim: Finding) -> str:
    """The value that the interval must exceed, if it differs from the threshold."""
    ends = [end for end in claim.bounds if not np.isnan(end)]
    if not ends:
        return ""
    is_lower_bound = claim.direction == "at least"
    end = max(ends) if is_lower_bound else min(ends)
    side = "above" if is_lower_bound else "up to"
    return "" if end == claim.threshold else f"interval {side} {format_number(end)}"


def audit_table(table: Table) -> Html:
    """The verdict of an audit and one row per question."""
    rows = zip(
        audit_cells(table), table["question"].tolist(), table["failed"].tolist(), strict=True
    )
    return render("audit.html", headline=audit_headline(table), columns=COLUMNS, rows=list(rows))


def baselines_table(table: Table) -> Html:
    """One row per method: rate of the behaviour, recovery, and cost on other prompts."""
    rows = []
    for row in table.rows():
        rates = [f"{row[name]:.1%}" for name in ("exhibits_behaviour", "low", "high")]
        cost = [
            format_number(row["divergence"]),
            *("–" if np.isnan(row[n]) else f"{row[n]:.1%}" for n in ("flipped", "malformed")),
        ]
        recovery = format_interval(row["recovery"], row["recovery_low"], row["recovery_high"])
        rows.append((row, [f"{rates[0]} [{rates[1]}, {rates[2]}]", recovery, *cost]))
    labels = table.summary.get("labels") or {"many": "the behaviour", "number": "number"}
    note = (
        f"Behaviour: share of positive prompts with {labels['many']}. Recovery: share of the"
        f" gap between both models' {labels['number']} that is closed. Divergence: from the"
        " fine-tuned model on its answers to negative prompts, in nats per token. Flips: share"
        " of negative prompts whose behaviour changes. Malformed: share of malformed answers"
        " to positive prompts. Intervals are over clusters; for random sets they are ranges."
        " Less of the behaviour at equal divergence is better, as long as answers are"
        " well-formed."
    )
    return render("baselines.html", rows=rows, note=note)


def examples_table(table: Table) -> Html:
    """Answers of both models to a few prompts, and their answers under the interventions."""
    groups = groupby(table.rows(), key=itemgetter("group", "prompt_id"))
    return render("examples.html", prompts=[list(rows) for _, rows in groups])


def tokens_table(table: Table, limit: int = MAX_UNITS, collapsed: bool = False) -> Html:
    """The most activating tokens of each of the best neurons (or heads), marked in their context.

    ``collapsed``: the reader has to open the table.
    """
    by_rank: dict[int, list[dict[str, Any]]] = {}
    for row in table.select(np.lexsort((table["order"], table["rank"]))).rows():
        by_rank.setdefault(row["rank"], []).append(row)
    best = list(by_rank.values())[:limit]
    scale = (
        max((abs(row["value"]) for token_rows in best for row in token_rows), default=1.0) or 1.0
    )
    for row in chain.from_iterable(best):
        row["strength"] = f"{min(abs(row['value']) / scale, 1):.2f}"
    return render(
        "tokens.html",
        unit=table.columns[1].name,
        units=best,
        total=len(by_rank),
        collapsed=collapsed,
    )


def bullets(lines: Sequence[str], css_class: str = "") -> Html:
    """Lines of text as a bulleted list."""
    return render("list.html", lines=lines, css_class=css_class)


def limit_lines(tables: Sequence[Table], claims: Sequence[Finding]) -> list[str]:
    """What the runs do not show: unsupported claims, limits stated by the analyzers, and general
    limits.
    """
    lines = [
        *specific_limits(tables, claims),
        VERIFIED_LIMIT if claims else UNVERIFIED_LIMIT,
        *GENERAL_LIMITS,
    ]
    if any(
        "neuron-tokens" in table.tables or "tokens" in table.tables
        for table in tables
        if "score" in table.data
    ):
        lines.append(ACTIVITY_LIMIT)
    return list(dict.fromkeys(lines))


def specific_limits(tables: Sequence[Table], claims: Sequence[Finding]) -> list[str]:
    """Unsupported claims, limits stated by the analyzers, and notes on models and prompts."""
    lines = [
        f"{claim.verdict.capitalize()}: {claim.sentence}" for claim in claims if not claim.supported
    ]
    for table in tables:
        stated = table.summary.get("limits", [])
        lines += [stated] if isinstance(stated, str) else [str(line) for line in stated]
    seen = {line.casefold() for line in lines}
    notes = [
        note
        for table in tables
        if table.provenance
        for note in table.provenance.context.get("notes") or ()
    ]
    return lines + [
        line for line in map(as_sentence, map(str, notes)) if line.casefold() not in seen
    ]
