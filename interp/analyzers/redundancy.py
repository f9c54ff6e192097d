"""``Redundancy``: do other units carry the behaviour when the located set is ablated?

Locate, set the located units to their base contributions, locate again among the others, and so on
(the iterated ablation of McGrath et al. 2023, arXiv 2307.15771, on sets). A behaviour is redundant
when it survives the ablation of the first set and disappears only when later sets are ablated too.
Half of the clusters are the selection split, the other half the held-out split.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option, require_locating
from interp.claims import Claim, Draws, mean
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.dose import dose_effect, matches_donor
from interp.experiments.edited_engine import EditedEngine
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import Pair, ranking_of, scores_of, unit_of
from interp.experiments.records import records_table
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.random_sets import equally_large, excluded_note, matched_sets
from interp.rows import DrawRow, LayerRow, PromptRow, UnitRow, flag, key, measure
from interp.study import Study
from interp.table import Table

MIN_EFFECT = 0.25


class RoundRow:
    """The set of one round."""

    round: int = key(
        "1 is the located set; each next one is located after ablation of all before it"
    )
    k: int = measure("units in the round's set")
    remaining_after_previous_sets: float = measure(
        "share of the metric's rise that remains with all previous sets ablated"
    )
    returned_by_this_set: float = measure(
        "share of prompts where the models differ in the behaviour that get the base's when only"
        " this set is ablated"
    )
    returned_by_sets_so_far: float = measure("the same by this set and all before it")
    recovery_by_this_set: float = measure(
        "share of the gap between both models' mean numbers that this set closes on these prompts;"
        " NaN where there is no gap"
    )
    recovery_by_sets_so_far: float = measure("the same by this set and all before it")
    random: float = measure(
        "mean of returned_by_sets_so_far with random sets in place of all but the first set"
        " (round 1: of it)"
    )
    random_high: float = measure("their 97.5 % quantile")
    predicted: float = measure(
        "share of the set that the first round's ranking predicted: units ranked high enough there"
    )
    score: float = measure("sum of the set's scores in its own round")
    score_before: float = measure("sum of the set's scores in the first round")


class LocatedRow:
    """A unit of a round's set."""

    round: int = key("round that located it")
    layer: int = LayerRow.layer
    unit: int = UnitRow.unit
    score: float = measure("score in its round")
    score_before: float = measure("score in the first round")


class RandomRow:
    """A round's sets with random units in place of all but the first set."""

    round: int = key("round that the set is matched to")
    draw: int = DrawRow.draw
    effect: float = measure("share of prompts with the base's behaviour")
    gain: float = measure("the same minus that of the first set alone")


class AnswerRow:
    """A prompt under the sets of a round."""

    round: int = key("round of the set")
    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    returned_by_this_set: bool = flag(
        "the base's behaviour returns when the round's set is ablated"
    )
    returned_by_sets_so_far: bool = flag("the same by it and all before it")


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
    needs: ClassVar[Needs] = Needs(base=True, negatives=True)

    locate: Analyzer = option(help="The locating analyzer.")
    rounds: int = option(3, "Rounds of locating.", ge=2)
    random_sets: int = option(20, "Matched random sets for each round.")
    control_prompts: int = option(48, "Prompts of the held-out split on which sets are measured.")
    excluded: tuple[Pair, ...] = option((), "Units that no random set contains.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_locating(self, self.locate)

    def run(self, study: Study) -> Result:
        """Locate, ablate, locate again."""
        locating, measuring = study.split(study.seed)
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
        no_claim = (
            "Base and fine-tuned model do not differ in the behaviour: no set can return it."
            if size
            else "Nothing was located."
        )
        units = [
            {
                "round": number,
                "layer": layer,
                "unit": index,
                "score": own[layer, index],
                "score_before": scores[0][layer, index],
            }
            for number, (part, own) in enumerate(zip(sets, scores, strict=False), 1)
            for layer, index in part
        ]
        return Result(
            records_table(RoundRow, "", rows),
            {
                "units": records_table(LocatedRow, "", units, rename={"unit": unit.name}),
                "random": _random(answers, null),
                "answers": answers,
            },
            claims,
            {"rounds": len(sets), "k": size},
            lead="" if claims else no_claim,
        )

    def locate_again(self, study: Study, donors: PatchSource, ablated: list[Pair]) -> Table:
        """The locating analyzer on the fine-tuned model with these units at their base
        contributions.
        """
        intervention = donors.condition("ablate-base", ablated).require_intervention()
        # scores of ablated units are meaningless: rank all units, so that enough others remain
        every_unit = {"top": "100%"} if hasattr(self.locate, "top") else {}
        engine = EditedEngine(study.engine, study.pair.tuned, intervention)
        return replace(self.locate, **every_unit)(replace(study, engine=engine, _cache={}))

    def _measure(
        self,
        study: Study,
        donors: PatchSource,
        sets: list[list[Pair]],
        scores: list[np.ndarray],
        original: tuple[Pair, ...],
    ) -> tuple[list[dict[str, Any]], list[tuple[int, int, float]], Table]:
        """Rows: effects of each round's set alone and with all before; random sets' effects (round,
        draw, effect); behaviour per prompt.
        """
        prompts = study.prompts("positive")
        prompt_rows = sample_rows(prompts, changed_rows(study), self.control_prompts, study.seed)
        rows, null, answers = [], [], []
        if not sets or not prompt_rows:
            return rows, null, records_table(AnswerRow, "", answers)
        outcomes = Outcomes(study, donors, "necessity", prompt_rows)
        numbers = AblatedMetric(study, donors, prompt_rows)
        norms = contribution_norms(study, donors)
        unedited_mean = numbers.of([]).mean()
        all_ablated_mean = numbers.of(list(np.ndindex(norms.shape))).mean()
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
            returned = [matches_donor(outcomes, outcome) for outcome in (this_set, sets_so_far)]
            answers += [
                {
                    "round": round_number,
                    "prompt_id": prompts.prompts[row].id,
                    "cluster": prompts.clusters[row],
                    "returned_by_this_set": by_this_set,
                    "returned_by_sets_so_far": by_all,
                }
                for row, by_this_set, by_all in zip(prompt_rows, *returned, strict=True)
            ]
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
                    "returned_by_this_set": float(returned[0].mean()),
                    "returned_by_sets_so_far": float(returned[1].mean()),
                    "recovery_by_this_set": outcomes.effects(this_set)["recovery"],
                    "recovery_by_sets_so_far": outcomes.effects(sets_so_far)["recovery"],
                    "random": float(np.mean(effects)) if effects else float("nan"),
                    "random_high": float(np.quantile(effects, 0.975)) if effects else float("nan"),
                    "predicted": len(predicted & set(units)) / len(units),
                    "score": float(sum(scores[round_number - 1][pair] for pair in units)),
                    "score_before": float(sum(scores[0][pair] for pair in units)),
                }
            )
        return rows, null, records_table(AnswerRow, "", answers)


def _random(answers: Table, null: list[tuple[int, int, float]]) -> Table:
    """Effects of random sets, and their gain over the first round's set alone."""
    first_set = answers["returned_by_sets_so_far"][answers["round"] == 1]
    rows = [
        {
            "round": number,
            "draw": draw,
            "effect": effect,
            # as a difference of counts: shares differ by rounding, which would break ties
            "gain": (round(effect * first_set.size) - int(first_set.sum())) / first_set.size,
        }
        for number, draw, effect in null
    ]
    return records_table(RandomRow, "", rows)


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
