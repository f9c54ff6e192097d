"""The first lines of the output for a verifying run: at most five, from its tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from interp.claims.stored import from_table
from interp.table import Table


def opening(run: Table) -> list[str]:
    """The question; the rate of the behaviour before, under ablation and patched into the base; the
    log-odds; the verdicts.

    ``run`` is of kind ``verify-neurons`` and its summary has the ``labels`` of the behaviour; [] if
    no unit was selected.
    """
    labels, count, unit = run.summary["labels"], run.summary["selected"], run.summary["unit"]
    keys = zip(run["condition"].tolist(), run["group"].tolist(), strict=True)
    rates = dict(zip(keys, run[labels["column"]].tolist(), strict=True))
    if not count:
        return []
    ablated = "ablate-base" if ("base", "positive") in rates else "ablate-mean"
    given = "at the base's contributions" if ablated == "ablate-base" else "at their mean"
    many = labels["many"]
    own = [f"base {_share(rates['base', 'positive'])}"] if ("base", "positive") in rates else []
    own.append(f"fine-tuned {_share(rates['tuned', 'positive'])}")
    lines = [
        (
            f"question: do {count:,} of {run.summary['units']:,} {unit}s carry the {many}? "
            f"{run.summary['positive']} positive and {run.summary['negative']} negative prompts"
        ),
        f"{many}: {', '.join(own)}; with the {count:,} {given}:"
        f" {_share(rates.get((ablated, 'positive'), math.nan))}"
        + _random(run, "necessity", "rate", _share)
        + _first(run.summary.get("k95_behaviour")),
    ]
    if ("patch-tuned", "positive") in rates:
        patched = _share(rates["patch-tuned", "positive"])
        lines.append(
            f"{many} of the base with the {count:,} patched in: {patched}"
            + _random(run, "sufficiency", "rate", _share)
        )
    claims = {finding.name: finding for finding in from_table(run.tables["claims"])}
    recovered = [
        f"{_number(claims[f'{direction}-recovery'].value)} {how}"
        + _random(run, direction, "recovery", _number)
        for direction, how in (("necessity", given), ("sufficiency", "patched in"))
        if f"{direction}-recovery" in claims
    ]
    if recovered:
        lines.append(f"gap of the {labels['number']} closed: {'; '.join(recovered)}")
    by_verdict: dict[str, list[str]] = {}
    for name in claims:
        if not name.endswith("-recovery"):
            by_verdict.setdefault(claims[name].verdict, []).append(name)
    lines.append(
        "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items())
    )
    return lines


def _first(k95: int | None) -> str:
    """The smallest number of units with 95 % of the effect, if a dose reaches it."""
    return "" if k95 is None else f"; the first {k95:,} have 95% of the effect"


def _random(run: Table, direction: str, column: str, said: Callable[[float], str]) -> str:
    part = run.tables["random"]
    drawn = part[column][part["direction"] == direction]
    values = drawn[~np.isnan(drawn)]
    if not values.size:
        return ""
    low, high = said(float(values.min())), said(float(values.max()))
    ends = f"{low} to {high}" if low != high else low
    if column != "rate":
        return f" (random sets {ends})"
    further = (
        f", {drawn.size - values.size} more have less effect than the located set"
        if values.size < drawn.size
        else ""
    )
    many = f"{values.size} " if further else ""
    return f" ({many}random sets {ends}{_there(run, direction)}{further})"


def _there(run: Table, direction: str) -> str:
    """The number of prompts of the random sets, and the rate of the unedited model on these, if it
    differs from the rate on all prompts.
    """
    answers, role = run.tables["answers"], "tuned" if direction == "necessity" else "base"
    own = answers.select((answers["condition"] == role) & (answers["group"] == "positive"))
    some = own["sampled"].astype(bool)
    shown = own[run.summary["labels"]["column"]]
    if not some.any() or shown[some].mean() == shown.mean():
        return ""
    rate = shown[some].mean()
    name = "fine-tuned" if role == "tuned" else "base"
    return (
        f", on {int(some.sum())} of the prompts, where the {name} model has {_share(float(rate))}"
    )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # never -0.00
