"""``Stability``: is the same set located again on other prompts?

The locating analyzer runs on pairs of disjoint halves of the clusters and, where prompts have
templates, on each template alone. Sets are compared by the Jaccard index, and with random sets with
the same counts in every layer. Whether a set located on one template returns the base's behaviour
is measured on the prompts of the others.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer, require_locating
from interp.claims import Claim, Draws, conclude, escape_braces, statistic
from interp.errors import OptionError
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
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, excluded_note, matched_sets
from interp.prompts import Contrast
from interp.study import Study
from interp.table import Table, table

MIN_JACCARD, MIN_EFFECT = (
    1 / 3,
    0.5,
)  # two sets of one size that share half of their members: Jaccard 1/3


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

    locate: Analyzer
    resamples: int = 5
    draws: int = 200
    least: int = 8
    random_sets: int = 20
    control_prompts: int = 48
    excluded: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        require_locating(self, self.locate)

    def __call__(self, study: Study) -> Table:
        """Compare halves with halves, and templates with templates."""
        if self.resamples < 1 or self.draws < 1:
            raise OptionError(
                f"{self.resamples} pairs of halves and {self.draws} draws give no comparison; use"
                " at least 1 of each"
            )
        runs: dict[str, list[tuple[str, Table]]] = {"halves": [], "templates": []}
        for resample in study.progress(range(self.resamples), "locating on halves"):
            for name, half in zip(
                "ab", study.require_contrast().split(study.seed + 1 + resample), strict=True
            ):
                runs["halves"].append(
                    (f"{resample + 1}{name}", self.locate(study.with_prompts(half)))
                )
        for name, contrast in study.progress(
            list(self._templates(study).items()), "locating on templates"
        ):
            runs["templates"].append((name, self.locate(study.with_prompts(contrast))))
        pairs = {
            "halves": [(2 * turn, 2 * turn + 1) for turn in range(self.resamples)],
            "templates": list(combinations(range(len(runs["templates"])), 2)),
        }
        rows, chances = [], {}
        for basis, compared in pairs.items():
            chance_draws = []
            for first, second in compared:
                row, chance = self._compare(study, basis, runs[basis][first], runs[basis][second])
                rows.append(row)
                chance_draws.append(chance)
            if chance_draws:
                chances[basis] = np.mean(chance_draws, axis=0)
        elsewhere = self._elsewhere(study, runs["templates"])
        claims = [_agreement_claim(basis) for basis in chances]
        if elsewhere is not None and len(elsewhere):
            claims.append(_elsewhere_claim(elsewhere, excluded_note(self.excluded)))
        tables = {"units": _units(runs["halves"]), "chance": _chance(chances)}
        if elsewhere is not None:
            tables["elsewhere"] = elsewhere
        halves = np.array([row["jaccard"] for row in rows if row["basis"] == "halves"])
        run = table(
            self.name,
            {
                name: ([row[name] for row in rows], *described)
                for name, described in _COLUMNS.items()
            },
            provenance=study.provenance(self),
            summary={
                "jaccard": float(halves.mean()),
                "resamples": self.resamples,
                "templates": [name for name, _ in runs["templates"]],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables=tables,
        )
        no_difference = elsewhere is not None and not len(elsewhere)
        return conclude(run, claims, limits=[_NO_DIFFERENCE] if no_difference else [])

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
    ):
        sets = [selected_of(located) for _, located in (first, second)]
        scores = [scores_of(located) for _, located in (first, second)]
        width = scores[0].shape[1]
        chance = chance_jaccards(sets[0], sets[1], width, self.draws, study.seed)
        union = sorted({*sets[0], *sets[1]})
        union_scores = [np.array([score[pair] for pair in union]) for score in scores]
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
            "spearman_selected": spearman(*union_scores),
        }
        return row, chance

    def _elsewhere(self, study: Study, runs: list[tuple[str, Table]]) -> Table | None:
        """Effects of each template's set, and of random sets, on the prompts of the other
        templates.
        """
        if not runs or study.pair.base is None:
            return None
        unit = unit_of(runs[0][1])
        donors = PatchSource.from_study(study, unit)
        norms = contribution_norms(study, donors)
        differ = changed_rows(study)
        prompts = study.prompts("positive").prompts
        rows = []
        for name, located in study.progress(runs, "sets on other templates"):
            chosen = selected_of(located)
            other_rows = [row for row in differ if prompts[row].template not in (name, None)]
            other_rows = sample_rows(
                study.prompts("positive"), other_rows, self.control_prompts, study.seed
            )
            if not other_rows:
                continue
            if not chosen:
                # a template on which nothing is located counts as effect 0
                rows.append((name, 0, 0, len(other_rows), 0.0, 0.0))
                continue
            drawn = matched_sets(chosen, norms, self.random_sets, study.seed, exclude=self.excluded)
            draws = equally_large(drawn, chosen)
            outcomes = Outcomes(
                study, donors, "necessity", other_rows, units={*chosen}.union(*draws)
            )
            for number, units in enumerate([chosen, *draws]):
                effects = dose_effect(outcomes, units)
                rows.append(
                    (
                        name,
                        number,
                        len(chosen),
                        len(other_rows),
                        effects["effect"],
                        effects["recovery"],
                    )
                )
        columns = list(zip(*rows, strict=True)) if rows else [[]] * 6
        return table(
            "stability-elsewhere",
            {
                "template": (list(columns[0]), "key", "template that the set was located on"),
                "draw": (
                    np.array(columns[1], np.int64),
                    "key",
                    "0 for the located set, else number of the random set",
                ),
                "k": (np.array(columns[2], np.int64), "measure", "units in the set"),
                "prompts": (
                    np.array(columns[3], np.int64),
                    "measure",
                    (
                        "prompts of the other templates, on which base and fine-tuned model differ"
                        " in the behaviour"
                    ),
                ),
                "effect": (
                    np.array(columns[4], np.float64),
                    "measure",
                    "share of them with the base's behaviour",
                ),
                "recovery": (
                    np.array(columns[5], np.float64),
                    "measure",
                    "share of the gap between both models' mean numbers that is closed on them",
                ),
            },
        )


_NO_DIFFERENCE = (
    "Base and fine-tuned model do not differ in the behaviour on these prompts: the effect of a"
    " template's set on the prompts of the others was not measured."
)
_COLUMNS = {
    "basis": ("key", "what the two sets were located on: halves of the clusters, or templates"),
    "first": ("key", "first half (pair and side) or template"),
    "second": ("key", "second half or template"),
    "n_first": ("measure", "units selected on the first"),
    "n_second": ("measure", "units selected on the second"),
    "jaccard": ("measure", "Jaccard index of the two sets"),
    "chance": ("measure", "the same of random sets with the same counts in every layer, mean"),
    "chance_high": ("measure", "their 97.5 % quantile"),
    "spearman": ("measure", "rank correlation of the two scores over all units"),
    "spearman_selected": (
        "measure",
        "rank correlation over units selected on either; NaN for fewer than three",
    ),
}


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
    counts: dict[tuple[int, int], int] = {}
    for _, located in runs:
        for pair in selected_of(located):
            counts[pair] = counts.get(pair, 0) + 1
    order = sorted(counts, key=lambda pair: (-counts[pair], pair))
    unit = unit_of(runs[0][1]).name
    return table(
        "stability-units",
        {
            "layer": (np.array([pair[0] for pair in order], np.int64), "key", "block"),
            unit: (np.array([pair[1] for pair in order], np.int64), "key", f"{unit} of the block"),
            "selected": (
                np.array([counts[p] for p in order], np.int64),
                "measure",
                "halves on which it was selected",
            ),
            "halves": (np.full(len(order), len(runs), np.int64), "measure", "number of halves"),
        },
    )


def _chance(chances: dict[str, np.ndarray]) -> Table:
    rows = [
        (basis, draw, value)
        for basis, values in chances.items()
        for draw, value in enumerate(values)
    ]
    return table(
        "stability-chance",
        {
            "basis": ([row[0] for row in rows], "key", "halves or templates"),
            "draw": (np.array([row[1] for row in rows], np.int64), "key", "number of the draw"),
            "jaccard": (
                np.array([row[2] for row in rows]),
                "measure",
                "mean Jaccard index of random sets",
            ),
        },
    )
