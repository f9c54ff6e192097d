"""Claims for a terminal: a line each, with what it takes to be supported, and below why one is not."""

from collections.abc import Mapping, Sequence
from typing import Any

from interp.cli.text import aligned, cell
from interp.display import control_text
from interp.provenance import to_json_value

HEADER = ("verdict", "claim", "value [95 %]", "needed", "clusters", "null or control", "p")


def claims_table(findings: Sequence[Mapping[str, Any]]) -> str:
    """A line per claim as a summary keeps it, what its controls are, and the reasons of those not
    supported.
    """
    findings = to_json_value(findings, finite=False)
    rows = [
        (
            one["verdict"],
            one["name"],
            _range(one["value"], one["low"], one["high"], signed=one["is_difference"]),
            one["needs"],
            "-" if one["clusters"] is None else f"{one['clusters']:.3g}",
            control_text(
                _range(one["control_value"], one["control_low"], one["control_high"]),
                one.get("control_is_level", False),
            ),
            "-" if one["p"] is None else f"{one['p']:.3g}",
        )
        for one in findings
    ]
    notes = {
        "null or control": {
            one["name"]: one["control"] for one in findings if one["control"] != "none"
        },
        "why not": {
            one["name"]: f"{one['verdict']}, for {one['reason']}"
            for one in findings
            if one["reason"]
        },
    }
    return "\n".join(
        [
            aligned(rows, HEADER),
            *(line for title, lines in notes.items() for line in _block(title, lines)),
        ]
    )


def _block(title: str, lines: Mapping[str, str]) -> list[str]:
    """One line per text, with the claims that share it."""
    names: dict[str, list[str]] = {}
    for name, text in lines.items():
        names.setdefault(text, []).append(name)
    return [f"{title}: {', '.join(who)}: {text}" for text, who in names.items()]


def _range(
    value: float | None, low: float | None, high: float | None, *, signed: bool = False
) -> str:
    parts = [_number(one, signed) for one in (value, low, high)]
    return parts[0] if low is None else f"{parts[0]} [{parts[1]}, {parts[2]}]"


def _number(value: float | None, signed: bool) -> str:
    text = cell(value)
    return f"+{text}" if signed and value is not None and value > 0 else text
