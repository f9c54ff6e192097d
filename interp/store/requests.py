"""Requests: which runs answered a command, so that its repeat needs neither models nor torch.

A request is a record of everything that determines the answer, with digests in place of files. Its
fingerprint is the name of its file, ``.requests/<fingerprint>.json``. The file is only a shortcut:
if it, or a run that it names, is damaged or missing, the command runs as it did the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from interp.errors import InterpError
from interp.provenance import JSON, digest
from interp.store import manifest, transaction
from interp.store.manifest import Manifest
from interp.store.records import Record

SCHEMA = 1
RunKey = Annotated[str, StringConstraints(pattern=f"^{manifest.KEY.pattern}$")]


class RequestRecord(Record):
    """The content of a request's file; ``seal`` is the digest of the other fields."""

    format: Literal[1] = Field(SCHEMA, alias="schema")
    request: Any
    runs: list[RunKey]
    notes: list[str]
    page: str
    seal: str

    @classmethod
    def sealed(cls, **fields: Any) -> RequestRecord:
        """The record of these fields with its digest."""
        return cls(**fields, seal=digest({"schema": SCHEMA, **fields}))

    def text(self) -> str:
        """The record as JSON."""
        value = self.model_dump(by_alias=True)
        return json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class RecalledRun:
    """A run whose files match their digests; its table has not been read."""

    manifest: Manifest
    path: Path
    cached: bool = True

    @property
    def key(self) -> str:
        """Key of the run."""
        return self.manifest.key

    @property
    def kind(self) -> str:
        """Kind of its table."""
        return self.manifest.kind

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def summary(self) -> Mapping[str, JSON]:
        """Summary of its primary table."""
        return self.manifest.summary


@dataclass(frozen=True)
class RequestAnswer:
    """The answer to a request: its runs in order, the notes printed, and the digest of its page."""

    runs: tuple[RecalledRun, ...]
    notes: tuple[str, ...]
    page: str


def has_requests(root: Path) -> bool:
    """Whether this store has any requests; if not, a request need not be described."""
    return (root / ".requests").is_dir()


def recall(root: Path, request: JSON) -> RequestAnswer | None:
    """The answer to this request, with its runs verified; None if it is missing or damaged."""
    path = _path(root, request)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        record = RequestRecord.model_validate(value)
        content = {name: field for name, field in value.items() if name != "seal"}
        if record.seal != digest(content) or record.request != request:
            return None
        runs = tuple(_verified_run(root, key) for key in record.runs)
        return RequestAnswer(runs, tuple(record.notes), record.page)
    except (InterpError, OSError, ValueError, RecursionError):
        return None


def remember(
    root: Path, request: JSON, keys: Sequence[str], notes: Sequence[str], page: str
) -> None:
    """Write the answer to a request; a store that cannot be written stays without it."""
    record = RequestRecord.sealed(request=request, runs=list(keys), notes=list(notes), page=page)
    path = _path(root, request)
    with suppress(OSError), transaction.temporary(root, "request") as directory:
        path.parent.mkdir(exist_ok=True)
        draft = directory / path.name
        draft.write_text(record.text() + "\n", encoding="ascii")
        transaction.flush_tree(directory)
        # not `complete_file`: only drafts in `.temporary` are swept after a crash
        os.replace(draft, path)


def _path(root: Path, request: JSON) -> Path:
    return root / ".requests" / f"{digest(request)}.json"


def _verified_run(root: Path, key: str) -> RecalledRun:
    path = root / key
    return RecalledRun(manifest.read_verified(path), path)
