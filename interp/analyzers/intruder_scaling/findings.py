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
    intruder, neighbour = ("intruder", reported_scale), ("neighbour", reported_scale)
    unscaled, has_neighbours = ("intruder", 1.0), neighbour in by_setting
    task_text, also = "no task was given", {}
    if study.metric is not None:
        labels = study.metric.labels
        task_text = (
            f"the {escape_braces(labels.number)} changes by {{moved:+.3g}}"
            f" {escape_braces(labels.unit)}"
        )
        also = {"moved": _paired_difference("metric", "prompts", intruder, unscaled)}
    neighbour_text = (
        "neighbouring vectors, not intruders: {control:+.3f}"
        if has_neighbours
        else "these matrices have no other vector to scale for comparison"
    )
    control = (
        "the vector of the same matrix with the nearest singular value that is not an intruder,"
        " scaled by the same factor"
    )
    claims = [
        Claim(
            name="forgets-less",
            estimate=_paired_difference("loss", "texts", intruder, unscaled),
            at_most=0.0,
            reference=(
                _paired_difference("loss", "texts", neighbour, unscaled) if has_neighbours else None
            ),
            control=control if has_neighbours else "",
            requires=["forgets-less-than-neighbours"] if has_neighbours else [],
            text=(
                f"With intruders scaled by {reported_scale:g}, the loss on plain text changes by"
                " {value:+.3f} nats per token [{low:+.3f}, {high:+.3f}]"
                f" ({neighbour_text}); {task_text}."
            ),
            also=also,
        )
    ]
    if has_neighbours:
        claims.append(
            Claim(
                name="forgets-less-than-neighbours",
                estimate=_paired_difference("loss", "texts", intruder, neighbour),
                at_most=0.0,
                reference=_mean("loss", "texts", neighbour),
                control=control,
                text=(
                    "The difference from scaled neighbours is {value:+.3f} nats per token"
                    " [{low:+.3f}, {high:+.3f}]."
                ),
            )
        )
    return claims + _update_claims(study, by_setting, intruder)


def _update_claims(
    study: Study,
    by_setting: Mapping[tuple[str, float], ScaleMeasurements],
    intruder: tuple[str, float],
) -> list[Claim]:
    if study.metric is None:
        return []
    task_by_scale = {
        scale: measured.task.mean()
        for (kind, scale), measured in by_setting.items()
        if kind == "update" and scale <= 1
    }
    if len(task_by_scale) < 2:
        return []
    # the scale of the update that keeps at least as much of the task as the intruders, and the
    # least such; otherwise the one that keeps most
    intruder_task = by_setting[intruder].task.mean()
    sufficient = {scale: value for scale, value in task_by_scale.items() if value >= intruder_task}
    scale = (
        min(sufficient, key=sufficient.__getitem__)
        if sufficient
        else max(task_by_scale, key=task_by_scale.__getitem__)
    )
    update = ("update", scale)
    return [
        Claim(
            name="beats-the-update",
            estimate=_paired_difference("loss", "texts", intruder, update),
            at_most=0.0,
            reference=_mean("loss", "texts", update),
            control="the whole update, at the scale that keeps the task as well or slightly better",
            text=(
                f"Compared with the whole update scaled by {scale:g}, which keeps the task at"
                f" {{kept:.3g}} (intruders scaled by {intruder[1]:g}: {{mine:.3g}}), the loss on"
                " plain text differs by {value:+.3f} nats per token [{low:+.3f},"
                " {high:+.3f}]."
            ),
            also={
                "kept": _mean("metric", "prompts", update),
                "mine": _mean("metric", "prompts", intruder),
            },
        )
    ]


def _mean(column: str, table: str, setting: tuple[str, float]) -> Estimate:
    kind, scale = setting
    return mean(column, table=table, where={"kind": kind, "scale": scale})


def _paired_difference(
    column: str, table: str, setting: tuple[str, float], reference: tuple[str, float]
) -> Estimate:
    """The mean paired difference between two settings, over the same texts or prompts."""
    first, second = ({"kind": kind, "scale": scale} for kind, scale in (setting, reference))
    return mean(column, table=table, where=first, minus={"where": second}, pair="prompt_id")
