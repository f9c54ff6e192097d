"""``VerifyNeurons``: intervene on located neurons and on random sets, on held-out prompts."""

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.verify_neurons import tables
from interp.analyzers.verify_neurons.cost import VerificationSize, verification_work
from interp.analyzers.verify_neurons.effects import (
    MeasureSets,
    changed_answers,
    evaluate_conditions,
    fully_judged_effects,
    harmless_effects,
    located_effects,
    number_effects,
    random_effects,
)
from interp.analyzers.verify_neurons.evidence import Effects, Evidence
from interp.errors import OptionError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import (
    ABLATIONS,
    CELLS,
    DIRECTIONS,
    FURTHER_ABLATIONS,
    GROUPS,
    PATCHES,
    PatchSource,
    evaluate_condition,
)
from interp.experiments.contributions import contribution_norms, contribution_sizes
from interp.experiments.cost import Work
from interp.experiments.dose import bisect_dose, dose_grid
from interp.experiments.outcomes import Outcomes, UnitSet
from interp.experiments.patching import patch_cells
from interp.experiments.ranking_sets import verification_set
from interp.experiments.row_selection import sample_rows
from interp.experiments.sampled import sample_answers, sampling_options
from interp.experiments.subsample import subsample_study
from interp.interventions.random_sets import (
    equally_large,
    matched_sets,
    matched_share,
    norm_ratio,
    set_name,
)
from interp.models.changes import can_read_weights, weight_change
from interp.models.units import unit_named
from interp.study import Study
from interp.table import Table

Ranking = tuple[tuple[int, int], ...]
NAN = float("nan")


