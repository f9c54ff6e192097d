"""``interp agree``: do stored runs of one pair put what tuning did into the same places?"""

from typing import Annotated

import typer

from interp.cli.common import Common, takes
from interp.cli.results import page_name, page_of, text_of
from interp.store import Store


@takes(Common)
def command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Keys of locate-neurons, intruders, graft, tuco, compare, sae diff runs.",
        ),
    ],
    *,
    draws: Annotated[
        int, typer.Option(metavar="N", min=19, help="Random draws of every null.")
    ] = 999,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of every random draw.")] = 0,
    common: Common,
) -> None:
    """Lay two or more stored runs of one pair over the same blocks and matrices, and compare them
    beside chance.

    Nothing is run again. A compare run among them tells how much of the agreement the movement of
    weights explains. The places are kept as a table: interp sql "select * from places".

    Example: interp agree 1facf37b 2922ca53 f304434f
    """
    from interp.agreement import Agreement, Runs

    store = Store(common.store)
    found = store.run(Agreement(draws), Runs([store.get(key) for key in runs], seed))
    written = page_of(found.path / page_name([found.key]), [found.table], "Where methods put it")
    record = {"run": found.key, "path": str(found.path), "cached": found.cached, "rows": len(found)}
    common.result(
        record | {"summary": found.summary, "page": str(written)},
        text_of([found], written, common.store),
    )
