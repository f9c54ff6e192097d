"""Tables of the measurements of grafts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.experiments.questions import Graded, Questions
from interp.maths.host import to_host
from interp.models.anatomy import Anatomy
from interp.models.grafts import Scope
from interp.sites import Weight
from interp.table import Table, table


@dataclass
class Rows:
    """Measurements of grafts, in order: graded questions and metrics by ``(kind, kept)``."""

    questions: Questions
    size: int
    seen: dict[tuple[str, int], Graded] = field(default_factory=dict)
    numbers: list[tuple[str, int, str, float]] = field(default_factory=list)
    draws: list[tuple[str, int, int, float]] = field(default_factory=list)
    shuffles: list[Graded] = field(default_factory=list)

    def add(self, kind: str, kept: int, seen: Graded, numbers: Mapping[str, float]) -> None:
        """Add one graft; ``numbers`` are metrics that are not computed from its answers."""
        if (kind, kept) in self.seen:
            return
        self.seen[kind, kept] = seen
        own = {
            "accuracy": seen.correct.mean(),
            "exact": seen.exact.mean(),
            "loss": seen.loss.mean(),
        }
        self.numbers += [
            (kind, kept, name, float(value)) for name, value in {**own, **numbers}.items()
        ]

    def add_draw(self, kind: str, draw: int, kept: int, seen: Graded) -> None:
        """Add one of several random grafts."""
        self.draws.append((kind, draw, kept, float(seen.correct.mean())))

    def add_shuffle(self, kept: int, seen: Graded) -> None:
        """Add a mask learned on a further shuffle of the movement."""
        self.add_draw("shuffled", len(self.shuffles), kept, seen)
        self.shuffles.append(seen)

    def gain(self, correct: float) -> float:
        """Accuracy as a share of the gain from the base to the fine-tuned model; NaN without a
        gain.
        """
        low, high = (
            self.seen["base", 0].correct.mean(),
            self.seen["tuned", self.size].correct.mean(),
        )
        return float((correct - low) / (high - low)) if high != low else float("nan")

    def kept_gain(self, kind: str, kept: int) -> float | None:
        """Share of the gain kept by a kind of mask, averaged over draws; None without a gain."""
        correct = [value for name, _, _, value in self.draws if name == kind]
        found = self.gain(float(np.mean(correct or self.seen[kind, kept].correct)))
        return None if np.isnan(found) else found

    def smallest(self, reach: float) -> int | None:
        """The smallest learned mask that keeps this share of the gain; None if there is none."""
        reached = [
            kept
            for (kind, kept), graded in self.seen.items()
            if kind == "learned" and self.gain(float(graded.correct.mean())) >= reach
        ]
        return min(reached, default=None)

    def table(self, kind: str, **rest: Any) -> Table:
        """The table of all grafts and metrics, the share of the gain kept among them."""
        rows = list(self.numbers)
        rows += [
            (kind, kept, "kept-gain", self.gain(value))
            for kind, kept, name, value in self.numbers
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
        grafts, count = list(self.seen.items()), len(self.questions)
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
                    _joined(grafts, "correct", bool),
                    "flag",
                    "the right one of two answers, or the answer written exactly",
                ),
                "exact": (
                    _joined(grafts, "exact", bool),
                    "flag",
                    "greedy decoding would write the answer",
                ),
                "loss": (_joined(grafts, "loss", float), "measure", "loss of the answer", "nats"),
                "confidence": (
                    _joined(grafts, "confidence", float),
                    "measure",
                    "probability of the chosen one of two answers",
                ),
            },
        )

    def drawn(self) -> Table:
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
                    np.array([self.gain(value) for value in correct]),
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
        if not self.shuffles:
            return {}
        number, asked = len(self.shuffles), self.questions
        learned, right = (
            self.seen["learned", count].correct,
            np.stack([graded.correct for graded in self.shuffles]),
        )
        shuffles, spread = np.arange(number), right.mean(1) - right.mean()
        answers = table(
            "graft-shuffled",
            {
                "shuffle": (np.repeat(shuffles, len(asked)), "key", "number of the shuffle"),
                "prompt_id": (np.tile(asked.ids, number), "key", "position in the prompt file"),
                "cluster": (list(asked.clusters) * number, "key", "dependent questions"),
                "learned": (
                    np.tile(learned, number),
                    "flag",
                    "correct with the mask learned on the real movement",
                ),
                "correct": (right.ravel(), "flag", "correct with the mask learned on this shuffle"),
            },
        )
        units = ["question"] * len(asked) + ["shuffle"] * number
        differences = table(
            "graft-differences",
            {
                "unit": (units, "key", "unit of the row: question or shuffle"),
                "number": (
                    np.concatenate([asked.ids, shuffles]),
                    "key",
                    "position in the prompt file, or number of the shuffle",
                ),
                "cluster": (
                    [*asked.clusters, *(f"(shuffle {shuffle})" for shuffle in shuffles)],
                    "key",
                    "dependent questions",
                ),
                "value": (
                    np.concatenate([learned - right.mean(0), spread]),
                    "measure",
                    (
                        "question: correct with the learned mask minus share of correct shuffles;"
                        " shuffle: accuracy minus mean"
                    ),
                ),
            },
        )
        return {"shuffled": answers, "differences": differences}


def _joined(grafts: list, name: str, dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(graded, name), dtype) for _, graded in grafts])


def layers_table(indices: Mapping[str, Mapping[str, np.ndarray]], scope: Scope) -> Table:
    """Positions of the masks: one row per mask and parameter."""
    sizes = {piece.name: piece.size for piece in scope.pieces}
    moved = {piece.name: float(to_host(piece.moved.norm())) for piece in scope.pieces}
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
    parts = _parts(scope.model.anatomy)
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


def _parts(anatomy: Anatomy) -> dict[str, str]:
    """Parameter name -> names of its matrices, joined by commas where they are fused."""
    found: dict[str, list[str]] = {}
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            found.setdefault(f"{anatomy.place(Weight(layer, part)).path}.weight", []).append(part)
    return {name: ",".join(parts) for name, parts in found.items()}
