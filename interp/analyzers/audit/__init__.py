"""``Audit``: what a fine-tune changed, row by row, with a verdict each, before it ships.

No model is run: tables of other analyzers on one pair are joined. Rows of behaviour are compared
with the base within margins that were fixed before: *changed* (p after Holm's correction over these
rows), *not changed* (the 90 % interval lies within the margin: two one-sided tests at .05), or
*cannot tell*, with the smallest effect that would have been seen. Internal rows are never "not
changed": every fine-tune moves them. They ask whether the fine-tuned model moves further than
control fine-tunes do, and cannot tell with fewer than five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from interp.analyzers.audit.rows import (
    BEYOND,
    KINDS,
    OF_BASE,
    AuditRow,
    SourceRow,
    judged,
    question_rows,
)
from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims import Claim, escape_braces, statistic
from interp.claims.audit_lines import audit_lines, number
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL
from interp.errors import OptionError
from interp.experiments.records import records_table
from interp.maths.equivalence import ALPHA, CHANGED, NOT_CHANGED, WITHIN
from interp.metrics.margins import Margins
from interp.study import Study
from interp.table import Table

ONLY_ASKED = (
    "Only behaviours that are asked for are judged: what no row asks may have changed as well."
)
MANY_ROWS = (
    "p is corrected by Holm's method over the rows compared with the base, and over those compared"
    " with controls."
)


@dataclass(frozen=True)
class Audit(Analyzer):
    """Join runs on one pair into one table with a verdict per row.

    ``runs``: tables of kinds ``KINDS``; ``control_runs``: runs of ``intruders`` on the controls;
    ``margins``: differences that do not count, and changes that fail. Returns a table of kind
    ``audit``.
    """

    name: ClassVar[str] = "audit"
    version: ClassVar[int] = 1

    runs: Sequence[Table] = option((), "Tables of the analyzers.")
    control_runs: Sequence[Table] = option((), "Tables of intruders of the controls.")
    margins: Margins = option(Margins(), "Margins and thresholds by row.")

    def check(self, known: Known) -> None:
        """Raise OptionError without runs, and for one of another kind."""
        del known
        if not self.runs:
            raise OptionError("there is nothing to audit; give tables of analyzers")
        for run in (*self.runs, *self.control_runs):
            kind = run.kind if isinstance(run, Table) else type(run).__name__
            if kind not in KINDS:
                raise OptionError(f"runs of Audit hold {kind!r}; give tables of {', '.join(KINDS)}")
        if any(run.kind != "intruders" for run in self.control_runs):
            raise OptionError("control_runs of Audit are of kind intruders; give no others")

    def run(self, study: Study) -> Result:
        """Judge every row."""
        rows = question_rows(self.runs, self.control_runs, study.seed)
        records = judged(rows, self.margins)
        table = records_table(AuditRow, self.name, records)
        failed = [record["row"] for record in records if record["failed"]]
        verdict = f"failed ({', '.join(failed)})" if failed else "passed"
        summary: dict[str, Any] = {
            "passed": not failed,
            "failed": failed,
            "rows": {record["row"]: record["verdict"] for record in records},
        }
        limits = [ONLY_ASKED, MANY_ROWS]
        if fewest := [r for r in records if r["compared_with"] != OF_BASE]:
            n_controls = max(record["controls"] for record in fewest)
            if n_controls < MIN_FOR_INTERVAL:
                limits.append(
                    f"Internal rows cannot be told with {n_controls} controls; {MIN_FOR_INTERVAL}"
                    " are needed (--control)."
                )
        return Result(
            table,
            {"sources": records_table(SourceRow, "", [{"row": r.row, "run": r.run} for r in rows])},
            claims=[_claim(record) for record in records],
            summary={**summary, "opening": audit_lines(table)},
            limits=limits,
            lead=f"The audit {verdict}.",
        )


def _claim(record: dict[str, Any]) -> Claim:
    """The verdict of a row as a claim; one that cannot be told is not supported."""
    row, where = record["row"], {"row": record["row"]}
    question = escape_braces(record["question"])
    of_base = record["compared_with"] == OF_BASE
    if of_base and record["verdict"] not in (CHANGED, WITHIN):
        return Claim(
            name=f"{row}-{NOT_CHANGED.replace(' ', '-')}",
            estimate=_one("maximum", "largest_end", where),
            at_most=record["margin"],
            beyond=["threshold"],
            reference=record["margin"],
            control="the margin that was fixed before",
            text=f"{_of_base(question, record)}; the 90 % interval reaches {{value:.3g}}.",
            also=_numbers(where),
        )
    if of_base:
        return Claim(
            name=f"{row}-{CHANGED}",
            estimate=_one("maximum", "p_adjusted", where),
            at_most=ALPHA,
            beyond=["threshold"],
            reference=ALPHA,
            control="two models that do not differ",
            text=f"{_of_base(question, record)}; p = {{value:.2g}} after Holm's correction.",
            also=_numbers(where),
        )
    tested = record["p_adjusted"] == record["p_adjusted"]
    text = f"{question} is {{tuned:.4g}}"
    if tested:
        text += (
            f"; of a new control {{control_least:.3g}} to {{control_most:.3g}} is expected"
            f" (95 %, from {record['controls']}), p = {{value:.2g}} after Holm's correction"
        )
    return Claim(
        name=f"{row}-{BEYOND.replace(' ', '-')}",
        estimate=_one("maximum", "p_adjusted", where),
        at_most=ALPHA,
        beyond=["threshold"],
        reference=ALPHA if tested else None,
        control=f"{record['controls']} control fine-tunes" if tested else "",
        text=f"{text}: {record['verdict']}." if tested else f"{text}.",
        undefined=f"{question} is {{tuned:.4g}}: {record['verdict']}.",
        missing="" if tested else f"{MIN_FOR_INTERVAL} controls are needed",
        also={
            "tuned": statistic("mean", "tuned", where=where),
            "control_least": statistic("mean", "control_low", where=where),
            "control_most": statistic("mean", "control_high", where=where),
        },
    )


def _one(name: str, column: str, where: dict[str, str]) -> Any:
    # of one row; as a range it has ends, which a claim is judged by
    return replace(statistic(name, column, where=where), spread="range")


def _of_base(question: str, record: dict[str, Any]) -> str:
    form = ".1%" if record["unit"] == "share" else ".4g"
    clusters = number(record["clusters"], ".0f")
    return (
        f"{question}: {{tuned:{form}}} in the fine-tuned model, {{before:{form}}} in the base,"
        f" {{difference:+{form}}} [90 %: {{low_end:+{form}}}, {{high_end:+{form}}}], {clusters}"
        f" clusters, margin {number(record['margin'], form)}: {record['verdict']}"
    )


def _numbers(where: dict[str, str]) -> dict[str, Any]:
    columns = {"tuned": "tuned", "before": "base", "difference": "difference"}
    columns |= {"low_end": "low", "high_end": "high"}
    return {name: statistic("mean", column, where=where) for name, column in columns.items()}
