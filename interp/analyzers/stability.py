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
from interp.claims import Claim, Draws, conclude, literal, statistic
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import returns
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import (
    chance_jaccards,
    jaccard,
    scores_of,
    selected_of,
    spearman,
    unit_of,
)
from interp.experiments.row_selection import changed, some
from interp.interventions.random_sets import equally_large, excluded_note, matched_sets
from interp.prompts import Contrast
from interp.study import Study
from interp.table import Table, table

AGREEMENT, EFFECT = 1 / 3, 0.5  # two sets of one size that share half of their members: Jaccard 1/3


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
    parent: str | None = None
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
        found: dict[str, list[tuple[str, Table]]] = {"halves": [], "templates": []}
        for turn in study.progress(range(self.resamples), "locating on halves"):
            for name, half in zip(
                "ab", study.require_contrast().split(study.seed + 1 + turn), strict=True
            ):
                found["halves"].append((f"{turn + 1}{name}", self.locate(study.with_prompts(half))))
        for name, part in study.progress(
            list(self._templates(study).items()), "locating on templates"
        ):
            found["templates"].append((name, self.locate(study.with_prompts(part))))
        pairs = {
            "halves": [(2 * turn, 2 * turn + 1) for turn in range(self.resamples)],
            "templates": list(combinations(range(len(found["templates"])), 2)),
        }
        rows, chances = [], {}
        for basis, compared in pairs.items():
            drawn = []
            for one, other in compared:
                row, chance = self._compare(study, basis, found[basis][one], found[basis][other])
                rows.append(row)
                drawn.append(chance)
            if drawn:
                chances[basis] = np.mean(drawn, axis=0)
        elsewhere = self._elsewhere(study, found["templates"])
        made = [_agreement(basis) for basis in chances]
        if elsewhere is not None and len(elsewhere):
            made.append(_everywhere(elsewhere, excluded_note(self.excluded)))
        parts = {"units": _units(found["halves"]), "chance": _chance(chances)}
        if elsewhere is not None:
            parts["elsewhere"] = elsewhere
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
                "templates": [name for name, _ in found["templates"]],
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables=parts,
        )
        alike = elsewhere is not None and not len(elsewhere)
        return conclude(run, made, limits=[_ALIKE] if alike else [])

    def _templates(self, study: Study) -> dict[str, Contrast]:
        """The contrast of each template; empty unless two templates have enough prompts of both
        classes.
        """
        parts = (study.contrast.positive, study.contrast.negative)
        names = sorted({prompt.template for prompt in parts[0] if prompt.template is not None})
        found = {}
        for name in names:
            kept = [
                part.keep([row for row, p in enumerate(part) if p.template == name])
                for part in parts
            ]
            if min(map(len, kept)) >= self.least:
                found[name] = Contrast(*kept)
        return found if len(found) > 1 else {}

    def _compare(self, study: Study, basis: str, one: tuple[str, Table], other: tuple[str, Table]):
        sets = [selected_of(located) for _, located in (one, other)]
        scores = [scores_of(located) for _, located in (one, other)]
        width = scores[0].shape[1]
        chance = chance_jaccards(sets[0], sets[1], width, self.draws, study.seed)
        either = sorted({*sets[0], *sets[1]})
        among = [np.array([score[pair] for pair in either]) for score in scores]
        row = {
            "basis": basis,
            "first": one[0],
            "second": other[0],
            "n_first": len(sets[0]),
            "n_second": len(sets[1]),
            "jaccard": jaccard(*sets),
            "chance": float(chance.mean()),
            "chance_high": float(np.quantile(chance, 0.975)),
            "spearman": spearman(scores[0].ravel(), scores[1].ravel()),
            "spearman_selected": spearman(*among),
        }
        return row, chance

    def _elsewhere(self, study: Study, found: list[tuple[str, Table]]) -> Table | None:
        """Effects of each template's set, and of random sets, on the prompts of the other
        templates.
        """
        if not found or study.pair.base is None:
            return None
        unit = unit_of(found[0][1])
        donors = PatchSource.read(study, unit)
        norms = contribution_norms(study, donors)
        differ = changed(study)
        prompts = study.prompts("positive").prompts
        rows = []
        for name, located in study.progress(found, "sets on other templates"):
            chosen = selected_of(located)
            others = [row for row in differ if prompts[row].template not in (name, None)]
            others = some(study.prompts("positive"), others, self.control_prompts, study.seed)
            if not others:
                continue
            if not chosen:
                # a template on which nothing is located counts as effect 0
                rows.append((name, 0, 0, len(others), 0.0, 0.0))
                continue
            drawn = matched_sets(chosen, norms, self.random_sets, study.seed, exclude=self.excluded)
            draws = equally_large(drawn, chosen)
            outcomes = Outcomes(study, donors, "necessity", others, units={*chosen}.union(*draws))
            for number, units in enumerate([chosen, *draws]):
                done = returns(outcomes, units)
                rows.append(
                    (name, number, len(chosen), len(others), done["effect"], done["recovery"])
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


_ALIKE = (
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


def _agreement(basis: str) -> Claim:
    what = "disjoint halves of the prompts" if basis == "halves" else "one template each"
    where = {"basis": basis}
    return Claim(
        name=basis,
        estimate=statistic("mean", "jaccard", where=where, spread="range"),
        at_least=AGREEMENT,
        null=Draws("chance", "jaccard", where),
        control="random pairs of sets with the same counts in every layer",
        text=(
            f"Sets located on {what} have a mean Jaccard index of {{value:.2f}} ({{low:.2f}} to"
            " {high:.2f} over {count:d} comparisons; random sets {control:.2f}, at most"
            " {control_max:.2f})."
        ),
        also={"count": statistic("count", "jaccard", where=where)},
    )


def _everywhere(elsewhere: Table, excluded: str) -> Claim:
    located = elsewhere["draw"] == 0
    weakest = elsewhere["template"][located][int(elsewhere["effect"][located].argmin())]
    where = {"table": "elsewhere", "where": {"draw": 0}}
    draws = sorted({*elsewhere["draw"].tolist()} - {0})
    return Claim(
        name="elsewhere",
        estimate=statistic("minimum", "effect", spread="range", **where),
        at_least=EFFECT,
        # every template's set is compared with its own random sets
        null=Draws(
            "elsewhere",
            "effect",
            {"draw": draws},
            observed=statistic("mean", "effect", **where),
            each="template",
        ),
        control=f"matched random sets of each template{excluded}",
        text=(
            "Located on one template, a set returns the base's behaviour on {value:.1%} (of"
            f" {literal(weakest)}) to {{high:.1%}} of the others' prompts where the models differ"
            " in it (random sets at most {control_max:.1%})."
        ),
    )


def _units(found: list[tuple[str, Table]]) -> Table:
    """Number of halves on which each unit was selected, in descending order."""
    counts: dict[tuple[int, int], int] = {}
    for _, located in found:
        for pair in selected_of(located):
            counts[pair] = counts.get(pair, 0) + 1
    order = sorted(counts, key=lambda pair: (-counts[pair], pair))
    unit = unit_of(found[0][1]).name
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
            "halves": (np.full(len(order), len(found), np.int64), "measure", "number of halves"),
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
