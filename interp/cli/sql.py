"""``interp sql``: questions to all runs of a store at once."""

from typing import Annotated

import typer

from interp.cli.common import Common, takes
from interp.cli.text import aligned, comma_separated
from interp.store import Store


@takes(Common)
def command(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY", help="One SELECT; `select * from runs` says what there is."
        ),
    ],
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    common: Common,
) -> None:
    """Query the stored tables with DuckDB.

    Every kind of table is a view over all runs (locate_neurons, its sub-table
    locate_neurons_tokens), with a column `run`; the view `runs` lists the runs themselves.
    """
    store = Store(common.store)
    table = store.sql(query)
    names = list(table.data)
    records = list(table.rows())
    rows = [tuple(record.values()) for record in records]
    text = comma_separated(rows, names) if as_csv else aligned(rows, names)
    common.result({"rows": len(table), "columns": names, "data": records}, text)
    for problem in store.problems():
        common.remark(f"left out, not a run: {problem}")
