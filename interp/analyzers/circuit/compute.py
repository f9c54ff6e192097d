"""The circuit of one model by path patching, and what circuits do under mean ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from interp.errors import PromptError
from interp.experiments.head_groups import (
    Circuit,
    HeadGroup,
    Node,
    group_size,
    heads_at,
    random_circuit,
    top_heads,
    without_repeats,
)
from interp.experiments.mean_ablation import Evaluation, HeadsAt, mean_outputs
from interp.experiments.path_patching import Counter, GroupScores, Patching, scores_of_group
from interp.models.model import Model
from interp.prompts import Encoded, TaskFile, TokenRow, encode_answer
from interp.study import Study

NEIGHBOURS = 0.3
"""Share of a group's other heads that are removed first when a head's minimality is measured."""


@dataclass(frozen=True)
class Data:
    """Rows for finding circuits (``selection``) and for evaluating them, of one tokenizer."""

    study: Study
    selection: Sequence[TokenRow]
    held_out: Sequence[TokenRow]
    score: str
    wrong: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, study: Study, selection: TaskFile, held_out: TaskFile, score: str) -> Data:
        """Both files as tokens; PromptError for answers of several tokens."""
        tokenizer = study.pair.tokenizer
        context = study.pair.tuned.context_length
        rows = selection.tokens(tokenizer, context)
        wrong = {
            prompt.id: encode_answer(tokenizer, prompt.text, prompt.wrong_answer)[0]
            for prompt in selection.prompts
            if prompt.wrong_answer is not None
        }
        return cls(study, rows, held_out.tokens(tokenizer, context), score, wrong)

    def batches(
        self, model: Model, rows: Sequence[TokenRow], counter: Counter, times: int = 1
    ) -> list[Patching]:
        """Rows in batches; ``times``: how often a prompt is repeated in a pass at most."""
        encoded = [Encoded(row.prompt.ids, (0,) * len(row.prompt.ids)) for row in rows]
        anatomy = model.anatomy
        channels = 2 * anatomy.width + anatomy.n_heads * anatomy.head_width
        per_token = anatomy.n_layers * channels * model.dtype.itemsize * 2
        groups = self.study.batches(encoded, model, per_token * times)
        # the prompts of every batch keep their order in the file, so that results line up
        return [
            Patching(
                self.study.engine,
                model,
                [rows[at] for at in part],
                self.study.pad_id,
                self.score,
                [self.wrong[rows[at].id] for at in part] if self.wrong else None,
                counter,
            )
            for part in sorted(sorted(group) for group in groups)
        ]


@dataclass(frozen=True)
class Found:
    """A model's circuit and the scores that selected it; ``rows`` are the prompts it answers."""

    name: str
    circuit: Circuit
    scores: dict[str, GroupScores]
    rows: Sequence[TokenRow]
    n_selection: int
    counter: Counter

    @property
    def nodes(self) -> set[tuple[str, Node]]:
        """Heads with the name of their group."""
        return {(group, node) for group, nodes in self.circuit.items() for node in nodes}

    def clusters(self) -> np.ndarray:
        """Clusters of the prompts."""
        return np.array([row.cluster for row in self.rows], object)


def ordered(batches: Sequence[Patching]) -> list[TokenRow]:
    """The rows of batches in the order in which results come."""
    return [row for patching in batches for row in patching.rows]


def find_circuit(
    data: Data,
    model: Model,
    groups: Sequence[HeadGroup],
    *,
    attribution: bool,
    max_prompts: int,
    min_share: float,
    name: str,
) -> Found:
    """Path patching over all heads, group by group; each acts through the group before it."""
    counter = Counter.new()
    every = data.batches(model, data.selection, counter)
    right = np.concatenate([patching.right() for patching in every])
    rows = [row for row, is_right in zip(ordered(every), right, strict=True) if is_right]
    rows = rows[:max_prompts]
    if not rows:
        raise PromptError(
            f"{model.name} answers none of the {len(right)} prompts for finding its circuit rightly;"
            " there is no circuit to find: use prompts that it can answer"
        )
    anatomy = model.anatomy
    times = 1 if attribution else 1 + anatomy.n_heads
    batches = data.batches(model, rows, counter, times)
    circuit: dict[str, Sequence[Node]] = {}
    scores: dict[str, GroupScores] = {}
    for group in data.study.progress(groups, f"paths, {name}"):
        receivers = circuit.get(group.receiver, ())
        scores[group.name] = scores_of_group(batches, group, receivers, attribution=attribution)
        size = group_size(group, anatomy.n_layers * anatomy.n_heads)
        circuit[group.name] = top_heads(scores[group.name].mean, size, min_share)
    return Found(
        name,
        without_repeats(circuit, groups),
        scores,
        ordered(batches),
        len(right),
        counter,
    )


