"""What was measured of grafts, gathered into tables."""

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
    """Grafts in the order they were measured: ``(kind, kept)`` with what became of each question,
    and numbers.
    """

    questions: Questions
    size: int
    seen: dict[tuple[str, int], Graded] = field(default_factory=dict)
    numbers: list[tuple[str, int, str, float]] = field(default_factory=list)
    draws: list[tuple[str, int, int, float]] = field(default_factory=list)
    shuffles: list[Graded] = field(default_factory=list)

    def add(self, kind: str, kept: int, seen: Graded, numbers: Mapping[str, float]) -> None:
        """One graft; ``numbers`` are those that are not counted from its answers."""
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
        """One of many random grafts."""
        self.draws.append((kind, draw, kept, float(seen.correct.mean())))

    def add_shuffle(self, kept: int, seen: Graded) -> None:
        """A mask learned on one more shuffle of the movement."""
        self.add_draw("shuffled", len(self.shuffles), kept, seen)
        self.shuffles.append(seen)

    def gain(self, correct: float) -> float:
        """A share of right answers as a share of the way from the base's to the tune's; NaN where
        there is no way.
        """
        low, high = (
            self.seen["base", 0].correct.mean(),
            self.seen["tuned", self.size].correct.mean(),
        )
        return float((correct - low) / (high - low)) if high != low else float("nan")

    def kept_gain(self, kind: str, kept: int) -> float | None:
        """Share of the gain that masks of a kind keep, of random and shuffled ones on average; None
        where none is.
        """
        correct = [value for name, _, _, value in self.draws if name == kind]
        found = self.gain(float(np.mean(correct or self.seen[kind, kept].correct)))
        return None if np.isnan(found) else found

    def smallest(self, reach: float) -> int | None:
        """The fewest weights with which the learned mask keeps this share of the gain; None where
        it never does.
        """
        reached = [
            kept
            for (kind, kept), seen in self.seen.items()
            if kind == "learned" and self.gain(float(seen.correct.mean())) >= reach
        ]
        return min(reached, default=None)

    def table(self, kind: str, **rest: Any) -> Table:
        """The table of all grafts; what part of the gain they keep is one metric of them."""
        rows = list(self.numbers)
        rows += [
            (k, n, "kept-gain", self.gain(value))
            for k, n, name, value in self.numbers
            if name == "accuracy"
        ]
        names, kept, metrics, values = zip(*rows, strict=True)
        return table(
            kind,
            {
                "kind": (
                    list(names),
                    "key",
                    "which mask: base and tuned are the models themselves",
                ),
                "sparsity": (
                    np.array(kept) / self.size,
                    "measure",
                    "share of the scope's weights that are the tune's",
                ),
                "kept": (np.array(kept, np.int64), "key", "weights that are the tune's", "weights"),
                "metric": (
                    list(metrics),
                    "key",
                    "what was measured on held-out questions, or on text",
                ),
                "value": (
                    np.array(values, np.float64),
                    "measure",
                    "the number; losses in nats per answer",
                ),
            },
            **rest,
        )

    def answers(self) -> Table:
        """What became of each held-out question in each graft."""
        grafts, count = list(self.seen.items()), len(self.questions)
        return table(
            "graft-answers",
            {
                "kind": (
                    [kind for (kind, _), _ in grafts for _ in range(count)],
                    "key",
                    "which mask",
                ),
                "kept": (
                    np.repeat([kept for (_, kept), _ in grafts], count),
                    "key",
                    "weights that are the tune's",
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
                    "right of the two answers, or written exactly",
                ),
                "exact": (
                    _joined(grafts, "exact", bool),
                    "flag",
                    "greedy decoding would write the answer",
                ),
                "loss": (_joined(grafts, "loss", float), "measure", "of the answer", "nats"),
                "confidence": (
                    _joined(grafts, "confidence", float),
                    "measure",
                    "probability of the choice of two",
                ),
            },
        )

    def drawn(self) -> Table:
        """All random and shuffled grafts of the size that the claims are about."""
        kinds, draws, kept, correct = zip(*self.draws, strict=True)
        return table(
            "graft-random",
            {
                "kind": (
                    list(kinds),
                    "key",
                    "random; matched: as learned in each parameter; shuffled: learned so",
                ),
                "draw": (np.array(draws, np.int64), "key", "number of the draw"),
                "kept": (np.array(kept, np.int64), "key", "weights that are the tune's", "weights"),
                "accuracy": (np.array(correct), "measure", "share of right answers"),
                "kept_gain": (
                    np.array([self.gain(value) for value in correct]),
                    "measure",
                    "share of the tune's gain",
                ),
            },
        )

    def shuffled(self, count: int) -> dict[str, Table]:
        """Masks learned on shuffled movement, question by question; the learned mask has ``count``
        weights.

        ``shuffled`` has every answer. ``differences`` has what varies: by question the learned
        mask's right answer less the share of shuffles that are right, and by shuffle its accuracy
        less the mean of all.
        """
        if not self.shuffles:
            return {}
        number, asked = len(self.shuffles), self.questions
        learned, right = (
            self.seen["learned", count].correct,
            np.stack([seen.correct for seen in self.shuffles]),
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
                    "right with the mask learned on the movement itself",
                ),
                "correct": (right.ravel(), "flag", "right with the mask learned on this shuffle"),
            },
        )
        units = ["question"] * len(asked) + ["shuffle"] * number
        differences = table(
            "graft-differences",
            {
                "unit": (units, "key", "what varies: question or shuffle"),
                "number": (
                    np.concatenate([asked.ids, shuffles]),
                    "key",
                    "position in the prompt file, or the shuffle",
                ),
                "cluster": (
                    [*asked.clusters, *(f"(shuffle {at})" for at in shuffles)],
                    "key",
                    "dependent questions",
                ),
                "value": (
                    np.concatenate([learned - right.mean(0), spread]),
                    "measure",
                    (
                        "right of the learned mask less the share of shuffles that are; of a"
                        " shuffle accuracy less mean"
                    ),
                ),
            },
        )
        return {"shuffled": answers, "differences": differences}


