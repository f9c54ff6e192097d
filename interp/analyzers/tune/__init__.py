"""``Tune``: does training only what was located teach as much as training something else?

Several sets of weights, the *arms*, are trained on the same rows for equal steps: located neurons
(GoodVibe; the closest paper with details is NeST, arXiv 2602.16835), random neurons, entries chosen
as in LIFT (arXiv 2506.00772) or NeuroAda (arXiv 2510.18940), LoRA and all weights. The learning
rate of every arm is chosen on the selection split, since one common rate would decide which arm is
best. All training is in memory. The change of one arm is kept with the run, as a sparse delta, only
if refusals of harmful prompts are not fewer than before: selective tuning adds refusals or safe
answers and never removes any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.tune.choice import Choice, choose, located_neurons
from interp.analyzers.tune.findings import VERDICT, claims_of
from interp.analyzers.tune.kept import arrays_of, entries_of, refusals_after
from interp.analyzers.tune.measure import TRAIN, Measures, require_apart
from interp.analyzers.tune.tables import (
    Run,
    harmful_table,
    ordinary_table,
    random_table,
    target_table,
    trainings_table,
)
from interp.analyzers.tune.trainings import Trainings
from interp.errors import OptionError, required
from interp.experiments.base_answers import any_supported
from interp.experiments.cost import Work
from interp.prompts import OneClass, PromptSet
from interp.study import Study
from interp.table import Table
from interp.training.arms import ARMS, FILTER_RANK, FULL, LOCATED, LORA, OTHER, RANDOM, SPARSE
from interp.training.recipe import SCHEDULES, Recipe

RATES: Mapping[str, tuple[float, ...]] = {
    LORA: (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    FULL: (1e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}
SPARSE_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
"""Rates that are tried of every arm with few weights."""
LIMITS = (
    "The rows that locate and the rows that train have to be different ones: the run cannot tell.",
    "One kind of data and one model: which set is best depends on both.",
    "Intervals are over rows, not over trainings: another seed can change a small difference.",
)


@dataclass(frozen=True)
class Tune(Analyzer):
    """Train located neurons and other sets of weights on answers; needs a contrast and a behaviour.

    The study's positive prompts are harmful ones, on which refusals are counted, the negative ones
    ordinary, with answers. ``rows``: prompts with the answers to learn; three fifths of their
    clusters train, a fifth chooses rates, a fifth reports. The fine-tuned model of the pair is the
    one that is trained, in float32. Returns a table of kind ``tune``, one row per training, with
    ``target``, ``harmful``, ``ordinary``, ``random``; the delta of ``write`` is in its arrays.
    Raises OptionError or PromptError for what cannot be trained or measured.
    """

    name: ClassVar[str] = "tune"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    located: Table | None = option(None, "A locate-neurons run.", kind="locate-neurons")
    rows: OneClass | None = option(None, "Prompts with the answers to learn.")
    other: Table | None = option(None, "Another run.", kind="locate-neurons")
    arms: tuple[str, ...] = option((LOCATED, RANDOM, LORA, FULL), "What is trained.")
    rates: tuple[float, ...] = option((), "Three or more learning rates to try.")
    steps: int = option(200, "Steps of every training.", ge=1)
    batch: int = option(8, "Rows per step.", ge=1)
    schedule: str = option(
        "cosine", "Of the learning rate: cosine, linear or constant.", choices=tuple(SCHEDULES)
    )
    weight_decay: float = option(0.0, "Of the optimiser, on trained values.", ge=0)
    seeds: int = option(1, "Trainings at the chosen rate, by seed.", ge=1)
    draws: int = option(5, "Random sets.", ge=1)
    filter_rank: int = option(FILTER_RANK, "Rank of the approximation of principal.", ge=1)
    margin: float = option(
        0.05, "Decrease of the share refused that has to be excluded.", ge=0, le=1
    )
    write: str = option("", "The arm whose change is written.")

    def check(self, known: Known) -> None:
        """Raise OptionError for arms or rates that cannot be."""
        super().check(known)
        if self.located is None or self.rows is None:
            raise OptionError("tuning needs a locating run and rows; give located and rows")
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise OptionError(f"unknown arm {unknown[0]!r}; use {', '.join(ARMS)}")
        if not self.arms or len({*self.arms}) < len(self.arms):
            raise OptionError(f"arms {', '.join(self.arms) or 'none'}: give different ones")
        if OTHER in self.arms and self.other is None:
            raise OptionError(f"the arm {OTHER} needs another locating run; give other")
        if self.write and (self.write not in SPARSE or self.write not in self.arms):
            raise OptionError(
                f"the change of {self.write!r} cannot be written; use one of"
                f" {', '.join(arm for arm in self.arms if arm in SPARSE) or 'the sparse arms'}"
            )
        for rate in self.rates:
            if not 0 < rate < 1:
                raise OptionError(f"a learning rate of {rate:g}; give one between 0 and 1")
        if self.rates and len({*self.rates}) < 3:
            raise OptionError(
                f"{len({*self.rates})} learning rates: give at least three, since the best arm"
                " depends on the rate"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError or PromptError for a model or prompts that cannot be used."""
        super().require(study)
        model = study.pair.tuned
        if any(one.dtype != torch.float32 for one in model.module.parameters()):
            raise OptionError(
                f"{model.name} is not in float32, in which small steps would be lost; use --dtype"
                " float32"
            )
        if model.switch is not None:
            raise OptionError(
                f"{model.name} is an adapter on its base; merge it, save the merged model, and give"
                " that"
            )
        located_neurons(required(self.located, "a locating run"), study)
        require_apart(study, self._rows)

    @property
    def _rows(self) -> PromptSet:
        return required(self.rows, "rows").positive

    def work(self, study: Study) -> Work:
        """Steps of every training, and passes over the prompts of those that are measured."""
        n_prompts = sum(len(study.prompts(group)) for group in study.classes)
        drawn = sum(self.draws - 1 for arm in self.arms if arm in (RANDOM, "random-entries"))
        measured = len(self.arms) * self.seeds + drawn * self.seeds
        trainings = measured + sum(len(self._rates(arm)) - 1 for arm in self.arms)
        return Work(
            passes=2.0 * trainings,
            gradients=trainings * self.steps * self.batch / max(n_prompts, 1),
            tokens=study.max_new_tokens * (measured + 1),
        )

    def run(self, study: Study) -> Result:
        """Train every arm at every rate, choose, measure, and keep the change of one."""
        located, rows = required(self.located, "a locating run"), self._rows
        neurons = located_neurons(located, study)
        others = [] if self.other is None else located_neurons(self.other, study, len(neurons))
        measures = Measures.from_study(study, rows)
        prompts = measures.splits[TRAIN].encoded
        choice = choose(study, self.arms, neurons, prompts, self.draws, self.filter_rank, others)
        written = self.write or next((arm for arm in choice.arms if arm in SPARSE), "")
        rates = {arm: self._rates(arm) for arm in choice.arms}
        trainings = Trainings(measures, rates, self._recipe, self.seeds)
        runs, kept = trainings.every(choice, written)
        tables = {
            "target": target_table(measures, runs),
            "harmful": harmful_table(measures, runs),
            "ordinary": ordinary_table(measures, runs),
            "random": random_table(measures, [run for run in runs if run.arm == RANDOM]),
        }
        table = trainings_table(measures, runs)
        arms = [arm for arm in choice.arms if any(run.outcome for run in runs if run.arm == arm)]
        guard = refusals_after(measures, runs, written, self.margin)
        arrays = arrays_of(kept) if kept is not None and guard["kept"] else {}
        claims = (
            claims_of(arms, len(choice.arms.get(RANDOM, ())), written, study.seed, self.margin)
            if written in arms
            else []
        )
        return Result(
            replace(table, arrays=arrays),
            tables,
            claims,
            self._summary(measures, choice, runs, neurons) | {"delta": guard},
            [*LIMITS, *self._notes(choice, runs)],
            supported=any_supported(claims, table, tables, VERDICT),
        )

    def _rates(self, arm: str) -> tuple[float, ...]:
        return tuple(sorted({*(self.rates or RATES.get(arm, SPARSE_RATES))}))

    @property
    def _recipe(self) -> Recipe:
        return Recipe(
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            batch=self.batch,
            steps=self.steps,
        )

    def _summary(
        self, measures: Measures, choice: Choice, runs: Sequence[Run], neurons: Sequence
    ) -> dict[str, Any]:
        chosen = {run.arm: run for run in runs if run.chosen and run.draw == 0}
        return {
            "neurons": len(neurons),
            "arms": list(choice.arms),
            "left_out": dict(choice.left_out),
            "clusters_of_neurons": choice.n_clusters,
            "rates": {arm: run.rate for arm, run in chosen.items()},
            "parameters": {arm: run.n_trained for arm, run in chosen.items()},
            "trainings": len(runs),
            "rows": {name: len(part.ids) for name, part in measures.splits.items()},
            "target_loss_before": float(measures.before.target.mean()),
            "refused_before": float(measures.before.harmful.mean()),
            "over_refused_before": float(measures.before.refused.mean()),
        }

    def _notes(self, choice: Choice, runs: Sequence[Run]) -> list[str]:
        notes = [f"{arm} was left out: {reason}." for arm, reason in choice.left_out.items()]
        for arm in choice.arms:
            chosen = next((run for run in runs if run.arm == arm and run.chosen), None)
            tried = self._rates(arm)
            if chosen is None:
                notes.append(f"{arm} diverged at every rate.")
            elif chosen.rate in (min(tried), max(tried)):
                notes.append(
                    f"The rate of {arm}, {chosen.rate:g}, is at the end of those tried: a better one"
                    " may be beyond."
                )
        return notes


__all__: Sequence[str] = ("Tune", "entries_of")
