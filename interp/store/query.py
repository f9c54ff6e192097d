"""SQL across runs, by DuckDB in memory, which can read the files of the store only.

Each kind is a view with the rows of all runs of that kind and a first column ``run``:
``"locate-neurons"`` in quotation marks or ``locate_neurons`` without; a named sub-table is
``locate_neurons_tokens``. The view ``runs`` has one row per run: key, kind, analyzer, version,
written, rows, parent, sentence, and options, inputs, context, summary as JSON text
(``summary->>'$.auc'``). Only one query at a time is accepted. In the result, NULL is NaN or empty
text. The files of every view in a query are compared with their digests first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interp.errors import StoreError
from interp.store import manifest
from interp.store.manifest import Manifest, StoredFile
from interp.table import Column, Table

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
RUNS = (
    "key",
    "kind",
    "analyzer",
    "version",
    "written",
    "rows",
    "parent",
    "sentence",
    "options",
    "inputs",
    "context",
    "summary",
)
QUERIES = ("SELECT", "EXPLAIN")


def answer(query: str, root: Path, manifests: Sequence[Manifest]) -> Table:
    """The rows of one query; ``StoreError`` for an invalid one, with the available views.

    ``DamagedRun`` if a file that it would read does not match its digest.
    """
    directory, sources = root.resolve(), _sources(manifests)
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1 or statements[0].type.name not in QUERIES:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise StoreError(f"the query is {kinds}: expected one SELECT, the store is only read")
        with duckdb.connect(config=SETTINGS) as connection:
            connection.register("runs", _runs(manifests))
            connection.execute(f"SET allowed_directories = [{_quoted(str(directory))}]")
            connection.execute("SET temp_directory = ''")
            connection.execute("SET enable_external_access = false")
            # binding a view reads the footers of its files, so only views that the text contains
            everything = any(
                name in query.lower() for name in ("show", "information_schema", "duckdb_")
            )
            read = {
                name: parts
                for name, parts in sources.items()
                if everything or name in query.lower()
            }
            for (key, _), part in dict(
                item for parts in read.values() for item in parts.items()
            ).items():
                manifest.verify(directory / key, part)
            for name, parts in read.items():
                connection.execute(_view(name, str(directory), ["/".join(file) for file in parts]))
            connection.execute("SET lock_configuration = true")
            return _table(connection.sql(query).to_arrow_table())
    except duckdb.Error as error:
        reason = str(error).strip().split("\n")[0]
        views = ", ".join([*sorted(name for name in sources if "-" not in name), "runs"])
        hint = f" (views: {views})" if isinstance(error, duckdb.CatalogException) else ""
        raise StoreError(f"{reason}{hint}") from error


def _sources(manifests: Sequence[Manifest]) -> dict[str, dict[tuple[str, str], StoredFile]]:
    """The files of each view, by key of the run and file name."""
    sources: dict[str, dict[tuple[str, str], StoredFile]] = {}
    for run in manifests:
        parts = {run.kind: run.table} | {
            f"{run.kind}_{name}": part for name, part in run.tables.items()
        }
        for name, part in parts.items():
            for alias in {name, name.replace("-", "_")}:
                sources.setdefault(alias, {})[run.key, part.file] = part
    sources.pop("runs", None)
    return sources


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _view(name: str, directory: str, files: Sequence[str]) -> str:
    start, paths = len(directory) + 2, ", ".join(_quoted(f"{directory}/{file}") for file in files)
    return (
        f"""CREATE VIEW "{name}" AS SELECT split_part(substr("//file", {start}), '/', 1) AS run, """
        f"""* EXCLUDE ("//file") FROM read_parquet([{paths}], """
        # a parent folder named KEY=VALUE must not become a column
        """union_by_name = true, hive_partitioning = false, filename = '//file')"""
    )


def _runs(manifests: Sequence[Manifest]) -> pa.Table:
    rows = []
    for run in manifests:
        provenance = run.provenance
        texts = {
            name: json.dumps(value)
            for name, value in (
                ("options", provenance.options),
                ("inputs", provenance.inputs),
                ("context", provenance.context),
                ("summary", run.summary),
            )
        }
        rows.append(
            {
                "key": run.key,
                "kind": run.kind,
                "analyzer": provenance.analyzer,
                "version": provenance.version,
                "written": run.written,
                "rows": run.rows,
                "parent": provenance.parent,
                "sentence": run.summary.get("sentence"),
                **texts,
            }
        )
    numbers = ("version", "rows")
    return pa.table(
        {
            name: pa.array(
                [row[name] for row in rows], pa.int64() if name in numbers else pa.string()
            )
            for name in RUNS
        }
    )


def _table(result: pa.Table) -> Table:
    columns, data = [], {}
    for field, values in zip(result.schema, result.columns, strict=True):
        name, suffix = field.name, 1
        while name in data:
            suffix += 1
            name = f"{field.name}_{suffix}"
        role, data[name] = _column(values)
        columns.append(Column(name, role, "of the query"))
    return Table("sql", tuple(columns), data)


def _column(values: pa.ChunkedArray) -> tuple[str, np.ndarray]:
    kind = values.type
    if pa.types.is_boolean(kind) and not values.null_count:
        return "flag", np.array(values.to_pylist(), dtype=bool)
    if pa.types.is_signed_integer(kind) and not values.null_count:
        return "measure", values.cast(pa.int64()).to_numpy()
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        return "measure", np.array(
            pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_pylist(), np.float64
        )
    return "text", np.array(
        ["" if value is None else str(value) for value in values.to_pylist()], dtype=object
    )
