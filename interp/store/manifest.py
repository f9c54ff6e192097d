"""The manifest: one JSON file per run that says what the run is and which bytes belong to it.

A run is valid when its manifest can be read, has the digest it bears, bears the key that its
provenance hashes to and that its directory is named by, and every file it lists is there with the
length it lists. Digests of the other files are compared when they are read.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from interp.errors import InterpError, StoreError
from interp.provenance import JSON, Provenance, digest, sha256_of
from interp.table import Column, Table, dtype_name

SCHEMA = 4
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
KEY = re.compile(r"[0-9a-f]{16,64}")


class Damaged(StoreError):
    """A directory that bears a run's name but is no valid run: the only reason to move one aside."""


@dataclass(frozen=True)
class Part:
    """One file of a run: its path within the run, its length in bytes and sha256."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TablePart(Part):
    """A table's file, and what Parquet does not say: its kind, rows, summary, and its columns with
    their types.
    """

    kind: str
    rows: int
    summary: dict[str, JSON]
    columns: list[dict[str, str]]

    @property
    def types(self) -> dict[str, str]:
        """Type of each column by name."""
        return {column["name"]: column["dtype"] for column in self.columns}

    def described(self) -> tuple[Column, ...]:
        """The columns as ``Column`` records."""
        return tuple(Column(c["name"], c["role"], c["meaning"], c["unit"]) for c in self.columns)


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds. ``table`` is the run's own table, ``tables`` its named ones."""

    key: str
    kind: str
    written: str
    provenance: Provenance
    table: TablePart
    tables: dict[str, TablePart] = field(default_factory=dict)
    arrays: Part | None = None

    @property
    def summary(self) -> dict[str, JSON]:
        """The few numbers a person reads first."""
        return self.table.summary

    @property
    def rows(self) -> int:
        """Number of rows of the run's own table."""
        return self.table.rows

    def parts(self) -> list[Part]:
        """All files but the manifest."""
        return [self.table, *self.tables.values(), *([self.arrays] if self.arrays else [])]

    def to_json(self) -> dict[str, JSON]:
        """The record as one JSON object, with the digest of all its other fields."""
        value = {"schema": SCHEMA, **asdict(self)}
        return {**value, "sha256": digest(value)}


def described(table: Table) -> dict[str, JSON]:
    """The fields of ``TablePart`` that come from the table and not from its file."""
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
    """The manifest of the run in ``directory``; ``Damaged`` when it is not valid.

    ``StoreError`` when it cannot be told: the file cannot be opened, or an interp of another schema
    wrote it.
    """
    path = directory / "manifest.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{directory} has no manifest: it is no run") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not JSON: the run is damaged") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise StoreError(
            f"{path} was written by {'a newer' if schema > SCHEMA else 'an older'} interp (schema"
            f" {schema}, this one reads {SCHEMA}): run its command again in another store (--store"
            " DIR), or use that version"
        )
    try:
        manifest = _parsed(value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, InterpError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Damaged(
            f"{path} is not a manifest that interp writes ({reason}): the run is damaged"
        ) from error
    if not manifest.key == manifest.provenance.key == directory.name:
        raise Damaged(
            f"{path} is of run {manifest.key} with provenance {manifest.provenance.key}: they must"
            " agree"
        )
    for part in manifest.parts():
        file = directory / part.file
        try:
            size = file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            size = None
        except OSError as error:
            raise StoreError(f"cannot read {file}: {error.strerror}") from error
        if size != part.size:
            seen = "is missing" if size is None else f"has {size} bytes"
            raise Damaged(f"{file} {seen}, its manifest says {part.size} bytes: the run is damaged")
    return manifest


def verify(directory: Path, part: Part) -> None:
    """Compare a file of a run with its digest; ``Damaged`` unless it is what was written."""
    path = directory / part.file
    try:
        found = sha256_of(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    if found != part.sha256:
        raise Damaged(
            f"{path} is not what was written, by its digest: repeat the run's command, or move it"
            " away"
        )


def proven(directory: Path) -> Manifest:
    """As ``read``, with every file compared with its digest; raises ``Damaged`` or ``StoreError``."""
    run = read(directory)
    for part in run.parts():
        verify(directory, part)
    return run


def _parsed(value: JSON) -> Manifest:
    if value["schema"] != SCHEMA or not isinstance(value["written"], str):
        raise ValueError(f"schema {value['schema']!r}, written {value['written']!r}")
    content = {name: field for name, field in value.items() if name != "sha256"}
    # taken in any case: it refuses infinite numbers, and the encoding half of a surrogate pair
    found = digest(content)
    json.dumps(content, ensure_ascii=False).encode()
    if value.get("sha256") != found:
        raise ValueError("its content is not what its digest says")
    tables = {
        name: _table(part, f"tables/{name}.parquet") for name, part in value["tables"].items()
    }
    if bad := [
        name
        for name in (value["kind"], value["table"]["kind"], *tables)
        if not NAME.fullmatch(name)
    ]:
        raise ValueError(f"name {bad[0]!r}")
    arrays = value["arrays"] and Part(**value["arrays"])
    if arrays and arrays.file != "arrays.safetensors":
        raise ValueError(f"file {arrays.file!r}")
    provenance = Provenance.from_json(value["provenance"])
    if not -(2**63) <= provenance.version < 2**63:
        raise ValueError(f"version {provenance.version}")
    return Manifest(
        key=value["key"],
        kind=value["kind"],
        written=value["written"],
        provenance=provenance,
        table=_table(value["table"], "table.parquet"),
        tables=tables,
        arrays=arrays,
    )


def _table(value: JSON, file: str) -> TablePart:
    part = TablePart(**value)
    # Paths are never taken from a manifest: it may come from someone else.
    if part.file != file:
        raise ValueError(f"file {part.file!r} where {file!r} belongs")
    if (
        type(part.rows) is not int
        or not 0 <= part.rows < 2**63
        or not isinstance(part.summary, dict)
    ):
        raise ValueError(f"rows {part.rows!r}")
    if not isinstance(part.summary.get("sentence"), (str, type(None))):
        raise ValueError(f"sentence {part.summary['sentence']!r}")
    part.described()
    return part
