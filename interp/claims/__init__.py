"""Claims: the assertions of a run as data, evaluated on the tables of the run.

A claim names an estimate, a threshold, a null or control, and a sentence::

    Claim(
        name="shorter", estimate=mean("saved"), at_least=1.0, null=Draws("exchanged", "saved"),
        control="models exchanged at random within clusters", text="Answers are {value:.1f} tokens
        shorter.",
    )

``conclude(table, claims)`` evaluates them and adds the findings to the table; ``check`` evaluates a
stored finding again.
"""

from interp.claims.claim import ALPHA, Claim, Draws
from interp.claims.estimates import Estimate, Measurement, auc, mean, measure, statistic
from interp.claims.finding import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    TOO_FEW,
    VERDICTS,
    Finding,
    evaluate,
)
from interp.claims.numbers import correlation
from interp.claims.sentences import escape_braces, texts_match
from interp.claims.stored import (
    COLUMNS,
    MEASURES,
    check,
    check_summary,
    conclude,
    finding_from_row,
    finding_summary,
    from_table,
    headline,
    summary_of,
    to_table,
    verdicts_sentence,
)

__all__ = [
    "ALPHA",
    "COLUMNS",
    "MEASURES",
    "NOT_SUPPORTED",
    "NOT_TESTED",
    "SUPPORTED",
    "TOO_FEW",
    "VERDICTS",
    "Claim",
    "Draws",
    "Estimate",
    "Finding",
    "Measurement",
    "auc",
    "check",
    "check_summary",
    "conclude",
    "correlation",
    "escape_braces",
    "evaluate",
    "finding_from_row",
    "finding_summary",
    "from_table",
    "headline",
    "mean",
    "measure",
    "statistic",
    "summary_of",
    "texts_match",
    "to_table",
    "verdicts_sentence",
]
