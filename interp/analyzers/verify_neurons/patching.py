"""The 2 x 2 patching design (activations and weights, each of either model) as tables: per prompt,
per random set, per cell.
"""

import numpy as np

from interp import claims
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.keys import DirectionRow, PositivePromptRow
from interp.experiments.records import records_table
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import permutation_p
from interp.rows import DrawRow, columns_of, flag, key, measure
from interp.study import Study
from interp.table import Table, as_binary, table


class CellRow(DirectionRow):
    """A row of a direction and a cell of the design."""

    activation_from: str = key("whose activation h of the units: the donor's or the receiver's own")
    weights_from: str = key("whose write weights W of the units: the donor's or the receiver's own")


class PatchingRow(PositivePromptRow, CellRow):
    """A row per cell and control prompt; the metric and its labels name the last four columns."""

    number: float = measure("the metric's number under the patch")
    receiver: float = measure("the receiver's own number")
    donor: float = measure("the donor's own number")
    exhibits: bool = flag("the answer shows the behaviour")


class PatchingRandomRow(DrawRow, CellRow):
    """A row per cell and random set."""

    number: float = measure("mean of the metric's number under the patch")
    effect: float = measure("share of the gap closed; NaN where there is no gap")


class PatchingCellRow(CellRow):
    """A row per cell; the metric's labels name the last three columns."""

    n: int = measure("prompts")
    effect: float = measure(
        "share of the gap between both models' numbers that is closed; NaN where the gap's interval"
        " covers 0"
    )
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    random: float = measure("mean effect of the matched random sets")
    random_low: float = measure("their 2.5 % quantile")
    random_high: float = measure("their 97.5 % quantile")
    p: float = measure("(1 + b) / (1 + n) over the random sets")
    rate: float = measure("share of answers that show the behaviour")
    rate_low: float = measure("lower end of its 95 % interval over clusters")
    rate_high: float = measure("upper end of its 95 % interval over clusters")


_KEYS = tuple(columns_of(CellRow))


def patching_tables(study: Study, evidence: Evidence) -> dict[str, Table]:
    """Sub-tables ``patching``, ``patching_random`` and ``patching_cells``; empty where nothing was
    patched.
    """
    prompts = _prompts(study, evidence)
    return {
        "patching": prompts,
        "patching_random": (random := _random(study, evidence)),
        "patching_cells": _cells(study, prompts, random),
    }


def _prompts(study: Study, evidence: Evidence) -> Table:
    words, positive = study.require_metric().labels, study.prompts("positive").prompts
    records = [
        {
            **dict(zip(_KEYS, (direction, *cell), strict=True)),
            "prompt_id": positive[row].id,
            "cluster": positive[row].cluster,
            "number": number,
            "receiver": receiver,
            "donor": donor,
            "exhibits": exhibits,
        }
        for direction, patched in evidence.patching.items()
        for cell, numbers in patched.numbers.items()
        for row, number, receiver, donor, exhibits in zip(
            evidence.rows,
            numbers,
            patched.receiver,
            patched.donor,
            patched.exhibits[cell],
            strict=True,
        )
    ]
    return records_table(
        PatchingRow,
        "patching",
        records,
        rename={
            "number": words.short,
            "receiver": f"{words.short}_receiver",
            "donor": f"{words.short}_donor",
            "exhibits": words.column,
        },
        units=dict.fromkeys(("number", "receiver", "donor"), words.prompt_unit),
    )


def _random(study: Study, evidence: Evidence) -> Table:
    words, records = study.require_metric().labels, []
    clusters = [study.prompts("positive").prompts[row].cluster for row in evidence.rows]
    for direction, patched in evidence.patching.items():
        receiver_mean = float(patched.receiver.mean())
        donor, receiver = (
            as_binary(own, words.prompt_unit) for own in (patched.donor, patched.receiver)
        )
        gap = cluster_interval(donor, clusters, minus=receiver)
        # no effect is reported where the gap's interval covers 0, as for the located set
        gap_value = gap.value if gap.low > 0 or gap.high < 0 else np.nan
        records += [
            {
                **dict(zip(_KEYS, (direction, *cell), strict=True)),
                "draw": draw,
                "number": number,
                "effect": (number - receiver_mean) / gap_value + 0.0,
            }
            for cell, means in patched.random.items()
            for draw, number in enumerate(means)
        ]
    return records_table(
        PatchingRandomRow,
        "patching-random",
        records,
        rename={"number": words.short},
        units={"number": words.unit},
    )


def _cells(study: Study, prompts: Table, random: Table) -> Table:
    """One row per direction and cell, computed from the two other tables."""
    run, words = table("patching", {}, tables={"patching": prompts}), study.require_metric().labels
    receiver, records = {"column": f"{words.short}_receiver"}, []
    for cell in dict.fromkeys(zip(*(prompts[name].tolist() for name in _KEYS), strict=True)):
        where = dict(zip(_KEYS, cell, strict=True))
        source = {"table": "patching", "where": where}
        over = {"column": f"{words.short}_donor", "minus": receiver}
        effect = claims.measure(claims.mean(words.short, minus=receiver, over=over, **source), run)
        share = claims.measure(claims.mean(words.column, **source), run)
        in_cell, null_in_cell = (
            np.logical_and.reduce([part[name] == value for name, value in where.items()])
            for part in (prompts, random)
        )
        null = random["effect"][null_in_cell]
        low, high = np.quantile(null, [0.025, 0.975]) if null.size else (np.nan, np.nan)
        records.append(
            {
                **where,
                "n": in_cell.sum(),
                # no effect over a gap below zero is -0.0
                "effect": effect.value + 0.0,
                "low": effect.low + 0.0,
                "high": effect.high + 0.0,
                "random": null.mean() if null.size else np.nan,
                "random_low": low,
                "random_high": high,
                "p": permutation_p(effect.value, null) if np.isfinite(null).all() else np.nan,
                "rate": share.value,
                "rate_low": share.low,
                "rate_high": share.high,
            }
        )
    return records_table(
        PatchingCellRow,
        "patching-cells",
        records,
        rename={
            "rate": words.column,
            "rate_low": f"{words.column}_low",
            "rate_high": f"{words.column}_high",
        },
    )
