"""``RefusalDirection``: one direction of the residual stream as a baseline for a located set.

The direction is chosen as in ``interp.experiments.refusal_directions`` (Arditi et al. 2024, arXiv
2406.11717). Removing a share of it and ablating the first k located units are compared at equal KL
on the fine-tuned model's answers to negative prompts. Half of the clusters are the selection split,
the other half the held-out split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.claims import Claim, mean
from interp.errors import OptionError, required
from interp.experiments.base_behaviour import (
    NAN,
    PositivePromptRow,
    has_behaviour_of,
    mean_or_nan,
    prompt_columns,
    recovery,
)
from interp.experiments.conditions import (
    ConditionResult,
    PatchSource,
    PatchTarget,
    evaluate_condition,
)
from interp.experiments.divergence import divergence
from interp.experiments.dose import dose_grid
from interp.experiments.ranking_sets import ranking_of, unit_of
from interp.experiments.records import records_table
from interp.experiments.refusal_directions import (
    candidate_directions,
    candidates_table,
    choose_direction,
    direction_ablation,
)
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.metrics import require_number
from interp.rows import columns_of, flag, key, measure, rows_table
from interp.study import Study
from interp.table import Table


class InterventionRow:
    """A row per intervention, or several."""

    kind: str = key("direction removed, or units ablated")
    dose: float = measure("share of the direction, or number of units")


class DirectionRow(InterventionRow):
    """A row per intervention."""

    kl: float = measure(
        "mean KL per token on the fine-tuned model's answers to negative prompts", "nats"
    )
    lost: float = measure(
        "share of prompts where the fine-tuned model showed the behaviour whose well-formed answer"
        " does not"
    )
    as_base: float = measure(
        "share of the prompts on which the models differ whose behaviour became the base's, no"
        " answer being malformed where the base's is not"
    )
    recovery: float = measure("share of the gap between both models' mean numbers closed on these")
    matches_base: float = measure(
        "share of the prompts on which the fine-tuned model showed the behaviour answered word for"
        " word as the base answers"
    )
    malformed: float = measure("share of answers to positive prompts that are malformed")
    number: float = measure("mean of the metric on positive prompts")


class DirectionAnswerRow(PositivePromptRow, InterventionRow):
    """A row per intervention and positive prompt."""

    exhibits_behaviour: bool = flag("the unedited fine-tuned model shows the behaviour")
    changed: bool = flag("base and fine-tuned model differ in the behaviour")
    lost: bool = flag("behaviour of the fine-tuned model, not under the intervention")
    as_base: bool = flag(
        "has the base's behaviour, and is not malformed where the base's answer is well-formed"
    )
    matches_base: bool = flag("the base's answer, token for token")


@dataclass(frozen=True)
class RefusalDirection(Analyzer):
    """Effect and KL of removing ``shares`` of the direction, and of ablating the first units of a
    ``located`` ranking.

    Units are set to their base contributions, without a base to their means. Needs a metric that
    both classes have. Effects are the share of the behaviour lost where the fine-tuned model showed
    it and, with a base, the share of prompts that get the base's behaviour where the two models
    differ. The table has one row per intervention, and the array ``direction`` [width].
    """

    name: ClassVar[str] = "refusal-direction"
    version: ClassVar[int] = 5
    needs: ClassVar[Needs] = Needs(negatives=True, metric=True)

    located: Table | None = option(
        None, "The locating run to compare with.", kind="locate-neurons", from_parent=True
    )
    shares: tuple[float, ...] = option(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "Shares of the direction that are removed: above 0, at most 1.",
    )
    prompts: int = option(
        48, "Prompts of each class that choose the direction; as many measure.", ge=1
    )

    def check(self, known: Known) -> None:
        """Raise OptionError without a locating run, and for shares that cannot be removed."""
        if self.located is None:
            raise OptionError("a refusal direction needs a locating run to compare with")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise OptionError(
                f"shares {self.shares} of a direction cannot be removed; use numbers above 0, at"
                " most 1"
            )

    def require(self, study: Study) -> None:
        """As ``Analyzer``; the metric must also have a number, and both classes the behaviour."""
        super().require(study)
        if not study.require_metric().applies("negative"):
            raise OptionError(
                "the direction needs a behaviour that both classes can show, which a task is not"
            )
        require_number(study.require_metric(), "the direction")

    def run(self, study: Study) -> Result:
        """Choose the direction on the selection split; measure both interventions on the held-out
        split.
        """
        located = required(self.located, "the locating run")
        selection, held_out = (
            study.with_prompts(half.limit(self.prompts))
            for half in study.require_contrast().split(study.seed)
        )
        candidates = candidate_directions(selection)
        best = choose_direction(selection, candidates)
        ranking, size = ranking_of(located), int(located["selected"].sum())
        donors = PatchSource.from_study(held_out, unit_of(located))
        condition = "ablate-mean" if study.pair.base is None else "ablate-base"
        arms = [
            ("direction", float(share), direction_ablation(study.pair.tuned, best.direction, share))
            for share in self.shares
        ]
        arms += [
            ("units", float(k), donors.condition(condition, ranking[:k]).require_intervention())
            for k in sorted({*dose_grid(max(size, 1)), size} - {0})
        ]
        tuned = evaluate_condition(held_out, "tuned", "positive", PatchTarget("tuned"))
        base, changed = None, np.zeros(len(tuned.exhibits), bool)
        if study.pair.base is not None:
            base = evaluate_condition(held_out, "base", "positive", PatchTarget("base"))
            changed = base.flipped(tuned)
        measured = [
            _measure(held_out, tuned, base, changed, *arm)
            for arm in study.progress(arms, "direction and units")
        ]
        rows, answers = zip(*measured, strict=True)
        counted = {"lost": tuned.exhibits.any(), "as_base": changed.any()}
        largest = max(rows[: len(self.shares)], key=lambda row: row["dose"])
        lost_clause = "the fine-tuned model did not show the behaviour"
        if counted["lost"]:
            lost_clause = f"{largest['lost']:.1%} of the fine-tuned model's behaviour is lost"
        return Result(
            records_table(
                DirectionRow,
                self.name,
                rows,
                arrays={"direction": to_host(best.direction.double())},
            ),
            {
                "candidates": candidates_table(candidates),
                "answers": rows_table(
                    DirectionAnswerRow,
                    "refusal-direction-answers",
                    {
                        name: np.concatenate([part[name] for part in answers])
                        for name in columns_of(DirectionAnswerRow)
                    },
                ),
            },
            [_claim(rows, size, column) for column in _EFFECTS if size and counted[column]],
            {"layer": best.layer, "position": best.position, "criteria_met": best.criteria_met},
            []
            if best.criteria_met
            else ["No candidate met the criteria: the one that lowers the metric most was used."],
            f"The direction before block {best.layer} at token {best.position},"
            f" {largest['dose']:.0%} of it removed: {lost_clause}, at a KL of"
            f" {largest['kl']:.2g} nats per token.",
        )


def _measure(
    study: Study,
    tuned: ConditionResult,
    base: ConditionResult | None,
    changed: Bool[np.ndarray, " B"],
    kind: str,
    dose: float,
    intervention: Intervention,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of one intervention, and its columns of ``DirectionAnswerRow``.

    ``changed``: prompts on which the two models differ in the behaviour; none without a base.
    """
    result = evaluate_condition(study, kind, "positive", PatchTarget("tuned", intervention))
    kl = divergence(study, intervention, range(len(study.prompts("negative"))))
    answers = {
        "kind": np.full(len(changed), kind, object),
        "dose": np.full(len(changed), dose),
        **prompt_columns(study.prompts("positive")),
        "exhibits_behaviour": tuned.exhibits,
        "changed": changed,
        "lost": result.lost(tuned),
        "as_base": np.zeros_like(changed) if base is None else has_behaviour_of(base, result),
        "matches_base": result.matches_base,
    }
    numbers = [one.number[changed] for one in (result, tuned, base) if one is not None]
    row = {
        "kind": kind,
        "dose": dose,
        "kl": mean_or_nan(kl),
        "lost": mean_or_nan(answers["lost"][tuned.exhibits]),
        "as_base": mean_or_nan(answers["as_base"][changed]),
        "recovery": NAN if base is None else recovery(*numbers),
        "matches_base": mean_or_nan(result.matches_base[tuned.exhibits]),
        "malformed": result.malformed.mean(),
        "number": result.number.mean(),
    }
    return row, answers


