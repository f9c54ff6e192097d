"""A report: stored runs as one HTML page and one JSON file that says the same, to be checked by
whoever gets them.

``report.json`` holds nothing that cannot be made again from the store: what every run was made
from, digests of its files, its sentence, its claims. ``verification`` makes it again and compares.
Its schema is ``report.schema.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from interp.agreement import ROLES, Agreement, Runs
from interp.agreement.places import METHODS
from interp.claims import COLUMNS, Finding, from_table
from interp.errors import InterpError, OptionError, StoreError
from interp.provenance import JSON, as_command, digest, environment, plain, sha256_of
from interp.report.html_document import write_text
from interp.report.records import FIELDS, FORMAT, VERSION, ReportRecord
from interp.report.sections import limit_lines
from interp.store import Store
from interp.store.manifest import Manifest
from interp.store.records import first_error
from interp.table import Table

TARGET = 5_000_000
"""Bytes that a page should stay below; what is larger says so."""


@dataclass(frozen=True)
class Run:
    """A stored run of a report: its manifest, and its table as it was proven by its digests."""

    manifest: Manifest
    table: Table

    @property
    def key(self) -> str:
        """The run's name."""
        return self.manifest.key

    @property
    def claims(self) -> tuple[Finding, ...]:
        """Its claims, none where it makes none."""
        return from_table(self.table.tables["claims"]) if "claims" in self.table.tables else ()

    @cached_property
    def said(self) -> dict[str, JSON]:
        """What the report keeps of it, as JSON."""
        made, parts = self.manifest.provenance, self.manifest.parts()
        return plain(
            {
                "key": self.key,
                "kind": self.manifest.kind,
                "analyzer": made.analyzer,
                "version": made.version,
                "parent": made.parent,
                "rows": self.manifest.rows,
                "written": self.manifest.written,
                "sentence": self.manifest.summary.get("sentence") or "",
                "options": made.options,
                "inputs": made.inputs,
                "context": made.context,
                "summary": dict(self.manifest.summary),
                "manifest": digest(self.manifest.to_json()),
                "files": [
                    {"file": part.file, "size": part.size, "sha256": part.sha256} for part in parts
                ],
            },
            finite=False,
        )


@dataclass(frozen=True)
class Report:
    """A report that was read: its path, what it says, and the store that it is checked against."""

    path: Path
    value: Mapping[str, JSON]
    store: Store


def gather(
    keys: Sequence[str], store: Store, draws: int | None = None
) -> tuple[list[Run], list[Run]]:
    """The runs of these keys with the runs they build on, and how they agree on places, pair of
    models by pair.

    The agreement is computed where ``draws`` of its nulls are asked for, and kept in the store.
    """
    asked = list(dict.fromkeys(store.find(key) for key in keys))
    if not asked:
        raise OptionError("a report needs one run at least; give keys of stored runs (interp ls)")
    runs = {}
    for key in asked:
        run = Run(store.manifest(key), store.get(key))
        parent = run.manifest.provenance.parent
        if parent and parent not in (*asked, *runs) and store.has(parent):
            runs[parent] = Run(store.manifest(parent), store.get(parent))
        runs[key] = run
    if draws is None:
        return list(runs.values()), []
    pairs: dict[tuple, list[Table]] = {}
    for run in runs.values():
        if run.table.kind in METHODS:
            of_pair = tuple(run.manifest.provenance.inputs.get(role) for role in ROLES)
            pairs.setdefault(of_pair, []).append(run.table)
    agreements = []
    for tables in pairs.values():
        # two runs of one method agree because they are one method
        if len({table.kind for table in tables}) > 1:
            words = [
                "agree",
                *(table.require_provenance().key for table in tables),
                "--draws",
                str(draws),
            ]
            with as_command(words):
                key = store.run(Agreement(draws), Runs(tables)).key
            agreements.append(Run(store.manifest(key), store.get(key)))
    return [
        run for run in runs.values() if run.key not in {one.key for one in agreements}
    ], agreements


def default_title(runs: Sequence[Run]) -> str:
    """Of one pair its name, else that of the first and how many more."""
    pairs = list(dict.fromkeys(_pair(run) for run in runs if _pair(run)))
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"What tuning changed: {pairs[0]}{more}" if pairs else "What tuning changed"


