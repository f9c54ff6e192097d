"""The result of a method of discovery."""

from typing import Any

from interp.analyzers.framework.analyzer import Result
from interp.experiments.discovery import evidence_tables
from interp.table import Table

DESCRIBED = (
    "A method's table is a description: whether it is more than what the controls give is decided"
    " once over all methods (`interp discover`)."
)
NO_CONTROL = (
    "No control fine-tune was given: any fine-tuning, on nothing in particular too, gives a table"
    " like this one (--control; interp control makes them)."
)


def evidence_result(
    *arguments: Any,
    tables: dict | None = None,
    limits: tuple = (),
    further: dict | None = None,
    **rest: Any,
):
    """The ``Result`` of ``evidence_tables(*arguments, **rest)``: a description without claims.

    ``tables``: further sub-tables; ``limits``: what the numbers do not show; ``further``: fields of
    the summary.
    """
    rows, own_tables, summary = evidence_tables(*arguments, **rest)
    summary = {"sentence": _sentence(rows, summary), **summary, **(further or {})}
    own_limits = [DESCRIBED] if summary["controls"] else [NO_CONTROL]
    return Result(rows, {**own_tables, **(tables or {})}, None, summary, [*own_limits, *limits])


def _sentence(rows: Table, summary: dict[str, Any]) -> str:
    """How many items there are, the first of them, and how the controls compare."""
    if not summary["listed"]:
        return f"{rows.kind} lists nothing."
    first = next(row for row in rows.rows() if not row["form"])
    said = (
        f"{rows.kind} lists {summary['listed']} items, first"
        f" {' '.join(first['evidence'].split())[:80]!r} ({first['score']:.3g}"
        f" {summary['unit']}".rstrip()
        + ")"
    )
    if summary["largest"] is None or summary["largest_of_controls"] is None:
        return said + "; it was compared with no control."
    return said + (
        f". The largest statistic is {summary['largest']:.3g}, of the controls"
        f" {summary['largest_of_controls']:.3g}."
    )
