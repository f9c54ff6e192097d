"""Tables of LoFiT: heads, sets of heads, answers, random sets and overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.analyzers.lofit.answers import TunedAnswers
from interp.analyzers.lofit.training import Head
from interp.claims.control_fine_tunes import ControlRow
from interp.experiments.base_answers import BASE, TUNED, ChangedRow, Reading
from interp.experiments.records import records_table
from interp.maths.intervals import cluster_interval
from interp.maths.overlap import overlap
from interp.rows import DrawRow, UnitRow, flag, key, measure, rows_table
from interp.table import Table

LOCATED, GRADIENTS, PROBES, ALL = "located", "gradients", "probes", "all"
NAN = float("nan")


class HeadRow(UnitRow):
    """A row per attention head."""

    score: float = measure("norm of its scales after training under L1")
    rank: int = measure("place by score, from 1")
    selected: bool = flag("among the located heads")
    gradient: float = measure(
        "integrated gradient towards the fine-tuned model's output of the head, summed over"
        " answers: by how much it lowers their loss",
        "nats",
    )
    by_gradients: bool = flag("among as many heads by integrated gradients")
    probe: float = measure("cross-validated accuracy of its linear probe; NaN where none was made")
    by_probes: bool = flag("among as many heads by probes")


class SetRow:
    """A row per set of heads whose offsets were trained, and for both models; held-out split."""

    set: str = key("located, gradients, probes, all, or a model: base, tuned")
    heads: int = measure("heads with offsets", "heads")
    parameters: int = measure("trained numbers")
    recovered: float = measure("share of the models' difference in loss that the offsets recover")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    writes: float = measure("share of prompts with the fine-tuned model's answer")
    returned: float = measure("the same share where the base does not write it")
    loss: float = measure("mean loss of the answers", "nats per token")


class AnswerRow(ChangedRow):
    """A row per set of heads and held-out prompt."""

    set: str = key("set of heads, or a model: base, tuned")
    writes: bool = flag("writes the fine-tuned model's answer")
    loss: float = measure("loss of the answer", "nats per token")
    gain: float = measure("the base's loss minus this one", "nats per token")
    gap: float = measure("the base's loss minus the fine-tuned model's", "nats per token")


class RandomHeadsRow(DrawRow):
    """A row per random set of as many heads as were located."""

    recovered: float = measure("share of the models' difference in loss that it recovers")
    writes: float = measure("share of prompts with the fine-tuned model's answer")
    loss: float = measure("mean loss of the answers", "nats per token")
    shared: int = measure("heads that are among the located ones", "heads")


class LofitControlRow(ControlRow):
    """A row per control fine-tune: the heads located for its answers, with offsets for the
    fine-tuned model's.
    """

    recovered: float = measure("share of the models' difference in loss that its heads recover")
    writes: float = measure("share of prompts with the fine-tuned model's answer")
    jaccard: float = measure("Jaccard index of its heads and the located ones")


class OverlapRow:
    """A row per pair of sets of heads of equal size."""

    first: str = key("set of heads")
    second: str = key("another one; control-N: located for the answers of a control fine-tune")
    shared: int = measure("heads in both", "heads")
    jaccard: float = measure("Jaccard index")
    expected: float = measure("heads that random sets share on average", "heads")
    p: float = measure("probability that random sets share as many (hypergeometric)")


@dataclass(frozen=True, eq=False)
class Trained:
    """A set of heads and what the base under its offsets reads on the held-out split."""

    heads: tuple[Head, ...]
    reading: Reading


def recovered(answers: TunedAnswers, reading: Reading) -> tuple[float, float, float]:
    """Share of the models' difference in held-out loss, with its interval over clusters."""
    rows = answers.held_out
    base = answers.base.loss[rows]
    gap = base - answers.tuned.loss[rows]
    if not gap.any():
        return NAN, NAN, NAN
    value, low, high = cluster_interval(base - reading.loss, answers.clusters(rows), over=gap)
    return value, low, high


