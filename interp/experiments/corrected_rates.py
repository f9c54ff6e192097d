"""Rates corrected for the errors of a judge model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.experiments.conditions import ConditionResult
from interp.maths.intervals import effective_clusters
from interp.metrics import Behaviour
from interp.study import Study
from interp.table import Table, table

TABLE = "judged"


def judge_field(study: Study) -> dict[str, str]:
    """The field of a claim that corrects a rate for a judge's errors; empty without a judge."""
    metric = study.require_metric()
    return {"judge": TABLE} if isinstance(metric, Behaviour) and metric.errors is not None else {}


def corrected_rates(study: Study, results: Sequence[ConditionResult]) -> dict[str, Table]:
    """The sub-table ``results``, a row per condition and class; none without a judge.

    The number of answers is the effective number of clusters.
    """
    metric = study.require_metric()
    errors = metric.errors if isinstance(metric, Behaviour) else None
    if errors is None:
        return {}
    sizes = [effective_clusters(study.prompts(item.group).clusters) for item in results]
    rows = [
        errors.corrected(float(item.exhibits.mean()) * n, n)
        for item, n in zip(results, sizes, strict=True)
    ]
    count = len(results)
    columns = {
        "condition": (
            [item.condition for item in results],
            "key",
            "model and intervention",
        ),
        "group": ([item.group for item in results], "key", "class of the prompts"),
        "judged": (
            [row.judged for row in rows],
            "measure",
            "share of answers that the judge says show the behaviour",
        ),
        "corrected": (
            [row.value for row in rows],
            "measure",
            "the same, corrected for the judge's errors",
        ),
        "low": (
            [row.low for row in rows],
            "measure",
            "lower end of its 95 % interval, with the uncertainty of the judge's errors",
        ),
        "high": ([row.high for row in rows], "measure", "upper end of its 95 % interval"),
        "answers": (sizes, "measure", "effective number of clusters of answers"),
        "sensitivity": (
            [errors.true_yes / errors.positives] * count,
            "measure",
            "share judged yes of those labelled yes",
        ),
        "specificity": (
            [errors.true_no / errors.negatives] * count,
            "measure",
            "share judged no of those labelled no",
        ),
        "labelled_yes": (np.full(count, errors.positives), "measure", "answers labelled yes"),
        "labelled_no": (np.full(count, errors.negatives), "measure", "answers labelled no"),
    }
    return {TABLE: table(TABLE, columns)}