def _pair(run: Run) -> str:
    made = run.manifest.provenance.context
    return " → ".join(str(made[role]) for role in ("base", "tuned") if made.get(role))


def content(
    runs: Sequence[Run], agreements: Sequence[Run], title: str, written: str
) -> dict[str, JSON]:
    """All that a report says, but for the page, the store's place and the digest."""
    every = [*runs, *agreements]
    made = [claim for run in every for claim in run.claims]
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "written": written,
        "interp": str(environment().get("interp", "not installed")),
        "runs": [run.said for run in every],
        "findings": [
            run.manifest.summary["sentence"]
            for run in every
            if run.manifest.summary.get("sentence")
        ],
        "claims": [claim_json(run.key, claim) for run in every for claim in run.claims],
        "agreement": [run.key for run in agreements],
        "limits": limit_lines([run.table for run in every], made),
    }


def claim_json(key: str, finding: Finding) -> dict[str, JSON]:
    """A finding as the report keeps it, NaN as None."""
    values = {name: getattr(finding, name) for name in COLUMNS if name != "recipe"}
    return {"run": key} | plain({**values, "recipe": finding.claim.to_json()}, finite=False)


def write_report(
    out: str | os.PathLike,
    keys: Iterable[str],
    store: Store,
    *,
    title: str | None = None,
    draws: int | None = None,
) -> Path:
    """Write the page ``out`` (.html) and the JSON of the same name beside it; returns the path of
    the JSON.

    ``draws``: also say whether methods agree on places, next to so many random draws; None leaves
    that out. Each appears whole or not at all. Raises ``OptionError`` and ``StoreError``, one line,
    before anything is written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--out {out} is no page: name a file that ends in .html")
    if not out.absolute().parent.is_dir():
        raise OptionError(
            f"--out {out}: there is no folder {out.absolute().parent}; make it, or name another"
        )
    if out.is_dir():
        raise OptionError(f"--out {out} is a folder; name a file in it")
    # brings plotly, which reading a report need not wait for
    from interp.report.report_page import whole_page

    runs, agreements = gather(list(keys), store, draws)
    title = title or default_title(runs)
    value = content(runs, agreements, title, datetime.now(UTC).isoformat(timespec="seconds"))
    beside = out.with_suffix(".json")
    page = whole_page(
        value, [run.table for run in runs], [run.table for run in agreements], beside.name
    )
    write_text(out, page)
    place = os.path.relpath(store.root, out.absolute().parent)
    value |= {"store": Path(place).as_posix(), "page": {"file": out.name, "sha256": sha256_of(out)}}
    ordered = {name: value[name] for name in FIELDS if name != "sha256"}
    text = json.dumps(
        {**ordered, "sha256": digest(ordered)}, indent=1, ensure_ascii=False, allow_nan=False
    )
    return write_text(beside, text + "\n")


def read(path: str | os.PathLike, store: str | os.PathLike | None = None) -> Report:
    """The report in a JSON file, with the store it names or another one; ``StoreError`` for what is
    none.
    """
    path = Path(path)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_refused
        )
        # canonical JSON and UTF-8: what has no digest or no text cannot be compared
        digest(value)
        json.dumps(value, ensure_ascii=False).encode()
    except OSError as error:
        raise StoreError(f"cannot read the report {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, InterpError) as error:
        hint = (
            "; give the .json beside the page" if path.suffix.lower() in (".html", ".htm") else ""
        )
        kind = "JSON" if isinstance(error, json.JSONDecodeError) else "JSON as interp writes it"
        raise StoreError(f"{path} is not {kind}, so no report{hint}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StoreError(
            f"{path} is no report: `interp report RUN... --out report.html` writes one"
        )
    if value.get("version") != VERSION:
        raise StoreError(
            f"{path} is a report of version {value.get('version')!r}, this interp reads {VERSION}:"
            " run its commands again and write a new report"
        )
    try:
        ReportRecord.model_validate(value)
    except ValidationError as error:
        raise StoreError(
            f"{path} is not a report that interp writes: {first_error(error)}"
        ) from error
    place = path.absolute().parent / value["store"] if store is None else Path(store)
    if not place.is_dir():
        raise StoreError(
            f"{path} is checked against the store {place}, which is not there; name it with"
            " --store DIR"
        )
    return Report(path, value, Store(place))


def _once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """An object whose names are told once: readers differ in which of two they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
