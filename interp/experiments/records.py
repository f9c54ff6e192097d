"""Tables whose rows are made one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import numpy as np

from interp.rows import columns_of, rows_table
from interp.table import Table

_TYPES = {str: object, int: np.int64, float: np.float64, bool: np.bool_}


def records_table(row: type, kind: str, records: Sequence[Mapping[str, Any]], **rest: Any) -> Table:
    """A table of rows of the class ``row``, from one mapping by column for each, possibly none.

    The types of columns are those that the class annotates; what a record has besides them is left
    out. ``rest``: as in ``rows_table``. Raises KeyError for a record that lacks a column.
    """
    types = get_type_hints(row)
    data = {
        name: np.array([record[name] for record in records], _TYPES[types[name]])
        for name in columns_of(row)
    }
    return rows_table(row, kind, data, **rest)
