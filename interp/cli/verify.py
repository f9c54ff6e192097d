"""``interp verify``: does a report say what the store holds, and do its claims follow?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import Common, takes

FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Checking(Common):
    """The options of every command, but that the report says where its store is."""

    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Where its runs are.  [default: where it says]")
    ] = None


@takes(Checking)
def command(
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="What `interp report` wrote beside the page.")],
    *,
    common: Checking,
) -> None:
    """Check a report: everything it says is made again from the stored tables, every claim measured again.

    One line for each thing that does not hold, and exit code 1. No model is run: that the tables tell the truth about
    the models is shown by --remeasure of pytest --interp-report.

    Example: interp verify report.json
    """
    from interp.report.document import read
    from interp.report.verification import checks, failures

    said = read(report, common.store)
    failed, count = failures(said), len(checks(said))
    record = {"report": str(report), "checks": count, "failed": [{"check": c.name, "why": why} for c, why in failed]}
    lines = [why for _, why in failed]
    verdict = f"{count - len(failed)} of {count} checks hold, {len(said.value['claims'])} of them claims measured again"
    common.result(record, "\n".join([*lines, verdict]))
    if failed:
        raise typer.Exit(FAILED)
