"""Tables of heads, circuits, answers, random circuits, completeness and minimality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from interp.analyzers.circuit.compute import Found, Judge
from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.experiments.head_groups import Circuit, HeadGroup
from interp.experiments.records import records_table
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, PromptRow, flag, key, measure
from interp.table import Table

MODELS = ("base", "tuned")
NAN = float("nan")


class HeadRow:
    """A head in one group."""

    group: str = key("group")
    position: str = key("position at which its output is patched")
    layer: int = key("block, from 0")
    head: int = key("head of the block, from 0")
    score_base: float = measure("mean change of the base's answer when it is patched")
    score_base_low: float = measure("lower end of its interval")
    score_base_high: float = measure("upper end of its interval")
    score_tuned: float = measure("mean change of the fine-tuned model's answer")
    score_tuned_low: float = measure("lower end of its interval")
    score_tuned_high: float = measure("upper end of its interval")
    in_base: bool = flag("in the base's circuit")
    in_tuned: bool = flag("in the fine-tuned model's circuit")
    new: bool = flag("in the fine-tuned model's circuit and not in the base's")


class AnswerRow(PromptRow):
    """A held-out prompt in one model under one circuit."""

    model: str = key("model that runs")
    circuit: str = key("whose circuit it is reduced to")
    right: bool = flag("the circuit's most likely token is the answer")
    right_full: bool = flag("the whole model's is")


class CircuitRow:
    """A circuit in one model."""

    model: str = key("model that runs")
    circuit: str = key("whose circuit it is reduced to")
    heads: int = measure("heads of the circuit")
    prompts: int = measure("held-out prompts")
    full_accuracy: float = measure("accuracy of the whole model")
    accuracy: float = measure("accuracy of the circuit")
    faithfulness: float = measure("accuracy of the circuit over that of the model")
    faithfulness_low: float = measure("lower end of its interval")
    faithfulness_high: float = measure("upper end of its interval")
    random_mean: float = measure("mean faithfulness of random circuits")
    random_max: float = measure("largest faithfulness of random circuits")
    rank_p: float = measure("(1 + random circuits at least as faithful) / (1 + random circuits)")


class RandomRow(DrawRow):
    """A random circuit of the sizes of one, in one model."""

    model: str = key("model that runs")
    circuit: str = key("whose sizes it has")
    faithfulness: float = measure("its accuracy over that of the model")
    shared: float = measure("share of its heads that are in the other model's circuit")


class CompletenessRow:
    """A set K of heads taken out of a model and out of its circuit."""

    model: str = key("model that runs, and whose circuit it is")
    removed: str = key("K: random heads of the circuit, a group, or random heads of a random one")
    draw: int = key("number of the draw, from 0")
    heads: int = measure("heads of K")
    circuit_accuracy: float = measure("accuracy of the circuit without K")
    model_accuracy: float = measure("accuracy of the model without K")
    gap: float = measure("absolute difference of the two")


class MinimalityRow:
    """A head of a model's circuit, or of a random one."""

    model: str = key("model that runs, and whose circuit it is")
    circuit: str = key("own, or a random circuit of its sizes")
    group: str = key("group")
    layer: int = key("block, from 0")
    head: int = key("head of the block, from 0")
    before: float = measure("accuracy without the heads of its group that matter most with it")
    after: float = measure("accuracy without it too")
    drop: float = measure("before minus after")
    minimal: bool = flag("before / after - 1 is at least 1 %")


class CircuitControlRow(ControlRow):
    """A control fine-tune."""

    shared: float = measure("share of the base's heads that are in its own circuit")
    new: float = measure("share of its own circuit's heads that are not in the base's")
    own_faithfulness: float = measure("faithfulness of its own circuit in it")
    base_faithfulness: float = measure("faithfulness of the base's circuit in it")
    accuracy: float = measure("its accuracy on held-out prompts")


