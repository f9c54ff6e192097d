"""Claims about scaled intruders, with their controls."""

from collections.abc import Mapping, Sequence

from interp.analyzers.intruder_scaling.compute import Measured
from interp.claims import Claim, Estimate, literal, mean
from interp.study import Study

HALF = 0.5


def claims_of(
    study: Study, found: Mapping[tuple[str, float], Measured], scales: Sequence[float]
) -> list[Claim]:
    """Is there less forgetting with intruders scaled, than with neighbours or the update?"""
    at = min(
        (scale for scale in scales if scale != 1), key=lambda scale: (abs(scale - HALF), scale)
    )
    task, also = "no task was given", {}
    if study.metric is not None:
        words = study.metric.words
        task = f"the {literal(words.number)} changes by {{moved:+.3g}} {literal(words.unit)}"
        also = {"moved": _gap("metric", "prompts", ("intruder", at), ("intruder", 1.0))}
    moved = (
        f"With intruders scaled by {at:g}, the loss on plain text changes by {{value:+.3f}} nats"
        " per token [{low:+.3f}, {high:+.3f}]"
    )
    if ("neighbour", at) not in found:
        return [
            Claim(
                name="forgets-less",
                estimate=_gap("loss", "texts", ("intruder", at), ("intruder", 1.0)),
                at_most=0.0,
                text=(
                    f"{moved} (these matrices have no other vector to scale for comparison);"
                    f" {task}."
                ),
                also=also,
            ),
            *_against_the_update(study, found, at),
        ]
    near = "the vector of nearest singular value that is not an intruder, scaled by the same factor"
    return [
        Claim(
            name="forgets-less",
            estimate=_gap("loss", "texts", ("intruder", at), ("intruder", 1.0)),
            at_most=0.0,
            reference=_gap("loss", "texts", ("neighbour", at), ("intruder", 1.0)),
            control=near,
            requires=["forgets-less-than-neighbours"],
            text=f"{moved} (neighbouring vectors, not intruders: {{control:+.3f}}); {task}.",
            also=also,
        ),
        Claim(
            name="forgets-less-than-neighbours",
            estimate=_gap("loss", "texts", ("intruder", at), ("neighbour", at)),
            at_most=0.0,
            reference=_loss("neighbour", at),
            control=near,
            text=(
                "The difference from scaled neighbours is {value:+.3f} nats per token [{low:+.3f},"
                " {high:+.3f}]."
            ),
        ),
        *_against_the_update(study, found, at),
    ]


def _against_the_update(
    study: Study, found: Mapping[tuple[str, float], Measured], at: float
) -> list[Claim]:
    kept = (
        {
            scale: measured.task.mean()
            for (kind, scale), measured in found.items()
            if kind == "update" and scale <= 1
        }
        if (study.metric is not None)
        else {}
    )
    if len(kept) < 2:
        return []
    # the scale of the update that keeps at least as much of the task as the intruders, and the
    # least such; otherwise the one that keeps most
    mine = found["intruder", at].task.mean()
    enough = {scale: value for scale, value in kept.items() if value >= mine}
    scale = min(enough, key=enough.__getitem__) if enough else max(kept, key=kept.__getitem__)
    return [
        Claim(
            name="beats-the-update",
            estimate=_gap("loss", "texts", ("intruder", at), ("update", scale)),
            at_most=0.0,
            reference=_loss("update", scale),
            control="the whole update, at the scale that keeps the task as well or slightly better",
            text=(
                f"Compared with the whole update scaled by {scale:g}, which keeps the task at"
                f" {{kept:.3g}} (intruders scaled by {at:g}: {{mine:.3g}}), the loss on plain text"
                " differs by {value:+.3f} nats per token [{low:+.3f}, {high:+.3f}]."
            ),
            also={
                "kept": mean("metric", table="prompts", where={"kind": "update", "scale": scale}),
                "mine": mean("metric", table="prompts", where={"kind": "intruder", "scale": at}),
            },
        )
    ]


def _loss(kind: str, scale: float) -> Estimate:
    return mean("loss", table="texts", where={"kind": kind, "scale": scale})


def _gap(column: str, table: str, one: tuple[str, float], other: tuple[str, float]) -> Estimate:
    """The mean paired difference between two settings, over the same texts or prompts."""
    first, second = ({"kind": kind, "scale": scale} for kind, scale in (one, other))
    return mean(column, table=table, where=first, minus={"where": second}, pair="prompt_id")
