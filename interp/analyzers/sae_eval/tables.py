"""Sub-tables of an evaluation, and its limitations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.analyzers.sae_eval.compute import (
    DEVIATION,
    DICTIONARY,
    PCA,
    PCA_DIFFERENCE,
    RANDOM,
    EvaluationSums,
)
from interp.analyzers.sae_eval.findings import Wording
from interp.sae.analysis.input_output import BASE, DIFFERENCE, InputOutput
from interp.sae.analysis.scores import ALL, Scores
from interp.sae.analysis.splice import CLEAN, MEAN, ZERO, recovered_share
from interp.table import Table, table

Shares = Mapping[tuple[str, str, str, str], float]
"""Recovered share by (model, dictionary, cost, ablation)."""


def recovered_shares(sums: EvaluationSums) -> dict[tuple[str, str, str, str], float]:
    """Recovered share of each ablation's cost, over all prompts."""
    total = {key: part.sum(1) for key, part in sums.costs.items()}
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


def prompts_table(sums: EvaluationSums, ids: np.ndarray, clusters: np.ndarray) -> Table:
    """Table of kind ``sae-eval-prompts``: squared errors per prompt."""
    error_columns = {
        name: (part, "measure", f"summed squared error of {name}")
        for name, part in sums.prompts.items()
    }
    error_columns[DEVIATION] = (
        sums.prompts[DEVIATION],
        "measure",
        "summed squared distance from the mean of all tokens",
    )
    for name, part in sums.differences.items():
        quantity = {
            DEVIATION: "distance from the mean",
            PCA_DIFFERENCE: "error of components of tuned minus base alone",
        }.get(name, f"error of {name}")
        error_columns[f"difference_{name}"] = (
            part,
            "measure",
            f"summed squared {quantity}, of tuned minus base",
        )
    return table(
        "sae-eval-prompts",
        {
            "prompt_id": (ids, "key", "position in the file"),
            "cluster": (clusters, "key", "cluster of prompts"),
            "predicted": (sums.counts[0], "measure", "number of next tokens"),
            "positions": (sums.counts[1], "measure", "number of positions"),
            **error_columns,
        },
    )


def splice_table(
    sums: EvaluationSums, ids: np.ndarray, clusters: np.ndarray, inputs_outputs: InputOutput
) -> Table:
    """Table of kind ``sae-eval-splice``: costs per prompt, by what replaces the target."""
    keys = list(sums.costs)
    model = (
        np.repeat(np.array([role for role, _ in keys], object), len(ids)),
        "key",
        "the model in which the site is replaced",
    )
    return table(
        "sae-eval-splice",
        {
            "condition": (
                np.repeat(np.array([name for _, name in keys], object), len(ids)),
                "key",
                "replacement of the site's activation",
            ),
            "prompt_id": (np.tile(ids, len(keys)), "key", "position in the file"),
            "cluster": (np.tile(clusters, len(keys)), "key", "cluster of prompts"),
            "loss": (
                np.concatenate([sums.costs[key][0] for key in keys]),
                "measure",
                "summed loss of next tokens",
                "nats",
            ),
            "kl": (
                np.concatenate([sums.costs[key][1] for key in keys]),
                "measure",
                "summed divergence from the clean model",
                "nats",
            ),
            **({"model": model} if len(inputs_outputs.spliced_roles) > 1 else {}),
        },
    )


def recovered_table(shares: Shares, inputs_outputs: InputOutput) -> Table:
    """Table of kind ``sae-eval-recovered``: shares of ablations' costs that are recovered."""
    key_columns = [np.array([key[i] for key in shares], dtype=object) for i in range(4)]
    return table(
        "sae-eval-recovered",
        {
            "dictionary": (key_columns[1], "key", "replacement of the site's activation"),
            "cost": (
                key_columns[2],
                "key",
                "ce: loss of next tokens; kl: divergence from the clean model",
            ),
            "ablation": (
                key_columns[3],
                "key",
                "the ablation: mean or zero at the site",
            ),
            "recovered": (
                np.array(list(shares.values())),
                "measure",
                "share of the ablation's cost that is recovered",
            ),
            **(
                {"model": (key_columns[0], "key", "the model in which the site is replaced")}
                if len(inputs_outputs.spliced_roles) > 1
                else {}
            ),
        },
    )


def part_errors(scores: Scores) -> dict[str, dict[str, Any]]:
    """Errors of every non-empty part, averaged per token and per conversation."""
    parts = {part: scores.summary(part) for part in scores.names if scores.summary(part)["tokens"]}
    names = ("tokens", "conversations", "mse", "conversation_mse", "fvu")
    return {
        part: {name: row[name] for name in names if np.isfinite(row[name])}
        for part, row in parts.items()
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
    parts = {ALL: sums.prompts, DIFFERENCE: sums.differences}
    without_variance = [
        part for part, errors in parts.items() if errors and not errors[DEVIATION].sum() > 0
    ]
    sentences = {
        ALL: (
            "The target is the same on every token (are the models identical?), so its variance"
            " is 0."
        ),
        DIFFERENCE: (
            "Tuned minus base is the same on every token (are the models identical?), so its"
            " variance is 0."
        ),
    }
    return [
        *(sentences[part] for part in without_variance),
        *costless,
        *prompt_limits,
        (
            f"{wording.fitted} and the mean are fitted on the tokens on which they are scored,"
            " which favours them."
        ),
        (
            "Directions that reconstruct well need not be those that the model uses. The true"
            " features are unknown here, and on synthetic data good reconstruction can hide"
            " missed features."
        ),
        *wording.limits,
    ]
