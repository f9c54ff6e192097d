"""An audit as lines of text, and as Markdown for a pull request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from interp.table import Table

_COLUMNS = ("row", "base", "fine-tuned", "difference", "margin", "verdict")


def number(value: float, form: str) -> str:
    """A number in a format, a dash where there is none."""
    return "-" if math.isnan(value) else format(round(value, 12) + 0.0, form)


def audit_lines(table: Table) -> list[str]:
    """A line that says whether the audit passed, and one for each row."""
    cells = [_COLUMNS, *(_cells(record) for record in _records(table))]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return [_headline(table), *lines]


def audit_markdown(table: Table, title: str) -> str:
    """The audit as Markdown: a heading, the verdict, a table of the rows."""
    lines = [f"## {_escape(title)}", "", f"**{_headline(table)}**", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for record in _records(table):
        lines.append(f"| {' | '.join(_escape(cell) for cell in _cells(record))} |")
    lines += ["", *(f"* {_escape(limit)}" for limit in table.summary.get("limits", ()))]
    return "\n".join([*lines, ""])


def _headline(table: Table) -> str:
    failed = table["row"][table["failed"]].tolist()
    if not failed:
        return "audit passed: no row crosses its threshold"
    return f"audit failed: {', '.join(failed)}"


def _records(table: Table) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    return [{name: table[name][at] for name in names} for at in range(len(table))]


def _cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    form, signed = (".1%", "+.1%") if record["unit"] == "share" else (".4g", "+.4g")
    failed = "FAILED: " if record["failed"] else ""
    if record["compared_with"] != "base":
        expected = ""
        if not math.isnan(record["control_low"]):
            low, high = (number(record[f"control_{end}"], form) for end in ("low", "high"))
            expected = f" (a new control: {low} to {high}, p {number(record['p_adjusted'], '.2g')})"
        return (
            record["row"],
            "-",
            number(record["tuned"], form),
            "-",
            "-",
            f"{failed}{record['verdict']}{expected}",
        )
    low, high = (number(record[end], signed) for end in ("low", "high"))
    said = f"{failed}{record['verdict']} (p {number(record['p_adjusted'], '.2g')}"
    if record["verdict"] == "cannot tell":
        said += f"; seen would have been {number(record['smallest_effect'], form)}"
    return (
        record["row"],
        number(record["base"], form),
        number(record["tuned"], form),
        f"{number(record['difference'], signed)} [{low}, {high}]",
        number(record["margin"], form),
        f"{said})",
    )


def _escape(text: str) -> str:
    text = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", text)