def heads_table(groups: Sequence[HeadGroup], base: Found, tuned: Found, unit: str) -> Table:
    """One row per group and head."""
    records = []
    for group in groups:
        numbers = {}
        for role, found in zip(MODELS, (base, tuned), strict=True):
            scores, clusters = found.scores[group.name].by_prompt, found.clusters()
            numbers[role] = np.array(
                [
                    [cluster_interval(scores[:, layer, head], clusters) for head in row]
                    for layer, row in enumerate([range(scores.shape[2])] * scores.shape[1])
                ]
            )
        n_layers, n_heads = numbers["base"].shape[:2]
        for layer in range(n_layers):
            for head in range(n_heads):
                inside = {
                    role: (layer, head) in found.circuit[group.name]
                    for role, found in zip(MODELS, (base, tuned), strict=True)
                }
                record: dict[str, Any] = {
                    "group": group.name,
                    "position": group.position,
                    "layer": layer,
                    "head": head,
                    "in_base": inside["base"],
                    "in_tuned": inside["tuned"],
                    "new": inside["tuned"] and not inside["base"],
                }
                for role in MODELS:
                    names = (f"score_{role}", f"score_{role}_low", f"score_{role}_high")
                    record |= dict(zip(names, numbers[role][layer, head].tolist(), strict=True))
                records.append(record)
    names = ("", "_low", "_high")
    units = {f"score_{role}{end}": unit for role in MODELS for end in names}
    return records_table(HeadRow, "circuit", records, units=units)


def answers_table(
    judges: Mapping[str, Judge], answers: Mapping[tuple[str, str], Bool[np.ndarray, " N"]]
) -> Table:
    """One row per held-out prompt, model and circuit."""
    records = [
        {
            "group": "positive",
            "prompt_id": row.id,
            "cluster": row.cluster,
            "model": model,
            "circuit": circuit,
            "right": right[at],
            "right_full": judges[model].full[at],
        }
        for (model, circuit), right in answers.items()
        for at, row in enumerate(judges[model].rows)
    ]
    return records_table(AnswerRow, "", records)


def circuits_table(
    judges: Mapping[str, Judge],
    circuits: Mapping[str, Circuit],
    answers: Mapping[tuple[str, str], Bool[np.ndarray, " N"]],
    random: Table,
) -> Table:
    """One row per model and circuit, with the random circuits of its sizes."""
    records = []
    for (model, circuit), right in answers.items():
        judge = judges[model]
        clusters = np.array([row.cluster for row in judge.rows], object)
        interval = (
            cluster_interval(right.astype(float), clusters, over=judge.full.astype(float))
            if judge.full.any()
            else (NAN, NAN, NAN)
        )
        own = (random["model"] == model) & (random["circuit"] == circuit)
        drawn = random["faithfulness"][own]
        records.append(
            {
                "model": model,
                "circuit": circuit,
                "heads": sum(map(len, circuits[circuit].values())),
                "prompts": len(right),
                "full_accuracy": float(judge.full.mean()),
                "accuracy": float(right.mean()),
                **dict(
                    zip(
                        ("faithfulness", "faithfulness_low", "faithfulness_high"),
                        interval,
                        strict=True,
                    )
                ),
                "random_mean": float(drawn.mean()) if drawn.size else NAN,
                "random_max": float(drawn.max()) if drawn.size else NAN,
                "rank_p": (
                    float((1 + (drawn >= interval[0]).sum()) / (1 + drawn.size))
                    if drawn.size
                    else NAN
                ),
            }
        )
    return records_table(CircuitRow, "", records)


def random_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One row per random circuit."""
    return records_table(RandomRow, "", records)


def completeness_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One row per set that was taken out."""
    return records_table(CompletenessRow, "", records)


def minimality_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One row per head of a circuit."""
    return records_table(MinimalityRow, "", records)


def controls_rows(names: Sequence[str], records: Sequence[Mapping[str, float]]) -> Table:
    """One row per control."""
    columns = ("shared", "new", "own_faithfulness", "base_faithfulness", "accuracy")
    numbers = {column: [record[column] for record in records] for column in columns}
    return controls_table(names, row=CircuitControlRow, numbers=numbers)
