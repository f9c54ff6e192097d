"""The manifest: one JSON file per run with its provenance and the digests of its files.

A run is valid if its manifest can be read and matches its own digest, if its key is the key of its
provenance and the name of its directory, and if every listed file has the listed length. Digests
of the other files are compared when these files are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    NonNegativeInt,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from interp.errors import InterpError, StoreError
from interp.provenance import JSON, Provenance, digest, sha256_of
from interp.store.records import Record, first_error
from interp.table import Column, Table, dtype_name

SCHEMA = 6
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
KEY = re.compile(r"[0-9a-f]{16,64}")
TableName = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]


class DamagedRun(StoreError):
    """A directory with the name of a run that is not a valid run: it may be moved aside."""


class StoredFile(Record):
    """One file of a run: its path within the run, its length in bytes and sha256."""

    file: str
    size: NonNegativeInt
    sha256: str


class ColumnRecord(Record):
    """A column in the manifest; ``dtype`` is a name from ``interp.table.dtype_name``."""

    name: str
    role: Literal["key", "measure", "flag", "text"]
    meaning: str
    unit: str
    dtype: str


class StoredTable(StoredFile):
    """The file of a table, and what Parquet does not hold: kind, summary and columns."""

    kind: TableName
    rows: Annotated[int, Field(ge=0, lt=2**63)]
    summary: dict[str, Any]
    columns: list[ColumnRecord]

    @field_validator("summary")
    @classmethod
    def _sentence_is_text(cls, summary: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(summary.get("sentence"), (str, type(None))):
            raise ValueError(f"sentence {summary['sentence']!r} is not text")
        return summary

    @property
    def types(self) -> dict[str, str]:
        """Type of each column by name."""
        return {column.name: column.dtype for column in self.columns}

    def table_columns(self) -> tuple[Column, ...]:
        """The columns as ``Column`` records."""
        return tuple(Column(c.name, c.role, c.meaning, c.unit) for c in self.columns)


def _as_provenance(value: Any) -> Any:
    if isinstance(value, Mapping):
        try:
            value = Provenance.from_json(value)
        except InterpError as error:
            raise ValueError(str(error)) from error
    if isinstance(value, Provenance) and not -(2**63) <= value.version < 2**63:
        raise ValueError(f"version {value.version} is not a 64-bit integer")
    return value


class Manifest(Record):
    """The content of ``manifest.json``: the primary table and the named ``tables``."""

    key: str
    kind: TableName
    written: str
    provenance: Annotated[
        InstanceOf[Provenance],
        BeforeValidator(_as_provenance),
        PlainSerializer(Provenance.to_json),
    ]
    table: StoredTable
    tables: dict[TableName, StoredTable]
    arrays: StoredFile | None

    @model_validator(mode="after")
    def _files_have_their_names(self) -> Manifest:
        # Paths are never taken from a manifest, which may come from someone else.
        expected = {"table.parquet": self.table}
        expected |= {f"tables/{name}.parquet": part for name, part in self.tables.items()}
        expected |= {"arrays.safetensors": self.arrays} if self.arrays else {}
        for file, part in expected.items():
            if part.file != file:
                raise ValueError(f"file {part.file!r} where {file!r} is expected")
        return self

    @property
    def summary(self) -> dict[str, JSON]:
        """Summary of the primary table."""
        return self.table.summary

    @property
    def rows(self) -> int:
        """Number of rows of the primary table."""
        return self.table.rows

    def files(self) -> list[StoredFile]:
        """All files except the manifest."""
        return [self.table, *self.tables.values(), *([self.arrays] if self.arrays else [])]

    def to_json(self) -> dict[str, JSON]:
        """The record as one JSON object, with the digest of all its other fields."""
        value = {"schema": SCHEMA, **self.model_dump()}
        return {**value, "sha256": digest(value)}


def table_record_fields(table: Table) -> dict[str, JSON]:
    """The fields of ``StoredTable`` that come from the table and not from its file."""
    columns = [
        {**asdict(column), "dtype": dtype_name(table[column.name])} for column in table.columns
    ]
    return {
        "kind": table.kind,
        "rows": len(table),
        "summary": dict(table.summary),
        "columns": columns,
    }


def read(directory: Path) -> Manifest:
    """The manifest of the run in ``directory``.

    Raises ``DamagedRun`` if it is not valid, and ``StoreError`` if the file cannot be opened or has
    another schema version.
    """
    path = directory / "manifest.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedRun(f"{directory} has no manifest: it is not a run") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedRun(f"{path} is not JSON: the run is damaged") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise StoreError(
            f"{path} was written by {'a newer' if schema > SCHEMA else 'an older'} interp (schema"
            f" {schema}, this one reads {SCHEMA}): run its command again in another store (--store"
            " DIR), or use that version"
        )
    try:
        manifest = _parsed(value)
    except (TypeError, ValueError, RecursionError, InterpError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        reason = " ".join(reason.split())[:200]
        raise DamagedRun(
            f"{path} is not a manifest that interp writes ({reason}): the run is damaged"
        ) from error
    if not manifest.key == manifest.provenance.key == directory.name:
        raise DamagedRun(
            f"{path} is of run {manifest.key} with provenance {manifest.provenance.key}: they must"
            " agree"
        )
    for stored in manifest.files():
        file = directory / stored.file
        try:
            size = file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            size = None
        except OSError as error:
            raise StoreError(f"cannot read {file}: {error.strerror}") from error
        if size != stored.size:
            seen = "is missing" if size is None else f"has {size} bytes"
            raise DamagedRun(
                f"{file} {seen}, its manifest says {stored.size} bytes: the run is damaged"
            )
    return manifest


def verify(directory: Path, file: StoredFile) -> None:
    """Compare a file of a run with its digest; raises ``DamagedRun`` if they differ."""
    path = directory / file.file
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    if actual != file.sha256:
        raise DamagedRun(
            f"{path} does not match its digest: repeat the run's command, or move the run away"
        )


def read_verified(directory: Path) -> Manifest:
    """As ``read``, and every file is compared with its digest."""
    run = read(directory)
    for part in run.files():
        verify(directory, part)
    return run


def _parsed(value: JSON) -> Manifest:
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    content = {name: field for name, field in value.items() if name != "sha256"}
    # always computed: this refuses infinite numbers, and the encoding half of a surrogate pair
    expected = digest(content)
    json.dumps(content, ensure_ascii=False).encode()
    if value.get("sha256") != expected:
        raise ValueError("its content is not what its digest says")
    if content.pop("schema", None) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    return Manifest.model_validate(content)
