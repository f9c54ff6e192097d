"""Tables whose rows are declared once, as a class: every column with its role, meaning and unit.

::

    class Row(PromptRow):
        base: int = measure("length of the base's answer", "tokens")

    rows_table(Row, "answer-length", group=groups, prompt_id=ids, cluster=clusters, base=lengths)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.table import Column, Table


class _Declared:
    """What a class attribute says of a column; the class gives it its name."""

    def __init__(self, role: str, meaning: str, unit: str) -> None:
        self.role, self.meaning, self.unit = role, meaning, unit


def key(meaning: str, unit: str = "") -> Any:
    """A column that says what a row is about: a layer, a prompt, the number of a draw."""
    return _Declared("key", meaning, unit)


def measure(meaning: str, unit: str = "") -> Any:
    """A column of numbers that were measured."""
    return _Declared("measure", meaning, unit)


def flag(meaning: str) -> Any:
    """A column of yes and no."""
    return _Declared("flag", meaning, "")


def text(meaning: str) -> Any:
    """A column of free text."""
    return _Declared("text", meaning, "")


class PromptRow:
    """A row per prompt; further columns are declared by a subclass."""

    group: str = key("class of the prompt")
    prompt_id: int = key("position in the prompt file, from 0")
    cluster: str = key("prompts that are not independent of each other share a cluster")


class DrawRow:
    """A row per random draw of a null distribution."""

    draw: int = key("number of the draw, from 0")


def columns_of(row: type) -> dict[str, Column]:
    """The columns that a class of rows and its base classes declare, base classes first."""
    declared = {}
    for kind in reversed(row.__mro__):
        for name, value in vars(kind).items():
            if isinstance(value, _Declared):
                declared[name] = Column(name, value.role, value.meaning, value.unit)
    return declared


def rows_table(row: type, kind: str, data: Mapping[str, Any], **more: Any) -> Table:
    """A table of these rows: ``data`` has one array [rows] for each declared column.

    Raises ValueError where a declared column is missing, or one is given that is not declared.
    """
    columns = columns_of(row)
    if set(columns) != set(data):
        missing, unknown = sorted(set(columns) - set(data)), sorted(set(data) - set(columns))
        raise ValueError(
            f"rows of {row.__name__} lack {missing or 'nothing'} and have {unknown or 'nothing'}"
            " that it does not declare"
        )
    return Table(kind, tuple(columns.values()), {name: data[name] for name in columns}, **more)
