"""``PatchWeights``: which matrices, exchanged one at a time, carry a behaviour?

Each module of the change, a matrix with its bias as a rule, is inserted in the base and taken out
of the fine-tuned model, in memory. ``R = (F(base + change) - F(base)) / (F(tuned) - F(base))`` and
``N = (F(tuned) - F(tuned - change)) / (F(tuned) - F(base))`` of the mean metric F; 1 minus the sum
over modules is interaction. Any change of that size may do as much: R and N are compared with the
module's change permuted and rotated. Permuting destroys the rank of a LoRA's change and is easy to
beat; rotated, it keeps its singular values. No paper defines this as a whole; the conventions are
in docs/patch-weights.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option, sign_flips
from interp.analyzers.patch_weights.compute import (
    GROUP,
    STARTS,
    State,
    first_order,
    inserted,
    metric_of_states,
    removed,
    with_change,
)
from interp.analyzers.patch_weights.findings import claims_of
from interp.analyzers.patch_weights.tables import (
    RANDOM,
    SIDES,
    Effects,
    ExchangedRow,
    PatchedControlRow,
    effects_table,
    modules_table,
    random_table,
    sums_table,
)
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.maths.null_updates import seeded
from interp.maths.statistics import rank_correlation
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.weight_modules import DIVISIONS, WeightModule, WeightModules
from interp.prompts import Contrast, OneClass
from interp.study import Study

MOST_EXACT, FIRST_EXACT, EXCHANGES = 40, 20, 999
SAME_PROMPTS = (
    "Modules were ranked on the prompts on which they were measured, so that the first one is"
    " chosen to be large."
)
ALONE = (
    "A module that does nothing alone can be needed by others, and one that does much can be"
    " replaced by others: R and N together say which."
)

NO_CONTROL = (
    "No control fine-tune was given (--control): the change of one carries its own, even a small one"
    " in the other direction, beyond random changes too."
)


@dataclass(frozen=True)
class PatchWeights(Analyzer):
    """Weight patching by module; needs a base and a metric with a gradient, such as log-odds.

    The metric is that of the study's positive prompts. ``selection``: other prompts, on which
    modules are ranked by first order; by default the study's own. ``controls``: pairs of the same
    base and a control fine-tune, whose change of a module is scaled to the norm of its own. Memory
    in addition to both models: for an adapter one merged copy of every matrix that it changes.
    Returns a table of kind ``patch-weights``, one row per module, with ``effects`` (by prompt),
    ``prompts``, ``random``, ``exchanged`` and, with controls, ``controls``. Raises OptionError for
    a metric without gradient, UnsupportedModel where weights cannot be exchanged.
    """

    name: ClassVar[str] = "patch-weights"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True, metric=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    selection: Contrast | OneClass | None = option(None, "Prompts on which modules are ranked.")
    modules: str = option(
        "matrices",
        "matrices, each its own; groups: what a branch reads and writes with.",
        choices=DIVISIONS,
    )
    exact: int | None = option(None, "Modules measured exactly, the first by first order.", ge=1)
    null_modules: int = option(3, "First modules that random changes are drawn for.", ge=0)
    draws: int = option(19, "Random changes of each kind; 0: none.", ge=0)
    min_change: float = option(
        1.0, "Least change of the mean metric by fine-tuning that counts, in its unit.", ge=0
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for a metric without a gradient."""
        super().check(known)
        if known.differentiable is False:
            raise OptionError(
                "patching weights ranks modules by a gradient, which the metric does not have; use"
                " log-odds, logit-diff or answer-loss"
            )

    def require(self, study: Study) -> None:
        """Raise PairError for controls of another base too."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Two passes for every exact module and every random change, each from its own block on,
        and gradients at both models.
        """
        anatomy = study.pair.tuned.anatomy
        n_modules = anatomy.n_layers * max(len(anatomy.matrices), 1)
        exact, tested = self._counts(n_modules)
        states = 2 * exact + 2 * tested * (len(RANDOM) * self.draws + len(self.controls))
        return Work(passes=2 + 0.6 * states, gradients=4)

    def run(self, study: Study) -> Result:
        """Rank the modules, exchange the first ones, and draw random changes."""
        weights = WeightModules.from_pair(study.pair, self.modules)
        names = tuned_names(self.controls)
        if not weights.modules:
            return _unchanged(study, weights, names)
        ranking = study if self.selection is None else study.with_prompts(self.selection)
        predicted = first_order(ranking, weights)
        order = self._order(ranking, weights, predicted)
        effects, of_controls = self._measure(study, weights, predicted, order)
        tables = {
            "effects": effects_table(effects),
            "prompts": sums_table(effects),
            "random": random_table(effects),
            "exchanged": _exchanged(study, effects),
        }
        first = weights.modules[order[0]]
        rises = bool(effects.ends[1].mean() >= effects.ends[0].mean())
        if names:
            numbers = {side: effects.draws("control", order[0], side) for side in SIDES}
            direction = 1.0 if rises else -1.0
            of_controls["shift"] = [direction * shift for shift in of_controls["shift"]]
            tables["controls"] = controls_table(
                names,
                row=PatchedControlRow,
                numbers={**of_controls, **numbers},
            )
        summary = self._summary(effects, names)
        kinds = {kind: self.draws for kind in RANDOM if (kind, order[0]) in effects.others}
        labels = study.require_metric().labels
        claims = claims_of(first, rises, self.min_change, kinds, len(names), labels, summary)
        limits = [
            ALONE,
            *([SAME_PROMPTS] if self.selection is None else []),
            *([] if self.controls else [NO_CONTROL]),
        ]
        return Result(modules_table(effects), tables, claims, summary, limits)

    def _counts(self, n_modules: int) -> tuple[int, int]:
        """Numbers of modules that are measured exactly, and that random changes are drawn for."""
        default = n_modules if n_modules <= MOST_EXACT else FIRST_EXACT
        exact = min(self.exact or default, n_modules)
        return exact, min(self.null_modules, exact) if self.draws else 0

    def _order(self, ranking: Study, weights: WeightModules, predicted: np.ndarray) -> list[int]:
        """Modules by the mean of both first-order terms, in the direction of the change."""
        ends, _ = metric_of_states(ranking, weights, [], "metric")
        direction = 1.0 if ends[1].mean() >= ends[0].mean() else -1.0
        order = np.argsort(-direction * predicted.mean(0), kind="stable")
        return [int(number) for number in order]

    def _measure(
        self, study: Study, weights: WeightModules, predicted: np.ndarray, order: Sequence[int]
    ) -> tuple[Effects, dict[str, list[float]]]:
        exact, tested = self._counts(len(order))
        numbers, others = list(order[:exact]), list(order[exact:])
        states = [make(weights, [number]) for make in (inserted, removed) for number in numbers]
        states += [make(weights, others) for make in (inserted, removed) if others]
        compared = list(order[: max(tested, 1 if self.controls else 0)])
        changes, of_controls = self._control_changes(study, weights, compared)
        keys: list[tuple[str, int, int]] = []
        for number in order[:tested]:
            for kind in RANDOM:
                for draw in range(self.draws):
                    keys.append((kind, number, draw))
                    states += self._random_states(study, weights, kind, number, draw)
        for number in compared:
            for draw in range(len(self.controls)):
                keys.append(("control", number, draw))
                change = changes[number][draw]
                states += [
                    with_change(weights, number, start, lambda change=change: change)
                    for start in STARTS
                ]
        ends, found = metric_of_states(study, weights, states, "exchanged weights")
        after = 2 * exact + 2 * bool(others)
        random: dict[tuple[str, int], list[np.ndarray]] = {}
        for at, (kind, number, _) in enumerate(keys):
            random.setdefault((kind, number), []).append(found[after + 2 * at : after + 2 * at + 2])
        effects = Effects(
            study,
            weights,
            ends,
            order,
            predicted,
            numbers,
            found[:exact],
            found[exact : 2 * exact],
            found[2 * exact : after] if others else None,
            {key: np.stack(draws, 1) for key, draws in random.items()},
        )
        return effects, of_controls

    def _random_states(
        self, study: Study, weights: WeightModules, kind: str, number: int, draw: int
    ) -> list[State]:
        module = weights.modules[number]

        def change() -> list[Tensor]:
            generator = seeded(study.seed, kind, module.name, draw)
            return getattr(module, kind)(generator)

        return [with_change(weights, number, start, change) for start in STARTS]

    def _control_changes(
        self, study: Study, weights: WeightModules, numbers: Sequence[int]
    ) -> tuple[dict[int, list[list[Tensor]]], dict[str, list[float]]]:
        """Every control's change of some modules at the norm of their own, zero where it has none;
        of the first the ratio of norms before, and its change of the mean metric as a whole.
        """
        changes: dict[int, list[list[Tensor]]] = {number: [] for number in numbers}
        ratios, shifts = [], []
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            own = WeightModules.from_pair(self.controls[at], self.modules)
            ends, _ = metric_of_states(study, own, [], f"control {at + 1}")
            shifts.append(float((ends[1] - ends[0]).mean()))
            by_name = {module.name: module for module in own.modules}
            for number in numbers:
                module = weights.modules[number]
                control = by_name.get(module.name)
                ratio = 0.0 if control is None else control.norm / module.norm
                changes[number].append(_at_norm(module, control, ratio))
                ratios += [ratio] if number == numbers[0] else []
        return changes, {"norm_ratio": ratios, "shift": shifts}

    def _summary(self, effects: Effects, names: Sequence[str]) -> dict:
        exact = list(effects.numbers)
        predicted = effects.first_order.mean(0)[exact]
        actual = ((effects.inserted - effects.ends[0]) + (effects.ends[1] - effects.removed)) / 2
        agreement = rank_correlation(predicted, actual.mean(1)) if len(exact) > 2 else float("nan")
        both = {number: max(effects.p[number, side] for side in SIDES) for number in effects.tested}
        passed = [number for number, p in both.items() if p <= 0.05]
        return {
            "modules": len(effects.weights.modules),
            "exact": len(exact),
            "first_order_agreement": None if np.isnan(agreement) else agreement,
            "tested": [effects.weights.modules[number].name for number in effects.tested],
            "beyond_random": [effects.weights.modules[number].name for number in passed],
            "controls": list(names),
        }


