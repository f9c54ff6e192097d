"""The claims of scaling intruders."""

from collections.abc import Mapping, Sequence

from interp.analyzers.intruder_scaling.passes import Measured, of_text
from interp.claims import Claim
from interp.maths.bootstrap import clustered_bootstrap
from interp.study import Study

HALF, NAN = 0.5, float("nan")


def claimed(study: Study, found: Mapping[tuple[str, float], Measured], scales: Sequence[float]) -> list[Claim]:
    """That intruders scaled down forget less, and, where there is a task, than the whole update so scaled."""
    at = min((scale for scale in scales if scale != 1), key=lambda scale: (abs(scale - HALF), scale))
    clusters = study.prompts(of_text(study)).clusters
    mine, plain = found["intruder", at], found["intruder", 1.0]
    fall, low, high = clustered_bootstrap(mine.loss - plain.loss, clusters, seed=study.seed)
    control = (NAN, NAN, NAN)
    beside, better = "no vector beside it could be scaled", False
    if ("neighbour", at) in found:
        near = found["neighbour", at].loss
        control = clustered_bootstrap(near - plain.loss, clusters, seed=study.seed)
        better = clustered_bootstrap(mine.loss - near, clusters, seed=study.seed)[2] < 0
        beside = f"vectors beside them that are none: {control[0]:+.3f}"
    task = "No task was given"
    if study.metric is not None:
        words, moved = study.metric.words, mine.metric.mean() - plain.metric.mean()
        task = f"The {words.number} moves by {moved:+.3g} {words.unit}"
    told = Claim(
        "forgets-less",
        f"With intruders scaled by {at:g}, the loss on plain text moves by {fall:+.3f} nats per token ({beside}). "
        f"{task}.",
        fall, low, high, "the nearest vector of the same matrix that is no intruder, scaled alike", *control, NAN, 0,
        "at most", bool(fall < 0 and high < 0 and better), _difference("intruder", at, "intruder", 1.0),
    )  # fmt: skip
    return [told] if study.metric is None else [told, *_beside_the_update(study, found, at)]


def _beside_the_update(study: Study, found: Mapping[tuple[str, float], Measured], at: float) -> list[Claim]:
    mine = found["intruder", at]
    kept = {scale: one.metric.mean() for (kind, scale), one in found.items() if kind == "update" and scale <= 1}
    if len(kept) < 2:
        return []
    # the update that keeps at least as much of the task, and the least of those; else the one that keeps most
    enough = {scale: value for scale, value in kept.items() if value >= mine.metric.mean()}
    scale = min(enough, key=enough.get) if enough else max(kept, key=kept.get)
    other = found["update", scale]
    clusters = study.prompts(of_text(study)).clusters
    value, low, high = clustered_bootstrap(mine.loss - other.loss, clusters, seed=study.seed)
    return [
        Claim(
            "beats-the-update",
            f"Beside the whole update scaled by {scale:g}, which keeps the task at {other.metric.mean():.3g} ("
            f"intruders by {at:g}: {mine.metric.mean():.3g}), the loss on plain text is {value:+.3f} nats per token.",
            value, low, high, "the whole update, at the scale that keeps the task as well or barely better", 0, NAN,
            NAN, NAN, 0, "at most", bool(value < 0 and high < 0),
            _difference("intruder", at, "update", scale),
        )
    ]  # fmt: skip


def _difference(kind: str, at: float, other: str, scale: float) -> dict:
    return {
        "table": "texts", "statistic": "mean", "column": "loss", "cluster": "cluster",
        "where": {"kind": kind, "scale": at}, "minus": {"where": {"kind": other, "scale": scale}},
    }  # fmt: skip
