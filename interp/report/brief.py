"""A report as compact JSON for automatic auditors: nulls and what was not found come first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.claims import SUPPORTED
from interp.provenance import JSON, to_json_value
from interp.report.document import gather
from interp.report.html_document import write_text
from interp.report.sections import claims_of
from interp.store import Store
from interp.table import Table

FORMAT, VERSION = "interp-brief", 1
EVIDENCE = 20
"""Items of a discovery at most."""
_ITEM = (
    "method",
    "evidence",
    "where",
    "direction",
    "score",
    "unit",
    "control_low",
    "control_high",
    "joint",
    "p",
    "beyond",
    "example",
)


def brief(keys: Sequence[str], store: Store) -> dict[str, JSON]:
    """The brief of these runs.

    ``nulls``: what each run was compared with. ``not_found``: claims that are not supported or not
    tested, with the reason, and methods without an item beyond the controls, with the smallest
    effect that would have been seen. ``found``: supported claims. ``evidence``: the first items of
    a discovery, each with the range of the controls. ``limits``: what is not shown.
    """
    runs, _ = gather(keys, store)
    tables = [run.table for run in runs]
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "models": _models(tables),
        "nulls": [],
        "not_found": [],
        "found": [],
        "evidence": [],
        "limits": list(dict.fromkeys(line for t in tables for line in t.summary.get("limits", ()))),
        "runs": [{"run": run.key, "kind": run.table.kind} for run in runs],
    }
    for run in runs:
        for claim in claims_of([run.table]):
            entry = {
                "run": run.key,
                "claim": claim.name,
                "verdict": claim.verdict,
                "sentence": claim.sentence,
                "value": claim.value,
            }
            if claim.verdict == SUPPORTED:
                content["found"].append(entry)
            else:
                content["not_found"].append({**entry, "reason": claim.reason})
            content["nulls"].append(
                {
                    "run": run.key,
                    "claim": claim.name,
                    "null": claim.control,
                    "value": claim.control_value,
                    "range": [claim.control_low, claim.control_high],
                    "p": claim.p,
                }
            )
        _add_discovery(content, run.key, run.table)
    return to_json_value(content, finite=False)


def _add_discovery(content: dict[str, Any], key: str, table: Table) -> None:
    if table.kind != "discover":
        return
    models = table.tables["models"]
    content["nulls"].append(
        {
            "run": key,
            "joint": {str(row["model"]): row["joint"] for row in models.rows() if row["control"]},
        }
    )
    n_controls = int(models["control"].sum())
    content["not_found"] += [
        {
            "run": key,
            "method": row["method"],
            "sentence": (
                "nothing beyond the controls"
                if n_controls > 1
                else "not tested: fewer than two controls"
            ),
            "smallest_detectable": row["detectable"],
            "unit": row["unit"],
        }
        for row in table.tables["methods"].rows()
        if not row["beyond"]
    ]
    shown = np.flatnonzero(~table["form"])[:EVIDENCE]
    content["evidence"] += [
        {"run": key, **{name: row[name] for name in _ITEM}} for row in table.select(shown).rows()
    ]


def _models(tables: Sequence[Table]) -> list[dict[str, str]]:
    pairs = [
        {role: str(one.provenance.context.get(role) or "") for role in ("base", "tuned")}
        for one in tables
        if one.provenance
    ]
    return [pair for at, pair in enumerate(pairs) if pair not in pairs[:at]]


def write_brief(path: Path, keys: Sequence[str], store: Store) -> dict[str, JSON]:
    """Write the brief as one line of JSON, atomically; returns its content."""
    content = brief(keys, store)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_text(path, text + "\n")
    return content
