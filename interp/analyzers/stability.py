"""``Stability``: is the same set located again on other prompts?

The locating analyzer runs on pairs of disjoint halves of the clusters and, where prompts have
templates, on each template alone. Sets are compared by the Jaccard index, and with random sets with
the same counts in every layer. Whether a set located on one template returns the base's behaviour
is measured on the prompts of the others.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option, require_locating
from interp.claims import Claim, Draws, escape_braces, statistic
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import (
    chance_jaccards,
    jaccard,
    scores_of,
    selected_of,
    spearman,
    unit_of,
)
from interp.experiments.records import records_table
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, excluded_note, matched_sets
from interp.prompts import Contrast
from interp.rows import DrawRow, UnitRow, key, measure
from interp.study import Study
from interp.table import Table

MIN_JACCARD, MIN_EFFECT = (
    1 / 3,
    0.5,
)  # two sets of one size that share half of their members: Jaccard 1/3

_NO_DIFFERENCE = (
    "Base and fine-tuned model do not differ in the behaviour on these prompts: the effect of a"
    " template's set on the prompts of the others was not measured."
)


class ComparisonRow:
    """Two located sets."""

    basis: str = key("what the two sets were located on: halves of the clusters, or templates")
    first: str = key("first half (pair and side) or template")
    second: str = key("second half or template")
    n_first: int = measure("units selected on the first")
    n_second: int = measure("units selected on the second")
    jaccard: float = measure("Jaccard index of the two sets")
    chance: float = measure("the same of random sets with the same counts in every layer, mean")
    chance_high: float = measure("their 97.5 % quantile")
    spearman: float = measure("rank correlation of the two scores over all units")
    spearman_selected: float = measure(
        "rank correlation over units selected on either; NaN for fewer than three"
    )


class SelectedRow(UnitRow):
    """A unit that was selected on some half, the most frequent first."""

    selected: int = measure("halves on which it was selected")
    halves: int = measure("number of halves")


class ChanceRow:
    """A random pair of sets for each comparison."""

    basis: str = ComparisonRow.basis
    draw: int = DrawRow.draw
    jaccard: float = measure("mean Jaccard index of random sets")


class ElsewhereRow:
    """A template's set, or a random one, on the prompts of the other templates."""

    template: str = key("template that the set was located on")
    draw: int = key("0 for the located set, else number of the random set")
    k: int = measure("units in the set")
    prompts: int = measure(
        "prompts of the other templates, on which base and fine-tuned model differ in the behaviour"
    )
    effect: float = measure("share of them with the base's behaviour")
    recovery: float = measure(
        "share of the gap between both models' mean numbers that is closed on them"
    )


