"""``RefusalDirection``: one direction of the residual stream as a baseline for a located set.

The direction is chosen as in ``interp.experiments.refusal_directions`` (Arditi et al. 2024, arXiv
2406.11717). Removing a share of it and ablating the first k located units are compared at equal KL
on the fine-tuned model's answers to negative prompts. Half of the clusters are the selection split,
the other half the held-out split.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from interp.analyzers.base import Analyzer
from interp.claims import Claim, conclude, mean
from interp.errors import OptionError
from interp.experiments.conditions import (
    ConditionResult,
    PatchSource,
    PatchTarget,
    evaluate_condition,
)
from interp.experiments.divergence import divergence
from interp.experiments.dose import dose_grid
from interp.experiments.ranking_sets import ranking_of, unit_of
from interp.experiments.refusal_directions import (
    candidate_directions,
    candidates_table,
    choose_direction,
    direction_ablation,
)
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.metrics import require_number
from interp.study import Study
from interp.table import Table, table

NAN = float("nan")


@dataclass(frozen=True)
class RefusalDirection(Analyzer):
    """Effect and KL of removing ``shares`` of the direction, and of ablating the first units of a
    ``located`` ranking.

    ``prompts`` of each class choose the direction and as many measure. Units are set to their base
    contributions, without a base to their means. Needs a metric that both classes have. Effects are
    the share of the behaviour lost where the fine-tuned model showed it and, with a base, the share
    of prompts that get the base's behaviour where the two models differ. Returns a table of kind
    ``refusal-direction``, one row per intervention.
    """

    name: ClassVar[str] = "refusal-direction"
    version: ClassVar[int] = 5
    takes: ClassVar[dict[str, str]] = {"located": "locate-neurons"}

    located: Table | None = field(default=None, metadata={"from_parent": True})
    shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    prompts: int = 48

    @classmethod
    def of(cls, located: Table, **options) -> "RefusalDirection":
        """The analyzer for a locating run's table."""
        return cls(located=located, parent=located.require_provenance().key, **options)

    def __call__(self, study: Study) -> Table:
        """Choose the direction on the selection split; measure both interventions on the held-out
        split.
        """
        if self.located is None:
            raise OptionError("a refusal direction needs a locating run to compare with")
        if not study.require_metric().applies("negative"):
            raise OptionError(
                "the direction needs a behaviour that both classes can show, which a task is not"
            )
        require_number(study.require_metric(), "the direction")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise OptionError(
                f"shares {self.shares} of a direction cannot be removed; use numbers above 0, at"
                " most 1"
            )
        halves = study.require_contrast().split(study.seed)
        choosing, measuring = (study.with_prompts(half.limit(self.prompts)) for half in halves)
        candidates = candidate_directions(choosing)
        best = choose_direction(choosing, candidates)
        unit, ranking = unit_of(self.located), ranking_of(self.located)
        size = int(self.located["selected"].sum())
        donors = PatchSource.from_study(measuring, unit)
        condition = "ablate-base" if study.pair.base is not None else "ablate-mean"
        steps = sorted({*dose_grid(max(size, 1)), size} - {0})
        arms = [
            ("direction", float(share), direction_ablation(study.pair.tuned, best.direction, share))
            for share in self.shares
        ]
        arms += [
            ("units", float(k), donors.condition(condition, ranking[:k]).require_intervention())
            for k in steps
        ]
        unedited = evaluate_condition(measuring, "tuned", "positive", PatchTarget("tuned"))
        base = (
            None
            if study.pair.base is None
            else evaluate_condition(measuring, "base", "positive", PatchTarget("base"))
        )
        rows = [
            _row(measuring, unedited, base, *arm)
            for arm in study.progress(arms, "direction and units")
        ]
        answers = _answers(measuring, unedited, base, rows)
        counted = {"lost": unedited.exhibits.any(), "as_base": _changed(unedited, base).any()}
        claims = [_claim(rows, size, column) for column in _EFFECTS if size and counted[column]]
        criteria_note = (
            ""
            if best.criteria_met
            else "No candidate met the criteria: the one that lowers the metric most was used."
        )
        largest = max(rows[: len(self.shares)], key=lambda row: row["dose"])
        lost_clause = "the fine-tuned model did not show the behaviour"
        if unedited.exhibits.any():
            lost_clause = (
                f"{largest['lost'].mean():.1%} of the fine-tuned model's behaviour is lost"
            )
        sentence = (
            f"The direction before block {best.layer} at token {best.position},"
            f" {largest['dose']:.0%} of it removed: {lost_clause}, at a KL of"
            f" {largest['kl'].mean():.2g} nats per token."
        )
        run = table(
            self.name,
            _columns(rows),
            provenance=study.provenance(self),
            summary={
                "layer": best.layer,
                "position": best.position,
                "criteria_met": best.criteria_met,
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
            },
            tables={"candidates": candidates_table(candidates), "answers": answers},
            arrays={"direction": to_host(best.direction.double())},
        )
        return conclude(run, claims, lead=sentence, limits=[criteria_note] if criteria_note else [])


