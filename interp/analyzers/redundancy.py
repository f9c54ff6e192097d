"""``Redundancy``: do other units carry the behaviour when the located set is ablated?

Locate, set the located units to their base contributions, locate again among the others, and so on
(the iterated ablation of McGrath et al. 2023, arXiv 2307.15771, on sets). A behaviour is redundant
when it survives the ablation of the first set and disappears only when later sets are ablated too.
Half of the clusters are the selection split, the other half the held-out split.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer, require_locating
from interp.claims import Claim, Draws, conclude, mean
from interp.errors import OptionError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect, matches_donor
from interp.experiments.edited_engine import EditedEngine
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import Pair, ranking_of, scores_of, unit_of
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, excluded_note, matched_sets
from interp.study import Study
from interp.table import Table, table

MIN_EFFECT = 0.25


@dataclass(frozen=True)
class Redundancy(Analyzer):
    """Locate ``rounds`` times, each time with all units located before at their base contributions.

    ``locate``: the locating analyzer; every round selects as many units as the first. Each round's
    set is measured alone and together with all earlier ones on ``control_prompts`` prompts of the
    held-out split, compared with ``random_sets`` sets of the first set's units and random ones in
    place of the others. Needs a base. Returns a table of kind ``redundancy``, one row per round.
    """

    name: ClassVar[str] = "redundancy"
    version: ClassVar[int] = 5

    locate: Analyzer
    rounds: int = 3
    random_sets: int = 20
    control_prompts: int = 48
    excluded: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        require_locating(self, self.locate)

    def __call__(self, study: Study) -> Table:
        """Locate, ablate, locate again."""
        study.pair.require_base("locating again after ablation")
        if self.rounds < 2:
            raise OptionError(f"{self.rounds} round does not locate again; use at least 2")
        halves = study.require_contrast().split(study.seed)
        locating, measuring = (study.with_prompts(half) for half in halves)
        first = self.locate(locating)
        size, unit, original = int(first["selected"].sum()), unit_of(first), ranking_of(first)
        donors = PatchSource.from_study(measuring, unit)
        sets = [list(original[:size])] if size else []
        scores = [scores_of(first)]
        for _ in range(1, self.rounds if size else 1):
            ablated = [pair for part in sets for pair in part]
            relocated = self.locate_again(locating, donors, ablated)
            # units that may be selected come first in the ranking
            sets.append([pair for pair in ranking_of(relocated) if pair not in set(ablated)][:size])
            scores.append(scores_of(relocated))
        rows, null, answers = self._measure(measuring, donors, sets, scores, original)
        claims = [_claim(rows, size, excluded_note(self.excluded))] if len(rows) > 1 else []
        lead = (
            ""
            if claims
            else "Base and fine-tuned model do not differ in the behaviour: no set can return it."
        )
        lead = lead if size else "Nothing was located."
        run = table(
            self.name,
            {
                name: (np.array([row[name] for row in rows], dtype), *described)
                for name, (dtype, *described) in _COLUMNS.items()
            },
            provenance=study.provenance(self),
            summary={
                "rounds": len(sets),
                "k": size,
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={
                "units": _units(sets, scores, unit.name),
                "random": _random(answers, null),
                "answers": answers,
            },
        )
        return conclude(run, claims, lead=lead)

    def locate_again(self, study: Study, donors: PatchSource, ablated: list[Pair]) -> Table:
        """The locating analyzer on the fine-tuned model with these units at their base
        contributions.
        """
        intervention = donors.condition("ablate-base", ablated).require_intervention()
        names = {field.name for field in fields(self.locate)}
        # scores of ablated units are meaningless: rank all units, so that enough others remain
        locate = replace(self.locate, top="100%") if "top" in names else self.locate
        return locate(
            replace(
                study, engine=EditedEngine(study.engine, study.pair.tuned, intervention), _cache={}
            )
        )

    def _measure(
        self,
        study: Study,
        donors: PatchSource,
        sets: list,
        scores: list,
        original: tuple[Pair, ...],
    ):
        """Rows: effects of each round's set alone and with all before; random sets' effects;
        behaviour per prompt.
        """
        prompt_rows = sample_rows(
            study.prompts("positive"), changed_rows(study), self.control_prompts, study.seed
        )
        rows, null, answers = [], [], {}
        if not sets or not prompt_rows:
            return rows, null, _answers(study, prompt_rows, answers)
        outcomes, numbers = (
            Outcomes(study, donors, "necessity", prompt_rows),
            AblatedMetric(study, donors, prompt_rows),
        )
        norms = contribution_norms(study, donors)
        everything = [
            (layer, index) for layer in range(norms.shape[0]) for index in range(norms.shape[1])
        ]
        unedited_mean, all_ablated_mean = numbers.of([]).mean(), numbers.of(everything).mean()
        ablated: list[Pair] = []
        for round_number, units in enumerate(study.progress(sets, "redundancy"), 1):
            remaining = (
                (numbers.of(ablated).mean() - all_ablated_mean) / (unedited_mean - all_ablated_mean)
                if unedited_mean != all_ablated_mean
                else float("nan")
            )
            ablated = [*ablated, *units]
            this_set = outcomes.of(units)
            sets_so_far = outcomes.of(ablated) if round_number > 1 else this_set
            answers[round_number] = (
                matches_donor(outcomes, this_set),
                matches_donor(outcomes, sets_so_far),
            )
            # the first set stays, later units are replaced; in round 1 the first set itself
            first_set, rest = (
                (sets[0], ablated[len(sets[0]) :]) if round_number > 1 else ([], units)
            )
            draws = matched_sets(
                rest,
                norms,
                self.random_sets,
                study.seed + round_number,
                exclude=[*first_set, *self.excluded],
            )
            effects = [
                dose_effect(outcomes, [*first_set, *draw])["effect"]
                for draw in equally_large(draws, rest)
            ]
            null += [(round_number, draw, effect) for draw, effect in enumerate(effects)]
            predicted = set(original[: round_number * len(units)])
            rows.append(
                {
                    "round": round_number,
                    "k": len(units),
                    "remaining_after_previous_sets": remaining,
                    "returned_by_this_set": float(answers[round_number][0].mean()),
                    "returned_by_sets_so_far": float(answers[round_number][1].mean()),
                    "recovery_by_this_set": outcomes.effects(this_set)["recovery"],
                    "recovery_by_sets_so_far": outcomes.effects(sets_so_far)["recovery"],
                    "random": float(np.mean(effects)) if effects else float("nan"),
                    "random_high": float(np.quantile(effects, 0.975)) if effects else float("nan"),
                    "predicted": len(predicted & set(units)) / len(units),
                    "score": float(sum(scores[round_number - 1][pair] for pair in units)),
                    "score_before": float(sum(scores[0][pair] for pair in units)),
                }
            )
        return rows, null, _answers(study, prompt_rows, answers)


_COLUMNS = {
    "round": (
        np.int64,
        "key",
        "1 is the located set; each next one is located after ablation of all before it",
    ),
    "k": (np.int64, "measure", "units in the round's set"),
    "remaining_after_previous_sets": (
        np.float64,
        "measure",
        "share of the metric's rise that remains with all previous sets ablated",
    ),
    "returned_by_this_set": (
        np.float64,
        "measure",
        (
            "share of prompts where the models differ in the behaviour that get the base's when"
            " only this set is ablated"
        ),
    ),
    "returned_by_sets_so_far": (np.float64, "measure", "the same by this set and all before it"),
    "recovery_by_this_set": (
        np.float64,
        "measure",
        (
            "share of the gap between both models' mean numbers that this set closes on these"
            " prompts; NaN where there is no gap"
        ),
    ),
    "recovery_by_sets_so_far": (np.float64, "measure", "the same by this set and all before it"),
    "random": (
        np.float64,
        "measure",
        (
            "mean of returned_by_sets_so_far with random sets in place of all but the first set"
            " (round 1: of it)"
        ),
    ),
    "random_high": (np.float64, "measure", "their 97.5 % quantile"),
    "predicted": (
        np.float64,
        "measure",
        "share of the set that the first round's ranking predicted: units ranked high enough there",
    ),
    "score": (np.float64, "measure", "sum of the set's scores in its own round"),
    "score_before": (np.float64, "measure", "sum of the set's scores in the first round"),
}


def _answers(
    study: Study, rows: list[int], answers: dict[int, tuple[np.ndarray, np.ndarray]]
) -> Table:
    prompts, clusters = study.prompts("positive").prompts, study.prompts("positive").clusters
    this_set, sets_so_far = (
        np.array([hit for found in answers.values() for hit in found[which]], bool)
        for which in (0, 1)
    )
    return table(
        "redundancy-answers",
        {
            "round": (
                np.repeat(np.array(list(answers), np.int64), len(rows)),
                "key",
                "round of the set",
            ),
            "prompt_id": (
                np.array([prompts[row].id for _ in answers for row in rows], np.int64),
                "key",
                "in the file",
            ),
            "cluster": (
                [clusters[row] for _ in answers for row in rows],
                "key",
                "prompts that depend on each other",
            ),
            "returned_by_this_set": (
                this_set,
                "flag",
                "the base's behaviour returns when the round's set is ablated",
            ),
            "returned_by_sets_so_far": (sets_so_far, "flag", "the same by it and all before it"),
        },
    )


def _random(answers: Table, null: list[tuple[int, int, float]]) -> Table:
    """Effects of random sets, and their gain over the first round's set alone."""
    first_set = answers["returned_by_sets_so_far"][answers["round"] == 1]
    # as a difference of counts: shares differ by rounding, which would break ties with the null
    gains = [
        (round(effect * first_set.size) - int(first_set.sum())) / first_set.size
        for _, _, effect in null
    ]
    rounds, draws, effects = zip(*null, strict=True) if null else ((), (), ())
    return table(
        "redundancy-random",
        {
            "round": (np.array(rounds, np.int64), "key", "round that the set is matched to"),
            "draw": (np.array(draws, np.int64), "key", "number of the random set"),
            "effect": (
                np.array(effects, np.float64),
                "measure",
                "share of prompts with the base's behaviour",
            ),
            "gain": (
                np.array(gains, np.float64),
                "measure",
                "the same minus that of the first set alone",
            ),
        },
    )


