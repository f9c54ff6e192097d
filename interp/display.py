"""Tables, pairs and studies in notebooks: HTML without scripts, with all text escaped."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp.provenance import replace_surrogates

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_PICTURES = {"\n": "↵", "\t": "⇥"}
N_ROWS, MAX_LENGTH = 8, 120

# Jupyter would render $...$ in a prompt as mathematics
_BOX = '<div class="interp tex2jax_ignore mathjax_ignore" style="overflow-x:auto">{}</div>'
_CLAIM = ("claim", "value [interval]", "control [range]", "p", "threshold", "verdict")


def escaped(value: object) -> str:
    """``value`` as HTML text, also for attributes; control characters become visible (a line end is
    ↵).
    """
    return html.escape(CONTROL.sub(_visible_character, replace_surrogates(str(value))), quote=True)


def one_line(text: str) -> str:
    """``text`` for a terminal: characters that cannot be printed (line ends, escape sequences, bidi
    marks) as escape codes.
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def shortened(text: str, max_length: int = MAX_LENGTH) -> str:
    """``text`` on one line, cut to ``max_length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def as_sentence(note: str) -> str:
    """A note as a sentence: capitalized, unless it begins with a name, and with a full stop."""
    first = note.split(maxsplit=1)[0] if note.strip() else ""
    return f"{note[:1].upper() if first.isalpha() else note[:1]}{note[1:]}."


def _visible_character(match: re.Match) -> str:
    code = ord(match.group())
    return CONTROL_PICTURES.get(match.group()) or (chr(0x2400 + code) if code < 0x20 else "\ufffd")


def format_number(value: Any) -> str:
    """A number for display: three or four digits, with thousands separators; a dash for NaN and
    None.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    ):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, float):
        return (
            (f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}")
            .replace("-", "−")
            .replace("inf", "∞")
        )
    return str(value)


def format_interval(value: float, low: float, high: float) -> str:
    """``value [low, high]``, or the value if there is no interval."""
    if math.isnan(low) and math.isnan(high):
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def control_is_level(recipe: Mapping[str, Any]) -> bool:
    """Whether the reference of a claim is the level that its value is a difference from."""
    estimate, reference = recipe["estimate"], recipe.get("reference")
    difference = bool(estimate.get("minus")) and not estimate.get("over")
    if not difference or not isinstance(reference, Mapping) or reference.get("minus"):
        return False
    # the prediction interval of a new control is compared with the value itself
    return reference.get("spread") != "new-observation"


def control_text(control: str, is_level: bool) -> str:
    """The number of the control, as text, for comparison with a value.

    A difference is compared with 0, and the level that it is a difference from follows in brackets.
    """
    return f"0 (its level: {control})" if is_level else control


def cut(text: str) -> str:
    """``text`` cut to ``LONGEST`` characters, with … for the rest."""
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


def facts_html(title: str, facts: Iterable[tuple[str, Any]]) -> str:
    """A heading and a table of facts, without the empty ones."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escaped(name)}</th>'
        f'<td style="text-align:left">{"<br>".join(escaped(cut(str(line))) for line in _lines(value))}</td></tr>'
        for name, value in facts
        if value not in (None, "", ())
    )
    return _BOX.format(f"<strong>{escaped(title)}</strong><table><tbody>{rows}</tbody></table>")


def _lines(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def table_html(table: Any, rows: int = N_ROWS) -> str:
    """A ``Table`` as HTML: kind and size, sentence, claims with their controls, and the first
    ``rows`` rows.

    The headings have role, meaning and unit as tooltips.
    """
    parts = [f"<strong>{escaped(table.kind)}</strong> {escaped(size_text(table))}"]
    if sentence := table.summary.get("sentence"):
        parts.append(f'<p style="max-width:60em">{escaped(sentence)}</p>')
    claims = table if table.kind == "claims" else table.tables.get("claims")
    if claims is not None and len(claims):
        parts.append(_grid(((name, "") for name in _CLAIM), map(_claim, claims.rows())))
    if claims is not table and len(table):
        head = ((column.name, _meaning(column)) for column in table.columns)
        first = zip(*(table[column.name][:rows].tolist() for column in table.columns), strict=True)
        parts.append(_grid(head, (map(_cell, row) for row in first)))
        if len(table) > rows:
            parts.append(
                f"<p>… {format_number(len(table) - rows)} more rows, all in"
                " <code>.to_pandas()</code></p>"
            )
    return _BOX.format("".join(parts))


def size_text(table: Any) -> str:
    """Size, sub-tables, arrays and run of a table."""
    text = (
        f"{format_number(len(table))} {'row' if len(table) == 1 else 'rows'}, {len(table.columns)}"
        " columns"
    )
    if table.tables:
        text += f"; tables {', '.join(table.tables)}"
    if table.arrays:
        text += f"; {format_number(len(table.arrays))} arrays"
    return text + (f"; run {table.provenance.key}" if table.provenance else "")


def _meaning(column: Any) -> str:
    return f"{column.role}: {column.meaning}" + (f" ({column.unit})" if column.unit else "")


def _cell(value: Any) -> str:
    return escaped(cut(format_number(value) if isinstance(value, (bool, int, float)) else value))


def _claim(row: Mapping[str, Any]) -> Sequence[str]:
    level = control_is_level(json.loads(row["recipe"]))
    control = control_text(
        format_interval(row["control_value"], row["control_low"], row["control_high"]), level
    )
    return (
        f"{escaped(row['sentence'])}<br><code>{escaped(row['name'])}</code>",
        escaped(format_interval(row["value"], row["low"], row["high"])),
        f"{escaped(control)}<br><small>{escaped(row['control'])}</small>",
        escaped(format_number(row["p"])),
        escaped(f"{row['direction']} {format_number(row['threshold'])}"),
        row["verdict"],
    )


def _grid(head: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; ``head`` has name and tooltip of each column, and cells are HTML already."""
    names = "".join(
        f'<th scope="col" style="text-align:left" title="{escaped(tooltip)}">{escaped(name)}</th>'
        for name, tooltip in head
    )
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
