"""The result of a method of discovery."""

from typing import Any

from interp.analyzers.framework.analyzer import Result
from interp.experiments.discovery import evidence_tables

DESCRIBED = (
    "A method's table is a description: whether it is more than what the controls give is decided"
    " once over all methods (`interp discover`)."
)
NO_CONTROL = (
    "No control fine-tune was given: any fine-tuning, on nothing in particular too, gives a table"
    " like this one (--control; interp control makes them)."
)


def evidence_result(*arguments: Any, tables: dict | None = None, limits: tuple = (), **rest: Any):
    """The ``Result`` of ``evidence_tables(*arguments, **rest)``: a description without claims.

    ``tables``: further sub-tables; ``limits``: what the numbers do not show.
    """
    rows, own_tables, summary = evidence_tables(*arguments, **rest)
    own_limits = [DESCRIBED] if summary["controls"] else [NO_CONTROL]
    return Result(rows, {**own_tables, **(tables or {})}, None, summary, [*own_limits, *limits])
