"""Rates corrected for the errors of a judge model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from interp.experiments.conditions import ConditionResult
from interp.experiments.records import records_table
from interp.maths.intervals import effective_clusters
from interp.metrics import Behaviour
from interp.rows import PromptRow, key, measure
from interp.study import Study
from interp.table import Table

TABLE = "judged"


class CorrectedRateRow:
    """A row per condition and class."""

    condition: str = key("which model answered, under which intervention")
    group: str = PromptRow.group
    judged: float = measure("share of answers that the judge says show the behaviour")
    corrected: float = measure("the same, corrected for the judge's errors")
    low: float = measure(
        "lower end of its 95 % interval, with the uncertainty of the judge's errors"
    )
    high: float = measure(
        "upper end of its 95 % interval, with the uncertainty of the judge's errors"
    )
    answers: float = measure("effective number of clusters of answers")
    sensitivity: float = measure("share judged yes of those labelled yes")
    specificity: float = measure("share judged no of those labelled no")
    labelled_yes: int = measure("answers labelled yes")
    labelled_no: int = measure("answers labelled no")


def judge_field(study: Study) -> dict[str, str]:
    """The field of a claim that corrects a rate for a judge's errors; empty without a judge."""
    metric = study.require_metric()
    return {"judge": TABLE} if isinstance(metric, Behaviour) and metric.errors is not None else {}


def corrected_rates(study: Study, results: Sequence[ConditionResult]) -> dict[str, Table]:
    """The sub-table ``judged``, a row per condition and class; none without a judge.

    The number of answers is the effective number of clusters.
    """
    metric = study.require_metric()
    errors = metric.errors if isinstance(metric, Behaviour) else None
    if errors is None:
        return {}
    records = []
    for item in results:
        n = effective_clusters(study.prompts(item.group).clusters)
        share = errors.corrected(float(item.exhibits.mean()) * n, n)
        records.append(
            {
                "condition": item.condition,
                "group": item.group,
                "judged": share.judged,
                "corrected": share.value,
                "low": share.low,
                "high": share.high,
                "answers": n,
                "sensitivity": errors.true_yes / errors.positives,
                "specificity": errors.true_no / errors.negatives,
                "labelled_yes": errors.positives,
                "labelled_no": errors.negatives,
            }
        )
    return {TABLE: records_table(CorrectedRateRow, TABLE, records)}