def _changed(unedited: ConditionResult, base: ConditionResult | None) -> Bool[np.ndarray, " B"]:
    """Prompts on which the two models differ in the behaviour; none without a base."""
    return np.zeros(len(unedited.exhibits), bool) if base is None else base.flipped(unedited)


def _row(
    study: Study,
    unedited: ConditionResult,
    base: ConditionResult | None,
    kind: str,
    dose: float,
    intervention: Intervention,
) -> dict:
    """Effects of one intervention: behaviour lost and returned per positive prompt, KL per negative
    prompt.
    """
    result = evaluate_condition(study, kind, "positive", PatchTarget("tuned", intervention))
    kl = divergence(study, intervention, range(len(study.prompts("negative"))))
    changed, as_base, recovery = (
        _changed(unedited, base),
        np.zeros(len(unedited.exhibits), bool),
        NAN,
    )
    if base is not None:
        as_base = ~result.flipped(base) & ~(result.malformed & ~base.malformed)
        unedited_mean, edited_mean, base_mean = (
            one.number[changed].mean() if changed.any() else NAN for one in (unedited, result, base)
        )
        recovery = (
            (edited_mean - unedited_mean) / (base_mean - unedited_mean)
            if base_mean != unedited_mean
            else NAN
        )
    return {
        "kind": kind,
        "dose": dose,
        "kl": kl,
        "lost": result.lost(unedited)[unedited.exhibits],
        "as_base": as_base[changed],
        "recovery": np.array([recovery]),
        "matches_base": result.matches_base[unedited.exhibits],
        "malformed": result.malformed,
        "number": result.number,
        "answers": {
            "lost": result.lost(unedited),
            "as_base": as_base,
            "matches_base": result.matches_base,
        },
    }


def _columns(rows: list[dict]) -> dict[str, tuple]:
    def means(name: str) -> np.ndarray:
        return np.array([row[name].mean() if row[name].size else NAN for row in rows])

    return {
        "kind": ([row["kind"] for row in rows], "key", "direction removed, or units ablated"),
        "dose": (
            np.array([row["dose"] for row in rows]),
            "measure",
            "share of the direction, or number of units",
        ),
        "kl": (
            means("kl"),
            "measure",
            "mean KL per token on the fine-tuned model's answers to negative prompts",
            "nats",
        ),
        "lost": (
            means("lost"),
            "measure",
            (
                "share of prompts where the fine-tuned model showed the behaviour whose well-formed"
                " answer does not"
            ),
        ),
        "as_base": (
            means("as_base"),
            "measure",
            (
                "share of the prompts on which the models differ whose behaviour became the base's,"
                " no answer being malformed where the base's is not"
            ),
        ),
        "recovery": (
            means("recovery"),
            "measure",
            "share of the gap between both models' mean numbers closed on these",
        ),
        "matches_base": (
            means("matches_base"),
            "measure",
            (
                "share of the prompts on which the fine-tuned model showed the behaviour answered"
                " word for word as the base answers"
            ),
        ),
        "malformed": (
            means("malformed"),
            "measure",
            "share of answers to positive prompts that are malformed",
        ),
        "number": (means("number"), "measure", "mean of the metric on positive prompts"),
    }


