"""The first lines of the output for a verifying run, at most five, or a discovery; from its
tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from interp.claims.audit_lines import audit_lines
from interp.claims.discovery_opening import discovery_lines
from interp.claims.stored import from_table
from interp.table import Table


def opening_lines(run: Table) -> list[str]:
    """The question; the rate of the behaviour before, under ablation and patched into the base; the
    log-odds; the verdicts. Of a discovery: what is beyond the controls.

    ``run`` is of kind ``audit`` or ``discover``, or of kind ``verify-neurons`` and its summary has the
    ``labels`` of the behaviour; [] if no unit was selected.
    """
    if run.kind == "audit":
        return audit_lines(run)
    if run.kind == "discover":
        n_controls = int(run.tables["models"]["control"].sum())
        return discovery_lines(run, run.tables["methods"], n_controls)
    labels, count, unit = run.summary["labels"], run.summary["selected"], run.summary["unit"]
    keys = zip(run["condition"].tolist(), run["group"].tolist(), strict=True)
    rates = dict(zip(keys, run[labels["column"]].tolist(), strict=True))
    if not count:
        return []
    ablated = "ablate-base" if ("base", "positive") in rates else "ablate-mean"
    ablation_text = "at the base's contributions" if ablated == "ablate-base" else "at their mean"
    behaviours = labels["many"]
    model_rates = (
        [f"base {_percent(rates['base', 'positive'])}"] if ("base", "positive") in rates else []
    )
    model_rates.append(f"fine-tuned {_percent(rates['tuned', 'positive'])}")
    lines = [
        (
            f"question: do {count:,} of {run.summary['units']:,} {unit}s carry the {behaviours}? "
            f"{run.summary['positive']} positive and {run.summary['negative']} negative prompts"
        ),
        f"{behaviours}: {', '.join(model_rates)}; with the {count:,} {ablation_text}:"
        f" {_percent(rates.get((ablated, 'positive'), math.nan))}"
        + _random_sets_text(run, "necessity", "rate", _percent)
        + _k95_text(run.summary.get("k95_behaviour")),
    ]
    if ("patch-tuned", "positive") in rates:
        patched = _percent(rates["patch-tuned", "positive"])
        lines.append(
            f"{behaviours} of the base with the {count:,} patched in: {patched}"
            + _random_sets_text(run, "sufficiency", "rate", _percent)
        )
    claims = {finding.name: finding for finding in from_table(run.tables["claims"])}
    recovered = [
        f"{_two_decimals(claims[f'{direction}-recovery'].value)} {how}"
        + _random_sets_text(run, direction, "recovery", _two_decimals)
        for direction, how in (("necessity", ablation_text), ("sufficiency", "patched in"))
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


def _k95_text(k95: int | None) -> str:
    """The smallest number of units with 95 % of the effect, if a dose reaches it."""
    return "" if k95 is None else f"; the first {k95:,} have 95% of the effect"


def _random_sets_text(
    run: Table, direction: str, column: str, format_value: Callable[[float], str]
) -> str:
    table = run.tables["random"]
    draws = table[column][table["direction"] == direction]
    values = draws[~np.isnan(draws)]
    if not values.size:
        return ""
    low, high = format_value(float(values.min())), format_value(float(values.max()))
    range_text = f"{low} to {high}" if low != high else low
    if column != "rate":
        return f" (random sets {range_text})"
    rest_text = (
        f", {draws.size - values.size} more have less effect than the located set"
        if values.size < draws.size
        else ""
    )
    count_text = f"{values.size} " if rest_text else ""
    return (
        f" ({count_text}random sets {range_text}{_sampled_prompts_text(run, direction)}{rest_text})"
    )


def _sampled_prompts_text(run: Table, direction: str) -> str:
    """The number of prompts of the random sets, and the rate of the unedited model on these, if it
    differs from the rate on all prompts.
    """
    answers, role = run.tables["answers"], "tuned" if direction == "necessity" else "base"
    unedited = answers.select((answers["condition"] == role) & (answers["group"] == "positive"))
    is_sampled = unedited["sampled"].astype(bool)
    exhibits = unedited[run.summary["labels"]["column"]]
    if not is_sampled.any() or exhibits[is_sampled].mean() == exhibits.mean():
        return ""
    rate = exhibits[is_sampled].mean()
    name = "fine-tuned" if role == "tuned" else "base"
    return (
        f", on {int(is_sampled.sum())} of the prompts, where the {name} model has"
        f" {_percent(float(rate))}"
    )


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _two_decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # never -0.00
