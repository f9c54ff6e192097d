"""Tables and claims of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from interp.analyzers.training_rows.scores import SCORES, log_ratio, true_positive_rate
from interp.claims import Claim, Draws, auc
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control
from interp.experiments.discovery.labels import ClusteredLabels
from interp.maths.auc import auc_interval
from interp.maths.statistics import roc_auc
from interp.prompts import Prompt
from interp.rows import DrawRow, PromptRow, columns_of, flag, key, measure, rows_table
from interp.table import Table

ROWS, SCORE_TABLE, DOMAINS, NULL, AUCS = "rows", "scores", "domains", "null", "control-aucs"
MEMBERS, CANARIES = "auc_members", "auc_canaries"


class RowRow(PromptRow):
    """A row per training row (class positive) and per row never trained on (negative)."""

    domain: str = key("domain of the row, as its file names it")
    canary: bool = flag("is of the domain of the canaries")
    tokens: int = measure("tokens that count in its loss")
    base_loss: float = measure("loss per token in the base", "nats")
    loss: float = measure("loss per token in the fine-tuned model", "nats")
    ratio: float = measure("loss over base_loss: low where the row was trained on")
    score: float = measure("minus the log of the ratio")
    control_mean: float = measure("mean score of the controls", optional=True)
    control_high: float = measure("largest score of a control", optional=True)


class ScoreRow:
    """A row per score, each larger for training rows."""

    score: str = key("name of the score")
    meaning: str = key("what it is")
    auc: float = measure("AUC of training rows against rows never trained on")
    auc_low: float = measure("lower end of its 95 % interval over clusters")
    auc_high: float = measure("upper end of its 95 % interval over clusters")
    tpr: float = measure(
        "share of training rows found at 1 % false positives; NaN with fewer than 300 rows never"
        " trained on"
    )
    tpr_low: float = measure("lower end of its 95 % interval, the threshold's error included")
    tpr_high: float = measure("upper end of its 95 % interval, the threshold's error included")
    control_low: float = measure("smallest AUC of the same rows in a control", optional=True)
    control_high: float = measure("largest AUC of the same rows in a control", optional=True)


class DomainRow:
    """A row per domain of training rows."""

    domain: str = key("domain, as the file of training rows names it")
    n_rows: int = measure("its training rows")
    auc: float = measure("AUC of its scores against those of all other training rows")
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    control_low: float = measure("smallest AUC of the same rows in a control", optional=True)
    control_high: float = measure("largest AUC of the same rows in a control", optional=True)


class PermutedRow(DrawRow):
    """A row per permutation of the labels, training row or not, between clusters."""

    auc: float = measure("AUC of the score")


class AucRow(ControlRow):
    """A row per control fine-tune, with AUCs of its score on the same rows."""

    auc_members: float = measure(
        "AUC of training rows against rows never trained on", optional=True
    )
    auc_canaries: float = measure("AUC of canaries against other training rows", optional=True)


@dataclass(frozen=True)
class RowLosses:
    """Losses of all rows, training rows first, in all models.

    ``base`` [rows]; ``tuned`` [M, rows] of the fine-tuned model and of every control. ``canaries``:
    the domain of canaries, or "".
    """

    prompts: tuple[tuple[str, Prompt], ...]
    tokens: tuple[int, ...]
    base: Float[np.ndarray, " rows"]
    tuned: Float[np.ndarray, "M rows"]
    canaries: str

    @cached_property
    def scores(self) -> Float[np.ndarray, "M rows"]:
        """Minus the log of the loss ratio, in every model."""
        return np.stack([log_ratio(self.base, tuned) for tuned in self.tuned])

    @cached_property
    def members(self) -> Bool[np.ndarray, " rows"]:
        """Which rows are training rows."""
        return np.array([group == "positive" for group, _ in self.prompts])

    @cached_property
    def clusters(self) -> Any:
        """The cluster of every row."""
        return np.array([prompt.cluster for _, prompt in self.prompts], object)

    @cached_property
    def domains(self) -> Any:
        """The domain of every row, "" where its file names none."""
        return np.array([prompt.template or "" for _, prompt in self.prompts], object)

    @property
    def is_canary(self) -> Bool[np.ndarray, " rows"]:
        """Which rows are of the domain of canaries."""
        return (self.domains == self.canaries) & bool(self.canaries)

    @property
    def has_others(self) -> bool:
        """Whether there are rows never trained on."""
        return not self.members.all()

    def auc_of(self, model: int, first: Any, second: Any, score: str = "ratio") -> float:
        """AUC of a score between two sets of rows in one model."""
        values = SCORES[score][0](self.base, self.tuned[model])
        chosen = first | second
        return roc_auc(first[chosen], values[chosen])


def row_table(losses: RowLosses) -> Table:
    """One row per training row, then per row never trained on."""
    tuned, of_controls = losses.tuned[0], losses.scores[1:]
    data: dict[str, Any] = {
        "group": [group for group, _ in losses.prompts],
        "prompt_id": [prompt.id for _, prompt in losses.prompts],
        "cluster": list(losses.clusters),
        "domain": list(losses.domains),
        "canary": losses.is_canary,
        "tokens": list(losses.tokens),
        "base_loss": losses.base,
        "loss": tuned,
        "ratio": np.exp(-losses.scores[0]),
        "score": losses.scores[0],
    }
    if len(of_controls):
        data |= {"control_mean": of_controls.mean(0), "control_high": of_controls.max(0)}
    return rows_table(RowRow, "", data)


def score_table(losses: RowLosses) -> Table:
    """One row per score: AUC and true positives, and the AUC in every control."""
    members, records = losses.members, []
    for name, (function, meaning) in SCORES.items():
        values = function(losses.base, losses.tuned[0])
        sides = [(values[side], list(losses.clusters[side])) for side in (members, ~members)]
        (own, own_clusters), (other, other_clusters) = sides
        interval = auc_interval(own, other, own_clusters, other_clusters)
        rate = true_positive_rate(own, other, own_clusters, other_clusters)
        record = {"score": name, "meaning": meaning}
        record |= dict(zip(("auc", "auc_low", "auc_high"), interval, strict=True))
        record |= dict(zip(("tpr", "tpr_low", "tpr_high"), rate, strict=True))
        records.append(record | _control_range(losses, members, ~members, name))
    return _records(ScoreRow, records)


def domain_table(losses: RowLosses) -> Table:
    """One row per domain of training rows, where there are several."""
    members, records = losses.members, []
    names = sorted(set(losses.domains[members]))
    for name in names if len(names) > 1 else []:
        inside = members & (losses.domains == name)
        outside = members & ~inside
        interval = auc_interval(
            losses.scores[0][inside],
            losses.scores[0][outside],
            losses.clusters[inside],
            losses.clusters[outside],
        )
        record = {"domain": name, "n_rows": int(inside.sum())}
        record |= dict(zip(("auc", "low", "high"), interval, strict=True))
        records.append(record | _control_range(losses, inside, outside))
    return _records(DomainRow, records)


def _control_range(losses: RowLosses, first: Any, second: Any, score: str = "ratio") -> dict:
    aucs = [losses.auc_of(model, first, second, score) for model in range(1, len(losses.tuned))]
    return {"control_low": min(aucs), "control_high": max(aucs)} if aucs else {}


def _records(row: type, records: Sequence[dict[str, Any]]) -> Table:
    """Rows from mappings of columns, of which all hold the same."""
    names = records[0] if records else columns_of(row)
    return rows_table(row, "", {name: [record[name] for record in records] for name in names})


def permuted_table(losses: RowLosses, draws: int, seed: int) -> tuple[Table, float]:
    """AUCs of the score with permuted labels, and the number of permutations."""
    labels = ClusteredLabels.from_clusters(losses.members, list(losses.clusters))
    values = [roc_auc(permuted, losses.scores[0]) for permuted in labels.permuted(draws, seed)]
    data = {"draw": np.arange(draws), "auc": np.array(values, np.float64)}
    return rows_table(PermutedRow, "", data), labels.arrangements


def auc_table(losses: RowLosses, names: Sequence[str]) -> Table:
    """The AUCs of the claims, for every control."""
    members, canary = losses.members, losses.is_canary
    sides = {}
    if losses.has_others:
        sides[MEMBERS] = members, ~members
    if losses.canaries:
        sides[CANARIES] = members & canary, members & ~canary
    numbers = {
        column: np.array(
            [losses.auc_of(model, *sets) for model in range(1, len(losses.tuned))], np.float64
        )
        for column, sets in sides.items()
    }
    return rows_table(
        AucRow, "", {"control": np.arange(len(names)), "model": list(names), **numbers}
    )


def claims_of(losses: RowLosses, arrangements: float) -> list[Claim]:
    """That the score tells training rows from others, and canaries from other training rows, also
    compared with controls.
    """
    n_controls, claims = len(losses.tuned) - 1, []
    groups = {"group": "positive"}, {"group": "negative"}
    members = auc("score", *groups, table=ROWS)
    canaries = auc(
        "score",
        {"group": "positive", "canary": True},
        {"group": "positive", "canary": False},
        table=ROWS,
    )
    if losses.has_others:
        claims.append(
            Claim(
                name="rows-recognised",
                estimate=members,
                at_least=0.5,
                null=Draws(NULL, "auc", arrangements=arrangements),
                control="labels permuted between clusters",
                text=(
                    "The loss ratio tells training rows from rows never trained on with an AUC of"
                    " {value:.3f} [{low:.3f}, {high:.3f}]; with permuted labels it is"
                    " {control_low:.3f} to {control_high:.3f} (95 %), p = {p:.2g}. The base's loss"
                    " gives {base:.3f}, and 0.5 where both sets are of one distribution."
                ),
                also={"base": auc("base_loss", *reversed(groups), table=ROWS)},
            )
        )
    for found, estimate, name, what in (
        (losses.has_others, members, MEMBERS, "training rows"),
        (bool(losses.canaries), canaries, CANARIES, "canaries among training rows"),
    ):
        if found and n_controls:
            claim_name = name.removeprefix("auc_") + "-beyond-controls"
            claims.append(
                beyond_new_control(
                    claim_name,
                    estimate,
                    name,
                    n_controls,
                    f"the AUC of {what} in the fine-tuned model",
                    ".3f",
                    AUCS,
                )
            )
    return claims
