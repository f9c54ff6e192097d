"""Tables of the measurements of several models on several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.experiments.questions import Graded, Questions
from interp.maths.statistics import calibration_error
from interp.prompts import tied
from interp.table import Table, table

Asked = list[Graded]
_TASK = "number of the task and of its fine-tuned model, from 1"


@dataclass
class Rows:
    """Measurements of models, in order: graded questions of every task, and perplexities."""

    asked: Sequence[Questions]
    seen: dict[str, Asked] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    draws: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, kind: str, seen: Asked) -> None:
        """Add one model."""
        self.seen[kind] = seen

    def add_text(self, kind: str, value: float) -> None:
        """Add the perplexity of plain text under one model."""
        self.text[kind] = value

    def add_draw(self, draw: int, seen: Asked) -> None:
        """Add one of several stitches of random masks."""
        self.draws += [
            (task, draw, float(answers.correct.mean())) for task, answers in enumerate(seen, 1)
        ]

    def gain(self, task: int, correct: float) -> float:
        """Accuracy as a share of the gain of the task's fine-tuned model; NaN without a gain."""
        low, high = (
            float(self.seen[kind][task - 1].correct.mean()) for kind in ("base", f"tune {task}")
        )
        return (correct - low) / (high - low) if high != low else float("nan")

    def kept_gain(self, kind: str) -> list[float | None]:
        """Per task the share of the gain that a model keeps; None without a gain."""
        found = [
            self.gain(task, float(graded.correct.mean()))
            for task, graded in enumerate(self.seen[kind], 1)
        ]
        return [None if np.isnan(value) else value for value in found]

    def table(self, kind: str, **rest: Any) -> Table:
        """Every metric of every model on every task; perplexities are under task 0."""
        rows = [(0, name, "perplexity", value) for name, value in self.text.items()]
        for name, seen in self.seen.items():
            for task, one in enumerate(seen, 1):
                rows += [
                    (task, name, metric, value)
                    for metric, value in self._numbers(task, one).items()
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

    def _numbers(self, task: int, one: Graded) -> Mapping[str, float]:
        correct = float(one.correct.mean())
        own = self.seen[f"tune {task}"][task - 1]
        numbers = {
            "accuracy": correct,
            "exact": float(one.exact.mean()),
            "loss": float(one.loss.mean()),
            "agreement": float(np.mean(one.choice == own.choice)),
            "kept-gain": self.gain(task, correct),
        }
        if not np.isnan(one.confidence).any():
            numbers["calibration-error-15"] = calibration_error(one.confidence, one.correct, 15)
        return numbers

    def clusters(self, task: int) -> np.ndarray:
        """Clusters of a task's questions, renamed so that tasks share only clusters of equal
        questions.
        """
        names = [
            f"{number}:{name}"
            for number, questions in enumerate(self.asked, 1)
            for name in questions.clusters
        ]
        found = tied(names, [key for questions in self.asked for key in questions.keys])
        start = sum(len(questions) for questions in self.asked[: task - 1])
        return np.array(found[start : start + len(self.asked[task - 1])])

    def answers(self) -> Table:
        """The graded answer to each held-out question under each model."""
        parts = [
            (name, task, graded, self.asked[task - 1])
            for name, graded_tasks in self.seen.items()
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
                    _joined(parts, "correct"),
                    "flag",
                    "the right one of two answers, or the answer written exactly",
                ),
                "exact": (
                    _joined(parts, "exact"),
                    "flag",
                    "greedy decoding would write the answer",
                ),
                "loss": (_joined(parts, "loss"), "measure", "loss of the answer", "nats"),
            },
        )

    def drawn(self) -> Table:
        """Stitches of random masks, by task."""
        tasks, draws, correct = zip(*self.draws, strict=True)
        gains = [self.gain(task, value) for task, _, value in self.draws]
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

    def tunes(self, names: Sequence[str], kept: Sequence[int], size: int) -> Table:
        """The stitched models and their masks."""
        return table(
            "stitch-tunes",
            {
                "task": (np.arange(1, len(names) + 1), "key", _TASK),
                "tune": (list(names), "text", "fine-tuned model"),
                "kept": (np.array(kept, np.int64), "measure", "weights in its mask", "weights"),
                "share": (
                    np.array(kept) / size,
                    "measure",
                    "share of the scope's weights in its mask",
                ),
            },
        )


def _joined(parts: list, name: str) -> np.ndarray:
    return np.concatenate([getattr(graded, name) for _, _, graded, _ in parts])