def _at_norm(module: WeightModule, control: WeightModule | None, ratio: float) -> list[Tensor]:
    """A control's change of a module, scaled; parameters that it does not change are zero."""
    by_name = {} if control is None else {p.pair.name: p.change for p in control.parameters}
    return [
        by_name[parameter.pair.name].to(parameter.change) / ratio
        if parameter.pair.name in by_name
        else parameter.change * 0
        for parameter in module.parameters
    ]


def _exchanged(study: Study, effects: Effects):
    positive = study.with_prompts(OneClass(study.prompts(GROUP)))
    return sign_flips(positive, ExchangedRow, EXCHANGES, shift=effects.ends[1] - effects.ends[0])


def _unchanged(study: Study, weights: WeightModules, names: Sequence[str]) -> Result:
    """The result for a pair without a changed weight."""
    nothing, none = np.zeros((2, 0)), np.zeros((0, len(study.prompts(GROUP))))
    ends = np.zeros((2, none.shape[1]))
    effects = Effects(study, weights, ends, [], nothing, [], none, none, None, {})
    summary = {"modules": 0, "exact": 0, "controls": list(names)}
    lead = "Fine-tuning changed no weight: there is no module to exchange."
    tables = {"effects": effects_table(effects), "random": random_table(effects)}
    return Result(modules_table(effects), tables, (), summary, [ALONE], lead=lead)


__all__: Sequence[str] = ("PatchWeights",)
