"""``interp verify``: does a report agree with the stored tables, and do its claims follow from
them?
"""

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
class VerifyOptions(Common):
    """The options of every command; the report names its store."""

    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="DIR", help="Where its runs are.  [default: where it says]"
        ),
    ] = None


@takes(VerifyOptions)
def command(
    report: Annotated[
        Path,
        typer.Argument(metavar="REPORT.json", help="The JSON file that `interp report` wrote."),
    ],
    *,
    remeasure: Annotated[
        bool,
        typer.Option("--remeasure", help="Also run its commands again, and compare."),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            help="Largest difference of a value measured again: relative, absolute below 1.",
        ),
    ] = 1e-6,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Also test its claims on fresh prompts: positive, then negative.",
        ),
    ] = None,
    common: VerifyOptions,
) -> None:
    """Check a report: everything in it is computed again from the stored tables, its claims too.

    Prints one line for each check that fails, and exits with code 1. Whether the tables are true
    of the models is checked by --remeasure, run from the folder in which the commands were given;
    --prompts tests the claims on other prompts.

    Example: interp verify report.json
    """
    from interp.replication.remeasure import remeasurement
    from interp.report.document import read
    from interp.report.verification import checks

    if not tolerance < math.inf:
        raise OptionError(f"--tolerance {tolerance} is not a tolerance; use 1e-6")
    document = read(report, common.store)
    with remeasurement([str(path) for path in prompts or []], tolerance) as measured_again:
        checked = checks(document)
        questions, claims = [*checked], {question.name for question in checked if question.claim}
        if remeasure:
            questions += measured_again.remeasured(document)
        questions += measured_again.on_fresh_prompts(document)
        failed, unasked = _run_questions(questions)
    record = {
        "report": str(report),
        "checks": len(questions) - len(unasked),
        "failed": [{"check": name, "why": why} for name, why in failed],
        "not_asked": [{"check": name, "why": why} for name, why in unasked],
    }
    n_held = record["checks"] - len(failed)
    n_claims_held = sum(bool(question.claim) for question in checked) - sum(
        name in claims for name, _ in failed
    )
    verdict = (
        f"{n_held} of {record['checks']} checks hold, {n_claims_held} of them claims computed again"
        " from the stored tables"
    )
    if remeasure:
        verdict += "; claims whose commands were run again are among the checks"
    if unasked:
        verdict += f"; {len(unasked)} could not be tested"
    lines = [why for _, why in failed] + [f"{name}: {why}" for name, why in unasked]
    common.result(record, "\n".join([*lines, verdict]))
    if failed:
        raise typer.Exit(FAILED)


def _run_questions(questions: Sequence[Callable[[], str | None]]) -> tuple[list[Any], list[Any]]:
    """Names and sentences of what failed, and of what could not be tested."""
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
