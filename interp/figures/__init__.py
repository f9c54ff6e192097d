"""Figures: one function per kind of table, found by ``plot``. Only this package and ``report``
import plotly.

A figure's title says what is drawn and, where rows are left out, how many;
``layout.meta["caption"]`` explains how to read it. Text from tables is escaped, because plotly
interprets markup in labels.
"""

from __future__ import annotations

from plotly.graph_objects import Figure

from interp.errors import OptionError
from interp.kinds import kinds, load
from interp.table import Table


def plot(table: Table) -> Figure:
    """The figure for a table of this kind.

    Raises ``OptionError`` for a kind without a figure and for an empty table.
    """
    if not has_figure(table.kind):
        drawn = ", ".join(name for name, kind in kinds().items() if kind.figure)
        raise OptionError(
            f"there is no figure for tables of kind {table.kind!r}: there are {drawn}"
        )
    if not len(table):
        raise OptionError(f"the table of kind {table.kind!r} has no rows: there is nothing to draw")
    return load(kinds()[table.kind].figure)(table)


def has_figure(kind: str) -> bool:
    """Whether tables of this kind have a figure."""
    return kind in kinds() and bool(kinds()[kind].figure)


__all__ = ["has_figure", "plot"]
