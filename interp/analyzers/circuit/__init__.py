"""``FindCircuit``: which attention heads carry a task in the base and in the fine-tuned model.

Path patching over all heads, group by group: heads that act on the logits, then those that act on
them through their queries, keys or values (arXiv 2402.14811). A head's score is the change of the
answer's probability, relative to its clean value, when its output is that of a corrupted prompt
along that path alone. The two circuits are compared head by head, and each is evaluated in both
models on held-out prompts by mean ablation, next to random circuits of equal size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from interp.analyzers.circuit.compute import (
    Data,
    Found,
    Judge,
    completeness,
    draw_circuits,
    find_circuit,
    minimality,
)
from interp.analyzers.circuit.findings import claims_of
from interp.analyzers.circuit.tables import (
    MODELS,
    answers_table,
    circuits_table,
    completeness_table,
    controls_rows,
    heads_table,
    minimality_table,
    random_table,
)
from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.head_groups import DEFAULT_GROUPS, Circuit, HeadGroup, require_chain
from interp.experiments.path_patching import PROBABILITY, SCORES, key_value_heads
from interp.experiments.same_base import require_same_base
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.units import HEAD
from interp.prompts import TaskFile
from interp.study import Study

SHARED_KEYS = (
    "Keys and values are shared by groups of query heads: a patch of one acts on all heads of its"
    " group."
)
ACCURACY = (
    "Faithfulness is a ratio of accuracies; it may exceed 1. That a group can be removed from the"
    " model without loss does not mean that its heads do nothing: others may take over."
)
NO_CONTROL = (
    "Whether training on anything else leaves the circuit as similar was not measured: no control"
    " was given (--control)."
)


@dataclass(frozen=True)
class FindCircuit(Analyzer):
    """Circuits of both models by path patching; needs a base.

    ``task`` finds circuits (prompts with ``corrupt`` texts and the groups' positions) and gives the
    means of ablated heads, ``held_out`` evaluates them. Scores are over the prompts of ``task``
    that a model answers rightly, at most ``max_prompts``. A group has ``size`` heads, fewer where
    not as many have ``min_share`` of the largest effect (the published circuits have a fixed
    number: ``min_share`` 0). With ``attribution`` scores are gradients
    times differences, a first-order estimate, for deep models. Returns a table of kind ``circuit``,
    one row per group and head, with ``answers`` (held-out prompts), ``circuits`` (faithfulness),
    ``random``, ``completeness``, ``minimality`` and, with controls, ``controls``. Raises
    PromptError for a task without what the groups need, or that a model cannot answer.
    """

    name: ClassVar[str] = "circuit"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    task: TaskFile = option(None, "Prompts with answers, positions, corrupt texts.")
    held_out: TaskFile = option(None, "Prompts that evaluate them.")
    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    groups: tuple[HeadGroup, ...] = option((), "Groups of heads; none: A, B, C and D.")
    score: str = option(
        PROBABILITY,
        "What a patch changes: probability (relative), or logit-difference.",
        choices=SCORES,
    )
    size: int = option(0, "Heads of a group at most; 0: 2 % of all, at least 3.", ge=0)
    min_share: float = option(
        0.02, "Smallest effect of a head, as a share of its group's largest; 0: any.", ge=0, le=1
    )
    attribution: bool = option(False, "Estimate scores by gradients, for deep models.")
    max_prompts: int = option(100, "Scores are means over N prompts at most.", ge=1)
    draws: int = option(39, "Random circuits; 0: none.", ge=0)
    bands: int = option(3, "Bands of blocks that random heads are drawn in.", ge=1)
    completeness_draws: int = option(20, "Random sets of heads taken out; 0: none.", ge=0)
    minimality_prompts: int = option(100, "Prompts for minimality; 0: not measured.", ge=0)

    @property
    def chain(self) -> tuple[HeadGroup, ...]:
        """The groups, each of its size; without any, those of the default whose positions the task
        has.
        """
        groups = self.groups
        if not groups:
            known = set(self.task.position_names)
            kept: list[HeadGroup] = []
            for group in DEFAULT_GROUPS:
                if group.position not in known:
                    break
                kept.append(group)
            groups = tuple(kept)
        return tuple(
            HeadGroup(g.name, g.position, g.receiver, g.via, g.size or self.size) for g in groups
        )

    def with_controls(self, controls: Sequence[Pair]) -> "FindCircuit":
        """The same analyzer with control fine-tunes."""
        return replace(self, controls=controls)

    def check(self, known: Known) -> None:
        """Raise OptionError for groups that are not a chain, PromptError for a task without their
        positions.
        """
        super().check(known)
        for name in ("task", "held_out"):
            if not isinstance(getattr(self, name), TaskFile):
                raise OptionError(f"{name} of FindCircuit is missing; give read_task_file(...)")
        require_chain(self.chain)
        positions = {group.position for group in self.chain}
        self.task.require_positions(positions)
        self.task.require_corrupt(positions)
        self.held_out.require_positions(positions)

    def require(self, study: Study) -> None:
        """Raise UnsupportedModel for a family without exact heads, PairError for controls of
        another base.
        """
        super().require(study)
        anatomy = study.pair.tuned.anatomy
        HEAD.require(anatomy)
        hooks = {f"attn.hook_{group.via}" for group in self.chain if group.via}
        for hook in sorted({"hook_resid_pre", *hooks} - set(anatomy.targets)):
            raise UnsupportedModel(f"{anatomy.architecture} has no exact module for {hook}")
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Passes of patched receivers for every head (or two gradients per group), and one for
        every evaluation of a circuit.
        """
        anatomy, models = study.pair.tuned.anatomy, 2 + len(self.controls)
        share = min(1.0, self.max_prompts / max(len(self.task), 1))
        chain = self.chain
        composed = sum(bool(group.via) for group in chain)
        heads = anatomy.n_layers * (anatomy.n_heads + 1) / 2  # those below their receivers
        found = models * (2 + share * (0 if self.attribution else composed * heads))
        gradients = models * share * len(chain) if self.attribution else 0
        judged = len(self.held_out) / max(len(self.task), 1)
        removed = 2 * self.completeness_draws + 2 * len(chain) + 2 * min(self.draws, 20)
        pairs = len(chain) * 9 * (self.minimality_prompts > 0)
        evaluations = 4 * (self.draws + 1) + 2 * removed + 2 * pairs + 4 * len(self.controls)
        return Work(passes=found + judged * evaluations, gradients=gradients)

    def run(self, study: Study) -> Result:
        """Find both circuits, evaluate each in both models, then controls."""
        groups, data = self.chain, Data.read(study, self.task, self.held_out, self.score)
        models = {"base": study.pair.require_base(self.name), "tuned": study.pair.tuned}
        found = {role: self._found(data, model, role) for role, model in models.items()}
        circuits = {role: each.circuit for role, each in found.items()}
        judges = {role: Judge.of(data, model, groups) for role, model in models.items()}
        answers = {
            (role, other): judges[role].circuit(circuits[other])
            for role in MODELS
            for other in MODELS
        }
        rng = np.random.default_rng([study.seed, 11])
        shape = judges["base"].shape
        drawn = {
            role: draw_circuits(circuits[role], groups, shape, self.draws, rng, self.bands)
            for role in MODELS
        }
        random = random_table(self._random(study, found, judges, drawn))
        tables = {
            "answers": answers_table(judges, answers),
            "circuits": circuits_table(judges, circuits, answers, random),
            "random": random,
        }
        if self.completeness_draws:
            records = []
            for role in study.progress(MODELS, "completeness"):
                few = drawn[role][: self.completeness_draws]
                rows = completeness(judges[role], circuits[role], self.completeness_draws, rng, few)
                records += [{"model": role, **row} for row in rows]
            tables["completeness"] = completeness_table(records)
        if self.minimality_prompts:
            tables["minimality"] = minimality_table(
                self._minimality(study, judges, circuits, drawn)
            )
        names = tuned_names(self.controls)
        if names:
            tables["controls"] = controls_rows(names, self._controls(data, found["base"]))
        unit = "relative" if self.score == PROBABILITY else "logits"
        rows = heads_table(groups, found["base"], found["tuned"], unit)
        summary = self._summary(found, judges, names)
        limits = [ACCURACY, *([] if names else [NO_CONTROL])]
        if (
            any(group.via in ("k", "v") for group in groups)
            and key_value_heads(models["tuned"]) < models["tuned"].anatomy.n_heads
        ):
            limits.insert(0, SHARED_KEYS)
        return Result(rows, tables, claims_of(summary, self.draws, len(names)), summary, limits)

    def _found(self, data: Data, model: Model, name: str) -> Found:
        return find_circuit(
            data,
            model,
            self.chain,
            attribution=self.attribution,
            max_prompts=self.max_prompts,
            min_share=self.min_share,
            name=name,
        )

    def _random(
        self,
        study: Study,
        circuits: dict[str, Found],
        judges: dict[str, Judge],
        drawn: dict[str, list[Circuit]],
    ) -> list[dict]:
        """Every random circuit of either model's sizes, in both models."""
        records = []
        for draw in study.progress(range(self.draws), "random circuits"):
            for circuit in MODELS:
                other = circuits["tuned" if circuit == "base" else "base"].nodes
                own = drawn[circuit][draw]
                nodes = {(group, node) for group, part in own.items() for node in part}
                shared = len(nodes & other) / len(nodes) if nodes else float("nan")
                for model in MODELS:
                    judge = judges[model]
                    records.append(
                        {
                            "draw": draw,
                            "model": model,
                            "circuit": circuit,
                            "faithfulness": judge.faithfulness(judge.circuit(own)),
                            "shared": shared,
                        }
                    )
        return records

    def _minimality(
        self,
        study: Study,
        judges: dict[str, Judge],
        circuits: dict[str, Circuit],
        drawn: dict[str, list[Circuit]],
    ) -> list[dict]:
        """Every head of each model's circuit, and of one random circuit of its sizes."""
        records = []
        for role in study.progress(MODELS, "minimality"):
            judge = judges[role].limited(self.minimality_prompts)
            kinds = {"own": circuits[role]}
            if drawn[role]:
                kinds["random"] = drawn[role][0]
            for kind, circuit in kinds.items():
                records += [
                    {"model": role, "circuit": kind, **row} for row in minimality(judge, circuit)
                ]
        return records

    def _controls(self, data: Data, base: Found) -> list[dict[str, float]]:
        records = []
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            found = self._found(data, self.controls[at].tuned, f"control {at + 1}")
            judge = Judge.of(data, self.controls[at].tuned, self.chain)
            records.append(
                {
                    "shared": len(base.nodes & found.nodes) / max(len(base.nodes), 1),
                    "new": len(found.nodes - base.nodes) / max(len(found.nodes), 1),
                    "own_faithfulness": judge.faithfulness(judge.circuit(found.circuit)),
                    "base_faithfulness": judge.faithfulness(judge.circuit(base.circuit)),
                    "accuracy": float(judge.full.mean()),
                }
            )
        return records

    def _summary(
        self, circuits: dict[str, Found], judges: dict[str, Judge], names: Sequence[str]
    ) -> dict:
        base, tuned = circuits["base"], circuits["tuned"]
        both = [
            sum(group in (g.name for g in self.chain) for group, _ in nodes)
            for nodes in (base.nodes, tuned.nodes, base.nodes & tuned.nodes)
        ]
        return {
            "score": self.score,
            "method": "attribution" if self.attribution else "exact",
            "groups": [
                ":".join([g.name, g.position, g.receiver, g.via]).rstrip(":") for g in self.chain
            ],
            "heads_base": both[0],
            "heads_tuned": both[1],
            "heads_shared": both[2],
            "prompts_base": len(base.rows),
            "prompts_tuned": len(tuned.rows),
            "selection": base.n_selection,
            "accuracy_base": float(judges["base"].full.mean()),
            "accuracy_tuned": float(judges["tuned"].full.mean()),
            "means_by_column": judges["base"].evaluation.means.by_column,
            "passes": sum(each.counter.passes[0] for each in circuits.values()),
            "column_passes": sum(each.counter.columns[0] for each in circuits.values()),
            "controls": list(names),
        }


__all__: Sequence[str] = ("FindCircuit",)
