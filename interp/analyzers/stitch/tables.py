"""Tables of the measurements of several models on several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.experiments.questions import QuestionResults, Questions
from interp.maths.statistics import calibration_error
from interp.prompts import merge_clusters
from interp.table import Table, table

GradedTasks = list[QuestionResults]
_TASK = "number of the task and of its fine-tuned model, from 1"


@dataclass
class StitchRecords:
    """Measurements of models, in order: graded questions of every task, and perplexities."""

    questions: Sequence[Questions]
    graded: dict[str, GradedTasks] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    draws: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, kind: str, graded: GradedTasks) -> None:
        """Add one model."""
        self.graded[kind] = graded

    def add_text(self, kind: str, value: float) -> None:
        """Add the perplexity of plain text under one model."""
        self.text[kind] = value

    def add_draw(self, draw: int, graded: GradedTasks) -> None:
        """Add one of several stitches of random masks."""
        self.draws += [
            (task, draw, float(answers.correct.mean())) for task, answers in enumerate(graded, 1)
        ]

    def share_of_gain(self, task: int, correct: float) -> float:
        """Accuracy as a share of the gain of the task's fine-tuned model; NaN without a gain."""
        low, high = (
            float(self.graded[kind][task - 1].correct.mean()) for kind in ("base", f"tune {task}")
        )
        return (correct - low) / (high - low) if high != low else float("nan")

    def kept_gain(self, kind: str) -> list[float | None]:
        """Per task the share of the gain that a model keeps; None without a gain."""
        shares = [
            self.share_of_gain(task, float(graded.correct.mean()))
            for task, graded in enumerate(self.graded[kind], 1)
        ]
        return [None if np.isnan(value) else value for value in shares]

    def table(self, kind: str, **rest: Any) -> Table:
        """Every metric of every model on every task; perplexities are under task 0."""
        rows = [(0, name, "perplexity", value) for name, value in self.text.items()]
        for name, graded_tasks in self.graded.items():
            for task, graded in enumerate(graded_tasks, 1):
                rows += [
                    (task, name, metric, value)
                    for metric, value in self._metrics(task, graded).items()
                ]
        tasks, names, metrics, values = zip(*rows, strict=True)
        return table(
            kind,
            {
                "task": (np.array(tasks, np.int64), "key", f"{_TASK}; 0 is plain text"),
                "kind": (
                    list(names),
                    "key",
                    "base, tune (fine-tuned) or graft by number, stitched, average or random",
                ),
                "metric": (
                    list(metrics),
                    "key",
                    "metric, on held-out questions or on plain text",
                ),
                "value": (
                    np.array(values, float),
                    "measure",
                    "value of the metric; losses in nats per answer",
                ),
            },
            **rest,
        )

    def _metrics(self, task: int, graded: QuestionResults) -> Mapping[str, float]:
        correct = float(graded.correct.mean())
        tuned = self.graded[f"tune {task}"][task - 1]
        metrics = {
            "accuracy": correct,
            "exact": float(graded.exact.mean()),
            "loss": float(graded.loss.mean()),
            "agreement": float(np.mean(graded.choice == tuned.choice)),
            "kept-gain": self.share_of_gain(task, correct),
        }
        if not np.isnan(graded.confidence).any():
            metrics["calibration-error-15"] = calibration_error(
                graded.confidence, graded.correct, 15
            )
        return metrics

    def clusters(self, task: int) -> np.ndarray:
        """Clusters of a task's questions, renamed so that tasks share only clusters of equal
        questions.
        """
        names = [
            f"{number}:{name}"
            for number, questions in enumerate(self.questions, 1)
            for name in questions.clusters
        ]
        tied_names = merge_clusters(
            names, [key for questions in self.questions for key in questions.keys]
        )
        start = sum(len(questions) for questions in self.questions[: task - 1])
        return np.array(tied_names[start : start + len(self.questions[task - 1])])

    def answers_table(self) -> Table:
        """The graded answer to each held-out question under each model."""
        parts = [
            (name, task, graded, self.questions[task - 1])
            for name, graded_tasks in self.graded.items()
            for task, graded in enumerate(graded_tasks, 1)
        ]
        return table(
            "stitch-answers",
            {
                "task": (
                    np.concatenate(
                        [np.full(len(questions), task) for _, task, _, questions in parts]
                    ),
                    "key",
                    _TASK,
                ),
                "kind": (
                    [name for name, _, _, questions in parts for _ in range(len(questions))],
                    "key",
                    "model",
                ),
                "prompt_id": (
                    np.concatenate([questions.ids for *_, questions in parts]),
                    "key",
                    "position in the prompt file",
                ),
                "cluster": (
                    np.concatenate([self.clusters(task) for _, task, _, _ in parts]).tolist(),
                    "key",
                    "dependent questions",
                ),
                "correct": (
                    _concatenate(parts, "correct"),
                    "flag",
                    "the right one of two answers, or the answer written exactly",
                ),
                "exact": (
                    _concatenate(parts, "exact"),
                    "flag",
                    "greedy decoding would write the answer",
                ),
                "loss": (_concatenate(parts, "loss"), "measure", "loss of the answer", "nats"),
            },
        )

    def random_table(self) -> Table:
        """Stitches of random masks, by task."""
        tasks, draws, correct = zip(*self.draws, strict=True)
        gains = [self.share_of_gain(task, value) for task, _, value in self.draws]
        return table(
            "stitch-random",
            {
                "task": (np.array(tasks, np.int64), "key", _TASK),
                "draw": (np.array(draws, np.int64), "key", "number of the draw"),
                "accuracy": (np.array(correct), "measure", "share of correct answers"),
                "kept_gain": (
                    np.array(gains),
                    "measure",
                    "share of the gain of the task's own fine-tuned model",
                ),
            },
        )

    def models_table(self, names: Sequence[str], mask_sizes: Sequence[int], size: int) -> Table:
        """The stitched models and their masks."""
        return table(
            "stitch-models",
            {
                "task": (np.arange(1, len(names) + 1), "key", _TASK),
                "tune": (list(names), "text", "fine-tuned model"),
                "kept": (
                    np.array(mask_sizes, np.int64),
                    "measure",
                    "weights in its mask",
                    "weights",
                ),
                "share": (
                    np.array(mask_sizes) / size,
                    "measure",
                    "share of the scope's weights in its mask",
                ),
            },
        )


def _concatenate(parts: list, name: str) -> np.ndarray:
    return np.concatenate([getattr(graded, name) for _, _, graded, _ in parts])
