"""``VerifyNeurons``: intervene on located neurons and on random sets, on held-out prompts."""

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.framework.analyzer import require_run
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
from interp.analyzers.verify_neurons.tables import build
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
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    located: InitVar[Table | None] = None
    ranking: Ranking = option(
        (), "Units by descending score, (layer, unit); of the located run.", from_parent=True
    )
    selected: int = option(
        0,
        "How many of the ranking are the located set; of the located run.",
        ge=0,
        from_parent=True,
    )
    random_sets: int = option(200, "Matched random sets.", ge=1)
    judged_sets: int = option(
        0,
        "Random sets judged on every control prompt; the others on as many as show that they do"
        " less than the located set. 0: all.",
        ge=0,
    )
    dose_draws: int = option(5, "Random sets at every second dose.", ge=0)
    control_prompts: int = option(
        48, "Prompts for doses and random sets; the conditions use all.", ge=1
    )
    depth: int = option(
        0, "Largest dose, in units; 0: eight times the located set, at least 160.", ge=0
    )
    reach: float = option(0.95, "Share of the effect that the smallest dose has.", ge=0, le=1)
    directions: tuple[str, ...] = option(
        tuple(DIRECTIONS), "Directions of patching: necessity, alone or before sufficiency."
    )
    doses: bool = option(True, "Measure sizes other than the located one too.")
    cell_sets: int = option(19, "Random sets of the 2 x 2 patching design; 0: no design.", ge=0)
    unit: str = option("neuron", "What is scored: neuron or head.", from_parent=True)
    patch: str = option(
        "contribution",
        "What verification patches in from the other model: contribution (activation and write"
        " weights) or activation.",
        choices=tuple(PATCHES),
    )
    excluded: Ranking = option((), "Units that no random set draws: [[layer, neuron], ...].")
    ablations: tuple[str, ...] = option(
        (), "Further ablations of the set.", choices=FURTHER_ABLATIONS
    )
    examples: int = option(3, "Prompts of a class whose answers are kept as text.", ge=0)
    show_answers: bool = option(False, "Keep example answers to positive prompts too.")

    def __post_init__(self, located: Table | None) -> None:
        require_run(self, located, "located", "locate-neurons")
        if located is not None and (self.ranking or self.selected):
            raise OptionError(
                "VerifyNeurons takes a located table or a ranking of your own, not both; give one"
                " of them"
            )
        for name, value in verification_set(located).items() if located is not None else ():
            object.__setattr__(self, name, value)
        super().__post_init__()

    def check(self, known: Known) -> None:
        """Raise OptionError for directions or excluded units that there are none of, and for a
        patch that needs a base where there is none.
        """
        layers, units = known.shape or (float("inf"), float("inf"))
        for pair in self.excluded:
            if len(pair) != 2 or not (0 <= pair[0] < layers and 0 <= pair[1] < units):
                raise OptionError(
                    f"excluded has {tuple(pair)}; give pairs (layer, {self.unit}) numbered from 0"
                    + (f": the model has {layers} blocks of {units}" if known.shape else "")
                )
        if self.directions not in (("necessity",), tuple(DIRECTIONS)):
            raise OptionError(
                f"directions {self.directions!r}; use necessity, alone or before sufficiency"
            )
        if self.patch != "contribution" and known.has_base is False:
            raise OptionError(
                f"--patch {self.patch} takes activations from a base, and there is none; give"
                " --base"
            )

    def require(self, study: Study) -> None:
        """As ``check``, with the blocks of the model and the units of a block too."""
        super().require(study)
        anatomy = study.pair.tuned.anatomy
        self.check(Known(shape=(anatomy.n_layers, unit_named(self.unit).count(anatomy))))

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

    @property
    def _located(self) -> Ranking:
        return self.ranking[: self.selected]

    def run(self, study: Study) -> Result:
        """Run all conditions, doses and random sets, and make claims of the results."""
        has_base, unit, located = study.pair.base is not None, unit_named(self.unit), self._located
        donors = PatchSource.from_study(study, unit, self.patch)
        names = self._conditions(has_base) if located else []
        roles = ["base", "tuned"] if has_base else ["tuned"]
        results = evaluate_conditions(study, donors, located, roles, names)
        sampling, changed = sampling_options(study), changed_answers(results, has_base)
        evidence = Evidence(
            results=results,
            changed=changed,
            rows=sample_rows(
                study.prompts("positive"),
                np.flatnonzero(changed).tolist(),
                self.control_prompts,
                study.seed,
            ),
            has_base=has_base,
            selected=self.selected,
            unit=unit,
            units=len(self.ranking),
            examples=self.examples,
            show_answers=self.show_answers,
            patch=self.patch,
            sampled=[
                sample_answers(study, sampling, name, group, donors.condition(name, located))
                for name in (*roles, *names)
                for group in GROUPS
            ]
            if sampling is not None
            else [],
            excluded=len(self.excluded),
            doses=self.doses,
            n_judged_sets=self._n_judged_sets,
        )
        if located and has_base and can_read_weights(study.pair.tuned.anatomy, unit):
            weight_changes = weight_change(study.pair, unit)
            evidence.tuned = sum(bool(weight_changes[pair]) for pair in located)
        if located and evidence.rows and has_base:
            norms, changes = contribution_sizes(study, donors)
            self._draw(study, norms, changes, evidence)
            evidence.depth = self._depth
            draws = self._dose_draws(norms, changes, study.seed)
            for direction in self.directions:
                self._measure(study, donors, direction, draws, evidence)
        elif located and not has_base:
            self._without_base(study, donors, evidence)
        if evidence.random:
            evidence.harmless = harmless_effects(
                study, donors, evidence, self.control_prompts, self.dose_draws
            )
        return build(study, evidence, self.reach, self.parent)

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
        self, study: Study, norms: np.ndarray, changes: np.ndarray | None, evidence: Evidence
    ) -> None:
        """Draw random sets of exactly the located size; none where a layer has too few other
        neurons.
        """
        located = self._located
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
        draws: Sequence[UnitSet],
        evidence: Evidence,
    ) -> None:
        """Doses, random sets and 2 x 2 design of one direction; the donor's values are freed
        afterwards.
        """
        units = {*self.ranking[: max(self._depth, self.selected)]}.union(*evidence.sets, *draws)
        outcomes = Outcomes(study, donors, direction, evidence.rows, units=units)
        numbers = AblatedMetric(study, donors, evidence.rows, direction, units)
        measure_sets = fully_judged_effects(study, direction, outcomes)
        own = located_effects(direction, outcomes, evidence.results)
        evidence.dose[direction] = self._doses(
            direction, own, measure_sets, number_effects(study, direction, outcomes, numbers)
        )
        for draw, effect in zip(draws, measure_sets(draws, "random doses"), strict=True):
            evidence.random_dose.setdefault((direction, len(draw)), []).append(effect)
        effects = evidence.random[direction] = random_effects(
            study,
            donors,
            direction,
            evidence.sets,
            outcomes,
            numbers,
            own,
            self._n_judged_sets,
            units,
            measure_sets,
        )
        evidence.random_dose[direction, self.selected] = effects[: self.dose_draws]
        if self.cell_sets:
            own_cell = next(cell for cell, kind in CELLS.items() if kind == PATCHES[self.patch])
            evidence.patching[direction] = patch_cells(
                study,
                donors,
                direction,
                self._located,
                evidence.sets[: self.cell_sets],
                outcomes,
                {own_cell: [one["number"] for one in effects]},
                numbers,
            )

    def _doses(
        self,
        direction: str,
        own: Effects,
        measure_sets: MeasureSets,
        measure_number: Callable[[UnitSet], Effects],
    ) -> dict[int, Effects]:
        """Effects of the doses by size, with the located set's ``own``; for necessity with the
        exact k95 of every measure.
        """
        sizes = [k for k in self._sizes if k != self.selected]
        others = measure_sets([self.ranking[:k] for k in sizes], "located")
        doses = {self.selected: own, **dict(zip(sizes, others, strict=True))}
        doses = dict(sorted(doses.items()))
        if direction == "necessity" and self.doses:
            for measure, name in (
                (lambda one: measure_sets([one], "located")[0], "behaviour"),
                (measure_number, "recovery"),
            ):
                doses = bisect_dose(measure, self.ranking, doses, self.reach, name)
        return doses

    def _dose_draws(self, norms: np.ndarray, changes: np.ndarray, seed: int) -> list[UnitSet]:
        """Random sets at every second size, in addition to those of the located size."""
        excluded, drawn = [*self._located, *self.excluded], []
        for k in [k for k in self._sizes if k != self.selected][::2]:
            prefix = self.ranking[:k]
            draws = matched_sets(
                prefix, norms, self.dose_draws, seed + k, exclude=excluded, changes=changes
            )
            drawn += equally_large(draws, prefix)
        return drawn

    def _without_base(self, study: Study, donors: PatchSource, evidence: Evidence) -> None:
        """Without a base the effect is the share of the behaviour lost under mean ablation."""
        self._draw(study, contribution_norms(study, donors), None, evidence)
        subset = subsample_study(study, self.control_prompts)
        row_of_id = {prompt.id: row for row, prompt in enumerate(study.prompts("positive"))}
        evidence.rows = [row_of_id[prompt.id] for prompt in subset.contrast.positive]
        unedited = evaluate_condition(
            subset, "tuned", "positive", donors.condition("tuned", self._located)
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

        evidence.dose["necessity"] = {self.selected: lost(self._located)}
        evidence.random["necessity"] = [
            study.part(f"necessity {set_name(draw)}", lambda draw=draw: lost(draw))
            for draw in study.progress(evidence.sets, "necessity, random sets")
        ]
