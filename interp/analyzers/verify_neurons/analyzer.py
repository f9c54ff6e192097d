"""``VerifyNeurons``: intervene on located neurons, beside their nulls, on prompts they were not located on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.verify_neurons import tables
from interp.analyzers.verify_neurons.findings import Evidence, find
from interp.controls import matched_sets, norm_ratio
from interp.errors import OptionError
from interp.models.changes import weight_change
from interp.models.units import unit_named
from interp.study import Study
from interp.table import Table
from interp.trials.conditions import (
    ABLATIONS,
    GROUPS,
    NEEDS_BASE,
    Donors,
    Judged,
    contribution_norms,
    judge,
)
from interp.trials.dose import Doses, grid, refine
from interp.trials.located import ranking_of
from interp.trials.rows import some

Ranking = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class VerifyNeurons(Analyzer):
    """Necessity, sufficiency, dose-response and specificity of a located set, each beside matched random sets.

    ``ranking``: neurons by descending score, the ``selected`` first of them being the located set. ``controls``: random
    sets at the located size; ``dose_draws`` of them also at every other dose. ``control_prompts`` positive prompts
    (those on which base and tuned differ) are used for doses and random sets, all prompts for the conditions. ``reach``
    defines k95. ``unit``: what the ranking is of. Returns a table of kind ``verify-neurons``.
    """

    name: ClassVar[str] = "verify-neurons"
    version: ClassVar[int] = 4

    parent: str | None = None
    ranking: Ranking = field(default=(), metadata={"from_parent": True})
    selected: int = field(default=0, metadata={"from_parent": True})
    controls: int = 200
    dose_draws: int = 5
    control_prompts: int = 48
    depth: int = 0
    reach: float = 0.95
    unit: str = field(default="neuron", metadata={"from_parent": True})

    @classmethod
    def of(cls, located: Table, **options) -> "VerifyNeurons":
        """The verifying analyzer for a locating run's table."""
        ranking, chosen, unit = ranking_of(located), int(located["selected"].sum()), located.summary["unit"]
        return cls(parent=located.provenance.key, ranking=ranking, selected=chosen, unit=unit, **options)

    def __call__(self, study: Study) -> Table:
        """Run all conditions, doses and controls; findings become claims."""
        if self.controls < 1:
            raise OptionError(f"--controls {self.controls} leaves the claims without a null; use at least 19")
        has_base = study.pair.base is not None
        unit = unit_named(self.unit)
        donors = Donors.read(study, unit)
        located = self.ranking[: self.selected]
        names = [name for name in ABLATIONS if has_base or name not in NEEDS_BASE] if located else []
        roles = ["base", "tuned"] if has_base else ["tuned"]
        judged = [
            judge(study, name, group, donors.condition(name, located)) for name in (*roles, *names) for group in GROUPS
        ]
        changed = _changed(judged, has_base)
        rows = some(study.prompts("positive"), np.flatnonzero(changed).tolist(), self.control_prompts, study.seed)
        evidence = Evidence(
            judged=judged, changed=changed, rows=rows, has_base=has_base, selected=self.selected, unit=unit
        )
        if located and has_base:
            moved = weight_change(study.pair, unit)
            evidence.tuned = sum(bool(moved[pair]) for pair in located)
        if located and len(rows) and has_base:
            norms = contribution_norms(study, donors)
            self._draw(study, located, norms, evidence)
            depth = min(len(self.ranking), self.depth or max(8 * self.selected, 160))
            evidence.depth = depth
            for direction in ("necessity", "sufficiency"):
                self._measure(study, Doses(study, donors, direction, rows), direction, depth, norms, evidence)
            evidence.harmless = _harmless(study, donors, evidence.sets[: self.dose_draws], self.control_prompts)
        elif located and not has_base:
            self._without_base(study, donors, evidence)
        return tables.build(self, study, evidence, find(study, evidence, self.reach))

    def _draw(self, study: Study, located: Ranking, norms: np.ndarray, evidence: Evidence) -> None:
        """Random sets of exactly the located size; none where the layers have too few other neurons."""
        drawn = matched_sets(located, norms, self.controls, study.seed)
        evidence.sets = [draw for draw in drawn if len(draw) == len(located)]
        evidence.ratios = [norm_ratio(draw, located, norms) for draw in evidence.sets]

    def _measure(
        self, study: Study, doses: Doses, direction: str, depth: int, norms: np.ndarray, evidence: Evidence
    ) -> None:
        """Located doses with the exact k95, random doses, and the random sets at the located size."""
        steps = sorted({*grid(depth), self.selected})
        effects = {k: doses.effect(self.ranking[:k]) for k in study.progress(steps, f"{direction}, located")}
        evidence.dose[direction] = refine(doses, self.ranking, effects, self.reach)
        for k in study.progress(steps, f"{direction}, random doses"):
            located = self.ranking[: self.selected]
            draws = matched_sets(self.ranking[:k], norms, self.dose_draws, study.seed + k, exclude=located)
            evidence.random_dose[direction, k] = [doses.effect(draw) for draw in draws if len(draw) == k]
        evidence.random[direction] = [
            doses.effect(draw) for draw in study.progress(evidence.sets, f"{direction}, random sets")
        ]

    def _without_base(self, study: Study, donors: Donors, evidence: Evidence) -> None:
        """No base to return to: the effect is the share of refusals (right answers) lost under mean ablation."""
        located = self.ranking[: self.selected]
        norms = contribution_norms(study, donors)
        self._draw(study, located, norms, evidence)
        few = study.on(study.contrast.limit(self.control_prompts))
        evidence.rows = list(range(len(few.contrast.positive)))
        kept = judge(few, "tuned", "positive", donors.condition("tuned", located))
        if not kept.shown.any():
            return

        def lost(chosen: Sequence[tuple[int, int]]) -> float:
            now = judge(few, "ablate-mean", "positive", donors.condition("ablate-mean", chosen))
            return float(now.lost(kept)[kept.shown].mean())

        evidence.dose["necessity"] = {self.selected: lost(located)}
        evidence.random["necessity"] = [lost(draw) for draw in study.progress(evidence.sets, "necessity, random sets")]


def _changed(judged: list[Judged], has_base: bool) -> np.ndarray:
    """Positive prompts that base and tuned model answer differently (without a base: that show the behaviour)."""
    tuned = next(item for item in judged if item.condition == "tuned" and item.group == "positive")
    return ~tuned.equal_base if has_base else tuned.shown


def _harmless(study: Study, donors: Donors, sets, count: int) -> list[float]:
    """Share of negative prompts answered as before, under each random set's ablation to base."""
    few = study.on(study.contrast.limit(count))
    found = []
    for draw in study.progress(sets, "harmless, random sets"):
        receiver = donors.condition("ablate-base", draw)
        found.append(float(judge(few, "ablate-base", "negative", receiver).equal_tuned.mean()))
    return found
