"""Tables of the measurements of grafts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from interp.maths.host import to_host
from interp.models.anatomy import Anatomy
from interp.models.grafts import Scope
from interp.rows import PromptRow, flag, key, measure, rows_table
from interp.sites import Weight
from interp.table import Table


class MaskRow:
    """A row per mask."""

    kind: str = key("kind of mask; base and tuned are the two models themselves")
    kept: int = key("fine-tuned weights", "weights")


class GraftRow:
    """A row per mask and metric."""

    kind: str = MaskRow.kind
    sparsity: float = measure("share of the scope's weights that are fine-tuned")
    kept: int = MaskRow.kept
    metric: str = MetricRow.metric
    value: float = MetricRow.value


class GraftAnswerRow(AnswerRow, MaskRow):
    """A row per mask and held-out question."""

    confidence: float = measure("probability of the chosen one of two answers")


class GraftRandomRow:
    """A row per random mask, and per mask learned on shuffled movement."""

    kind: str = key("random, matched (the learned mask's counts) or shuffled (learned on shuffles)")
    draw: int = RandomMaskRow.draw
    kept: int = MaskRow.kept
    accuracy: float = RandomMaskRow.accuracy
    kept_gain: float = RandomMaskRow.kept_gain


class ShuffledAnswerRow:
    """A row per shuffle and held-out question."""

    shuffle: int = key("number of the shuffle, from 0")
    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    learned: bool = flag("correct with the mask learned on the real movement")
    correct: bool = flag("correct with the mask learned on this shuffle")


class DifferenceRow:
    """A row per held-out question, then a row per shuffle."""

    unit: str = key("unit of the row: question or shuffle")
    number: int = key("position in the prompt file, or number of the shuffle, from 0")
    cluster: str = PromptRow.cluster
    value: float = measure(
        "question: correct with the learned mask minus share of correct shuffles;"
        " shuffle: accuracy minus mean"
    )


class ParameterRow:
    """A row per mask and parameter."""

    kind: str = key("kind of mask")
    parameter: str = key("name of the parameter in the base")
    layer: int = key("block, from 0; -1 outside the blocks")
    part: str = key("matrix, names of fused ones joined; empty for other parameters")
    kept: int = measure("weights of the parameter in the mask", "weights")
    size: int = measure("size of the parameter", "weights")
    density: float = measure("share of the parameter's weights in the mask")
    moved: float = measure("Euclidean norm of the parameter's movement")


@dataclass
class GraftRecords:
    """Measurements of grafts, in order: graded questions and metrics by ``(kind, kept)``, and
    graded questions of every draw of a mask.
    """

    questions: Questions
    size: int
    graded: dict[tuple[str, int], QuestionResults] = field(default_factory=dict)
    metrics: list[tuple[str, int, str, float]] = field(default_factory=list)
    draws: list[tuple[str, int, int, QuestionResults]] = field(default_factory=list)

    def add(
        self, kind: str, n_weights: int, graded: QuestionResults, metrics: Mapping[str, float]
    ) -> None:
        """Add one graft, the fine-tuned model first; ``metrics`` are metrics that are not computed
        from its answers.
        """
        self.graded[kind, n_weights] = graded
        all_metrics = {
            **graded.metrics(self.graded.get(("tuned", self.size), graded)),
            **graded.calibration_errors(15, 10),
            **metrics,
        }
        self.metrics += [(kind, n_weights, name, value) for name, value in all_metrics.items()]

    @property
    def ends(self) -> tuple[float, float]:
        """Accuracy of the base and of the fine-tuned model."""
        return self.graded["base", 0].accuracy, self.graded["tuned", self.size].accuracy

    def share_of_gain(self, accuracy: float) -> float:
        """Accuracy as a share of the gain from the base to the fine-tuned model; NaN without a
        gain.
        """
        low, high = self.ends
        return (accuracy - low) / (high - low) if high != low else float("nan")

    def kept_gain(self, kind: str, n_weights: int) -> float | None:
        """Share of the gain kept by a kind of mask, averaged over draws; None without a gain."""
        drawn = [graded.accuracy for name, _, _, graded in self.draws if name == kind]
        share = self.share_of_gain(float(np.mean(drawn or self.graded[kind, n_weights].accuracy)))
        return None if np.isnan(share) else share

    def smallest_mask(self, share: float) -> int | None:
        """The smallest learned mask that keeps this share of the gain; None if there is none."""
        sizes = [
            kept
            for (kind, kept), graded in self.graded.items()
            if kind == "learned" and self.share_of_gain(graded.accuracy) >= share
        ]
        return min(sizes, default=None)

    def table(self, **rest: Any) -> Table:
        """The table of all grafts and metrics, the share of the gain kept among them."""
        kept_gains = [
            (kind, kept, "kept-gain", self.share_of_gain(value))
            for kind, kept, name, value in self.metrics
            if name == "accuracy"
        ]
        kinds, kept, metrics, values = zip(*self.metrics, *kept_gains, strict=True)
        data = {
            "kind": kinds,
            "sparsity": np.array(kept) / self.size,
            "kept": kept,
            "metric": metrics,
            "value": values,
        }
        return rows_table(GraftRow, "graft", data, **rest)

    def answers_table(self) -> Table:
        """The graded answer to each held-out question under each graft."""
        count = len(self.questions)
        data = {
            "kind": [kind for kind, _ in self.graded for _ in range(count)],
            "kept": np.repeat([kept for _, kept in self.graded], count),
            "cluster": list(self.questions.clusters) * len(self.graded),
            **answer_columns([(self.questions, graded) for graded in self.graded.values()]),
            "confidence": np.concatenate([graded.confidence for graded in self.graded.values()]),
        }
        return rows_table(GraftAnswerRow, "", data)

    def random_table(self) -> Table:
        """All random and shuffled grafts of the density that the claims are about."""
        kinds, draws, kept, graded = zip(*self.draws, strict=True)
        data = {
            "kind": kinds,
            "draw": draws,
            "kept": kept,
            "accuracy": [one.accuracy for one in graded],
            "kept_gain": [self.share_of_gain(one.accuracy) for one in graded],
        }
        return rows_table(GraftRandomRow, "", data)

    def shuffle_tables(self, count: int) -> dict[str, Table]:
        """Answers under masks learned on shuffled movement; the learned mask has ``count`` weights.

        ``shuffled`` has every answer. ``differences`` has one row per question, the learned mask's
        correctness minus the share of shuffles that are correct, and one row per shuffle, its
        accuracy minus the mean accuracy.
        """
        shuffled = [graded.correct for kind, *_, graded in self.draws if kind == "shuffled"]
        if not shuffled:
            return {}
        questions, learned = self.questions, self.graded["learned", count].correct
        correct, shuffles = np.stack(shuffled), np.arange(len(shuffled))
        answers = {
            "shuffle": np.repeat(shuffles, len(questions)),
            "prompt_id": np.tile(questions.ids, len(shuffles)),
            "cluster": list(questions.clusters) * len(shuffles),
            "learned": np.tile(learned, len(shuffles)),
            "correct": correct.ravel(),
        }
        differences = {
            "unit": ["question"] * len(questions) + ["shuffle"] * len(shuffles),
            "number": np.concatenate([questions.ids, shuffles]),
            "cluster": [*questions.clusters, *(f"(shuffle {shuffle})" for shuffle in shuffles)],
            "value": np.concatenate([learned - correct.mean(0), correct.mean(1) - correct.mean()]),
        }
        return {
            "shuffled": rows_table(ShuffledAnswerRow, "", answers),
            "differences": rows_table(DifferenceRow, "", differences),
        }


def layers_table(indices: Mapping[str, Mapping[str, np.ndarray]], scope: Scope) -> Table:
    """Positions of the masks: one row per mask and parameter."""
    pieces = {piece.name: piece for piece in scope.pairs}
    moved = {name: float(to_host(piece.changes.norm())) for name, piece in pieces.items()}
    kinds, names, kept = zip(
        *(
            (kind, name, len(positions))
            for kind, by_parameter in indices.items()
            for name, positions in by_parameter.items()
        ),
        strict=True,
    )
    block = re.compile(re.escape(scope.model.anatomy.blocks_path) + r"\.(\d+)\.")
    parts = matrices_by_parameter(scope.model.anatomy)
    size = np.array([pieces[name].size for name in names])
    data = {
        "kind": kinds,
        "parameter": names,
        "layer": [int(found[1]) if (found := block.match(name)) else -1 for name in names],
        "part": [parts.get(name, "") for name in names],
        "kept": kept,
        "size": size,
        "density": np.array(kept) / size,
        "moved": [moved[name] for name in names],
    }
    return rows_table(ParameterRow, "", data)


def matrices_by_parameter(anatomy: Anatomy) -> dict[str, str]:
    """Parameter name -> names of its matrices, joined by commas where they are fused."""
    matrices: dict[str, list[str]] = {}
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            name = f"{anatomy.place(Weight(layer, part)).path}.weight"
            matrices.setdefault(name, []).append(part)
    return {name: ",".join(parts) for name, parts in matrices.items()}
