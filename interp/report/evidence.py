"""The joined evidence of a discovery as a table to read."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.report.rendering import Html, render
from interp.report.text import format_number
from interp.table import Table

SHOWN = 40
NOTE = (
    "Strongest first; what is beyond the controls is in bold. Joint: the statistic that is compared"
    " with the largest one of every control, each held out in turn. Items of form (punctuation,"
    " special tokens) are left out: any chat-like fine-tuning changes them."
)


def evidence_table(table: Table) -> Html:
    """One row per item: what it is, its score beside the controls', and a text where it is seen."""
    rows = []
    for row in table.rows():
        if row["form"]:
            continue
        before, _, rest = row["example"].partition("«")
        marked, _, after = rest.partition("»")
        rows.append(
            {
                **{name: row[name] for name in ("method", "where", "unit", "direction")},
                "evidence": _visible(row["evidence"]),
                "beyond": row["beyond"],
                "score": format_number(row["score"]),
                "controls": _range(row),
                "joint": format_number(row["joint"]) if np.isfinite(row["joint"]) else "–",
                "before": before,
                "marked": marked,
                "after": after,
            }
        )
        if len(rows) == SHOWN:
            break
    return render("evidence.html", rows=rows, note=NOTE)


def _visible(text: str) -> str:
    """A text with its leading space and its line breaks to be seen."""
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    return f"␣{text[1:]}" if text.startswith(" ") else text


def _range(row: dict[str, Any]) -> str:
    if np.isnan(row["control_low"]):
        return "–"
    return f"{format_number(row['control_low'])} to {format_number(row['control_high'])}"
