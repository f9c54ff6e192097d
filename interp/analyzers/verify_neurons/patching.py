"""The 2 x 2 patching design (activations and weights, each of either model) as tables: per prompt,
per random set, per cell.
"""

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import mean, measure
from interp.maths.intervals import cluster_interval
from interp.maths.statistics import permutation_p
from interp.study import Study
from interp.table import Table, as_binary, table

_KEYS = {
    "direction": (
        "key",
        "necessity: base into fine-tuned model; sufficiency: fine-tuned model into base",
    ),
    "activation_from": (
        "key",
        "whose activation h of the units: the donor's or the receiver's own",
    ),
    "weights_from": (
        "key",
        "whose write weights W of the units: the donor's or the receiver's own",
    ),
}


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
    words, chosen = (
        study.require_metric().labels,
        [study.prompts("positive").prompts[row] for row in evidence.rows],
    )
    blocks = []
    for direction, patched in evidence.patching.items():
        for cell, numbers in patched.numbers.items():
            keys = np.full((len(chosen), 3), (direction, *cell), dtype=object)
            blocks.append((keys, numbers, patched.receiver, patched.donor, patched.exhibits[cell]))
    keys = np.concatenate([block[0] for block in blocks]) if blocks else np.zeros((0, 3), object)
    columns = [
        np.concatenate([block[at] for block in blocks]) if blocks else np.zeros(0)
        for at in range(1, 5)
    ]
    number, receiver, donor, exhibits = columns
    return table(
        "patching",
        {
            **{name: (keys[:, at], *_KEYS[name]) for at, name in enumerate(_KEYS)},
            "prompt_id": (
                np.array([p.id for p in chosen] * len(blocks), np.int64),
                "key",
                "position in the prompt file",
            ),
            "cluster": (
                [p.cluster for p in chosen] * len(blocks),
                "key",
                "prompts that intervals take as one",
            ),
            words.short: (number, "measure", f"{words.number} under the patch", words.prompt_unit),
            f"{words.short}_receiver": (
                receiver,
                "measure",
                f"the receiver's own {words.number}",
                words.prompt_unit,
            ),
            f"{words.short}_donor": (
                donor,
                "measure",
                f"the donor's own {words.number}",
                words.prompt_unit,
            ),
            words.column: (exhibits.astype(bool), "flag", words.flag),
        },
    )


def _random(study: Study, evidence: Evidence) -> Table:
    words, rows = study.require_metric().labels, []
    clusters = [study.prompts("positive").prompts[row].cluster for row in evidence.rows]
    for direction, patched in evidence.patching.items():
        receiver_mean = float(patched.receiver.mean())
        donor, receiver = (
            as_binary(own, words.prompt_unit) for own in (patched.donor, patched.receiver)
        )
        gap = cluster_interval(donor, clusters, minus=receiver)
        # no effect is reported where the gap's interval covers 0, as for the located set
        gap_value = gap.value if gap.low > 0 or gap.high < 0 else np.nan
        for cell, means in patched.random.items():
            rows += [
                (direction, *cell, draw, found, (found - receiver_mean) / gap_value + 0.0)
                for draw, found in enumerate(means)
            ]
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 6
    return table(
        "patching-random",
        {
            **{
                name: (np.array(columns[at], object), *_KEYS[name]) for at, name in enumerate(_KEYS)
            },
            "draw": (np.array(columns[3], np.int64), "key", "number of the random set"),
            words.short: (
                np.array(columns[4], float),
                "measure",
                f"mean {words.number} under the patch",
                words.unit,
            ),
            "effect": (
                np.array(columns[5], float),
                "measure",
                "share of the gap closed; NaN where there is no gap",
            ),
        },
    )


def _cells(study: Study, prompts: Table, random: Table) -> Table:
    """One row per direction and cell, computed from the two other tables."""
    run, words = table("patching", {}, tables={"patching": prompts}), study.require_metric().labels
    short = words.short
    receiver, rows = {"column": f"{short}_receiver"}, []
    for key in dict.fromkeys(zip(*(prompts[name].tolist() for name in _KEYS), strict=True)):
        where = dict(zip(_KEYS, key, strict=True))
        source = {"table": "patching", "where": where}
        effect = measure(
            mean(
                short,
                minus=receiver,
                over={"column": f"{short}_donor", "minus": receiver},
                **source,
            ),
            run,
        )
        shares = measure(mean(words.column, **source), run)[:3]
        mask = np.logical_and.reduce([random[name] == value for name, value in where.items()])
        null_effects = random["effect"][mask]
        low, high = (
            np.quantile(null_effects, [0.025, 0.975]) if null_effects.size else (np.nan, np.nan)
        )
        null = (null_effects.mean() if null_effects.size else np.nan, low, high)
        p = permutation_p(effect.value, null_effects) if np.isfinite(null_effects).all() else np.nan
        count = int(
            np.logical_and.reduce([prompts[name] == value for name, value in where.items()]).sum()
        )
        # no effect over a gap below zero is -0.0
        rows.append((*key, count, *(number + 0.0 for number in effect[:3]), *null, p, *shares))
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 14
    meanings = {
        "effect": (
            "share of the gap between both models' numbers that is closed; NaN where the gap's"
            " interval covers 0"
        ),
        "low": "lower end of its 95 % interval over clusters",
        "high": "upper end of its 95 % interval over clusters",
        "random": "mean effect of the matched random sets",
        "random_low": "their 2.5 % quantile",
        "random_high": "their 97.5 % quantile",
        "p": "(1 + b) / (1 + n) over the random sets",
        words.column: words.share,
        f"{words.column}_low": "lower end of its 95 % interval over clusters",
        f"{words.column}_high": "upper end of its 95 % interval over clusters",
    }
    return table(
        "patching-cells",
        {
            **{
                name: (np.array(columns[at], object), *_KEYS[name]) for at, name in enumerate(_KEYS)
            },
            "n": (np.array(columns[3], np.int64), "measure", "prompts"),
            **{
                name: (np.array(columns[at], float), "measure", said)
                for at, (name, said) in enumerate(meanings.items(), 4)
            },
        },
    )
