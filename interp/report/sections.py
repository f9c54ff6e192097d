"""The parts of the page that are not figures: the claims, the top neurons and what they read, the
limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.claims import NOT_TESTED, SUPPORTED, TOO_FEW, Finding, from_table
from interp.display import as_sentence, beside
from interp.report.text import escaped, interval, number
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


def claims_table(claims: Sequence[Finding]) -> str:
    """One row per claim, with its control; what several claims are compared with is said once,
    below.
    """
    rows, shared = [], _shared(claims)
    for claim in claims:
        value = interval(claim.value, claim.low, claim.high)
        control = beside(
            interval(claim.control_value, claim.control_low, claim.control_high),
            claim.control_is_level,
        )
        look = "supported" if claim.supported else "verdict"
        reason = f"<br><small>{escaped(claim.reason)}</small>" if claim.reason else ""
        verdict = (
            f'<td class="{look}">{MARKS.get(claim.verdict, "✗")}'
            f" {escaped(claim.verdict)}{reason}</td>"
        )
        rows.append(
            "<tr><td"
            f' class="sentence">{escaped(claim.sentence)}<br><code>{escaped(claim.name)}</code></td>'
            + _figures("Value", escaped(value))
            + _figures(
                "Control",
                f"{escaped(control)}<br><small>{escaped(_compared(claim, shared))}</small>",
            )
            + _figures("p", escaped(number(claim.p)))
            + _figures(
                "Threshold",
                escaped(f"{claim.direction} {number(claim.threshold)}") + _beyond(claim),
            )
            + f"{verdict}</tr>"
        )
    notes = [
        f'<p class="control"><small>Control {number}, of {escaped(", ".join(names))}:'
        f" {escaped(text)}.</small></p>"
        for number, (text, names) in enumerate(shared.items(), 1)
    ]
    columns = ("Claim", "Value [interval]", "Control [range]", "p", "Threshold", "Verdict")
    return _table("claims", columns, rows) + "".join(notes)


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
    return "" if end == claim.threshold else f"<br><small>interval {side} {number(end)}</small>"


def _figures(label: str, content: str) -> str:
    return f'<td class="figures" data-label="{label}">{content}</td>'


def _table(name: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    return (
        f'<div class="wide"><table class="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def baselines_table(table: Table) -> str:
    """One row per method: what is left of the behaviour, and what that costs."""
    rows = []
    for row in table.rows():
        shown = [f"{row[name]:.1%}" for name in ("exhibits_behaviour", "low", "high")]
        cost = [
            number(row["divergence"]),
            *("–" if np.isnan(row[n]) else f"{row[n]:.1%}" for n in ("flipped", "malformed")),
        ]
        rows.append(
            "<tr><th"
            f' scope="row">{escaped(row["what"])}<br><code>{escaped(row["method"])}</code></th>'
            f'<td class="figures">{escaped(f"{shown[0]} [{shown[1]}, {shown[2]}]")}</td>'
            f'<td class="figures">{escaped(interval(row["recovery"], row["recovery_low"], row["recovery_high"]))}</td>'
            + "".join(f'<td class="figures">{escaped(value)}</td>' for value in cost)
            + "</tr>"
        )
    labels = table.summary.get("labels") or {"many": "the behaviour", "number": "number"}
    note = (
        f"Share of positive prompts with {labels['many']}; share of the gap of both models'"
        f" {labels['number']} that is closed; divergence from the fine-tuned model on its answers"
        " to negative prompts, nats a token; share of these that flip; share of answers to"
        " positive prompts that are broken. Intervals are over clusters, of random sets they are"
        " the range. Less of the behaviour at an equal divergence is better, where answers are not"
        " broken."
    )
    columns = ("Method", "Behaviour", "Recovery", "Divergence", "Flips", "Malformed")
    return f"<p>{escaped(note)}</p>" + _table("baselines", columns, rows)


def examples_table(table: Table) -> str:
    """What both models answer to a few prompts, and what they answer under the interventions."""
    rows, before = [], None
    for row in table.rows():
        key = row["group"], row["prompt_id"]
        if key != before:
            count = int(((table["group"] == key[0]) & (table["prompt_id"] == key[1])).sum())
            said = f"{escaped(row['prompt'])}<br><small>{escaped(row['group'])}</small>"
            rows.append(f'<tr class="first"><th scope="rowgroup" rowspan="{count}">{said}</th>')
        else:
            rows.append("<tr>")
        rows.append(
            f"<td>{escaped(row['condition'])}</td><td><bdi>{escaped(row['answer'])}</bdi></td></tr>"
        )
        before = key
    return _table("examples", ("Prompt", "Condition", "Answer"), rows)


def tokens_table(table: Table, limit: int = NEURONS) -> str:
    """For each of the best neurons (or heads) the tokens on which it is most active, marked in
    their context.
    """
    unit = table.columns[1].name
    by_rank: dict[int, list[dict[str, Any]]] = {}
    for row in table.select(np.lexsort((table["order"], table["rank"]))).rows():
        by_rank.setdefault(row["rank"], []).append(row)
    best = list(by_rank.values())[:limit]
    scale = max((abs(row["value"]) for mine in best for row in mine), default=1.0) or 1.0
    rows = []
    for mine in best:
        layer, at, rank = (escaped(mine[0][column]) for column in ("layer", unit, "rank"))
        name = f"layer {layer}<br>{escaped(unit)} {at}<br><small>rank {rank}</small>"
        head = f'<th scope="rowgroup" rowspan="{len(mine)}">{name}</th>'
        for row in mine:
            rows.append(f'<tr class="first">{head}' if row is mine[0] else "<tr>")
            rows.append(_context(row, abs(row["value"]) / scale))
            rows.append(f'<td class="figures">{escaped(number(row["value"]))}</td>')
            place = f"{row['group']} prompt {row['prompt_id']}, token {row['position']}"
            rows.append(f"<td>{escaped(place)}</td></tr>")
    note = (
        f"<p>The {limit} best of {len(by_rank)} {escaped(unit)}s.</p>"
        if len(by_rank) > limit
        else ""
    )
    return note + _table(
        "tokens",
        (unit.capitalize(), "Most activating tokens, in context", "Activation", "Prompt"),
        rows,
    )


def _context(row: Mapping[str, Any], strength: float) -> str:
    # Isolated, so that right-to-left text in one piece does not reorder the others.
    before, token, after = (
        f"<bdi>{escaped(row[name])}</bdi>" for name in ("before", "token", "after")
    )
    mark = f'<mark style="--strength:{min(strength, 1):.2f}">{token}</mark>'
    return f'<td class="context">{before}{mark}{after}</td>'


def limits(tables: Sequence[Table], claims: Sequence[Finding]) -> str:
    """``limit_lines`` as a list."""
    return (
        f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in limit_lines(tables, claims))}</ul>"
    )


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