@dataclass(frozen=True)
class Judge:
    """Evaluates circuits in one model on held-out prompts, by mean ablation."""

    groups: Sequence[HeadGroup]
    shape: tuple[int, int]
    evaluation: Evaluation
    full: Bool[np.ndarray, " N"]
    rows: Sequence[TokenRow]

    @classmethod
    def of(cls, data: Data, model: Model, groups: Sequence[HeadGroup]) -> Judge:
        """A model's means over the corrupted texts of the selection split, and its answers."""
        names, counter = list(dict.fromkeys(group.position for group in groups)), Counter.new()
        means = mean_outputs(
            data.batches(model, data.selection, counter),
            names,
            lambda patching: [row.corrupt or row.prompt for row in patching.rows],
        )
        batches = data.batches(model, data.held_out, counter)
        evaluation = Evaluation(batches, means)
        shape = model.anatomy.n_layers, model.anatomy.n_heads
        return cls(groups, shape, evaluation, evaluation.full(), ordered(batches))

    def limited(self, count: int) -> Judge:
        """On the first ``count`` prompts."""
        return Judge(
            self.groups,
            self.shape,
            self.evaluation.limited(count),
            self.full[:count],
            self.rows[:count],
        )

    def masks(self, circuit: Circuit) -> HeadsAt:
        """A circuit's heads by position."""
        return heads_at(circuit, self.groups, self.shape)

    def circuit(self, circuit: Circuit) -> Bool[np.ndarray, " N"]:
        """Right answers with this circuit alone."""
        return self.evaluation.circuit(self.masks(circuit))

    def without(self, circuit: Circuit) -> Bool[np.ndarray, " N"]:
        """Right answers of the whole model without these heads."""
        return self.evaluation.without(self.masks(circuit))

    def faithfulness(self, right: Bool[np.ndarray, " N"]) -> float:
        """Accuracy of a circuit over the model's; NaN where the model has none."""
        return float(right.mean() / self.full.mean()) if self.full.any() else float("nan")


def subset(circuit: Circuit, rng: np.random.Generator) -> Circuit:
    """Each head with probability 1/2."""
    return {
        name: tuple(node for node in nodes if rng.random() < 0.5) for name, nodes in circuit.items()
    }


def minus(circuit: Circuit, removed: Circuit) -> Circuit:
    """A circuit without some heads."""
    return {
        name: tuple(node for node in nodes if node not in removed.get(name, ()))
        for name, nodes in circuit.items()
    }


def completeness(
    judge: Judge,
    circuit: Circuit,
    draws: int,
    rng: np.random.Generator,
    randoms: Sequence[Circuit],
) -> list[dict]:
    """``|F(C without K) - F(M without K)|`` for random K, for whole groups, and for a random K of
    each random circuit.
    """

    def gap(kind: str, draw: int, whole: Circuit, removed: Circuit) -> dict:
        of_circuit = float(judge.circuit(minus(whole, removed)).mean())
        of_model = float(judge.without(removed).mean())
        return {
            "removed": kind,
            "draw": draw,
            "heads": sum(map(len, removed.values())),
            "circuit_accuracy": of_circuit,
            "model_accuracy": of_model,
            "gap": abs(of_circuit - of_model),
        }

    records = [gap("random", draw, circuit, subset(circuit, rng)) for draw in range(draws)]
    for name, nodes in circuit.items():
        group = {other: nodes if other == name else () for other in circuit}
        records.append(gap(name, 0, circuit, group))
    records += [
        gap("random-circuit", draw, other, subset(other, rng)) for draw, other in enumerate(randoms)
    ]
    return records


def minimality(judge: Judge, circuit: Circuit) -> list[dict]:
    """Per head: accuracy of the circuit without the heads of its group that matter most together
    with it, before and after it is removed too (arXiv 2402.14811: kept where before / after - 1 is
    at least 1 %).
    """
    records = []
    for name, nodes in circuit.items():

        def without(removed: Sequence[Node], name: str = name) -> float:
            return float(judge.circuit(minus(circuit, {name: tuple(removed)})).mean())

        pairs = {
            (one, other): without([nodes[one], nodes[other]])
            for one in range(len(nodes))
            for other in range(one)
        }
        for one, node in enumerate(nodes):
            others = [other for other in range(len(nodes)) if other != one]
            others.sort(key=lambda other: pairs[max(one, other), min(one, other)])
            near = [nodes[other] for other in others[: int(np.ceil(NEIGHBOURS * len(others)))]]
            before, after = without(near), without([*near, node])
            records.append(
                {
                    "group": name,
                    "layer": node[0],
                    "head": node[1],
                    "before": before,
                    "after": after,
                    "drop": before - after,
                    "minimal": before >= 1.01 * after and before > after,
                }
            )
    return records


def draw_circuits(
    circuit: Circuit,
    groups: Sequence[HeadGroup],
    shape: tuple[int, int],
    draws: int,
    rng: np.random.Generator,
    bands: int,
) -> list[Circuit]:
    """Random circuits of equal size per group and band of blocks."""
    return [random_circuit(circuit, groups, shape, rng, bands) for _ in range(draws)]
