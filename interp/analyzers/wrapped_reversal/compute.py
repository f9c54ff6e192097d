"""Training on the base's answers, with readings after some steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.experiments.base_answers import BaseAnswers, Reading
from interp.training.answers import AnswerTraining

SCRATCH = "random start"


@dataclass(frozen=True)
class Curve:
    """Readings of the base's answers to all prompts, by number of steps, and the training loss of
    every step, nats per token.
    """

    readings: dict[int, Reading]
    losses: tuple[float, ...]

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Of every prompt, the share of the readings in which the base's answer is not written."""
        return 1 - np.mean([one.writes[rows] for one in self.readings.values()], axis=0)


def batches_of(answers: BaseAnswers, size: int, steps: int) -> list[list[int]]:
    """Rows of the selection split for every step: all of them in random order, again and again.

    The same for every model.
    """
    generator = np.random.default_rng(answers.study.seed)
    rows: list[int] = []
    while len(rows) < size * steps:
        rows += generator.permutation(answers.selection).tolist()
    return [rows[size * step : size * (step + 1)] for step in range(steps)]


def reverse(
    answers: BaseAnswers,
    training: AnswerTraining,
    steps: Sequence[int],
    batches: Sequence[Sequence[int]],
) -> Curve:
    """Train on batches of the base's answers; ``steps``: ascending, from 0 on."""
    readings, losses = {0: answers.read(training.model)}, []
    for number, rows in enumerate(answers.study.progress(batches, training.model.name), 1):
        losses.append(
            training.step(
                [answers.encoded[row].ids for row in rows], [answers.answers[row] for row in rows]
            )
        )
        if number in steps:
            readings[number] = answers.read(training.model)
    return Curve(readings, tuple(losses))


def step_of_return(answers: BaseAnswers, curve: Curve, level: float) -> int:
    """The first number of steps after which the share ``level`` of the changed answers of the
    selection split is written, or the last one where it never is.

    Where no answer changed, the share of all answers counts.
    """
    rows = answers.selection
    changed = answers.changed[rows]
    rows = rows[changed] if changed.any() else rows
    reached = [step for step, one in curve.readings.items() if one.writes[rows].mean() >= level]
    return min(reached, default=max(curve.readings))
