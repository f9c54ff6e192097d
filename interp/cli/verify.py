"""``interp verify``: does a report say what the store holds, and do its claims follow?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import Common, takes
from interp.errors import ClaimError, OptionError

FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Checking(Common):
    """The options of every command, but that the report says where its store is."""

    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="DIR", help="Where its runs are.  [default: where it says]"
        ),
    ] = None


@takes(Checking)
def command(
    report: Annotated[
        Path,
        typer.Argument(metavar="REPORT.json", help="What `interp report` wrote beside the page."),
    ],
    *,
    remeasure: Annotated[
        bool,
        typer.Option("--remeasure", help="Also run the commands again that made it, and compare."),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            help="How far what is run again may be off: relative, absolute below 1.",
        ),
    ] = 1e-6,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Also ask its claims of fresh prompts: positive, then negative.",
        ),
    ] = None,
    common: Checking,
) -> None:
    """Check a report: everything it says is made again from the stored tables, its claims too.

    One line for each thing that does not hold, and exit code 1. That the tables tell the truth
    about the models only --remeasure shows, from the folder in which its commands were given;
    --prompts asks whether it is true of others.

    Example: interp verify report.json
    """
    from interp.replication.remeasure import measuring_again
    from interp.report.document import read
    from interp.report.verification import checks

    if not tolerance < math.inf:
        raise OptionError(f"--tolerance {tolerance} is no tolerance; use 1e-6")
    said = read(report, common.store)
    with measuring_again([str(path) for path in prompts or []], tolerance) as again:
        checked = checks(said)
        questions, claims = [*checked], {question.name for question in checked if question.claim}
        if remeasure:
            questions += again.remeasured(said)
        questions += again.on_fresh_prompts(said)
        failed, unasked = _answers(questions)
    record = {
        "report": str(report),
        "checks": len(questions) - len(unasked),
        "failed": [{"check": name, "why": why} for name, why in failed],
        "not_asked": [{"check": name, "why": why} for name, why in unasked],
    }
    held = record["checks"] - len(failed)
    told = sum(bool(question.claim) for question in checked) - sum(
        name in claims for name, _ in failed
    )
    verdict = (
        f"{held} of {record['checks']} checks hold, {told} of them claims computed again from the"
        " stored tables"
    )
    if remeasure:
        verdict += "; claims whose commands were run again are among the checks"
    if unasked:
        verdict += f"; {len(unasked)} could not be asked"
    lines = [why for _, why in failed] + [f"{name}: {why}" for name, why in unasked]
    common.result(record, "\n".join([*lines, verdict]))
    if failed:
        raise typer.Exit(FAILED)


def _answers(questions: Sequence[Callable[[], str | None]]) -> tuple[list[Any], list[Any]]:
    """Names and sentences of what failed, and of what could not be asked."""
    failed, unasked = [], []
    for question in questions:
        try:
            reason = question()
        except ClaimError as error:
            failed.append((question.name, str(error)))
            continue
        if reason:
            unasked.append((question.name, reason))
    return failed, unasked