def _joined(grafts: list, name: str, dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(seen, name), dtype) for _, seen in grafts])


def layers_table(indices: Mapping[str, Mapping[str, np.ndarray]], scope: Scope) -> Table:
    """Where masks lie: one row per mask and parameter."""
    sizes = {piece.name: piece.size for piece in scope.pieces}
    moved = {piece.name: float(to_host(piece.moved.norm())) for piece in scope.pieces}
    rows = [
        (kind, name, len(where))
        for kind, by_name in indices.items()
        for name, where in by_name.items()
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
            "kind": (kinds, "key", "which mask"),
            "parameter": (names, "key", "name in the base"),
            "layer": (
                np.array([int(m[1]) if m else -1 for m in layers], np.int64),
                "key",
                "block; -1 outside of them",
            ),
            "part": (
                [parts.get(name, "") for name in names],
                "key",
                "matrix, fused ones joined; empty for others",
            ),
            "kept": (np.array(kept, np.int64), "measure", "weights in the mask", "weights"),
            "size": (size, "measure", "weights of the parameter", "weights"),
            "density": (
                np.array(kept) / size,
                "measure",
                "share of the parameter's weights in the mask",
            ),
            "moved": (
                np.array([moved[name] for name in names]),
                "measure",
                "Euclidean norm of the tune's movement",
            ),
        },
    )


def _parts(anatomy: Anatomy) -> dict[str, str]:
    """Parameter name -> the matrices it holds, joined by commas where they are fused."""
    found: dict[str, list[str]] = {}
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            found.setdefault(f"{anatomy.place(Weight(layer, part)).path}.weight", []).append(part)
    return {name: ",".join(parts) for name, parts in found.items()}
