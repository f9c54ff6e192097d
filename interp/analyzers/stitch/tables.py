"""Tables of the measurements of several models on several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from interp.experiments.questions import (
    AnswerRow,
    MetricRow,
    QuestionResults,
    Questions,
    RandomMaskRow,
    answer_columns,
)
from interp.prompts import merge_clusters
from interp.rows import key, measure, rows_table, text
from interp.table import Table

GradedTasks = list[QuestionResults]


class TaskRow:
    """A row per task."""

    task: int = key("number of the task and of its fine-tuned model, from 1; 0 is plain text")


class ModelRow(TaskRow):
    """A row per task and model."""

    kind: str = key("base, model (fine-tuned) or graft by number, stitched, average or random")


class StitchRow(MetricRow, ModelRow):
    """A row per task, model and metric."""


class StitchAnswerRow(AnswerRow, ModelRow):
    """A row per task, model and held-out question."""


class StitchRandomRow(RandomMaskRow, TaskRow):
    """A row per task and stitch of random masks."""


class StitchModelRow(TaskRow):
    """A row per fine-tuned model."""

    model: str = text("fine-tuned model")
    kept: int = measure("weights in its mask", "weights")
    share: float = measure("share of the scope's weights in its mask")


@dataclass
class StitchRecords:
    """Measurements of models, in order: graded questions of every task and perplexities by model,
    and ``draws``: task, number and accuracy of stitches of random masks.
    """

    questions: Sequence[Questions]
    graded: dict[str, GradedTasks] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    draws: list[tuple[int, int, float]] = field(default_factory=list)

    def share_of_gain(self, task: int, accuracy: float) -> float:
        """Accuracy as a share of the gain of the task's fine-tuned model; NaN without a gain."""
        low, high = (self.graded[kind][task - 1].accuracy for kind in ("base", f"model {task}"))
        return (accuracy - low) / (high - low) if high != low else float("nan")

    def kept_gain(self, kind: str) -> list[float | None]:
        """Per task the share of the gain that a model keeps; None without a gain."""
        shares = [
            self.share_of_gain(task, graded.accuracy)
            for task, graded in enumerate(self.graded[kind], 1)
        ]
        return [None if np.isnan(value) else value for value in shares]

    def table(self, **rest: Any) -> Table:
        """Every metric of every model on every task; perplexities are under task 0."""
        rows = [(0, name, "perplexity", value) for name, value in self.text.items()]
        for name, task, graded in self._by_task:
            metrics = {
                **graded.metrics(self.graded[f"model {task}"][task - 1]),
                "kept-gain": self.share_of_gain(task, graded.accuracy),
                **graded.calibration_errors(15),
            }
            rows += [(task, name, metric, value) for metric, value in metrics.items()]
        tasks, kinds, metrics, values = zip(*rows, strict=True)
        data = {"task": tasks, "kind": kinds, "metric": metrics, "value": values}
        return rows_table(StitchRow, "stitch", data, **rest)

    @property
    def _by_task(self) -> list[tuple[str, int, QuestionResults]]:
        return [
            (name, task, graded)
            for name, graded_tasks in self.graded.items()
            for task, graded in enumerate(graded_tasks, 1)
        ]

    @cached_property
    def clusters(self) -> list[list[str]]:
        """Clusters of each task's questions, renamed so that tasks share only clusters of equal
        questions.
        """
        names = [
            [f"{number}:{name}" for name in questions.clusters]
            for number, questions in enumerate(self.questions, 1)
        ]
        keys = [key for questions in self.questions for key in questions.keys]
        tied = iter(merge_clusters(list(chain(*names)), keys))
        return [[next(tied) for _ in part] for part in names]

    def answers_table(self) -> Table:
        """The graded answer to each held-out question under each model."""
        data = {
            "task": [task for _, task, graded in self._by_task for _ in graded.exact],
            "kind": [name for name, _, graded in self._by_task for _ in graded.exact],
            "cluster": [
                cluster for _, task, _ in self._by_task for cluster in self.clusters[task - 1]
            ],
            **answer_columns(
                [(self.questions[task - 1], graded) for _, task, graded in self._by_task]
            ),
        }
        return rows_table(StitchAnswerRow, "", data)

    def random_table(self) -> Table:
        """Stitches of random masks, by task."""
        tasks, draws, accuracies = zip(*self.draws, strict=True)
        gains = [self.share_of_gain(task, accuracy) for task, _, accuracy in self.draws]
        data = {"task": tasks, "draw": draws, "accuracy": accuracies, "kept_gain": gains}
        return rows_table(StitchRandomRow, "", data)


def models_table(names: Sequence[str], mask_sizes: Sequence[int], size: int) -> Table:
    """The stitched models and their masks, in a scope of ``size`` weights."""
    data = {
        "task": np.arange(1, len(names) + 1),
        "model": names,
        "kept": mask_sizes,
        "share": np.array(mask_sizes) / size,
    }
    return rows_table(StitchModelRow, "", data)
