"""Rows of the tables of scaled intruders."""

from collections.abc import Mapping, Sequence

import numpy as np

from interp.analyzers.intruder_scaling.compute import ScaleMeasurements
from interp.experiments.singular_vectors import VectorRow
from interp.prompts import PromptSet
from interp.rows import LayerRow, PromptRow, key, measure, rows_table
from interp.table import Table


class SettingRow:
    """Rows about one factor on one kind of singular vectors."""

    kind: str = key("what is scaled: intruder, neighbour or the whole update")
    scale: float = measure("factor on the singular value; 1 is the fine-tuned model")


class ScaleRow(SettingRow):
    """A row per kind and scale; means over prompts and texts."""

    metric: float = measure("metric of the task", optional=True)
    loss: float = measure("loss per token on plain text", "nats")
    forgetting: float = measure("loss minus the base's loss", "nats")
    kl: float = measure(
        "KL(scaled || base) of the next token on plain text, mean over tokens", "nats"
    )


class SettingPromptRow(SettingRow):
    """Rows about one prompt at one scale."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster


class TaskPromptRow(SettingPromptRow):
    """A row per kind, scale and prompt of the task."""

    metric: float = ScaleRow.metric


class TextRow(SettingPromptRow):
    """A row per kind, scale and text."""

    loss: float = ScaleRow.loss
    kl: float = ScaleRow.kl


class EditedRow:
    """A row per scaled singular vector."""

    kind: str = key("intruder, or its neighbour, which is not an intruder")
    layer: int = LayerRow.layer
    part: str = VectorRow.part
    rank: int = VectorRow.rank
    sigma: float = VectorRow.sigma


def rows_with_metric(row: type, number: str, unit: str) -> type:
    """A class of rows whose column ``metric`` has the name and the unit of a task's metric."""
    return type(row.__name__, (row,), {"metric": measure(number, unit)})


def prompts_table(
    row: type,
    prompts: PromptSet,
    by_setting: Mapping[tuple[str, float], ScaleMeasurements],
    names: Sequence[str],
) -> Table:
    """A row per setting and prompt, with the measurements ``names``."""
    values = {name: [getattr(measured, name) for measured in by_setting.values()] for name in names}
    return rows_table(
        row,
        "",
        {
            "kind": np.repeat(np.array([kind for kind, _ in by_setting], object), len(prompts)),
            "scale": np.repeat([scale for _, scale in by_setting], len(prompts)),
            "prompt_id": np.tile([prompt.id for prompt in prompts], len(by_setting)),
            "cluster": np.tile(np.array(prompts.clusters, object), len(by_setting)),
            **{name: np.concatenate([np.zeros(0), *arrays]) for name, arrays in values.items()},
        },
    )