def _units(sets: list[list[Pair]], scores: list[np.ndarray], unit: str) -> Table:
    rows = [
        (turn, *pair, scores[turn - 1][pair], scores[0][pair])
        for turn, f in enumerate(sets, 1)
        for pair in f
    ]
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    return table(
        "redundancy-units",
        {
            "round": (np.array(columns[0], np.int64), "key", "round that located it"),
            "layer": (np.array(columns[1], np.int64), "key", "block"),
            unit: (np.array(columns[2], np.int64), "key", f"{unit} of the block"),
            "score": (np.array(columns[3], np.float64), "measure", "score in its round"),
            "score_before": (
                np.array(columns[4], np.float64),
                "measure",
                "score in the first round",
            ),
        },
    )


def _claim(rows: list[dict], size: int, excluded: str) -> Claim:
    n_rounds, n_later = len(rows), sum(row["k"] for row in rows[1:])
    # units that ranked next from the start mean that the first set was too small; others are
    # backups
    next_in_line = np.average(
        [row["predicted"] for row in rows[1:]], weights=[row["k"] for row in rows[1:]]
    )
    last_round = {"table": "answers", "where": {"round": n_rounds}}
    sentence = (
        f"the first {size} units alone return the base's behaviour on {{first_set:.1%}} of the"
        f" prompts where the models differ in it, with the {n_later} located after their ablation"
        " {all_sets:.1%} ({value:+.1%}; with random ones instead at most {control_max:+.1%});"
        f" {rows[1]['remaining_after_previous_sets']:.0%} of the rise remained after the first"
        f" ablation, and {next_in_line:.0%} of the later units ranked next in the first round."
    )
    return Claim(
        name="redundant",
        estimate=mean(
            "returned_by_sets_so_far", pair="prompt_id", minus={"where": {"round": 1}}, **last_round
        ),
        at_least=MIN_EFFECT,
        beyond=[0.0, "control"],
        null=Draws("random", "gain", {"round": n_rounds}),
        control=f"the first set with matched random ones{excluded}",
        text=f"Other units carry it too: {sentence}",
        otherwise=f"That other units carry it too is not supported: {sentence}",
        also={
            "all_sets": mean("returned_by_sets_so_far", **last_round),
            "first_set": mean("returned_by_sets_so_far", table="answers", where={"round": 1}),
        },
    )
