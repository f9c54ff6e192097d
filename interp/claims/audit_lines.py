"""An audit as lines of text, and as Markdown for a pull request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from interp.maths.intervals import MIN_CLUSTERS
from interp.table import Table

CANNOT_TELL = "cannot tell"
COLUMNS = ("row", "base", "fine-tuned", "difference", "margin", "verdict")


def number(value: float, form: str) -> str:
    """A number in a format, a dash where there is none."""
    return "-" if math.isnan(value) else format(round(value, 12) + 0.0, form)


def audit_cells(table: Table) -> list[tuple[str, ...]]:
    """The texts of every row, in the order of ``COLUMNS``."""
    return [_cells(record) for record in _records(table)]


def audit_lines(table: Table) -> list[str]:
    """A line that says whether the audit passed, and one for each row."""
    cells = [COLUMNS, *audit_cells(table)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return [audit_headline(table), *lines]


def audit_markdown(table: Table, title: str) -> str:
    """The audit as Markdown: a heading, the verdict, a table of the rows."""
    lines = [f"## {_escape(title)}", "", f"**{audit_headline(table)}**", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for cells in audit_cells(table):
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    lines += ["", *(f"* {_escape(limit)}" for limit in table.summary.get("limits", ()))]
    return "\n".join([*lines, ""])


def audit_headline(table: Table) -> str:
    """Whether the audit passed, and the rows that fail."""
    failed = table["row"][table["failed"]].tolist()
    if failed:
        return f"audit failed: {', '.join(failed)}"
    untold = table["verdict"].tolist().count(CANNOT_TELL)
    end = f"; {untold} of {len(table)} rows cannot be told" if untold else ""
    return f"audit passed: no row crosses its threshold{end}"


def _records(table: Table) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    return [{name: table[name][at] for name in names} for at in range(len(table))]


def _cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    form, signed = (".1%", "+.1%") if record["unit"] == "share" else (".4g", "+.4g")
    failed = "FAILED: " if record["failed"] else ""
    if record["compared_with"] != "base":
        expected = ""
        if not math.isnan(record["control_low"]):
            low, high = (number(record[f"control_{end}"], ".3g") for end in ("low", "high"))
            expected = f" (a new control: {low} to {high}, p {_p(record)})"
        return (
            record["row"],
            "-",
            number(record["tuned"], ".3g"),
            "-",
            "-",
            f"{failed}{record['verdict']}{expected}",
        )
    low, high = (number(record[end], signed) for end in ("low", "high"))
    said = f"{failed}{record['verdict']} (p {_p(record)}"
    if math.isnan(record["low"]):
        said = f"{failed}{record['verdict']} ({MIN_CLUSTERS} clusters are needed"
    elif record["verdict"] == CANNOT_TELL:
        said += f"; seen would have been {number(record['smallest_effect'], form)}"
    return (
        record["row"],
        number(record["base"], form),
        number(record["tuned"], form),
        f"{number(record['difference'], signed)} [{low}, {high}]",
        number(record["margin"], form),
        f"{said})",
    )


def _p(record: Mapping[str, Any]) -> str:
    p = record["p_adjusted"]
    return "below 1e-6" if p < 1e-6 else number(p, ".2g")


def _escape(text: str) -> str:
    text = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", text)
