"""Effects of each method on the answers: read from the verifying run, or measured like its
conditions.
"""

from dataclasses import dataclass

import numpy as np

from interp.experiments.conditions import PatchTarget, evaluate_condition_by_class
from interp.experiments.divergence import divergences
from interp.maths.intervals import cluster_interval
from interp.models.units import Unit
from interp.rows import key, measure, text
from interp.study import Study
from interp.table import Table

NAN = float("nan")


class MethodRow:
    """A row per method."""

    method: str = key("located, zero, direction, contrast or random")
    what: str = text("what was done")
    units: float = measure("units that were changed; NaN for the direction")
    share: float = measure("share of the direction that was removed; NaN for units")
    prompts: int = measure("positive prompts; for random sets the control prompts")
    exhibits_behaviour: float = measure(
        "share of answers to positive prompts that show the behaviour"
    )
    low: float = measure(
        "lower end of its 95 % interval over clusters; for random sets their minimum"
    )
    high: float = measure(
        "upper end of its 95 % interval over clusters; for random sets their maximum"
    )
    recovery: float = measure(
        "share of the gap between both models' mean numbers that is closed; NaN where there is no"
        " gap"
    )
    recovery_low: float = measure(
        "lower end of its 95 % interval over clusters; for random sets their minimum"
    )
    recovery_high: float = measure(
        "upper end of its 95 % interval over clusters; for random sets their maximum"
    )
    malformed: float = measure(
        "share of answers to positive prompts that are malformed; NaN for random sets"
    )
    divergence: float = measure(
        "KL divergence from the fine-tuned model on its answers to negative prompts",
        "nats a token",
    )
    flipped: float = measure(
        "share of answers to negative prompts whose behaviour flips (for a task: that differ)"
    )


@dataclass(frozen=True)
class Arm:
    """Effects of one method: per positive prompt ``exhibits``, ``number``, ``malformed``; per
    negative prompt the others.

    ``exhibits``: the answer shows the behaviour; ``flipped``: the behaviour differs from the
    fine-tuned model's (for a task: the answer differs); ``divergence``: from the fine-tuned model,
    nats a token.
    """

    method: str
    what: str
    exhibits: np.ndarray
    number: np.ndarray
    malformed: np.ndarray
    flipped: np.ndarray
    divergence: np.ndarray
    units: float | int = NAN
    share: float = NAN


def answers_of(verified: Table, condition: str, group: str) -> Table:
    """Answers of a verifying run under one condition to one class, in prompt order."""
    answers = verified.tables["answers"]
    return answers.select((answers["condition"] == condition) & (answers["group"] == group))


def arm_from_verification(
    study: Study, verified: Table, condition: str, method: str, description: str, units: int
) -> Arm:
    """A method that the verifying run has measured."""
    metric = study.require_metric()
    positive, negative = (
        answers_of(verified, condition, group) for group in ("positive", "negative")
    )
    return Arm(
        method,
        description,
        positive[metric.labels.column],
        positive[metric.labels.short],
        positive["malformed"],
        negative["flipped" if metric.applies("negative") else "altered"],
        negative["divergence"],
        units,
    )


def measured_arm(
    study: Study,
    verified: Table,
    method: str,
    description: str,
    receiver: PatchTarget,
    units: float | int = NAN,
    share: float = NAN,
) -> Arm:
    """A method that is measured here, like the conditions of the verification."""
    metric, divergence = study.require_metric(), divergences(study, "negative", {method: receiver})
    positive, negative = evaluate_condition_by_class(
        study, method, receiver, {"negative": divergence[method]}
    )
    flipped = ~negative.matches_tuned
    if metric.applies("negative"):
        tuned = answers_of(verified, "tuned", "negative")
        flipped = negative.exhibits != tuned[metric.labels.column]
    return Arm(
        method,
        description,
        positive.exhibits,
        positive.number,
        positive.malformed,
        flipped,
        negative.divergence,
        units,
        share,
    )


def row_of(study: Study, verified: Table, arm: Arm) -> dict:
    """A method's numbers over prompts, with intervals over clusters."""
    clusters, recovery = study.prompts("positive").clusters, (NAN, NAN, NAN)
    if study.pair.base is not None and np.isfinite(arm.number).all():
        base, tuned = (
            answers_of(verified, role, "positive")[study.require_metric().labels.short]
            for role in ("base", "tuned")
        )
        recovery = cluster_interval(arm.number, clusters, minus=tuned, over=base, over_minus=tuned)
    shown = cluster_interval(arm.exhibits, clusters)
    return {
        "method": arm.method,
        "what": arm.what,
        "units": arm.units,
        "share": arm.share,
        "prompts": len(arm.exhibits),
        **dict(zip(("exhibits_behaviour", "low", "high"), shown, strict=True)),
        **dict(zip(("recovery", "recovery_low", "recovery_high"), recovery, strict=True)),
        "malformed": arm.malformed.mean(),
        "divergence": arm.divergence.mean(),
        "flipped": arm.flipped.mean(),
    }


def random_rows(verified: Table, unit: Unit, has_recovery: bool, flips: bool) -> list[dict]:
    """The verification's random sets: means over sets, with their range; empty without sets."""
    harmless, sets = verified.tables["random_harmless"], verified.tables["random"]
    sets = sets.select(sets["direction"] == "necessity")
    if not len(sets):
        return []
    judged = sets.select(sets["first"])
    recovery = sets["recovery"] if has_recovery else np.full(len(sets), NAN)
    what = f"{len(sets)} random sets of as many {unit.plural} with the same intervention, mean"
    if len(judged) < len(sets):
        what += f"; answers under the first {len(judged)}"
    return [
        {
            "method": "random",
            "what": what,
            "units": sets["k"].mean(),
            "share": NAN,
            "prompts": answers_of(verified, "tuned", "positive")["sampled"].sum(),
            "exhibits_behaviour": judged["rate"].mean(),
            "low": judged["rate"].min(),
            "high": judged["rate"].max(),
            "recovery": recovery.mean(),
            "recovery_low": recovery.min(),
            "recovery_high": recovery.max(),
            "malformed": NAN,
            "divergence": harmless["divergence"].mean() if len(harmless) else NAN,
            "flipped": harmless["flipped" if flips else "harmed"].mean() if len(harmless) else NAN,
        }
    ]
