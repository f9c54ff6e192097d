"""Tables whose rows are declared once, as a class: every column with its role, meaning and unit.

::

    class Row(PromptRow):
        base: int = measure("length of the base's answer", "tokens")

    rows_table(Row, "answer-length", group=groups, prompt_id=ids, cluster=clusters, base=lengths)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.table import Column, Table, table


class _Declared:
    """What a class attribute says of a column; the class gives it its name."""

    def __init__(self, role: str, meaning: str, unit: str = "", optional: bool = False) -> None:
        self.role, self.meaning, self.unit, self.optional = role, meaning, unit, optional


def key(meaning: str, unit: str = "", *, optional: bool = False) -> Any:
    """A column that says what a row is about: a layer, a prompt, the number of a draw.

    Optional columns are in the tables of some runs only.
    """
    return _Declared("key", meaning, unit, optional)


def measure(meaning: str, unit: str = "", *, optional: bool = False) -> Any:
    """A column of numbers that were measured."""
    return _Declared("measure", meaning, unit, optional)


def flag(meaning: str, *, optional: bool = False) -> Any:
    """A column of yes and no."""
    return _Declared("flag", meaning, "", optional)


def text(meaning: str, *, optional: bool = False) -> Any:
    """A column of free text."""
    return _Declared("text", meaning, "", optional)


class PromptRow:
    """A row per prompt; further columns are declared by a subclass."""

    group: str = key("class of the prompt")
    prompt_id: int = key("position in the prompt file, from 0")
    cluster: str = key("prompts that are not independent of each other share a cluster")


class DrawRow:
    """A row per random draw of a null distribution."""

    draw: int = key("number of the draw, from 0")


class LayerRow:
    """A row per block of the model."""

    layer: int = key("block, from 0")


class UnitRow(LayerRow):
    """A row per unit of a block; the column ``unit`` is stored under the unit's name, ``neuron`` or
    ``head`` (``rename``).
    """

    unit: int = key("number of the unit in its block, from 0")


def columns_of(row: type) -> dict[str, Column]:
    """The columns that a class of rows and its base classes declare, base classes first."""
    return {
        name: Column(name, each.role, each.meaning, each.unit)
        for name, each in _declared(row).items()
    }


def rows_table(
    row: type,
    kind: str,
    data: Mapping[str, Any],
    *,
    rename: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    meanings: Mapping[str, str] | None = None,
    extra: Mapping[str, tuple] | None = None,
    **rest: Any,
) -> Table:
    """A table of these rows: ``data`` has one array [rows] for each declared column.

    ``rename``: names under which columns are stored that are not those of the class. ``units`` and
    ``meanings``: those that are known only when a run is made, as of a metric. ``extra``: columns
    that no class can declare, since their names depend on the run: (values, role, meaning[, unit])
    by name, as in ``interp.table.table``. ``rest``: further fields of the table.

    Raises ValueError where a column is missing that is not optional, or one is given that is not
    declared.
    """
    declared, rename, units = _declared(row), rename or {}, units or {}
    meanings, extra = meanings or {}, extra or {}
    missing = [name for name, each in declared.items() if name not in data and not each.optional]
    unknown = sorted({*data, *rename, *units, *meanings} - set(declared))
    if missing or unknown:
        raise ValueError(
            f"rows of {row.__name__} lack {missing or 'nothing'} and have {unknown or 'nothing'}"
            " that it does not declare"
        )
    columns = {
        rename.get(name, name): (
            data[name],
            each.role,
            meanings.get(name, each.meaning),
            units.get(name, each.unit),
        )
        for name, each in declared.items()
        if name in data
    }
    return table(kind, {**columns, **extra}, **rest)


def _declared(row: type) -> dict[str, _Declared]:
    return {
        name: value
        for one in reversed(row.__mro__)
        for name, value in vars(one).items()
        if isinstance(value, _Declared)
    }
