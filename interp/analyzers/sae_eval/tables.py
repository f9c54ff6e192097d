"""Sub-tables of an evaluation, and its limitations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.analyzers.sae_eval.compute import (
    DEVIATION,
    DICTIONARY,
    PCA,
    RANDOM,
    EvaluationSums,
)
from interp.analyzers.sae_eval.findings import Wording
from interp.rows import PromptRow, key, measure, rows_table
from interp.sae.analysis.input_output import BASE
from interp.sae.analysis.scores import Scores
from interp.sae.analysis.splice import CLEAN, MEAN, ZERO, recovered_share
from interp.table import Table

Shares = Mapping[tuple[str, str, str, str], float]
"""Recovered share by (model, dictionary, cost, ablation)."""


def recovered_shares(sums: EvaluationSums) -> dict[tuple[str, str, str, str], float]:
    """Recovered share of each ablation's cost, over all prompts."""
    total = {condition: part.sum(1) for condition, part in sums.costs.items()}
    return {
        (role, name, what, over): recovered_share(
            total[role, name][i], total[role, CLEAN][i], total[role, over][i]
        )
        for role in dict.fromkeys(role for role, _ in total)
        for name in (DICTIONARY, PCA, RANDOM)
        for i, what in enumerate(("ce", "kl"))
        for over in (MEAN, ZERO)
        if sums.counts[i].sum()
    }


class PromptErrorRow:
    """A row per prompt; the columns ``difference_...`` are those of a crosscoder."""

    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    predicted: int = measure("number of next tokens")
    positions: int = measure("number of positions")
    deviation: float = measure("summed squared distance from the mean of all tokens")
    dictionary: float = measure("summed squared error of dictionary")
    pca: float = measure("summed squared error of pca")
    random: float = measure("summed squared error of random")
    difference_deviation: float = measure(
        "summed squared distance from the mean, of tuned minus base", optional=True
    )
    difference_dictionary: float = measure(
        "summed squared error of dictionary, of tuned minus base", optional=True
    )
    difference_pca: float = measure(
        "summed squared error of pca, of tuned minus base", optional=True
    )
    difference_random: float = measure(
        "summed squared error of random, of tuned minus base", optional=True
    )
    difference_pca_alone: float = measure(
        "summed squared error of components of tuned minus base alone, of tuned minus base",
        optional=True,
    )


class SpliceRow:
    """A row per model, condition and prompt; ``model`` is a column where there are two."""

    condition: str = key("replacement of the site's activation")
    prompt_id: int = PromptRow.prompt_id
    cluster: str = PromptRow.cluster
    loss: float = measure("summed loss of next tokens", "nats")
    kl: float = measure("summed divergence from the clean model", "nats")
    model: str = key("the model in which the site is replaced", optional=True)


class RecoveredRow:
    """A row per model, dictionary, cost and ablation; ``model`` is a column where there are two."""

    dictionary: str = SpliceRow.condition
    cost: str = key("ce: loss of next tokens; kl: divergence from the clean model")
    ablation: str = key("the ablation: mean or zero at the site")
    recovered: float = measure("share of the ablation's cost that is recovered")
    model: str = SpliceRow.model


def prompts_table(sums: EvaluationSums, ids: np.ndarray, clusters: np.ndarray) -> Table:
    """Table of kind ``sae-eval-prompts``: squared errors per prompt."""
    return rows_table(
        PromptErrorRow,
        "sae-eval-prompts",
        {
            "prompt_id": ids,
            "cluster": clusters,
            "predicted": sums.counts[0],
            "positions": sums.counts[1],
            **sums.prompts,
            **{f"difference_{name}": part for name, part in sums.differences.items()},
        },
    )


def splice_table(sums: EvaluationSums, ids: np.ndarray, clusters: np.ndarray) -> Table:
    """Table of kind ``sae-eval-splice``: costs per prompt, by what replaces the target."""
    roles, conditions = (
        np.repeat(np.array(names, object), len(ids)) for names in zip(*sums.costs, strict=True)
    )
    loss, kl = np.concatenate(list(sums.costs.values()), 1)
    return rows_table(
        SpliceRow,
        "sae-eval-splice",
        {
            "condition": conditions,
            "prompt_id": np.tile(ids, len(sums.costs)),
            "cluster": np.tile(clusters, len(sums.costs)),
            "loss": loss,
            "kl": kl,
            **({"model": roles} if len(set(roles)) > 1 else {}),
        },
    )


def recovered_table(shares: Shares) -> Table:
    """Table of kind ``sae-eval-recovered``: shares of ablations' costs that are recovered."""
    roles, names, costs, ablations = zip(*shares, strict=True)
    return rows_table(
        RecoveredRow,
        "sae-eval-recovered",
        {
            "dictionary": names,
            "cost": costs,
            "ablation": ablations,
            "recovered": list(shares.values()),
            **({"model": roles} if len(set(roles)) > 1 else {}),
        },
    )


def part_errors(scores: Scores) -> dict[str, dict[str, Any]]:
    """Errors of every non-empty part, averaged per token and per conversation."""
    rows = {part: scores.summary(part) for part in scores.names}
    names = ("tokens", "conversations", "mse", "conversation_mse", "fvu")
    return {
        part: {name: row[name] for name in names if np.isfinite(row[name])}
        for part, row in rows.items()
        if row["tokens"]
    }


def limitations(
    shares: Shares, sums: EvaluationSums, prompt_limits: Sequence[str], wording: Wording
) -> list[str]:
    """Limitations: undefined numbers, prompts left out (``prompt_limits``), and what the numbers do
    not measure.
    """
    ablation_names = {MEAN: wording.mean, ZERO: wording.zero}
    costless = [
        f"Replacing the site by {ablation_names[ablation]}{' in the base' if role == BASE else ''}"
        f" costs no {what} here, so no share of it can be recovered."
        for (role, name, what, ablation), share in shares.items()
        if name == DICTIONARY and not np.isfinite(share)
    ]
    targets = {"The target": sums.prompts, "Tuned minus base": sums.differences}
    return [
        *(
            f"{target} is the same on every token (are the models identical?), so its variance is"
            " 0."
            for target, errors in targets.items()
            if errors and not errors[DEVIATION].sum() > 0
        ),
        *costless,
        *prompt_limits,
        f"{wording.fitted} and the mean are fitted on the tokens on which they are scored,"
        " which favours them.",
        "Directions that reconstruct well need not be those that the model uses. The true"
        " features are unknown here, and on synthetic data good reconstruction can hide"
        " missed features.",
        *wording.limits,
    ]
