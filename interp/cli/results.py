"""What commands that keep runs print, and the page that is written next to the first run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.cli.baselines import baselines_table
from interp.cli.claims_table import claims_table
from interp.cli.common import Common
from interp.provenance import sha256_of
from interp.store.requests import RecalledRun, RequestAnswer


def page_name(keys: Sequence[str]) -> str:
    """File name of the page of these runs, in the folder of the first: it depends on the last run
    too.
    """
    return "page.html" if len(keys) == 1 else f"page-{keys[-1][:8]}.html"


def print_result(common: Common, runs: Sequence[Any], page: Path) -> str:
    """Print the first run's result together with the summaries of the other runs; returns the first
    run's key.
    """
    first, summary = runs[0], dict(runs[0].summary)
    for later_run in runs[1:]:
        if _kind(later_run) == "verify-neurons" and "supported" not in runs[0].summary:
            summary |= {
                "supported": later_run.summary["supported"],
                "verified_by": later_run.key,
                "verification": later_run.summary,
            }
        elif [_kind(run) for run in runs].count(_kind(later_run)) == 1:
            summary.setdefault("checks", {})[_kind(later_run)] = {
                "run": later_run.key,
                "summary": later_run.summary,
            }
        else:  # several can be of one kind
            entry = {"run": later_run.key, "kind": _kind(later_run), "summary": later_run.summary}
            summary["runs"] = [*summary.get("runs", []), entry]
    record = {"run": first.key, "path": str(first.path), "cached": first.cached, "rows": len(first)}
    common.result(
        record | {"summary": summary, "page": str(page)}, result_text(runs, page, common.store)
    )
    return first.key


def recalled_page(root: Path, remembered: RequestAnswer, title: str) -> Path:
    """The page of a recalled request: the file if it is unchanged, else written again from the
    tables.
    """
    page = remembered.runs[0].path / page_name([run.key for run in remembered.runs])
    if page.is_file() and sha256_of(page) == remembered.page:
        return page
    from interp.store import Store

    store = Store(root)
    return write_page_of(page, [store.get(run.key) for run in remembered.runs], title)


def _kind(run: Any) -> str:
    return run.kind


def _table(run: Any, root: Path) -> Any:
    """The table of a run, which of a recalled one is still in the store."""
    if isinstance(run, RecalledRun):
        from interp.store import Store

        return Store(root).get(run.key)
    return run.table


def write_page_of(path: Path, tables: Sequence[Any], title: str) -> Path:
    """Write the page of these tables."""
    from interp.report.page import write_page

    return write_page(path, tables, title)


LINE_LABELS: Mapping[str, tuple[str, str]] = {
    "locate-neurons": ("located:", "table:"),
    "verify-neurons": ("verified:", "checks:"),
}


TOLD_BY_OPENING = "audit"
"""The kind whose first lines say what its claims say."""


def result_text(runs: Sequence[Any], page: Path, root: Path) -> str:
    """The printed result: the sentence of every run, its claims, and the paths of its tables and
    its page.

    ``root``: the store, in which the tables of recalled runs still are.
    """
    names = [LINE_LABELS.get(_kind(run), (f"{_kind(run)}:", f"{_kind(run)}:")) for run in runs]
    width = max(9, *(len(name) for pair in names for name in pair))
    lines = [line for run in runs for line in run.summary.get("opening", ())]
    lines += [""] if lines else []
    lines += [
        f"{said:{width}} {run.summary['sentence']}"
        for (said, _), run in zip(names, runs, strict=True)
    ]
    lines += [
        f"{'weights:':{width}} {run.summary['weights']}" for run in runs if _kind(run) == "compare"
    ]
    for run in runs:
        if (findings := run.summary.get("findings")) and _kind(run) != TOLD_BY_OPENING:
            lines += ["", claims_table(findings), ""]
        if _kind(run) == "baselines":
            lines += [baselines_table(_table(run, root)), ""]
    for (_, table), run in zip(names, runs, strict=True):
        lines.append(
            f"{table:{width}} {run.path / 'table.parquet'}"
            + ("  (from the store)" if run.cached else "")
        )
    lines.append(f"{'page:':{width}} {page}")
    return "\n".join([*lines, f"{'more:':{width}} interp show {runs[-1].key[:12]}"])
