"""``interp show``: one run, what it was made from, and what it found."""

import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import typer

from interp.claims import Finding, finding_summary, from_table
from interp.cli.claims_table import claims_table
from interp.cli.common import Common, takes
from interp.cli.text import aligned, cell, listed
from interp.errors import OptionError
from interp.provenance import Provenance
from interp.provenance.request import recorded_request
from interp.store import Store
from interp.table import Table


@takes(Common)
def command(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Key of a run, or a beginning that only it has.")
    ],
    *,
    part: Annotated[
        str, typer.Option("--table", metavar="NAME", help="Show the rows of a sub-table.")
    ] = "",
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=0, help="How many rows.")] = 10,
    common: Common,
) -> None:
    """Show one stored run: what it was made from, its sentence, its claims with their controls, its
    first rows.
    """
    store = Store(common.store)
    key = store.find(key)
    run, path = store.get(key), store.path(key)
    if part and part not in run.tables:
        raise OptionError(
            f"--table {part}: run {key} has {', '.join(run.tables) or 'no sub-tables'}"
        )
    displayed = run.tables[part] if part else run
    first_rows_table = first_rows(displayed, rows)
    claims = run.tables.get("claims")
    record = {
        "run": key,
        "path": str(path),
        "cached": True,
        "rows": len(run),
        "summary": run.summary,
        "provenance": run.require_provenance().to_json(),
        "tables": {name: len(table) for name, table in run.tables.items()},
        "claims": [] if claims is None else list(claims.rows()),
        "first": list(first_rows_table.rows()),
    }
    rows_title = f"{part or 'rows'}, {len(first_rows_table)} of {len(displayed)}"
    if part:
        common.result(record, f"{rows_title}\n{_row_lines(first_rows_table)}")
        return
    hidden = ("sentence", "verdicts", "findings")  # they stand in blocks of their own
    blocks = {
        f"{run.kind} {key}": cell(run.summary.get("sentence")),
        "made from": listed(_made_from(run.require_provenance())),
        "summary": listed(
            {name: value for name, value in run.summary.items() if name not in hidden}
        ),
        "claims": "" if claims is None else _claim_lines(from_table(claims)),
        rows_title: _row_lines(first_rows_table),
        "files": listed({"run": path, "sub-tables": list(run.tables)}),
    }
    common.result(record, "\n\n".join(f"{title}\n{body}" for title, body in blocks.items() if body))


def first_rows(table: Table, count: int) -> Table:
    """The first ``count`` rows, by ``rank`` (1 is best) where the table has one."""
    order = (
        np.argsort(table["rank"], kind="stable") if "rank" in table.data else np.arange(len(table))
    )
    return table.select(order[:count])


def _made_from(provenance: Provenance) -> Mapping[str, Any]:
    parent = {"parent": provenance.parent} if provenance.parent else {}
    inputs = {
        (f"{name} digest" if name in provenance.context else name): value
        for name, value in provenance.inputs.items()
    }
    request = recorded_request(provenance.context)
    command = {"command": shlex.join(["interp", *request.words()])} if request else {}
    context = {
        name: value
        for name, value in _flat(provenance.context).items()
        if not name.startswith("environment.request.")
    }
    return {**command, **context, **_flat(provenance.options), **parent, **_flat(inputs)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat.update(
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat


def _claim_lines(claims: tuple[Finding, ...]) -> str:
    words = [f"{claim.name}: {claim.sentence}" for claim in claims]
    return "\n".join([claims_table([finding_summary(claim) for claim in claims]), "", *words])


def _row_lines(table: Table) -> str:
    return aligned([tuple(row.values()) for row in table.rows()], list(table.data))
