"""Results as plain text: aligned columns for people, CSV for other programs."""

import csv
import io
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def aligned(rows: Iterable[Sequence[Any]], header: Sequence[str], width: int | None = None) -> str:
    """Rows under a header, numbers to the right. The last column is cut at ``width`` characters a
    line.

    ``width`` None takes the terminal's, or none at all where stdout is a file or a pipe.
    """
    rows = [[cell(value) for value in row] for row in rows]
    table = [list(header), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = (
        "  ".join(
            text.rjust(w) if r else text.ljust(w)
            for text, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in table
    )
    limit = width or _terminal_width()
    return "\n".join(line if len(line) <= limit else line[: limit - 1] + "…" for line in lines)


def listed(pairs: Mapping[str, Any]) -> str:
    """A mapping as lines of name and value."""
    width = max(map(len, pairs), default=0)
    return "\n".join(f"{name:<{width}}  {cell(value)}" for name, value in pairs.items())


def comma_separated(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """RFC 4180 text with ``\\n`` line ends; NaN is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        ["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows
    )
    return out.getvalue().rstrip("\n")


def cell(value: Any) -> str:
    """One value on one line: four significant digits, yes and no, control characters made visible."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def _terminal_width() -> int:
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else sys.maxsize
