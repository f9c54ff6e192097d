"""``Store``: a table is stored under the key of its provenance and never computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.errors import RunNotFound, StoreError, reporting_os_errors
from interp.provenance import sha256_of
from interp.store import files, manifest, transaction
from interp.store.journal import Journal
from interp.store.manifest import DamagedRun, Manifest, StoredFile, StoredTable
from interp.table import Table


class StoredRun(Table):
    """A table in a store, with the ``path`` of its directory.

    ``cached`` tells whether it was stored before it was asked for; ``aside`` is where a damaged run
    of the same key was moved, if there was one. It can be used wherever a table can. A copy with
    other fields (``dataclasses.replace``) is a plain ``Table``, since it is not what is stored.
    """

    path: Path
    cached: bool
    aside: Path | None

    def __new__(cls, *arguments: Any, **fields: Any) -> Any:
        """A plain ``Table``: ``Store`` makes runs, by ``from_table``."""
        return Table(*arguments, **fields)

    @classmethod
    def from_table(
        cls, table: Table, path: Path, *, cached: bool, aside: Path | None = None
    ) -> StoredRun:
        """The table as the run in ``path``; columns and arrays are not copied."""
        run = object.__new__(cls)
        vars(run).update(_fields(table), path=path, cached=cached, aside=aside)
        return run

    @property
    def key(self) -> str:
        """Key of the run."""
        return self.require_provenance().key

    @property
    def table(self) -> Table:
        """The run as a plain table."""
        table = object.__new__(Table)
        vars(table).update(_fields(self))
        return table

    @cached_property
    def claims(self) -> Mapping[str, Any]:
        """The run's claims by name, each an ``interp.claims.Finding``; empty if it makes none."""
        # claims and figures import libraries that reading a table does not need
        from interp.claims import from_table

        if "claims" not in self.tables:
            return {}
        return {finding.name: finding for finding in from_table(self.tables["claims"])}

    def plot(self) -> Any:
        """The plotly figure for a table of this kind; ``OptionError`` if there is none."""
        from interp.figures import plot

        return plot(self)


def _fields(table: Table) -> dict[str, Any]:
    return {name: getattr(table, name) for name in Table.__dataclass_fields__}