_EFFECTS = {
    "lost": "lose {units:.1%} of the fine-tuned model's behaviour",
    "as_base": (
        "return the base's behaviour on {units:.1%} of the prompts where the models differ in it"
    ),
}
_SUBSETS = {"lost": "exhibits_behaviour", "as_base": "changed"}


def _claim(rows: Sequence[dict[str, Any]], size: int, column: str) -> Claim:
    """The located set has a larger effect than the direction at an equal or smaller KL."""
    units = next(row for row in rows if row["kind"] == "units" and row["dose"] == size)
    candidates = [row for row in rows if row["kind"] == "direction" and row["kl"] <= units["kl"]]
    best = max(candidates, key=lambda row: (row[column], row["dose"]), default=None)
    where = {
        row["kind"]: {"kind": row["kind"], "dose": row["dose"], _SUBSETS[column]: True}
        for row in (units, best)
        if row is not None
    }
    of_units = mean(column, table="answers", where=where["units"])
    claim = Claim(
        name=f"beats-direction-{column.replace('_', '-')}",
        estimate=of_units,
        at_least=0.0,
        text=(
            f"At a KL of at most {units['kl']:.2g} nats per token, {size} units {_EFFECTS[column]}"
        ),
        also={"units": of_units},
    )
    if best is None:
        return replace(claim, text=f"{claim.text}; no share of the direction has as small a KL.")
    return replace(
        claim,
        estimate=mean(
            column,
            table="answers",
            where=where["units"],
            minus={"where": where["direction"]},
            pair="prompt_id",
        ),
        reference=mean(column, table="answers", where=where["direction"]),
        control=f"the direction at equal or smaller KL ({best['dose']:.0%} of it)",
        text=(f"{claim.text}, the direction {{control:.1%}} (with {best['dose']:.0%} of it)."),
    )
