"""``interp agree``: do stored runs of one pair locate the change in the same layers and matrices?"""

from typing import Annotated

import typer

from interp.cli.common import Common, takes
from interp.cli.results import page_name, result_text, write_page_of
from interp.store import Store


@takes(Common)
def command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Keys of runs that locate a change, of one pair (interp ls).",
        ),
    ],
    *,
    draws: Annotated[
        int, typer.Option(metavar="N", min=19, help="Random draws of every null.")
    ] = 999,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")] = 0,
    common: Common,
) -> None:
    """Map two or more stored runs of one pair to the same heads, matrices and blocks, and compare
    their agreement with chance.

    No model is run. A compare run among them shows how much of the agreement the movement of
    weights explains. The locations are kept as a table: interp sql "select * from places".

    Example: interp agree 1facf37b 2922ca53 f304434f
    """
    from interp.agreement import Agreement, Runs

    store = Store(common.store)
    run = store.run(Agreement(draws), Runs([store.get(key) for key in runs], seed))
    page = write_page_of(run.path / page_name([run.key]), [run.table], "Where methods put it")
    record = {"run": run.key, "path": str(run.path), "cached": run.cached, "rows": len(run)}
    common.result(
        record | {"summary": run.summary, "page": str(page)},
        result_text([run], page, common.store),
    )