class Store:
    """A directory of runs. Making a ``Store`` creates nothing; it removes what crashed writers left
    behind, where it may write.

    All methods raise ``StoreError``, one line, for a store or a run that cannot be used;
    ``RunNotFound`` if there is no such run.
    """

    def __init__(self, root: str | os.PathLike = "runs") -> None:
        self.root = Path(root).absolute()
        with reporting_os_errors("open the store", self.root):
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{root} is a file: a store is a directory")
            if _has_old_layout(self.root):
                raise StoreError(
                    f"{root} was written by an older interp, with runs in {root}/runs: run the"
                    " commands again in another store (--store DIR)"
                )
        transaction.sweep(self.root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def _names(self) -> list[str]:
        if not self.root.is_dir():
            raise StoreError(
                f"there is no store at {self.root}: run an analysis first, or name another with"
                " --store"
            )
        with reporting_os_errors("read", self.root):
            return sorted(name for name in os.listdir(self.root) if manifest.KEY.fullmatch(name))

    def runs(self) -> list[Manifest]:
        """The manifests of all valid runs, oldest first; ``problems`` lists the others."""
        return self._valid_and_problems()[0]

    def problems(self) -> list[str]:
        """One line for each directory that is not a valid run."""
        return self._valid_and_problems()[1]

    def _valid_and_problems(self) -> tuple[list[Manifest], list[str]]:
        valid, problems = [], []
        for name in self._names():
            try:
                valid.append(manifest.read(self.root / name))
            except StoreError as error:
                problems.append(str(error))
        return sorted(valid, key=lambda run: (run.written, run.key)), problems

    def find(self, key: str) -> str:
        """The full key of the one run whose key begins with ``key``."""
        names = self._names()
        if key in names:
            return key
        matches = [name for name in names if key and name.startswith(key)]
        if len(matches) > 1:
            raise StoreError(
                f"{key!r} begins the keys of {len(matches)} runs ({', '.join(matches[:4])}): give"
                " more digits of the key"
            )
        if not matches:
            raise RunNotFound(
                f"no run {key!r} in {self.root}: it has {len(names)} runs, listed by `interp ls`"
            )
        return matches[0]

    def has(self, key: str) -> bool:
        """Whether there is a valid run with exactly this key."""
        try:
            manifest.read(self._directory(key))
        except DamagedRun:
            return False
        return True

    def _directory(self, key: str) -> Path:
        return self.root / key

    def path(self, key: str) -> Path:
        """The directory of the run whose key begins with ``key``."""
        return self._directory(self.find(key))

    def manifest(self, key: str) -> Manifest:
        """The manifest of the run whose key begins with ``key``."""
        return manifest.read(self.path(key))

    def get(self, key: str) -> StoredRun:
        """The run whose key begins with ``key``, its files compared with their digests."""
        path = self.path(key)
        return StoredRun.from_table(self._read(path), path, cached=True)

    def _read(self, directory: Path) -> Table:
        run = manifest.read_verified(directory)

        def table(part: StoredTable, **rest: Any) -> Table:
            data = files.read_columns(directory / part.file, part.types)
            if any(len(column) != part.rows for column in data.values()):
                raise DamagedRun(
                    f"{directory / part.file} does not have the {part.rows} rows its manifest says"
                )
            return Table(part.kind, part.table_columns(), data, summary=part.summary, **rest)

        try:
            return table(
                run.table,
                provenance=run.provenance,
                tables={name: table(part) for name, part in run.tables.items()},
                arrays=files.read_arrays(directory / run.arrays.file) if run.arrays else {},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRun(
                f"{directory} does not contain a table that interp writes: {files.one_line(error)}"
            ) from error

    def run(self, analyzer: Callable[[Any], Table], study: Any) -> StoredRun:
        """``analyzer(study)``, computed only if its run is not stored yet.

        The key is that of ``study.provenance(analyzer)``. A damaged run of that key is moved aside
        and computed again. A study with a method ``with_journal`` continues an interrupted run.
        """
        provenance = study.provenance(analyzer)
        key = provenance.key
        directory = self._directory(key)
        aside = None
        if os.path.lexists(directory):
            try:
                return StoredRun.from_table(self._read(directory), directory, cached=True)
            except DamagedRun:
                aside = self._move_aside(directory)
        self._prepare()
        started = datetime.now(UTC)
        journal = Journal(self.root / ".unfinished" / f"{key}.jsonl")
        table = analyzer(study.with_journal(journal) if hasattr(study, "with_journal") else study)
        if table.provenance is None:
            seconds = (datetime.now(UTC) - started).total_seconds()
            context = {
                "started": started.isoformat(timespec="seconds"),
                "seconds": seconds,
                **provenance.context,
            }
            table = replace(table, provenance=replace(provenance, context=context))
        if table.require_provenance().key != key:
            raise ValueError(
                f"the analyzer's table has the key {table.require_provenance().key}, its study says"
                f" {key}"
            )
        is_new = self._write_new(table)
        with suppress(OSError):
            journal.remove()
        table = table if is_new else self._read(directory)
        return StoredRun.from_table(table, directory, cached=False, aside=aside)

    def write(self, table: Table) -> Path:
        """Store ``table`` and return its run's directory; an existing valid run stays as it is."""
        self._write_new(table)
        return self._directory(table.require_provenance().key)

    def _write_new(self, table: Table) -> bool:
        if table.provenance is None:
            raise ValueError(f"table {table.kind!r} has no provenance, which gives a run its key")
        if bad := [
            name for name in (table.kind, *table.tables) if not manifest.NAME.fullmatch(name)
        ]:
            raise ValueError(
                f"{bad[0]!r} cannot name a table in a store: lower-case letters, digits, - and _"
            )
        self._prepare()
        target = self._directory(table.provenance.key)
        with (
            reporting_os_errors("write", target),
            transaction.temporary(self.root, target.name) as directory,
        ):
            self._write_files(directory, table)
            return transaction.publish(directory, target, manifest.read, self._move_aside)

    def _prepare(self) -> None:
        # checked before hours of computing, not after
        with (
            reporting_os_errors("write to the store", self.root),
            transaction.temporary(self.root, "probe"),
        ):
            pass

    def _move_aside(self, path: Path) -> Path | None:
        with reporting_os_errors("move aside", path):
            return transaction.move_aside(path, self.root / ".aside")

    def _write_files(self, directory: Path, table: Table) -> None:
        def part(file: str) -> dict[str, Any]:
            return {
                "file": file,
                "size": (directory / file).stat().st_size,
                "sha256": sha256_of(directory / file),
            }

        def write(file: str, content: Table) -> StoredTable:
            files.write_table(content, directory / file)
            return StoredTable(**part(file), **manifest.table_record_fields(content))

        if table.tables:
            (directory / "tables").mkdir()
        if table.arrays:
            files.write_arrays(table.arrays, directory / "arrays.safetensors")
        run = Manifest(
            key=table.require_provenance().key,
            kind=table.kind,
            written=datetime.now(UTC).isoformat(timespec="microseconds"),
            provenance=table.require_provenance(),
            table=write("table.parquet", table),
            tables={
                name: write(f"tables/{name}.parquet", content)
                for name, content in table.tables.items()
            },
            arrays=StoredFile(**part("arrays.safetensors")) if table.arrays else None,
        )
        text = json.dumps(run.to_json(), indent=1, ensure_ascii=True, allow_nan=False)
        (directory / "manifest.json").write_text(text + "\n", encoding="ascii")

    def sql(self, text: str) -> Table:
        """The result of one SQL query over all valid runs, as a table of kind "sql"; see
        ``interp.store.query``.
        """
        # duckdb is slow to import
        from interp.store import query

        return query.answer(text, self.root, self.runs())


def _has_old_layout(root: Path) -> bool:
    """Whether runs are in ``root/runs``, where older versions wrote them.

    A store in the current layout may be named ``runs``: the schema of its manifests tells.
    """
    folder = root / "runs"
    names = os.listdir(folder) if folder.is_dir() else []
    for name in filter(manifest.KEY.fullmatch, names):
        try:
            record = json.loads((folder / name / "manifest.json").read_text("utf-8"))
            return record["schema"] < manifest.SCHEMA
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return False
