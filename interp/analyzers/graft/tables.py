"""Tables of the measurements of grafts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.experiments.questions import QuestionResults, Questions
from interp.maths.host import to_host
from interp.models.anatomy import Anatomy
from interp.models.grafts import Scope
from interp.sites import Weight
from interp.table import Table, table


@dataclass
class GraftRecords:
    """Measurements of grafts, in order: graded questions and metrics by ``(kind, kept)``."""

    questions: Questions
    size: int
    graded: dict[tuple[str, int], QuestionResults] = field(default_factory=dict)
    metrics: list[tuple[str, int, str, float]] = field(default_factory=list)
    draws: list[tuple[str, int, int, float]] = field(default_factory=list)
    shuffle_grades: list[QuestionResults] = field(default_factory=list)

    def add(
        self, kind: str, n_weights: int, graded: QuestionResults, metrics: Mapping[str, float]
    ) -> None:
        """Add one graft; ``metrics`` are metrics that are not computed from its answers."""
        if (kind, n_weights) in self.graded:
            return
        self.graded[kind, n_weights] = graded
        answer_metrics = {
            "accuracy": graded.correct.mean(),
            "exact": graded.exact.mean(),
            "loss": graded.loss.mean(),
        }
        self.metrics += [
            (kind, n_weights, name, float(value))
            for name, value in {**answer_metrics, **metrics}.items()
        ]

    def add_draw(self, kind: str, draw: int, n_weights: int, graded: QuestionResults) -> None:
        """Add one of several random grafts."""
        self.draws.append((kind, draw, n_weights, float(graded.correct.mean())))

    def add_shuffle(self, n_weights: int, graded: QuestionResults) -> None:
        """Add a mask learned on a further shuffle of the movement."""
        self.add_draw("shuffled", len(self.shuffle_grades), n_weights, graded)
        self.shuffle_grades.append(graded)

    def share_of_gain(self, correct: float) -> float:
        """Accuracy as a share of the gain from the base to the fine-tuned model; NaN without a
        gain.
        """
        low, high = (
            self.graded["base", 0].correct.mean(),
            self.graded["tuned", self.size].correct.mean(),
        )
        return float((correct - low) / (high - low)) if high != low else float("nan")

    def kept_gain(self, kind: str, n_weights: int) -> float | None:
        """Share of the gain kept by a kind of mask, averaged over draws; None without a gain."""
        correct = [value for name, _, _, value in self.draws if name == kind]
        share = self.share_of_gain(float(np.mean(correct or self.graded[kind, n_weights].correct)))
        return None if np.isnan(share) else share

    def smallest_mask(self, share: float) -> int | None:
        """The smallest learned mask that keeps this share of the gain; None if there is none."""
        sizes = [
            kept
            for (kind, kept), graded in self.graded.items()
            if kind == "learned" and self.share_of_gain(float(graded.correct.mean())) >= share
        ]
        return min(sizes, default=None)

    def table(self, kind: str, **rest: Any) -> Table:
        """The table of all grafts and metrics, the share of the gain kept among them."""
        rows = list(self.metrics)
        rows += [
            (kind, kept, "kept-gain", self.share_of_gain(value))
            for kind, kept, name, value in self.metrics
            if name == "accuracy"
        ]
        names, kept, metrics, values = zip(*rows, strict=True)
        return table(
            kind,
            {
                "kind": (
                    list(names),
                    "key",
                    "kind of mask; base and tuned are the two models themselves",
                ),
                "sparsity": (
                    np.array(kept) / self.size,
                    "measure",
                    "share of the scope's weights that are fine-tuned",
                ),
                "kept": (np.array(kept, np.int64), "key", "fine-tuned weights", "weights"),
                "metric": (
                    list(metrics),
                    "key",
                    "metric, on held-out questions or on plain text",
                ),
                "value": (
                    np.array(values, np.float64),
                    "measure",
                    "value of the metric; losses in nats per answer",
                ),
            },
            **rest,
        )

    def answers_table(self) -> Table:
        """The graded answer to each held-out question under each graft."""
        grafts, count = list(self.graded.items()), len(self.questions)
        return table(
            "graft-answers",
            {
                "kind": (
                    [kind for (kind, _), _ in grafts for _ in range(count)],
                    "key",
                    "kind of mask",
                ),
                "kept": (
                    np.repeat([kept for (_, kept), _ in grafts], count),
                    "key",
                    "fine-tuned weights",
                ),
                "prompt_id": (
                    np.tile(self.questions.ids, len(grafts)),
                    "key",
                    "position in the prompt file",
                ),
                "cluster": (
                    list(self.questions.clusters) * len(grafts),
                    "key",
                    "dependent questions",
                ),
                "correct": (
                    _concatenate(grafts, "correct", bool),
                    "flag",
                    "the right one of two answers, or the answer written exactly",
                ),
                "exact": (
                    _concatenate(grafts, "exact", bool),
                    "flag",
                    "greedy decoding would write the answer",
                ),
                "loss": (
                    _concatenate(grafts, "loss", float),
                    "measure",
                    "loss of the answer",
                    "nats",
                ),
                "confidence": (
                    _concatenate(grafts, "confidence", float),
                    "measure",
                    "probability of the chosen one of two answers",
                ),
            },
        )

    def random_table(self) -> Table:
        """All random and shuffled grafts of the density that the claims are about."""
        kinds, draws, kept, correct = zip(*self.draws, strict=True)
        return table(
            "graft-random",
            {
                "kind": (
                    list(kinds),
                    "key",
                    "random, matched (the learned mask's counts) or shuffled (learned on shuffles)",
                ),
                "draw": (np.array(draws, np.int64), "key", "number of the draw"),
                "kept": (np.array(kept, np.int64), "key", "fine-tuned weights", "weights"),
                "accuracy": (np.array(correct), "measure", "share of correct answers"),
                "kept_gain": (
                    np.array([self.share_of_gain(value) for value in correct]),
                    "measure",
                    "share of the fine-tuned model's gain",
                ),
            },
        )

    def shuffle_tables(self, count: int) -> dict[str, Table]:
        """Answers under masks learned on shuffled movement; the learned mask has ``count`` weights.

        ``shuffled`` has every answer. ``differences`` has one row per question, the learned mask's
        correctness minus the share of shuffles that are correct, and one row per shuffle, its
        accuracy minus the mean accuracy.
        """
        if not self.shuffle_grades:
            return {}
        n_shuffles, questions = len(self.shuffle_grades), self.questions
        learned, correct = (
            self.graded["learned", count].correct,
            np.stack([graded.correct for graded in self.shuffle_grades]),
        )
        shuffles, deviations = np.arange(n_shuffles), correct.mean(1) - correct.mean()
        answers = table(
            "graft-shuffled",
            {
                "shuffle": (np.repeat(shuffles, len(questions)), "key", "number of the shuffle"),
                "prompt_id": (
                    np.tile(questions.ids, n_shuffles),
                    "key",
                    "position in the prompt file",
                ),
                "cluster": (list(questions.clusters) * n_shuffles, "key", "dependent questions"),
                "learned": (
                    np.tile(learned, n_shuffles),
                    "flag",
                    "correct with the mask learned on the real movement",
                ),
                "correct": (
                    correct.ravel(),
                    "flag",
                    "correct with the mask learned on this shuffle",
                ),
            },
        )
        units = ["question"] * len(questions) + ["shuffle"] * n_shuffles
        differences = table(
            "graft-differences",
            {
                "unit": (units, "key", "unit of the row: question or shuffle"),
                "number": (
                    np.concatenate([questions.ids, shuffles]),
                    "key",
                    "position in the prompt file, or number of the shuffle",
                ),
                "cluster": (
                    [*questions.clusters, *(f"(shuffle {shuffle})" for shuffle in shuffles)],
                    "key",
                    "dependent questions",
                ),
                "value": (
                    np.concatenate([learned - correct.mean(0), deviations]),
                    "measure",
                    (
                        "question: correct with the learned mask minus share of correct shuffles;"
                        " shuffle: accuracy minus mean"
                    ),
                ),
            },
        )
        return {"shuffled": answers, "differences": differences}


def _concatenate(grafts: list, name: str, dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(graded, name), dtype) for _, graded in grafts])


def layers_table(indices: Mapping[str, Mapping[str, np.ndarray]], scope: Scope) -> Table:
    """Positions of the masks: one row per mask and parameter."""
    sizes = {piece.name: piece.size for piece in scope.pairs}
    moved = {piece.name: float(to_host(piece.changes.norm())) for piece in scope.pairs}
    rows = [
        (kind, name, len(positions))
        for kind, by_parameter in indices.items()
        for name, positions in by_parameter.items()
    ]
    kinds, names, kept = (
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
    )
    layers = [
        re.match(re.escape(scope.model.anatomy.blocks_path) + r"\.(\d+)\.", name) for name in names
    ]
    parts = matrices_by_parameter(scope.model.anatomy)
    size = np.array([sizes[name] for name in names], np.int64)
    return table(
        "graft-layers",
        {
            "kind": (kinds, "key", "kind of mask"),
            "parameter": (names, "key", "name of the parameter in the base"),
            "layer": (
                np.array([int(match[1]) if match else -1 for match in layers], np.int64),
                "key",
                "block; -1 outside the blocks",
            ),
            "part": (
                [parts.get(name, "") for name in names],
                "key",
                "matrix, names of fused ones joined; empty for other parameters",
            ),
            "kept": (
                np.array(kept, np.int64),
                "measure",
                "weights of the parameter in the mask",
                "weights",
            ),
            "size": (size, "measure", "size of the parameter", "weights"),
            "density": (
                np.array(kept) / size,
                "measure",
                "share of the parameter's weights in the mask",
            ),
            "moved": (
                np.array([moved[name] for name in names]),
                "measure",
                "Euclidean norm of the parameter's movement",
            ),
        },
    )


def matrices_by_parameter(anatomy: Anatomy) -> dict[str, str]:
    """Parameter name -> names of its matrices, joined by commas where they are fused."""
    matrices: dict[str, list[str]] = {}
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            matrices.setdefault(f"{anatomy.place(Weight(layer, part)).path}.weight", []).append(
                part
            )
    return {name: ",".join(parts) for name, parts in matrices.items()}
