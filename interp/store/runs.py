"""``Store``: keep a table under the key of its provenance, and never compute it twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interp.errors import RunNotFound, StoreError
from interp.provenance import JSON, sha256_of
from interp.store import files, manifest, transaction
from interp.store.journal import Journal
from interp.store.manifest import Damaged, Manifest, Part, TablePart
from interp.table import Table


@dataclass(frozen=True, eq=False)
class Fetched:
    """A table with the ``key`` and ``path`` of its run, and whether it was there before
    (``cached``).

    ``aside`` is where a damaged run of that key was moved, if there was one.
    """

    table: Table
    key: str
    path: Path
    cached: bool
    aside: Path | None = None

    @property
    def kind(self) -> str:
        """What kind of table it holds."""
        return self.table.kind

    @property
    def rows(self) -> int:
        """Number of rows of the run's own table."""
        return len(self.table)

    @property
    def summary(self) -> Mapping[str, JSON]:
        """The few numbers a person reads first."""
        return self.table.summary


class Store:
    """A directory of runs. Making a ``Store`` creates nothing; it sweeps what crashed writers left,
    if it may.

    All methods raise ``StoreError``, one line, for a store or a run that cannot be used;
    ``RunNotFound`` when there is no such run.
    """

    def __init__(self, root: str | os.PathLike = "runs") -> None:
        self.root = Path(root).absolute()
        with transaction.refusing("open the store", self.root):
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
        with transaction.refusing("read", self.root):
            return sorted(name for name in os.listdir(self.root) if manifest.KEY.fullmatch(name))

    def runs(self) -> list[Manifest]:
        """The manifests of all valid runs, oldest first. ``problems`` tells of the others."""
        return self._surveyed()[0]

    def problems(self) -> list[str]:
        """One line for each directory that is no valid run."""
        return self._surveyed()[1]

    def _surveyed(self) -> tuple[list[Manifest], list[str]]:
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
        found = [name for name in names if key and name.startswith(key)]
        if len(found) > 1:
            raise StoreError(
                f"{key!r} begins the keys of {len(found)} runs ({', '.join(found[:4])}): give more"
                " of it"
            )
        if not found:
            raise RunNotFound(
                f"no run {key!r} in {self.root}: it has {len(names)} runs, listed by `interp ls`"
            )
        return found[0]

    def has(self, key: str) -> bool:
        """Whether there is a valid run with exactly this key."""
        try:
            manifest.read(self._place(key))
        except Damaged:
            return False
        return True

    def _place(self, key: str) -> Path:
        return self.root / key

    def path(self, key: str) -> Path:
        """The directory of the run whose key begins with ``key``."""
        return self._place(self.find(key))

    def manifest(self, key: str) -> Manifest:
        """The manifest of the run whose key begins with ``key``."""
        return manifest.read(self.path(key))

    def get(self, key: str) -> Table:
        """The table of the run whose key begins with ``key``, its files compared with their
        digests.
        """
        return self._read(self.path(key))

    def _read(self, directory: Path) -> Table:
        run = manifest.proven(directory)

        def table(part: TablePart, **rest: Any) -> Table:
            data = files.read_columns(directory / part.file, part.types)
            if any(len(column) != part.rows for column in data.values()):
                raise Damaged(
                    f"{directory / part.file} does not have the {part.rows} rows its manifest says"
                )
            return Table(part.kind, part.described(), data, summary=part.summary, **rest)

        try:
            return table(
                run.table,
                provenance=run.provenance,
                tables={name: table(part) for name, part in run.tables.items()},
                arrays=files.read_arrays(directory / run.arrays.file) if run.arrays else {},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(
                f"{directory} holds no table that interp writes: {files.one_line(error)}"
            ) from error

    def once(self, analyzer: Callable[[Any], Table], study: Any) -> Table:
        """``analyzer(study)``, computed only when its run is not stored yet."""
        return self.fetch(analyzer, study).table

    def fetch(self, analyzer: Callable[[Any], Table], study: Any) -> Fetched:
        """As ``once``, with the run's key and path, and whether it was cached.

        ``study.provenance(analyzer)`` names the run. A damaged run of that name is moved aside and
        computed again. A study that can keep parts of a run in a journal (``with_journal``) goes on
        where an earlier call was stopped.
        """
        provenance = study.provenance(analyzer)
        key = provenance.key
        place = self._place(key)
        aside = None
        if os.path.lexists(place):
            try:
                return Fetched(self._read(place), key, place, cached=True)
            except Damaged:
                aside = self._move_aside(place)
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
        kept = self._keep(table)
        with suppress(OSError):
            journal.remove()
        return Fetched(table if kept else self._read(place), key, place, cached=False, aside=aside)

    def write(self, table: Table) -> Path:
        """Keep ``table`` and return its run's directory; a valid run that has its key already stays
        as it is.
        """
        self._keep(table)
        return self._place(table.require_provenance().key)

    def _keep(self, table: Table) -> bool:
        if table.provenance is None:
            raise ValueError(f"table {table.kind!r} has no provenance: a run is named by it")
        if bad := [
            name for name in (table.kind, *table.tables) if not manifest.NAME.fullmatch(name)
        ]:
            raise ValueError(
                f"{bad[0]!r} cannot name a table in a store: lower-case letters, digits, - and _"
            )
        self._prepare()
        target = self._place(table.provenance.key)
        with (
            transaction.refusing("write", target),
            transaction.temporary(self.root, target.name) as directory,
        ):
            self._fill(directory, table)
            return transaction.publish(directory, target, manifest.read, self._move_aside)

    def _prepare(self) -> None:
        # Asked before hours of computing, not after.
        with (
            transaction.refusing("write to the store", self.root),
            transaction.temporary(self.root, "probe"),
        ):
            pass

    def _move_aside(self, path: Path) -> Path | None:
        with transaction.refusing("move aside", path):
            return transaction.move_aside(path, self.root / ".aside")

    def _fill(self, directory: Path, table: Table) -> None:
        def part(file: str) -> dict[str, Any]:
            return {
                "file": file,
                "size": (directory / file).stat().st_size,
                "sha256": sha256_of(directory / file),
            }

        def write(file: str, content: Table) -> TablePart:
            files.write_table(content, directory / file)
            return TablePart(**part(file), **manifest.described(content))

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
            arrays=Part(**part("arrays.safetensors")) if table.arrays else None,
        )
        text = json.dumps(run.to_json(), indent=1, ensure_ascii=True, allow_nan=False)
        (directory / "manifest.json").write_text(text + "\n", encoding="ascii")

    def sql(self, text: str) -> Table:
        """The answer to one SQL query over all valid runs, as a table of kind "sql"; see
        ``interp.store.query``.
        """
        # only here: duckdb takes as long to import as all else that looking at a store needs
        from interp.store import query

        return query.answer(text, self.root, self.runs())


def _has_old_layout(root: Path) -> bool:
    """Whether runs are in ``root/runs``, where older versions wrote them.

    A store in the current layout that happens to be named ``runs`` has ``.temporary``.
    """
    folder = root / "runs"
    if not folder.is_dir() or (folder / ".temporary").exists():
        return False
    return any(manifest.KEY.fullmatch(name) for name in os.listdir(folder))
