"""Table: typed columns, each with a role and a meaning, plus provenance.

Analyzers return tables, and everything that shows or stores results reads them, so a table contains
numpy arrays and text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.display import size_text, table_html
from interp.errors import OptionError, StoreError
from interp.provenance import JSON, Provenance, replace_surrogates, to_json_value

# Column types by role; the first is the type of an empty list.
ALLOWED = {
    "key": ("int64", "str", "bool"),
    "measure": ("float64", "float32", "int64"),
    "flag": ("bool",),
    "text": ("str",),
}

ZERO_OR_ONE = "0 or 1"
"""Unit of a measure that is 0 or 1 by definition (or NaN), so that its mean is a proportion."""


@dataclass(frozen=True)
class Column:
    """One column: its ``role`` (identifies the row, a measure, a flag, or text), ``meaning`` and
    ``unit``.
    """

    name: str
    role: str
    meaning: str
    unit: str = ""

    def __post_init__(self) -> None:
        if self.role not in ALLOWED:
            raise ValueError(
                f"column {self.name!r} has the role {self.role!r}: expected {', '.join(ALLOWED)}"
            )


def as_binary(values: np.ndarray, unit: str) -> np.ndarray:
    """Values for an interval: as bool if the unit is 0 or 1 and there is no other value."""
    return values.astype(bool) if unit == ZERO_OR_ONE and np.isin(values, (0, 1)).all() else values


def dtype_name(array: np.ndarray) -> str:
    """Type of a column's array: "str" for text (an object array), else numpy's name."""
    return "str" if array.dtype == object else array.dtype.name


def _array(values: Any, description: str, role: str | None = None) -> np.ndarray:
    if type(values).__module__.partition(".")[0] == "torch":
        raise TypeError(f"{description} is a torch tensor: convert it by to_host first")
    if not isinstance(values, np.ndarray):
        values = list(values)
        if role and not values:
            values = np.array([], dtype=object if ALLOWED[role][0] == "str" else ALLOWED[role][0])
    if not isinstance(values, np.ndarray):
        # numpy's own text type drops trailing NUL characters, which tokens may have.
        is_text = any(isinstance(value, str) for value in values)
        values = np.array(values, dtype=object) if is_text else np.array(values)
    if values.dtype.kind in "iu":
        if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise ValueError(
                f"{description} holds {values.max()}, which is beyond 64-bit signed integers"
            )
        values = values.astype(np.int64)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    elif values.dtype.kind in "UOT":
        if bad := [value for value in values.flat if not isinstance(value, str)]:
            raise TypeError(
                f"{description} mixes text with {type(bad[0]).__name__} ({bad[0]!r}): expected text"
                " only"
            )
        values = np.array(
            [replace_surrogates(value) for value in values.flat], dtype=object
        ).reshape(values.shape)
    else:
        values = values.copy()
    if dtype_name(values) not in ("int64", "float64", "float32", "bool", "str"):
        raise TypeError(
            f"{description} has type {values.dtype}: expected int64, float64, float32, bool or text"
        )
    values.flags.writeable = False
    return values


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one ``kind``, which determines the figure for it.

    ``data`` has one sequence or array per column, stored as a read-only array [rows] of int64,
    float64, float32, bool or text (Python strings in an object array). ``summary`` contains the
    main results as JSON; NaN and infinity become None there. ``tables`` are named sub-tables, one
    level deep and without provenance; ``arrays`` are larger arrays of any shape. Raises
    ``TypeError`` or ``ValueError`` for values that cannot be a table.
    """

    kind: str
    columns: Sequence[Column]
    data: Mapping[str, Any]
    provenance: Provenance | None = None
    summary: Mapping[str, JSON] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        names = [column.name for column in columns]
        if len(set(names)) != len(names) or set(names) != set(self.data):
            raise ValueError(
                f"columns {names} do not match the data {list(self.data)}: one array per column"
            )
        data = {}
        for column in columns:
            description = f"column {column.name!r} of {self.kind!r}"
            array = data[column.name] = _array(self.data[column.name], description, column.role)
            if array.ndim != 1:
                raise ValueError(
                    f"{description} has shape {array.shape}: expected one value per row"
                )
            if dtype_name(array) not in ALLOWED[column.role]:
                raise TypeError(
                    f"{description} is {dtype_name(array)}: a {column.role} is"
                    f" {' or '.join(ALLOWED[column.role])}"
                )
        if len({len(array) for array in data.values()}) > 1:
            raise ValueError(
                f"columns of {self.kind!r} differ in length:"
                f" { {n: len(a) for n, a in data.items()} }"
            )
        for name, table in self.tables.items():
            if not isinstance(table, Table) or table.tables or table.arrays or table.provenance:
                raise TypeError(
                    f"sub-table {name!r} of {self.kind!r} must be a Table without sub-tables,"
                    " arrays or provenance"
                )
        arrays = {
            name: np.ascontiguousarray(_tensor(array, name)) for name, array in self.arrays.items()
        }
        for array in arrays.values():
            array.flags.writeable = False
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "summary", to_json_value(self.summary, "summary", finite=False))
        object.__setattr__(self, "tables", dict(self.tables))
        object.__setattr__(self, "arrays", arrays)

    def require_provenance(self) -> Provenance:
        """The provenance; ``StoreError`` if the table has none."""
        if self.provenance is None:
            raise StoreError(
                f"this table of kind {self.kind!r} has no provenance; give a table that a run made"
            )
        return self.provenance

    def __repr__(self) -> str:
        return f"Table({self.kind!r}: {', '.join(self.data)}; {size_text(self)})"

    def _repr_html_(self) -> str:
        return table_html(self)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.data)

    def __len__(self) -> int:
        return len(next(iter(self.data.values()))) if self.data else 0

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.data:
            raise KeyError(f"{self.kind!r} has no column {name!r}: it has {', '.join(self.data)}")
        return self.data[name]

    def column(self, name: str) -> Column:
        """The description of one column."""
        self[name]
        return next(column for column in self.columns if column.name == name)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as dictionaries of plain Python values."""
        for values in zip(*(array.tolist() for array in self.data.values()), strict=True):
            yield dict(zip(self.data, values, strict=True))

    def select(self, mask: np.ndarray) -> Table:
        """The rows of a boolean mask or an index array, with the summary but without sub-tables,
        arrays and provenance.
        """
        return Table(
            self.kind,
            self.columns,
            {name: array[mask] for name, array in self.data.items()},
            None,
            self.summary,
        )

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame``; ``OptionError`` if pandas is not installed.

        Types are preserved; text gets pandas' string type. ``attrs`` has the ``kind`` and, by
        column, role, meaning and unit.
        """
        try:
            import pandas
        except ImportError as error:
            raise OptionError("pandas is not installed: pip install pandas") from error
        frame = pandas.DataFrame({name: array.copy() for name, array in self.data.items()})
        column_info = {
            c.name: {"role": c.role, "meaning": c.meaning, "unit": c.unit} for c in self.columns
        }
        frame.attrs |= {"kind": self.kind, "columns": column_info}
        return frame

    def equals(self, other: Table) -> bool:
        """Same kind, columns, types, values (NaN equal to NaN), sub-tables and arrays.

        Summary and provenance are not compared: they contain times and paths, which differ between
        equal runs.
        """
        return (
            self.kind == other.kind
            and self.columns == other.columns
            and all(_same(self.data[name], other.data[name]) for name in self.data)
            and self.arrays.keys() == other.arrays.keys()
            and all(_same(self.arrays[name], other.arrays[name]) for name in self.arrays)
            and self.tables.keys() == other.tables.keys()
            and all(self.tables[name].equals(other.tables[name]) for name in self.tables)
        )


def _tensor(values: Any, name: str) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise TypeError(
            f"array {name!r} is {type(values).__name__}: expected a numpy array of numbers"
            " (to_host)"
        )
    return values.copy()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def table(kind: str, columns: Mapping[str, tuple], **rest: Any) -> Table:
    """A table from a mapping of columns: ``table("dose", {"k": (array, "key", "size of the set"),
    ...}, summary=..., tables=...)``.

    Each entry is (values, role, meaning) or (values, role, meaning, unit).
    """
    described = tuple(Column(name, *entry[1:]) for name, entry in columns.items())
    return Table(kind, described, {name: entry[0] for name, entry in columns.items()}, **rest)