def _answers(
    study: Study, unedited: ConditionResult, base: ConditionResult | None, rows: list[dict]
) -> Table:
    """One row per intervention and positive prompt."""
    prompts, repeated = study.prompts("positive").prompts, len(rows)
    flags = {
        "lost": "behaviour of the fine-tuned model, not under the intervention",
        "as_base": (
            "behaviour of the base, and not malformed where the base's answer is well-formed"
        ),
        "matches_base": "the base's, token for token",
    }
    return table(
        "refusal-direction-answers",
        {
            "kind": ([row["kind"] for row in rows for _ in prompts], "key", "direction or units"),
            "dose": (
                np.repeat(np.array([row["dose"] for row in rows]), len(prompts)),
                "measure",
                "share, or units",
            ),
            "prompt_id": (
                np.array([p.id for p in prompts] * repeated, np.int64),
                "key",
                "in the prompt file",
            ),
            "cluster": (
                [p.cluster for p in prompts] * repeated,
                "key",
                "prompts that depend on each other",
            ),
            "exhibits_behaviour": (
                np.tile(unedited.exhibits, repeated),
                "flag",
                "the unedited fine-tuned model shows the behaviour",
            ),
            "changed": (
                np.tile(_changed(unedited, base), repeated),
                "flag",
                "base and fine-tuned model differ in the behaviour",
            ),
            **{
                name: (np.concatenate([row["answers"][name] for row in rows]), "flag", said)
                for name, said in flags.items()
            },
        },
    )


_EFFECTS = {
    "lost": "lose {units:.1%} of the fine-tuned model's behaviour",
    "as_base": (
        "return the base's behaviour on {units:.1%} of the prompts where the models differ in it"
    ),
}
_SUBSETS = {"lost": "exhibits_behaviour", "as_base": "changed"}


def _claim(rows: list[dict], size: int, column: str) -> Claim:
    """The located set has a larger effect than the direction at an equal or smaller KL."""
    units = next(row for row in rows if row["kind"] == "units" and row["dose"] == size)
    max_kl = units["kl"].mean()
    candidates = [row for row in rows if row["kind"] == "direction" and row["kl"].mean() <= max_kl]
    best = (
        max(candidates, key=lambda row: (row[column].mean(), row["dose"])) if candidates else None
    )
    counted = {_SUBSETS[column]: True}
    located_rows: dict[str, Any] = {
        "table": "answers",
        "where": {"kind": "units", "dose": float(size), **counted},
    }
    name, opening = (
        f"beats-direction-{column.replace('_', '-')}",
        f"At a KL of at most {max_kl:.2g} nats per token, {size} units",
    )
    if best is None:
        text = f"{opening} {_EFFECTS[column]}; no share of the direction has as small a KL."
        return Claim(
            name=name,
            estimate=mean(column, **located_rows),
            at_least=0.0,
            text=text,
            also={"units": mean(column, **located_rows)},
        )
    direction_rows: dict[str, Any] = {
        "where": {"kind": "direction", "dose": float(best["dose"]), **counted}
    }
    return Claim(
        name=name,
        estimate=mean(column, pair="prompt_id", minus=direction_rows, **located_rows),
        at_least=0.0,
        reference=mean(column, table="answers", **direction_rows),
        control=f"the direction at equal or smaller KL ({best['dose']:.0%} of it)",
        text=(
            f"{opening} {_EFFECTS[column]}, the direction {{control:.1%}} (with {best['dose']:.0%}"
            " of it)."
        ),
        also={"units": mean(column, **located_rows)},
    )