@dataclass(frozen=True)
class VerifyNeurons(Analyzer):
    """Necessity, sufficiency, dose-response and specificity of a located set, compared with matched
    random sets.

    Measured are the behaviour (the metric's yes or no), the recovery (share of the gap between both
    models' numbers that is closed where the answer begins; Chen et al. 2024, arXiv 2406.14144), and
    whether answers stay well-formed and harmless answers unchanged.

    ``located``: the table of a locating run, which gives ``ranking``, ``selected``, ``unit`` and
    ``parent``. ``ranking``: neurons by descending score; the first ``selected`` of them are the
    located set.

    ``random_sets``: sets of the located size, drawn in the same layers, matched on the change of
    their contributions where possible; ``excluded`` units are never drawn. The first
    ``judged_sets`` of them (0: all) are judged on every control prompt, the others until it is
    certain that they affect the behaviour less than the located set. ``dose_draws`` of them are
    also measured at every second dose. ``control_prompts`` positive prompts (those that base and
    fine-tuned model answer differently) are used for doses and random sets, all for the conditions.

    ``directions``: ``necessity``, alone or before ``sufficiency``; ``doses``: also measure sizes
    other than the located one; ``cell_sets``: random sets of the 2 x 2 patching design (a rank test
    at 5 % needs 19; 0: no such design). ``examples``: number of prompts whose answers are kept as
    text, of positive ones (which may be harmful) only with ``show_answers``. ``reach`` defines k95.
    ``ablations``: further conditions: ``zero``, ``mean``, ``twin``. ``unit``: kind of the ranked
    units. ``patch``: what conditions, doses and random sets take from the other model, of a unit's
    contribution h W: ``contribution`` both factors, ``activation`` only h, which the receiver's own
    W writes (Chen et al.). Returns a table of kind ``verify-neurons``.

    With a base and ``cell_sets``, whatever ``patch`` is, sub-tables ``patching``,
    ``patching_random`` and ``patching_cells`` have the 2 x 2 design of h and W, each from either
    model, in every direction: two passes over the control prompts for each of its random sets,
    three and answers for the located set. A behaviour with sampled answers has them under all
    conditions (``samples``, ``sampled``); doses, random sets and all other claims use greedy
    answers.
    """

    name: ClassVar[str] = "verify-neurons"
    version: ClassVar[int] = 11

    located: InitVar[Table | None] = None
    ranking: Ranking = field(default=(), metadata={"from_parent": True})
    selected: int = field(default=0, metadata={"from_parent": True})
    random_sets: int = 200
    judged_sets: int = 0
    dose_draws: int = 5
    control_prompts: int = 48
    depth: int = 0
    reach: float = 0.95
    directions: tuple[str, ...] = tuple(DIRECTIONS)
    doses: bool = True
    cell_sets: int = 19
    unit: str = field(default="neuron", metadata={"from_parent": True})
    patch: str = "contribution"
    excluded: Ranking = ()
    ablations: tuple[str, ...] = ()
    examples: int = 3
    show_answers: bool = False

    def __post_init__(self, located: Table | None) -> None:
        self.check_run(located, "located", "locate-neurons")
        if located is not None and (self.ranking or self.selected):
            raise OptionError(
                "VerifyNeurons takes a located table or a ranking of your own, not both; give one"
                " of them"
            )
        for name, value in verification_set(located).items() if located is not None else ():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, located: Table, **options) -> "VerifyNeurons":
        """The verifying analyzer for a locating run's table: ``VerifyNeurons(located)``."""
        return cls(located, **options)

    def check(self, has_base: bool, shape: tuple[int, int] | None = None) -> None:
        """Raise OptionError for options that cannot be run; ``shape``: ``(L, U)`` of the model's
        units.
        """
        layers, units = shape or (np.inf, np.inf)
        if invalid := [
            pair for pair in self.excluded if not (0 <= pair[0] < layers and 0 <= pair[1] < units)
        ]:
            raise OptionError(
                f"excluded is layer {invalid[0][0]}, {self.unit} {invalid[0][1]}; the model has"
                f" {layers} blocks of {units}"
            )
        if self.random_sets < 1:
            raise OptionError(
                f"--random-sets {self.random_sets} leaves the claims without a null; use at least"
                " 19"
            )
        if invalid := [name for name in self.ablations if name not in FURTHER_ABLATIONS]:
            raise OptionError(
                f"unknown --ablations {invalid[0]!r}; use all, or some of"
                f" {', '.join(FURTHER_ABLATIONS)}"
            )
        if self.directions not in (("necessity",), tuple(DIRECTIONS)):
            raise OptionError(
                f"directions {self.directions!r}; use necessity, alone or before sufficiency"
            )
        if self.patch not in PATCHES:
            raise OptionError(f"unknown --patch {self.patch!r}; use {' or '.join(PATCHES)}")
        if self.patch != "contribution" and not has_base:
            raise OptionError(
                f"--patch {self.patch} takes activations from a base, and there is none; give"
                " --base"
            )

    def work(self, study: Study) -> Work:
        """Work of answers by both models and under every intervention, of doses and of random
        sets.
        """
        names = self._conditions(study.pair.base is not None) if self.selected else []
        size = VerificationSize(
            self.selected,
            len(names),
            self.control_prompts,
            self.random_sets,
            self._n_judged_sets,
            self.dose_draws,
            self._sizes,
            self.doses,
            self.cell_sets,
            self.directions,
        )
        return verification_work(study, size)

    @property
    def _depth(self) -> int:
        return min(len(self.ranking), self.depth or max(8 * self.selected, 160))

    @property
    def _sizes(self) -> list[int]:
        """Sizes of the prefixes of the ranking that are measured."""
        return sorted({*dose_grid(self._depth), self.selected}) if self.doses else [self.selected]

    def __call__(self, study: Study) -> Table:
        """Run all conditions, doses and random sets, and make claims of the results."""
        has_base, unit, anatomy = (
            study.pair.base is not None,
            unit_named(self.unit),
            study.pair.tuned.anatomy,
        )
        self.check(has_base, (anatomy.n_layers, unit.count(anatomy)))
        located, donors = (
            self.ranking[: self.selected],
            PatchSource.from_study(study, unit, self.patch),
        )
        names = self._conditions(has_base) if located else []
        roles = ["base", "tuned"] if has_base else ["tuned"]
        results = evaluate_conditions(study, donors, located, roles, names)
        sampling = sampling_options(study)
        sampled = (
            []
            if sampling is None
            else [
                sample_answers(study, sampling, name, group, donors.condition(name, located))
                for name in (*roles, *names)
                for group in GROUPS
            ]
        )
        changed = changed_answers(results, has_base)
        rows = sample_rows(
            study.prompts("positive"),
            np.flatnonzero(changed).tolist(),
            self.control_prompts,
            study.seed,
        )
        evidence = Evidence(
            results=results,
            changed=changed,
            rows=rows,
            has_base=has_base,
            selected=self.selected,
            unit=unit,
            units=len(self.ranking),
            examples=self.examples,
            show_answers=self.show_answers,
            patch=self.patch,
            sampled=sampled,
            excluded=len(self.excluded),
            doses=self.doses,
            n_judged_sets=self._n_judged_sets,
        )
        if located and has_base and can_read_weights(study.pair.tuned.anatomy, unit):
            weight_changes = weight_change(study.pair, unit)
            evidence.tuned = sum(bool(weight_changes[pair]) for pair in located)
        if located and len(rows) and has_base:
            norms, changes = contribution_sizes(study, donors)
            self._draw(study, located, norms, changes, evidence)
            evidence.depth = self._depth
            for direction in self.directions:
                self._measure(study, donors, direction, (norms, changes), evidence)
        elif located and not has_base:
            self._without_base(study, donors, evidence)
        if evidence.random:
            evidence.harmless = harmless_effects(
                study, donors, evidence, self.control_prompts, self.dose_draws
            )
        return tables.build(self, study, evidence, self.reach)

    def _conditions(self, has_base: bool) -> list[str]:
        """Names of the interventions to evaluate: those that claims use, and further
        ``ablations``.
        """
        claimed = [DIRECTIONS[one] for one in self.directions] if has_base else ["ablate-mean"]
        return [
            name
            for name in ABLATIONS
            if name in claimed or name.removeprefix("ablate-") in self.ablations
        ]

    def _draw(
        self,
        study: Study,
        located: Ranking,
        norms: np.ndarray,
        changes: np.ndarray | None,
        evidence: Evidence,
    ) -> None:
        """Draw random sets of exactly the located size; none where a layer has too few other
        neurons.
        """
        drawn = matched_sets(
            located, norms, self.random_sets, study.seed, exclude=self.excluded, changes=changes
        )
        evidence.sets = equally_large(drawn, located)
        evidence.ratios = [norm_ratio(draw, located, norms) for draw in evidence.sets]
        if changes is not None:
            evidence.change_ratios = [norm_ratio(draw, located, changes) for draw in evidence.sets]
            evidence.matched = [matched_share(draw, located, changes) for draw in evidence.sets]

    @property
    def _n_judged_sets(self) -> int:
        """Number of random sets that are judged on all control prompts, at least those of the
        dose-response.
        """
        return max(self.judged_sets or self.random_sets, self.dose_draws)

    def _measure(
        self,
        study: Study,
        donors: PatchSource,
        direction: str,
        sizes: tuple[np.ndarray, np.ndarray],
        evidence: Evidence,
    ) -> None:
        """Doses, random sets and 2 x 2 design of one direction; the donor's values are freed
        afterwards.
        """
        located = self.ranking[: self.selected]
        draws = self._dose_draws(sizes, study.seed)
        units = {*self.ranking[: max(self._depth, self.selected)]}.union(*evidence.sets, *draws)
        outcomes = Outcomes(study, donors, direction, evidence.rows, units=units)
        numbers = AblatedMetric(study, donors, evidence.rows, direction, units)
        measure_sets = fully_judged_effects(study, direction, outcomes)
        evidence.dose[direction] = {
            self.selected: located_effects(direction, outcomes, evidence.results)
        }
        self._doses(
            direction,
            draws,
            evidence,
            measure_sets,
            number_effects(study, direction, outcomes, numbers),
        )
        effects = evidence.random[direction] = random_effects(
            study,
            donors,
            direction,
            evidence.sets,
            outcomes,
            numbers,
            evidence.dose[direction][len(located)],
            self._n_judged_sets,
            units,
            measure_sets,
        )
        evidence.random_dose[direction, self.selected] = effects[: self.dose_draws]
        if self.cell_sets:
            own_cell, sets = (
                next(cell for cell, kind in CELLS.items() if kind == PATCHES[self.patch]),
                evidence.sets,
            )
            evidence.patching[direction] = patch_cells(
                study,
                donors,
                direction,
                located,
                sets[: self.cell_sets],
                outcomes,
                {own_cell: [one["number"] for one in effects]},
                numbers,
            )

    def _doses(
        self,
        direction: str,
        draws: Sequence[UnitSet],
        evidence: Evidence,
        measure_sets: MeasureSets,
        measure_number: Callable[[UnitSet], Effects],
    ) -> None:
        """Effects of the located and the random doses; for necessity with the exact k95 of every
        measure.
        """
        other_sizes = [k for k in self._sizes if k != self.selected]
        doses = dict(
            zip(
                other_sizes,
                measure_sets([self.ranking[:k] for k in other_sizes], "located"),
                strict=True,
            )
        )
        doses = dict(sorted({**doses, **evidence.dose[direction]}.items()))
        if direction == "necessity" and self.doses:
            doses = bisect_dose(
                lambda one: measure_sets([one], "located")[0],
                self.ranking,
                doses,
                self.reach,
                "behaviour",
            )
            doses = bisect_dose(measure_number, self.ranking, doses, self.reach, "recovery")
        evidence.dose[direction] = doses
        for draw, effect in zip(draws, measure_sets(draws, "random doses"), strict=True):
            evidence.random_dose.setdefault((direction, len(draw)), []).append(effect)

    def _dose_draws(self, contributions: tuple[np.ndarray, np.ndarray], seed: int) -> list[UnitSet]:
        """Random sets at every second size, in addition to those of the located size."""
        (norms, changes), excluded, drawn = (
            contributions,
            [*self.ranking[: self.selected], *self.excluded],
            [],
        )
        for k in [k for k in self._sizes if k != self.selected][::2]:
            prefix = self.ranking[:k]
            draws = matched_sets(
                prefix, norms, self.dose_draws, seed + k, exclude=excluded, changes=changes
            )
            drawn += equally_large(draws, prefix)
        return drawn

    def _without_base(self, study: Study, donors: PatchSource, evidence: Evidence) -> None:
        """Without a base the effect is the share of the behaviour lost under mean ablation."""
        located = self.ranking[: self.selected]
        self._draw(study, located, contribution_norms(study, donors), None, evidence)
        subset = subsample_study(study, self.control_prompts)
        row_of_id = {prompt.id: row for row, prompt in enumerate(study.prompts("positive"))}
        evidence.rows = [row_of_id[prompt.id] for prompt in subset.contrast.positive]
        unedited = evaluate_condition(
            subset, "tuned", "positive", donors.condition("tuned", located)
        )
        if not unedited.exhibits.any():
            return

        def lost(chosen: Sequence[tuple[int, int]]) -> Effects:
            result = evaluate_condition(
                subset, "ablate-mean", "positive", donors.condition("ablate-mean", chosen)
            )
            share = float(result.lost(unedited)[unedited.exhibits].mean())
            return {
                "behaviour": share,
                "recovery": NAN,
                "rate": float(result.exhibits.mean()),
                "difference": NAN,
                "judged": len(evidence.rows),
            }

        evidence.dose["necessity"] = {self.selected: lost(located)}
        evidence.random["necessity"] = [
            study.part(f"necessity {set_name(draw)}", lambda draw=draw: lost(draw))
            for draw in study.progress(evidence.sets, "necessity, random sets")
        ]
