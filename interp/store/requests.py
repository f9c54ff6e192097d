"""Requests: which runs answered a command, so that its repeat needs neither models nor torch to
know their keys.

A request is a record of everything that determines the answer, with digests in place of files; its
fingerprint names ``.requests/<fingerprint>.json``. It is a shortcut and never an authority: whatever
is wrong with it, or with a run or a file that it names, is as if it had not been there, and the
command runs as it did the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from interp.errors import InterpError
from interp.provenance import JSON, digest
from interp.store import manifest, transaction
from interp.store.manifest import Manifest

SCHEMA = 1


@dataclass(frozen=True)
class StoredRun:
    """A run whose files were found as they were written; its table is not read."""

    manifest: Manifest
    path: Path
    cached: bool = True

    @property
    def key(self) -> str:
        """The run's name."""
        return self.manifest.key

    @property
    def kind(self) -> str:
        """What kind of table it holds."""
        return self.manifest.kind

    @property
    def rows(self) -> int:
        """Number of rows of the run's own table."""
        return self.manifest.rows

    @property
    def summary(self) -> Mapping[str, JSON]:
        """The few numbers a person reads first."""
        return self.manifest.summary


@dataclass(frozen=True)
class Remembered:
    """What a request gave: its runs in order, the remarks that were made, and the digest of its
    page.
    """

    runs: tuple[StoredRun, ...]
    notes: tuple[str, ...]
    page: str


def any_in(root: Path) -> bool:
    """Whether anything was remembered in this store: where not, a request need not be described."""
    return (root / ".requests").is_dir()


def recall(root: Path, request: JSON) -> Remembered | None:
    """What this request gave, its runs proven to be what was written; None where that cannot be
    said.
    """
    path = _place(root, request)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        seal = value.pop("seal")
        if value["schema"] != SCHEMA or seal != digest(value) or value["request"] != request:
            return None
        runs = tuple(_kept(root, key) for key in value["runs"])
        return Remembered(runs, tuple(value["notes"]), value["page"])
    except (InterpError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def remember(
    root: Path, request: JSON, keys: Sequence[str], notes: Sequence[str], page: str
) -> None:
    """Keep what a request gave; a store that cannot take it stays without."""
    value = {
        "schema": SCHEMA,
        "request": request,
        "runs": list(keys),
        "notes": list(notes),
        "page": page,
    }
    text = json.dumps(
        {**value, "seal": digest(value)}, indent=1, ensure_ascii=True, allow_nan=False
    )
    place = _place(root, request)
    with suppress(OSError), transaction.temporary(root, "request") as directory:
        place.parent.mkdir(exist_ok=True)
        draft = directory / place.name
        draft.write_text(text + "\n", encoding="ascii")
        transaction.flush_tree(directory)
        os.replace(draft, place)


def _place(root: Path, request: JSON) -> Path:
    return root / ".requests" / f"{digest(request)}.json"


def _kept(root: Path, key: str) -> StoredRun:
    if not manifest.KEY.fullmatch(key):
        raise ValueError(f"{key!r} names no run")
    path = root / key
    return StoredRun(manifest.proven(path), path)
