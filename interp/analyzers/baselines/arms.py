"""Effects of each method on the answers: read from the verifying run, or measured like its
conditions.
"""

from dataclasses import dataclass

import numpy as np

from interp.experiments.conditions import PatchTarget, evaluate_condition_by_class
from interp.experiments.divergence import divergences
from interp.maths.intervals import cluster_interval
from interp.models.units import Unit
from interp.study import Study
from interp.table import Table

NAN = float("nan")


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
    units: float = NAN
    share: float = NAN


def answers_of(verified: Table, condition: str, group: str) -> Table:
    """Answers of a verifying run under one condition to one class, in prompt order."""
    answers = verified.tables["answers"]
    return answers.select((answers["condition"] == condition) & (answers["group"] == group))


def arm_from_verification(
    study: Study, verified: Table, condition: str, method: str, description: str, units: int
) -> Arm:
    """A method that the verifying run has measured."""
    words = study.require_metric().labels
    changes = "flipped" if study.require_metric().applies("negative") else "altered"
    positive, negative = (
        answers_of(verified, condition, group) for group in ("positive", "negative")
    )
    return Arm(
        method,
        description,
        positive[words.column],
        positive[words.short],
        positive["malformed"],
        negative[changes],
        negative["divergence"],
        float(units),
    )


def measured_arm(
    study: Study,
    verified: Table,
    method: str,
    description: str,
    receiver: PatchTarget,
    units: float = NAN,
    share: float = NAN,
) -> Arm:
    """A method that is measured here, like the conditions of the verification."""
    divergence = divergences(study, "negative", {method: receiver})
    positive, negative = evaluate_condition_by_class(
        study, method, receiver, {"negative": divergence[method]}
    )
    flipped = ~negative.matches_tuned
    if study.require_metric().applies("negative"):
        flipped = (
            negative.exhibits
            != answers_of(verified, "tuned", "negative")[study.require_metric().labels.column]
        )
    return Arm(
        method,
        description,
        positive.exhibits,
        positive.number,
        positive.malformed,
        flipped,
        negative.divergence,
        float(units),
        share,
    )


def row_of(study: Study, verified: Table, arm: Arm) -> dict:
    """A method's numbers over prompts, with intervals over clusters."""
    clusters, number_column = (
        study.prompts("positive").clusters,
        study.require_metric().labels.short,
    )
    recovery = (NAN, NAN, NAN)
    if study.pair.base is not None and np.isfinite(arm.number).all():
        base, tuned = (
            answers_of(verified, role, "positive")[number_column] for role in ("base", "tuned")
        )
        recovery = cluster_interval(arm.number, clusters, minus=tuned, over=base, over_minus=tuned)
    return {
        "method": arm.method,
        "what": arm.what,
        "units": arm.units,
        "share": arm.share,
        "prompts": len(arm.exhibits),
        **dict(
            zip(
                ("exhibits_behaviour", "low", "high"),
                cluster_interval(arm.exhibits, clusters),
                strict=True,
            )
        ),
        **dict(zip(("recovery", "recovery_low", "recovery_high"), recovery, strict=True)),
        "malformed": arm.malformed.mean(),
        "divergence": arm.divergence.mean(),
        "flipped": arm.flipped.mean(),
    }


def random_rows(verified: Table, unit: Unit, has_recovery: bool, flips: bool) -> list[dict]:
    """The verification's random sets: means over sets, with their range; empty without sets."""
    sets = verified.tables["random"]
    sets, harmless = (
        sets.select(sets["direction"] == "necessity"),
        verified.tables["random_harmless"],
    )
    if not len(sets):
        return []
    changes = "flipped" if flips else "harmed"
    fully_judged, recovered = (
        sets.select(sets["first"]),
        sets["recovery"] if has_recovery else np.full(len(sets), NAN),
    )
    return [
        {
            "method": "random",
            "what": (
                f"{len(sets)} random sets of as many {unit.plural} with the same intervention, mean"
                + (
                    f"; answers under the first {len(fully_judged)}"
                    if len(fully_judged) < len(sets)
                    else ""
                )
            ),
            "units": float(sets["k"].mean()),
            "share": NAN,
            "prompts": int(answers_of(verified, "tuned", "positive")["sampled"].sum()),
            "exhibits_behaviour": fully_judged["rate"].mean(),
            "low": fully_judged["rate"].min(),
            "high": fully_judged["rate"].max(),
            "recovery": recovered.mean(),
            "recovery_low": recovered.min(),
            "recovery_high": recovered.max(),
            "malformed": NAN,
            "divergence": harmless["divergence"].mean() if len(harmless) else NAN,
            "flipped": harmless[changes].mean() if len(harmless) else NAN,
        }
    ]
