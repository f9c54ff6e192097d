"""The trainings of a run: rates tried and chosen by arm, then further draws and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from interp.analyzers.tune.choice import Choice
from interp.analyzers.tune.measure import TRAIN, Measures
from interp.analyzers.tune.tables import Run
from interp.errors import NonFinitePass, OptionError
from interp.models.model import Model
from interp.models.sparse_delta import Entries
from interp.training.recipe import Recipe
from interp.training.tuning import Trainable, Trained, at_rate, train


@dataclass(frozen=True, eq=False)
class Trainings:
    """How arms are trained: ``rates`` to try by arm, ascending; ``seeds``: how many at the
    chosen one. Raises OptionError where all diverge."""

    measures: Measures
    rates: Mapping[str, Sequence[float]]
    recipe: Recipe
    seeds: int

    def every(self, choice: Choice, written: str) -> tuple[list[Run], Mapping[str, Entries] | None]:
        """Every training, and the change of the arm that is written at its chosen rate.

        The rate is chosen on the first draw and seed; the other draws and seeds use it.
        """
        study, runs, kept = self.measures.study, [], None
        for arm, draws in choice.arms.items():
            tried, best = self._tried(arm, draws[0])
            if best is None:
                runs += tried
                continue
            chosen, trained = best
            runs += [run for run in tried if run.rate != chosen.rate]
            runs.append(self._measured(chosen, trained))
            if arm == written and runs[-1].chosen:
                kept = trained.entries
            again = [
                (draw, study.seed + seed)
                for draw in range(len(draws))
                for seed in range(self.seeds)
                if draw or seed
            ]
            for draw, seed in study.progress(again, f"{arm}: draws and seeds") if again else ():
                run, trained = self._one(arm, draw, draws[draw], chosen.rate, seed)
                runs.append(self._measured(run, trained))
        order = {arm: at for at, arm in enumerate(choice.arms)}
        runs.sort(key=lambda run: (order[run.arm], run.draw, run.rate, run.seed))
        if not any(run.chosen for run in runs):
            raise OptionError("every training diverged; give lower --rates")
        return runs, kept

    def _tried(self, arm: str, what: Trainable) -> tuple[list[Run], tuple[Run, Trained] | None]:
        """A training at every rate, and the one of the least loss on the selection split."""
        study, tried, best = self.measures.study, [], None
        for rate in study.progress(self.rates[arm], f"{arm}: learning rates"):
            run, trained = self._one(arm, 0, what, rate, study.seed)
            tried.append(run)
            if run.selection_loss < (float("inf") if best is None else best[0].selection_loss):
                best = run, trained
        return tried, best

    def _one(
        self, arm: str, draw: int, what: Trainable, rate: float, seed: int
    ) -> tuple[Run, Trained]:
        """One training, and its loss on the selection split."""
        rows = self.measures.splits[TRAIN].rows()
        trained = train(
            self.measures.study.pair.tuned, what, rows, at_rate(self.recipe, rate), seed
        )
        loss = float("nan")
        if trained.finite:
            with suppress(NonFinitePass):
                loss = self.measures.selection_loss(self._model(arm, trained))
        run = Run(
            arm,
            draw,
            seed,
            self.rates[arm].index(rate),
            rate,
            trained.n_trained,
            trained.norm if trained.finite else float("nan"),
            trained.seconds,
            trained.memory,
            loss,
        )
        return run, trained

    def _measured(self, run: Run, trained: Trained) -> Run:
        """The training with what the model then does, as chosen; unchanged where it diverged."""
        if np.isnan(run.selection_loss):
            return run
        try:
            outcome = self.measures.outcome(self._model(run.arm, trained))
        except NonFinitePass:
            return run
        return replace(run, chosen=True, outcome=outcome)

    def _model(self, arm: str, trained: Trained) -> Model:
        return Model.wrap(f"{self.measures.study.pair.tuned.name}, {arm}", trained.module)
