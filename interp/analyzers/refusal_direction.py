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
from interp.experiments.dose import grid
from interp.experiments.ranking_sets import ranking_of, unit_of
from interp.experiments.refusal_directions import (
    candidates_of,
    candidates_table,
    choose,
    taken_away,
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
    parent: str | None = None
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
        candidates = candidates_of(choosing)
        best = choose(choosing, candidates)
        unit, ranking = unit_of(self.located), ranking_of(self.located)
        size = int(self.located["selected"].sum())
        donors = PatchSource.read(measuring, unit)
        condition = "ablate-base" if study.pair.base is not None else "ablate-mean"
        steps = sorted({*grid(max(size, 1)), size} - {0})
        arms = [
            ("direction", float(share), taken_away(study.pair.tuned, best.direction, share))
            for share in self.shares
        ]
        arms += [
            ("units", float(k), donors.condition(condition, ranking[:k]).require_intervention())
            for k in steps
        ]
        own = evaluate_condition(measuring, "tuned", "positive", PatchTarget("tuned"))
        base = (
            None
            if study.pair.base is None
            else evaluate_condition(measuring, "base", "positive", PatchTarget("base"))
        )
        rows = [
            _row(measuring, own, base, *arm) for arm in study.progress(arms, "direction and units")
        ]
        answers = _answers(measuring, own, base, rows)
        counted = {"lost": own.exhibits.any(), "as_base": _changed(own, base).any()}
        made = [_claim(rows, size, column) for column in _SAID if size and counted[column]]
        met = (
            ""
            if best.criteria_met
            else "No candidate met the criteria: the one that lowers the metric most was used."
        )
        most = max(rows[: len(self.shares)], key=lambda row: row["dose"])
        lost = "the fine-tuned model did not show the behaviour"
        if own.exhibits.any():
            lost = f"{most['lost'].mean():.1%} of the fine-tuned model's behaviour is lost"
        told = (
            f"The direction before block {best.layer} at token {best.position}, {most['dose']:.0%}"
            f" of it removed: {lost}, at a KL of {most['kl'].mean():.2g} nats per token."
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
        return conclude(run, made, lead=told, limits=[met] if met else [])


def _changed(own: ConditionResult, base: ConditionResult | None) -> Bool[np.ndarray, " B"]:
    """Prompts on which the two models differ in the behaviour; none without a base."""
    return np.zeros(len(own.exhibits), bool) if base is None else base.flipped(own)


def _row(
    study: Study,
    own: ConditionResult,
    base: ConditionResult | None,
    kind: str,
    dose: float,
    intervention: Intervention,
) -> dict:
    """Effects of one intervention: behaviour lost and returned per positive prompt, KL per negative
    prompt.
    """
    judged = evaluate_condition(study, kind, "positive", PatchTarget("tuned", intervention))
    kl = divergence(study, intervention, range(len(study.prompts("negative"))))
    changed, as_base, gap = _changed(own, base), np.zeros(len(own.exhibits), bool), NAN
    if base is not None:
        as_base = ~judged.flipped(base) & ~(judged.malformed & ~base.malformed)
        start, now, end = (
            one.number[changed].mean() if changed.any() else NAN for one in (own, judged, base)
        )
        gap = (now - start) / (end - start) if end != start else NAN
    return {
        "kind": kind,
        "dose": dose,
        "kl": kl,
        "lost": judged.lost(own)[own.exhibits],
        "as_base": as_base[changed],
        "recovery": np.array([gap]),
        "matches_base": judged.equal_base[own.exhibits],
        "malformed": judged.malformed,
        "number": judged.number,
        "answers": {
            "lost": judged.lost(own),
            "as_base": as_base,
            "matches_base": judged.equal_base,
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
                " without malformed answers"
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
    study: Study, own: ConditionResult, base: ConditionResult | None, rows: list[dict]
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
                np.tile(own.exhibits, repeated),
                "flag",
                "the unedited fine-tuned model shows the behaviour",
            ),
            "changed": (
                np.tile(_changed(own, base), repeated),
                "flag",
                "base and fine-tuned model differ in the behaviour",
            ),
            **{
                name: (np.concatenate([row["answers"][name] for row in rows]), "flag", said)
                for name, said in flags.items()
            },
        },
    )


_SAID = {
    "lost": "lose {units:.1%} of the fine-tuned model's behaviour",
    "as_base": (
        "return the base's behaviour on {units:.1%} of the prompts where the models differ in it"
    ),
}
_COUNTED = {"lost": "exhibits_behaviour", "as_base": "changed"}


def _claim(rows: list[dict], size: int, column: str) -> Claim:
    """The located set has a larger effect than the direction at an equal or smaller KL."""
    units = next(row for row in rows if row["kind"] == "units" and row["dose"] == size)
    most = units["kl"].mean()
    within = [row for row in rows if row["kind"] == "direction" and row["kl"].mean() <= most]
    best = max(within, key=lambda row: (row[column].mean(), row["dose"])) if within else None
    counted = {_COUNTED[column]: True}
    own: dict[str, Any] = {
        "table": "answers",
        "where": {"kind": "units", "dose": float(size), **counted},
    }
    name, start = (
        f"beats-direction-{column.replace('_', '-')}",
        f"At a KL of at most {most:.2g} nats per token, {size} units",
    )
    if best is None:
        text = f"{start} {_SAID[column]}; no share of the direction has as small a KL."
        return Claim(
            name=name,
            estimate=mean(column, **own),
            at_least=0.0,
            text=text,
            also={"units": mean(column, **own)},
        )
    other: dict[str, Any] = {"where": {"kind": "direction", "dose": float(best["dose"]), **counted}}
    return Claim(
        name=name,
        estimate=mean(column, pair="prompt_id", minus=other, **own),
        at_least=0.0,
        reference=mean(column, table="answers", **other),
        control=f"the direction at equal or smaller KL ({best['dose']:.0%} of it)",
        text=(
            f"{start} {_SAID[column]}, the direction {{control:.1%}} (with {best['dose']:.0%} of"
            " it)."
        ),
        also={"units": mean(column, **own)},
    )
