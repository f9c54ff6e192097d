"""Claims about scaled intruders, with their controls."""

from collections.abc import Mapping, Sequence

from interp.analyzers.intruder_scaling.compute import ScaleMeasurements
from interp.claims import Claim, Estimate, escape_braces, mean
from interp.study import Study

REPORTED_SCALE = 0.5


def claims_of(
    study: Study, by_setting: Mapping[tuple[str, float], ScaleMeasurements], scales: Sequence[float]
) -> list[Claim]:
    """Is there less forgetting with intruders scaled, than with neighbours or the update?"""
    reported_scale = min(
        (scale for scale in scales if scale != 1),
        key=lambda scale: (abs(scale - REPORTED_SCALE), scale),
    )
    task_text, also = "no task was given", {}
    if study.metric is not None:
        labels = study.metric.labels
        task_text = (
            f"the {escape_braces(labels.number)} changes by {{moved:+.3g}}"
            f" {escape_braces(labels.unit)}"
        )
        also = {
            "moved": _paired_difference(
                "metric", "prompts", ("intruder", reported_scale), ("intruder", 1.0)
            )
        }
    loss_text = (
        f"With intruders scaled by {reported_scale:g}, the loss on plain text changes by"
        " {value:+.3f} nats per token [{low:+.3f}, {high:+.3f}]"
    )
    if ("neighbour", reported_scale) not in by_setting:
        return [
            Claim(
                name="forgets-less",
                estimate=_paired_difference(
                    "loss", "texts", ("intruder", reported_scale), ("intruder", 1.0)
                ),
                at_most=0.0,
                text=(
                    f"{loss_text} (these matrices have no other vector to scale for comparison);"
                    f" {task_text}."
                ),
                also=also,
            ),
            *_update_claims(study, by_setting, reported_scale),
        ]
    neighbour_text = (
        "the vector of the same matrix with the nearest singular value that is not an intruder,"
        " scaled by the same factor"
    )
    return [
        Claim(
            name="forgets-less",
            estimate=_paired_difference(
                "loss", "texts", ("intruder", reported_scale), ("intruder", 1.0)
            ),
            at_most=0.0,
            reference=_paired_difference(
                "loss", "texts", ("neighbour", reported_scale), ("intruder", 1.0)
            ),
            control=neighbour_text,
            requires=["forgets-less-than-neighbours"],
            text=(
                f"{loss_text} (neighbouring vectors, not intruders: {{control:+.3f}}); {task_text}."
            ),
            also=also,
        ),
        Claim(
            name="forgets-less-than-neighbours",
            estimate=_paired_difference(
                "loss", "texts", ("intruder", reported_scale), ("neighbour", reported_scale)
            ),
            at_most=0.0,
            reference=_loss("neighbour", reported_scale),
            control=neighbour_text,
            text=(
                "The difference from scaled neighbours is {value:+.3f} nats per token [{low:+.3f},"
                " {high:+.3f}]."
            ),
        ),
        *_update_claims(study, by_setting, reported_scale),
    ]


def _update_claims(
    study: Study, by_setting: Mapping[tuple[str, float], ScaleMeasurements], reported_scale: float
) -> list[Claim]:
    task_by_scale = (
        {
            scale: measured.task.mean()
            for (kind, scale), measured in by_setting.items()
            if kind == "update" and scale <= 1
        }
        if (study.metric is not None)
        else {}
    )
    if len(task_by_scale) < 2:
        return []
    # the scale of the update that keeps at least as much of the task as the intruders, and the
    # least such; otherwise the one that keeps most
    intruder_task = by_setting["intruder", reported_scale].task.mean()
    sufficient = {scale: value for scale, value in task_by_scale.items() if value >= intruder_task}
    scale = (
        min(sufficient, key=sufficient.__getitem__)
        if sufficient
        else max(task_by_scale, key=task_by_scale.__getitem__)
    )
    return [
        Claim(
            name="beats-the-update",
            estimate=_paired_difference(
                "loss", "texts", ("intruder", reported_scale), ("update", scale)
            ),
            at_most=0.0,
            reference=_loss("update", scale),
            control="the whole update, at the scale that keeps the task as well or slightly better",
            text=(
                f"Compared with the whole update scaled by {scale:g}, which keeps the task at"
                f" {{kept:.3g}} (intruders scaled by {reported_scale:g}: {{mine:.3g}}), the loss on"
                " plain text differs by {value:+.3f} nats per token [{low:+.3f},"
                " {high:+.3f}]."
            ),
            also={
                "kept": mean("metric", table="prompts", where={"kind": "update", "scale": scale}),
                "mine": mean(
                    "metric", table="prompts", where={"kind": "intruder", "scale": reported_scale}
                ),
            },
        )
    ]


def _loss(kind: str, scale: float) -> Estimate:
    return mean("loss", table="texts", where={"kind": kind, "scale": scale})


def _paired_difference(
    column: str, table: str, setting: tuple[str, float], reference: tuple[str, float]
) -> Estimate:
    """The mean paired difference between two settings, over the same texts or prompts."""
    first, second = ({"kind": kind, "scale": scale} for kind, scale in (setting, reference))
    return mean(column, table=table, where=first, minus={"where": second}, pair="prompt_id")
