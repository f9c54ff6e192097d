"""Tables as Parquet and arrays as safetensors, without loss of precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.errors import StoreError
from interp.store.manifest import DamagedRun
from interp.table import Table, dtype_name

ARROW = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "str": pa.string(),
}
NUMPY = {name: np.dtype(object if name == "str" else name) for name in ARROW}


def write_table(table: Table, path: Path) -> None:
    """Write the rows of ``table`` to a Parquet file; text is UTF-8, no value is null."""
    names = {name: dtype_name(array) for name, array in table.data.items()}
    schema = pa.schema(
        [pa.field(name, ARROW[dtype], nullable=False) for name, dtype in names.items()]
    )
    # a list, since pyarrow imports pandas for an array of objects
    arrays = [
        pa.array(array.tolist() if names[name] == "str" else array, ARROW[names[name]])
        for name, array in table.data.items()
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def read_columns(path: Path, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The columns of a Parquet file; ``DamagedRun`` if names or types differ from ``types``."""
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DamagedRun(f"cannot read {path}: {one_line(error)}") from error
    column_types = {
        field.name: next(
            (name for name, kind in ARROW.items() if kind == field.type), str(field.type)
        )
        for field in table.schema
    }
    if column_types != dict(types):
        raise DamagedRun(
            f"{path} has the columns {column_types}, its manifest says {dict(types)}: the run is"
            " damaged"
        )
    if any(column.null_count for column in table.columns):
        raise DamagedRun(f"{path} has empty cells, which interp never writes: the run is damaged")
    return {name: np.asarray(table[name].to_numpy(), NUMPY[types[name]]) for name in types}


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named arrays to a safetensors file."""
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise StoreError(f"cannot write {path}: {one_line(error)}") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; ``DamagedRun`` if it cannot be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedRun(f"cannot read {path}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