@dataclass(frozen=True)
class Stability(Analyzer):
    """Locate again on ``resamples`` pairs of halves, and on each template with at least ``least``
    prompts.

    ``locate``: the locating analyzer; ``draws``: random pairs of sets for every chance level. The
    effect of a template's set is measured on ``control_prompts`` prompts of other templates, and
    compared with ``random_sets`` matched random sets (with a base only). Returns a table of kind
    ``stability``, one row per comparison of two sets.
    """

    name: ClassVar[str] = "stability"
    version: ClassVar[int] = 5
    needs: ClassVar[Needs] = Needs(negatives=True)

    locate: Analyzer = option(help="The locating analyzer.")
    resamples: int = option(5, "Pairs of halves.", ge=1)
    draws: int = option(200, "Random pairs of sets for every chance level.", ge=1)
    least: int = option(8, "Prompts of both classes that a template needs.")
    random_sets: int = option(20, "Matched random sets for each template's set.")
    control_prompts: int = option(48, "Prompts of other templates on which a set is measured.")
    excluded: tuple[tuple[int, int], ...] = option((), "Units that no random set contains.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_locating(self, self.locate)

    def run(self, study: Study) -> Result:
        """Compare halves with halves, and templates with templates."""
        halves = [
            (f"{resample + 1}{side}", self.locate(study.with_prompts(half)))
            for resample in study.progress(range(self.resamples), "locating on halves")
            for side, half in zip(
                "ab", study.require_contrast().split(study.seed + 1 + resample), strict=True
            )
        ]
        templates = [
            (name, self.locate(study.with_prompts(contrast)))
            for name, contrast in study.progress(
                list(self._templates(study).items()), "locating on templates"
            )
        ]
        pairs = {
            "halves": zip(halves[::2], halves[1::2], strict=True),
            "templates": combinations(templates, 2),
        }
        rows, chances = [], {}
        for basis, compared in pairs.items():
            results = [self._compare(study, basis, *pair) for pair in compared]
            rows += [row for row, _ in results]
            if results:
                chances[basis] = np.mean([chance for _, chance in results], axis=0)
        elsewhere = self._elsewhere(study, templates)
        claims = [_agreement_claim(basis) for basis in chances]
        if elsewhere is not None and len(elsewhere):
            claims.append(_elsewhere_claim(elsewhere, excluded_note(self.excluded)))
        chance_rows = [
            {"basis": basis, "draw": draw, "jaccard": value}
            for basis, values in chances.items()
            for draw, value in enumerate(values)
        ]
        return Result(
            records_table(ComparisonRow, "", rows),
            {
                "units": _units(halves),
                "chance": records_table(ChanceRow, "", chance_rows),
                **({} if elsewhere is None else {"elsewhere": elsewhere}),
            },
            claims,
            {
                "jaccard": float(
                    np.mean([row["jaccard"] for row in rows if row["basis"] == "halves"])
                ),
                "resamples": self.resamples,
                "templates": [name for name, _ in templates],
            },
            [_NO_DIFFERENCE] if elsewhere is not None and not len(elsewhere) else [],
        )

    def _templates(self, study: Study) -> dict[str, Contrast]:
        """The contrast of each template; empty unless two templates have enough prompts of both
        classes.
        """
        classes = (study.contrast.positive, study.contrast.negative)
        names = sorted({prompt.template for prompt in classes[0] if prompt.template is not None})
        contrasts = {}
        for name in names:
            filtered = [
                part.keep([row for row, p in enumerate(part) if p.template == name])
                for part in classes
            ]
            if min(map(len, filtered)) >= self.least:
                contrasts[name] = Contrast(*filtered)
        return contrasts if len(contrasts) > 1 else {}

    def _compare(
        self, study: Study, basis: str, first: tuple[str, Table], second: tuple[str, Table]
    ) -> tuple[dict[str, Any], np.ndarray]:
        """A row, and the Jaccard index of every random pair [draws]."""
        sets = [selected_of(located) for _, located in (first, second)]
        scores = [scores_of(located) for _, located in (first, second)]
        chance = chance_jaccards(sets[0], sets[1], scores[0].shape[1], self.draws, study.seed)
        union = sorted({*sets[0], *sets[1]})
        row = {
            "basis": basis,
            "first": first[0],
            "second": second[0],
            "n_first": len(sets[0]),
            "n_second": len(sets[1]),
            "jaccard": jaccard(*sets),
            "chance": float(chance.mean()),
            "chance_high": float(np.quantile(chance, 0.975)),
            "spearman": spearman(scores[0].ravel(), scores[1].ravel()),
            "spearman_selected": spearman(
                *(np.array([score[pair] for pair in union]) for score in scores)
            ),
        }
        return row, chance

    def _elsewhere(self, study: Study, runs: list[tuple[str, Table]]) -> Table | None:
        """Effects of each template's set, and of random sets, on the prompts of the other
        templates; None without a base or templates.
        """
        if not runs or study.pair.base is None:
            return None
        donors = PatchSource.from_study(study, unit_of(runs[0][1]))
        norms = contribution_norms(study, donors)
        differ = changed_rows(study)
        prompts = study.prompts("positive")
        rows = []
        for name, located in study.progress(runs, "sets on other templates"):
            chosen = selected_of(located)
            other_rows = sample_rows(
                prompts,
                [row for row in differ if prompts.prompts[row].template not in (name, None)],
                self.control_prompts,
                study.seed,
            )
            if not other_rows:
                continue
            about = {"template": name, "k": len(chosen), "prompts": len(other_rows)}
            if not chosen:
                # a template on which nothing is located counts as effect 0
                rows.append({**about, "draw": 0, "effect": 0.0, "recovery": 0.0})
                continue
            drawn = matched_sets(chosen, norms, self.random_sets, study.seed, exclude=self.excluded)
            draws = equally_large(drawn, chosen)
            outcomes = Outcomes(
                study, donors, "necessity", other_rows, units={*chosen}.union(*draws)
            )
            rows += [
                {**about, "draw": draw, **dose_effect(outcomes, units)}
                for draw, units in enumerate([chosen, *draws])
            ]
        return records_table(ElsewhereRow, "", rows)


def _agreement_claim(basis: str) -> Claim:
    description = "disjoint halves of the prompts" if basis == "halves" else "one template each"
    rows = {"basis": basis}
    return Claim(
        name=basis,
        estimate=statistic("mean", "jaccard", where=rows, spread="range"),
        at_least=MIN_JACCARD,
        null=Draws("chance", "jaccard", rows),
        control="random pairs of sets with the same counts in every layer",
        text=(
            f"Sets located on {description} have a mean Jaccard index of {{value:.2f}} ({{low:.2f}}"
            " to {high:.2f} over {count:d} comparisons; random sets {control:.2f}, at most"
            " {control_max:.2f})."
        ),
        also={"count": statistic("count", "jaccard", where=rows)},
    )


def _elsewhere_claim(elsewhere: Table, excluded: str) -> Claim:
    located = elsewhere["draw"] == 0
    weakest = elsewhere["template"][located][int(elsewhere["effect"][located].argmin())]
    where = {"table": "elsewhere", "where": {"draw": 0}}
    draws = sorted({*elsewhere["draw"].tolist()} - {0})
    return Claim(
        name="elsewhere",
        estimate=statistic("minimum", "effect", spread="range", **where),
        at_least=MIN_EFFECT,
        # every template's set is compared with its own random sets
        null=Draws(
            "elsewhere",
            "effect",
            {"draw": draws},
            observed=statistic("mean", "effect", **where),
            max_over="template",
        ),
        control=f"matched random sets of each template{excluded}",
        text=(
            "Located on one template, a set returns the base's behaviour on {value:.1%} (of"
            f" {escape_braces(weakest)}) to {{high:.1%}} of the others' prompts where the models"
            " differ in it (random sets at most {control_max:.1%})."
        ),
    )


def _units(runs: list[tuple[str, Table]]) -> Table:
    """Number of halves on which each unit was selected, in descending order."""
    counts = Counter(unit for _, located in runs for unit in selected_of(located))
    rows = [
        {"layer": layer, "unit": unit, "selected": counts[layer, unit], "halves": len(runs)}
        for layer, unit in sorted(counts, key=lambda pair: (-counts[pair], pair))
    ]
    return records_table(SelectedRow, "", rows, rename={"unit": unit_of(runs[0][1]).name})
