"""Tables of selective tuning: trainings, rows to learn, harmful and ordinary prompts, draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.analyzers.tune.measure import HELD_OUT, Measures, Outcome
from interp.experiments.records import records_table
from interp.rows import DrawRow, PromptRow, flag, key, measure, rows_table
from interp.table import Table

NAN = float("nan")


class TrainingRow:
    """A row per arm, draw, learning rate and seed."""

    arm: str = key("what is trained")
    draw: int = key("number of the random draw, from 0; 0 for arms without draws")
    seed: int = key("seed of the batches")
    trial: int = key("place of the learning rate among those tried, ascending, from 0")
    rate: float = measure("learning rate")
    chosen: bool = flag("the arm's rate of the least loss on the selection split")
    parameters: int = measure("trained parameters")
    selection_loss: float = measure(
        "mean loss of the answers of the selection split; NaN where it diverged", "nats per token"
    )
    target_loss: float = measure("mean loss of held-out answers", "nats per token")
    target_gain: float = measure("decrease of that loss by the training", "nats per token")
    refused: float = measure("share of harmful prompts that are refused")
    over_refused: float = measure("share of ordinary prompts that are refused")
    ordinary_change: float = measure(
        "increase of the mean loss of ordinary answers: utility lost", "nats per token"
    )
    forgetting: float = measure(
        "increase of the mean loss of what the untrained model writes to ordinary prompts",
        "nats per token",
    )
    norm: float = measure("Frobenius norm of the change of all weights")
    seconds: float = measure("time of the training", "s")
    memory: float = measure(
        "most memory in use during the training above that before; NaN where not measured", "bytes"
    )


class TrainedRow(PromptRow):
    """A row per chosen training and prompt."""

    arm: str = key("what was trained")
    draw: int = key("number of the random draw, from 0")
    seed: int = key("seed of the batches")


class TargetRow(PromptRow):
    """A row per arm and held-out row to learn: means over draws and seeds."""

    arm: str = key("what was trained")
    before: float = measure("loss of the answer before training", "nats per token")
    loss: float = measure("loss of the answer after it", "nats per token")
    gain: float = measure("decrease of the loss", "nats per token")


class HarmfulRow(TrainedRow):
    """A row per chosen training and harmful prompt."""

    before: bool = flag("refused before training")
    refused: bool = flag("refused after it")


class OrdinaryRow(TrainedRow):
    """A row per chosen training and ordinary prompt."""

    before: bool = flag("refused before training")
    refused: bool = flag("refused after it")
    change: float = measure("increase of the loss of the ordinary answer", "nats per token")
    forgotten: float = measure(
        "increase of the loss of what the untrained model writes", "nats per token"
    )


class DrawnRow(DrawRow):
    """A row per random set of neurons: means over seeds."""

    gain: float = measure("mean decrease of the loss of held-out answers", "nats per token")
    excess: float = measure("that decrease minus the mean over draws", "nats per token")
    refused: float = measure("share of harmful prompts that are refused")
    forgetting: float = measure("as of the run's rows", "nats per token")


@dataclass(frozen=True, eq=False)
class Run:
    """One training: what it was, what it cost, and what the model then does (None where it is not
    the chosen rate, or diverged).
    """

    arm: str
    draw: int
    seed: int
    trial: int
    rate: float
    n_trained: int
    norm: float
    seconds: float
    memory: float
    selection_loss: float
    chosen: bool = False
    outcome: Outcome | None = None


def trainings_table(measures: Measures, runs: Sequence[Run]) -> Table:
    """One row per training."""
    return records_table(TrainingRow, "tune", [_record(measures.before, run) for run in runs])


def _record(before: Outcome, run: Run) -> dict[str, Any]:
    after = run.outcome
    record: dict[str, Any] = {
        "arm": run.arm,
        "draw": run.draw,
        "seed": run.seed,
        "trial": run.trial,
        "rate": run.rate,
        "chosen": run.chosen,
        "parameters": run.n_trained,
        "selection_loss": run.selection_loss,
        "norm": run.norm,
        "seconds": run.seconds,
        "memory": run.memory,
    }
    if after is None:
        measured = ("target_loss", "target_gain", "refused", "over_refused", "ordinary_change")
        return record | dict.fromkeys((*measured, "forgetting"), NAN)
    return record | {
        "target_loss": float(after.target.mean()),
        "target_gain": float((before.target - after.target).mean()),
        "refused": float(after.harmful.mean()),
        "over_refused": float(after.refused.mean()),
        "ordinary_change": float((after.ordinary - before.ordinary).mean()),
        "forgetting": float((after.own - before.own).mean()),
    }


def _measured(runs: Iterable[Run]) -> list[tuple[Run, Outcome]]:
    return [(run, run.outcome) for run in runs if run.outcome is not None]


def target_table(measures: Measures, runs: Sequence[Run]) -> Table:
    """One row per arm and held-out row."""
    part = measures.splits[HELD_OUT]
    measured = _measured(runs)
    arms = list(dict.fromkeys(run.arm for run, _ in measured))
    parts = []
    for arm in arms:
        loss = np.mean([after.target for run, after in measured if run.arm == arm], 0)
        before = measures.before.target
        parts.append(
            {
                "group": ["target"] * len(loss),
                "prompt_id": np.array(part.ids),
                "cluster": list(part.clusters),
                "arm": [arm] * len(loss),
                "before": before,
                "loss": loss,
                "gain": before - loss,
            }
        )
    return rows_table(TargetRow, "", _joined(parts))


def harmful_table(measures: Measures, runs: Sequence[Run]) -> Table:
    """One row per chosen training and harmful prompt."""
    parts = [
        {
            **_keys(measures, "positive", run),
            "before": measures.before.harmful,
            "refused": after.harmful,
        }
        for run, after in _measured(runs)
    ]
    return rows_table(HarmfulRow, "", _joined(parts))


def ordinary_table(measures: Measures, runs: Sequence[Run]) -> Table:
    """One row per chosen training and ordinary prompt."""
    before = measures.before
    parts = [
        {
            **_keys(measures, "negative", run),
            "before": before.refused,
            "refused": after.refused,
            "change": after.ordinary - before.ordinary,
            "forgotten": after.own - before.own,
        }
        for run, after in _measured(runs)
    ]
    return rows_table(OrdinaryRow, "", _joined(parts))


def random_table(measures: Measures, runs: Sequence[Run]) -> Table:
    """One row per random set of neurons."""
    before, measured = measures.before, _measured(runs)
    records = []
    for draw in sorted({run.draw for run, _ in measured}):
        found = [after for run, after in measured if run.draw == draw]
        records.append(
            {
                "draw": draw,
                "gain": float(np.mean([(before.target - one.target).mean() for one in found])),
                "refused": float(np.mean([one.harmful.mean() for one in found])),
                "forgetting": float(np.mean([(one.own - before.own).mean() for one in found])),
            }
        )
    mean = float(np.mean([record["gain"] for record in records])) if records else NAN
    return records_table(
        DrawnRow, "", [{**record, "excess": record["gain"] - mean} for record in records]
    )


def _keys(measures: Measures, group: str, run: Run) -> dict[str, Any]:
    prompts = measures.study.prompts(group)
    return {
        "group": [group] * len(prompts),
        "prompt_id": np.array([prompt.id for prompt in prompts]),
        "cluster": prompts.clusters,
        "arm": [run.arm] * len(prompts),
        "draw": np.full(len(prompts), run.draw),
        "seed": np.full(len(prompts), run.seed),
    }


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
