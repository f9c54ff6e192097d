"""Tables of the joined evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.discover.joint import Joint
from interp.experiments.discovery import EvidenceRow
from interp.experiments.records import records_table
from interp.rows import flag, key, measure, text
from interp.table import Table

NAN = float("nan")
_OF_CONTROLS = ("control_mean", "control_low", "control_high")


class FoundRow:
    """A row per item of a method, largest joint statistic first."""

    place: int = key("place in the ranking, from 1")
    method: str = key("method that lists it")
    method_place: int = key("its place in that method's table, from 1")
    evidence: str = EvidenceRow.evidence
    where: str = EvidenceRow.where
    direction: str = EvidenceRow.direction
    score: float = EvidenceRow.score
    unit: str = text("unit of the score")
    control_mean: float = measure("mean score of the controls; NaN without controls")
    control_low: float = measure("smallest score of a control; NaN without controls")
    control_high: float = measure("largest score of a control; NaN without controls")
    statistic: float = EvidenceRow.statistic
    joint: float = measure(
        "its statistic on the scale that all methods share; NaN without controls"
    )
    p: float = measure(
        "(1 + controls whose largest joint statistic is as large) / (1 + controls), as if the item"
        " were the strongest, corrected for all items of all methods"
    )
    beyond: bool = flag("its joint statistic is beyond the threshold from the controls")
    form: bool = EvidenceRow.form
    times: float = measure(
        "how many times as likely the token is, geometric mean over positions; NaN for other items"
    )
    example: str = EvidenceRow.example


class MethodRow:
    """A row per method."""

    method: str = key("method of discovery")
    run: str = text("key of its run")
    listed: int = measure("items in its table, without those of form")
    maximum: float = measure("largest statistic of the fine-tuned model")
    control_low: float = measure("smallest of the controls' largest statistics")
    control_high: float = measure("largest of the controls' largest statistics")
    beyond: int = measure("items beyond the controls, over all methods")
    passing: float = measure("smallest statistic that would have been beyond the controls")
    detectable: float = measure(
        "smallest score that would have been beyond the controls; of items that all models share,"
        " measured from the controls' mean"
    )
    unit: str = text("unit of that score")


class ModelRow:
    """A row per model."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = text("its name")
    control: bool = flag("it is a control")
    joint: float = measure("largest statistic over all methods, each model held out in turn")
    method: str = text("method where it is largest")
    kl: float = measure(
        "mean KL divergence of its next-token distribution from the base's on the texts, in nats a"
        " token; NaN where diff mining was not run"
    )


class GroupRow:
    """A row per word: tokens and phrases that differ by case, space or punctuation only."""

    word: str = key("the word, in lower case")
    spellings: str = text("the tokens and phrases, each in quotes")
    methods: str = text("methods that list it")
    direction: str = EvidenceRow.direction
    joint: float = measure("largest joint statistic of one of them")
    beyond: bool = flag("one of them is beyond the controls")


def item_table(runs: Sequence[Table], joint: Joint, limit: int) -> Table:
    """Items of all methods in one order: by the joint statistic, items of form last; without
    controls by their place in the method's table.
    """
    records: list[dict[str, Any]] = []
    for method, run in enumerate(runs):
        taken = [
            at
            for wanted in (False, True)
            for at in np.flatnonzero(run["form"] == wanted)[:limit].tolist()
        ]
        statistics = joint.statistic(method, run["statistic"][taken])
        p = joint.p(statistics)
        records += [
            _record(run, at, float(value), float(p_value), joint.threshold)
            for at, value, p_value in zip(taken, statistics, p, strict=True)
        ]
    records.sort(key=_order)
    for at, record in enumerate(records):
        record["place"] = at + 1
    return records_table(FoundRow, "discover", records)


def _record(run: Table, at: int, joint: float, p: float, threshold: float) -> dict[str, Any]:
    row = {name: run[name][at] for name in EvidenceRow.__annotations__ if name in run.data}
    form = bool(row["form"])
    gain = run["gain"][at] if "gain" in run.data else NAN
    return {
        "place": 0,
        "method": run.kind,
        "method_place": int(row["place"]),
        **{name: row[name] for name in ("evidence", "where", "direction", "score", "statistic")},
        "unit": str(run.summary.get("unit", "")),
        **{name: float(row.get(name, NAN)) for name in _OF_CONTROLS},
        "joint": joint,
        "p": NAN if form else p,
        "beyond": not form and joint > threshold,
        "form": form,
        "times": float(np.exp(gain)),
        "example": row["example"],
    }


def _order(record: dict[str, Any]) -> tuple:
    joint = record["joint"]
    return (record["form"], -joint if np.isfinite(joint) else 0.0, record["method_place"])


def method_table(runs: Sequence[Table], joint: Joint) -> Table:
    """One row per method, with the smallest effect that would have been beyond the controls."""
    records = []
    for method, run in enumerate(runs):
        maxima = run.tables["controls"]["maximum"]
        of_controls = maxima[1:]
        passing = joint.passing(method) if np.isfinite(joint.threshold) else NAN
        detectable, largest = run.summary.get("detectable"), run.summary.get("largest_of_controls")
        shared = joint.statistic(method, run["statistic"][~run["form"]])
        records.append(
            {
                "method": run.kind,
                "run": run.provenance.key if run.provenance else "",
                "listed": int((~run["form"]).sum()),
                "maximum": float(maxima[0]),
                "control_low": float(of_controls.min()) if of_controls.size else NAN,
                "control_high": float(of_controls.max()) if of_controls.size else NAN,
                "beyond": int((shared > joint.threshold).sum()),
                "passing": passing,
                # both are multiples of the score's standard error
                "detectable": detectable / largest * passing if detectable and largest else NAN,
                "unit": str(run.summary.get("unit", "")),
            }
        )
    return records_table(MethodRow, "discover-methods", records)


def divergences(runs: Sequence[Table], n_models: int) -> list[float]:
    """How far every model moved from the base, nats a token; NaN where diff mining was not run."""
    for run in runs:
        if "kl" in run.summary:
            return [run.summary["kl"], *run.summary["kl_of_controls"]]
    return [NAN] * n_models


def model_table(
    names: Sequence[str], joint: Joint, methods: Sequence[str], kl: Sequence[float]
) -> Table:
    """One row per model."""
    records = [
        {
            "model_number": at,
            "model": name,
            "control": at > 0,
            "joint": float(joint.maxima[at]),
            "method": methods[int(joint.largest[at])],
            "kl": kl[at],
        }
        for at, name in enumerate(names)
    ]
    return records_table(ModelRow, "discover-models", records)


def group_table(items: Table) -> Table:
    """Tokens and phrases of the table that are one word, largest joint statistic first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for at in np.flatnonzero(~items["form"]).tolist():
        label = str(items["evidence"][at])
        words = re.findall(r"\w+", label.casefold())
        # texts and directions are not words
        if words and len(words) <= 3 and len(label) <= 40:
            groups.setdefault((" ".join(words), str(items["direction"][at])), []).append(at)
    records = [
        {
            "word": word,
            "spellings": " ".join(dict.fromkeys(repr(str(items["evidence"][at])) for at in rows)),
            "methods": ", ".join(dict.fromkeys(str(items["method"][at]) for at in rows)),
            "direction": direction,
            "joint": float(max(items["joint"][at] for at in rows)),
            "beyond": bool(items["beyond"][rows].any()),
        }
        for (word, direction), rows in groups.items()
    ]
    return records_table(GroupRow, "discover-groups", records)
