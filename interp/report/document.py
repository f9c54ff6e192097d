"""A report: stored runs as one HTML page and one JSON file with the same content, which anyone who
receives them can verify.

``report.json`` contains only what can be recomputed from the store: the provenance of every run,
digests of its files, its summary sentence and its claims. ``verification`` recomputes and compares
it. The schema is ``report.schema.json``.
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
from interp.provenance import JSON, digest, environment, sha256_of, to_json_value
from interp.provenance.request import CommandRequest, as_request
from interp.report.html_document import write_text
from interp.report.records import FIELDS, FORMAT, VERSION, ReportRecord
from interp.report.sections import limit_lines
from interp.store import Store
from interp.store.manifest import Manifest
from interp.store.records import first_error
from interp.table import Table

RECOMMENDED_PAGE_BYTES = 5_000_000
"""Recommended maximum size of a page in bytes; larger pages give a warning."""


@dataclass(frozen=True)
class Run:
    """A stored run of a report: its manifest, and its table, verified by its digests."""

    manifest: Manifest
    table: Table

    @property
    def key(self) -> str:
        """The key of the run."""
        return self.manifest.key

    @property
    def claims(self) -> tuple[Finding, ...]:
        """Its claims; empty for a run without claims."""
        return from_table(self.table.tables["claims"]) if "claims" in self.table.tables else ()

    @cached_property
    def entry(self) -> dict[str, JSON]:
        """The report's JSON entry for this run."""
        provenance, parts = self.manifest.provenance, self.manifest.files()
        return to_json_value(
            {
                "key": self.key,
                "kind": self.manifest.kind,
                "analyzer": provenance.analyzer,
                "version": provenance.version,
                "parent": provenance.parent,
                "rows": self.manifest.rows,
                "written": self.manifest.written,
                "sentence": self.manifest.summary.get("sentence") or "",
                "options": provenance.options,
                "inputs": provenance.inputs,
                "context": provenance.context,
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
    """A report read from a file: its path, its content, and the store to verify it against."""

    path: Path
    value: Mapping[str, JSON]
    store: Store


def gather(
    keys: Sequence[str], store: Store, draws: int | None = None
) -> tuple[list[Run], list[Run]]:
    """The runs of these keys with their parent runs, and one agreement run per pair of models.

    Agreement is computed only if ``draws``, the number of null permutations, is given; its runs are
    stored.
    """
    requested = list(dict.fromkeys(store.find(key) for key in keys))
    if not requested:
        raise OptionError(
            "a report needs at least one run; give keys of stored runs (`interp ls` lists them)"
        )
    runs = {}
    for key in requested:
        run = Run(store.manifest(key), store.get(key))
        parent = run.manifest.provenance.parent
        if parent and parent not in (*requested, *runs) and store.has(parent):
            runs[parent] = Run(store.manifest(parent), store.get(parent))
        runs[key] = run
    if draws is None:
        return list(runs.values()), []
    pairs: dict[tuple, list[Table]] = {}
    for run in runs.values():
        if run.table.kind in METHODS:
            pair = tuple(run.manifest.provenance.inputs.get(role) for role in ROLES)
            pairs.setdefault(pair, []).append(run.table)
    agreements = []
    for tables in pairs.values():
        # two runs of the same method agree trivially
        if len({table.kind for table in tables}) > 1:
            request = CommandRequest(
                command="agree",
                arguments=[table.require_provenance().key for table in tables],
                options={"--draws": draws},
            )
            with as_request(request):
                key = store.run(Agreement(draws), Runs(tables)).key
            agreements.append(Run(store.manifest(key), store.get(key)))
    return [
        run for run in runs.values() if run.key not in {agreement.key for agreement in agreements}
    ], agreements


def default_title(runs: Sequence[Run]) -> str:
    """A title with the name of the pair, or with the first pair and the number of others."""
    pairs = list(dict.fromkeys(_pair(run) for run in runs if _pair(run)))
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"What fine-tuning changed: {pairs[0]}{more}" if pairs else "What fine-tuning changed"


def _pair(run: Run) -> str:
    context = run.manifest.provenance.context
    return " → ".join(str(context[role]) for role in ("base", "tuned") if context.get(role))


def content(
    runs: Sequence[Run], agreements: Sequence[Run], title: str, written: str
) -> dict[str, JSON]:
    """The content of a report, without the page, the path of the store and the digest."""
    all_runs = [*runs, *agreements]
    claims = [claim for run in all_runs for claim in run.claims]
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "written": written,
        "interp": str(environment().get("interp", "not installed")),
        "runs": [run.entry for run in all_runs],
        "findings": [
            run.manifest.summary["sentence"]
            for run in all_runs
            if run.manifest.summary.get("sentence")
        ],
        "claims": [claim_json(run.key, claim) for run in all_runs for claim in run.claims],
        "agreement": [run.key for run in agreements],
        "limits": limit_lines([run.table for run in all_runs], claims),
    }


def claim_json(key: str, finding: Finding) -> dict[str, JSON]:
    """The report's JSON entry for a finding, with NaN as None."""
    values = {name: getattr(finding, name) for name in COLUMNS if name != "recipe"}
    return {"run": key} | to_json_value({**values, "recipe": finding.claim.to_json()}, finite=False)


def write_report(
    out: str | os.PathLike,
    keys: Iterable[str],
    store: Store,
    *,
    title: str | None = None,
    draws: int | None = None,
) -> Path:
    """Write the page ``out`` (.html) and a JSON file of the same name next to it; returns the path
    of the JSON file.

    ``draws``: also compare the locations that methods find, with this many null draws; None leaves
    the comparison out. Each file is written atomically. Raises ``OptionError`` and ``StoreError``
    before anything is written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--out {out} is not a page: give a file name that ends in .html")
    if not out.absolute().parent.is_dir():
        raise OptionError(
            f"--out {out}: the folder {out.absolute().parent} does not exist; create it or give"
            " another"
        )
    for path in (out, out.with_suffix(".json")):
        if path.is_dir():
            raise OptionError(f"--out {out}: {path} is a folder; give another name")
    # imports plotly, which is not needed to read a report
    from interp.report.report_page import render_report

    runs, agreements = gather(list(keys), store, draws)
    title = title or default_title(runs)
    report = content(runs, agreements, title, datetime.now(UTC).isoformat(timespec="seconds"))
    json_path = out.with_suffix(".json")
    page = render_report(
        report, [run.table for run in runs], [run.table for run in agreements], json_path.name
    )
    write_text(out, page)
    store_path = os.path.relpath(store.root, out.absolute().parent)
    report |= {
        "store": Path(store_path).as_posix(),
        "page": {"file": out.name, "sha256": sha256_of(out)},
    }
    ordered = {name: report[name] for name in FIELDS if name != "sha256"}
    text = json.dumps(
        {**ordered, "sha256": digest(ordered)}, indent=1, ensure_ascii=False, allow_nan=False
    )
    return write_text(json_path, text + "\n")


def read(path: str | os.PathLike, store: str | os.PathLike | None = None) -> Report:
    """Read a report from its JSON file, with the store that it names or another one.

    Raises ``StoreError`` for a file that is not a report.
    """
    path = Path(path)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_reject_constant,
        )
        # a value without canonical JSON or UTF-8 text cannot be compared
        digest(value)
        json.dumps(value, ensure_ascii=False).encode()
    except OSError as error:
        raise StoreError(f"cannot read the report {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, InterpError) as error:
        hint = (
            "; give the .json file next to the page"
            if path.suffix.lower() in (".html", ".htm")
            else ""
        )
        kind = "JSON" if isinstance(error, json.JSONDecodeError) else ("JSON as written by interp")
        raise StoreError(f"{path} is not {kind}, so it is not a report{hint}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StoreError(
            f"{path} is not a report: `interp report RUN... --out report.html` writes one"
        )
    if value.get("version") != VERSION:
        raise StoreError(
            f"{path} has report version {value.get('version')!r}, but this interp reads version"
            f" {VERSION}: run its commands again and write a new report"
        )
    try:
        ReportRecord.model_validate(value)
    except ValidationError as error:
        raise StoreError(
            f"{path} is not a report that interp writes: {first_error(error)}"
        ) from error
    store_path = path.absolute().parent / value["store"] if store is None else Path(store)
    if not store_path.is_dir():
        raise StoreError(
            f"{path} is verified against the store {store_path}, which does not exist; give its"
            " folder with --store DIR"
        )
    return Report(path, value, Store(store_path))


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """An object without repeated names, because readers differ in which of two values they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is repeated in one object")
    return value


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