def heads_table(
    scores: Float[np.ndarray, "L H"],
    gradients: Float[np.ndarray, "L H"],
    probes: Float[np.ndarray, "L H"],
    sets: Mapping[str, Trained],
) -> Table:
    """One row per head."""
    n_heads = scores.shape[1]
    places = [divmod(at, n_heads) for at in range(scores.size)]
    order = np.argsort(-scores.ravel(), kind="stable")
    rank = np.empty(scores.size, np.int64)
    rank[order] = np.arange(1, scores.size + 1)

    def within(name: str) -> np.ndarray:
        chosen = set(sets[name].heads) if name in sets else set()
        return np.array([place in chosen for place in places], bool)

    return rows_table(
        HeadRow,
        "lofit",
        {
            "layer": np.array([layer for layer, _ in places]),
            "unit": np.array([head for _, head in places]),
            "score": scores.ravel(),
            "rank": rank,
            "selected": within(LOCATED),
            "gradient": gradients.ravel(),
            "by_gradients": within(GRADIENTS),
            "probe": probes.ravel(),
            "by_probes": within(PROBES),
        },
        rename={"unit": "head"},
    )


def _models(answers: TunedAnswers) -> dict[str, Reading]:
    rows = answers.held_out
    return {BASE: answers.base[rows], TUNED: answers.tuned[rows]}


def sets_table(answers: TunedAnswers, sets: Mapping[str, Trained], head_width: int) -> Table:
    """One row per set, and per model."""
    readings = {**_models(answers), **{name: one.reading for name, one in sets.items()}}
    changed = answers.changed[answers.held_out]
    records: list[dict[str, Any]] = []
    for name, reading in readings.items():
        value, low, high = recovered(answers, reading)
        n_heads = len(sets[name].heads) if name in sets else 0
        records.append(
            {
                "set": name,
                "heads": n_heads,
                "parameters": n_heads * head_width,
                "recovered": value,
                "low": low,
                "high": high,
                "writes": float(reading.writes.mean()),
                "returned": float(reading.writes[changed].mean()) if changed.any() else NAN,
                "loss": float(reading.loss.mean()),
            }
        )
    return records_table(SetRow, "lofit-sets", records)


def answers_table(answers: TunedAnswers, sets: Mapping[str, Trained]) -> Table:
    """One row per set, or model, and held-out prompt."""
    rows = answers.held_out
    base, tuned = (one.loss[rows] for one in (answers.base, answers.tuned))
    readings = {**_models(answers), **{name: one.reading for name, one in sets.items()}}
    parts = [
        {
            **answers.columns(rows),
            "changed": answers.changed[rows],
            "set": [name] * len(rows),
            "writes": reading.writes,
            "loss": reading.loss,
            "gain": base - reading.loss,
            "gap": base - tuned,
        }
        for name, reading in readings.items()
    ]
    columns = {
        name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]
    }
    return rows_table(AnswerRow, "", columns)


def random_table(answers: TunedAnswers, draws: Sequence[Trained], located: Sequence[Head]) -> Table:
    """One row per random set."""
    records = [
        {
            "draw": draw,
            "recovered": recovered(answers, one.reading)[0],
            "writes": float(one.reading.writes.mean()),
            "loss": float(one.reading.loss.mean()),
            "shared": len({*one.heads} & {*located}),
        }
        for draw, one in enumerate(draws)
    ]
    return records_table(RandomHeadsRow, "", records)


def overlaps_table(sets: Mapping[str, Sequence[Head]], universe: int) -> Table:
    """One row per pair of sets."""
    names, records = list(sets), []
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            one, other = set(sets[first]), set(sets[second])
            found = overlap(len(one & other), len(one), len(other), universe)
            records.append(
                {
                    "first": first,
                    "second": second,
                    "shared": found.shared,
                    "jaccard": found.jaccard,
                    "expected": found.expected,
                    "p": found.p_at_least,
                }
            )
    return records_table(OverlapRow, "lofit-overlaps", records)
