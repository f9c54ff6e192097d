"""Tables of the baselines of discovery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.analyzers.discovery_baselines.compute import Change, Halves
from interp.analyzers.discovery_baselines.roles import BINS, END, EVERYWHERE, ROLES, bin_labels
from interp.experiments.discovery import token_labels
from interp.prompts.tokens import Tokenizer
from interp.rows import flag, key, measure, rows_table, text
from interp.table import Table

CONTEXT = 12
"""Tokens of the text that an example shows before the position."""


class RoleRow:
    """A row per role of tokens."""

    role: str = key("what the tokens are: see the analyzer")
    where: str = key("positions of the texts")
    positions: int = measure("number of positions")
    change: float = measure("mean change of the log odds that the next token is one", "nats")
    control_mean: float = measure("mean change of the controls", "nats", optional=True)
    control_low: float = measure("smallest change of a control", "nats", optional=True)
    control_high: float = measure("largest change of a control", "nats", optional=True)


class TokenRow:
    """A row per token, largest contribution first."""

    token: str = text("the token")
    token_id: int = key("token id")
    contribution: float = measure(
        "mean over positions of p times the change of its log probability", "nats"
    )
    share: float = measure("contribution, as a share of the divergence")
    control_mean: float = measure("mean contribution of the controls", "nats", optional=True)
    control_low: float = measure("smallest contribution of a control", "nats", optional=True)
    control_high: float = measure("largest contribution of a control", "nats", optional=True)
    form: bool = flag("a special token, or one without a letter or digit")


class PositionRow:
    """A row per position, largest divergence first."""

    place: int = key("place in the ranking, from 1")
    prompt_id: int = key("text, by its position in the file, from 0")
    position: int = key("position in the text, from 0, after which the next token is predicted")
    divergence: float = measure("KL(fine-tuned || base) of the next token", "nats")
    share: float = measure("divergence, as a share of the sum over all positions")
    token: str = text("the token that contributes most")
    example: str = text("the text there; «» is where the next token is predicted")


class ModelRow:
    """A row per model: the fine-tuned model, then its controls."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = text("its name")
    divergence: float = measure("mean KL(model || base) over positions", "nats")
    context_free_share: float = measure(
        "share of the divergence that one fitted bias of the logits explains on other texts"
    )
    context_free_share_of_mean: float = measure(
        "the same of the mean change of the log probabilities as the bias"
    )


def roles_table(kind: str, changes: Sequence[Change], present: np.ndarray) -> Table:
    """Changes of roles that any token has and whose log odds changed; the end of the text by
    position too.
    """
    where = [EVERYWHERE, *bin_labels()]
    means = np.stack([change.role_means for change in changes])
    count = np.column_stack([changes[0].role_count.sum(1), changes[0].role_count])
    listed = [
        (role, at)
        for role, name in enumerate(ROLES)
        for at in range(1 + len(BINS) if name == END else 1)
        if present[role] and count[role, at] and means[0, role, at]
    ]
    roles, places = np.array(listed, np.int64).reshape(-1, 2).T
    return rows_table(
        RoleRow,
        kind,
        {
            "role": [ROLES[role] for role in roles],
            "where": [where[at] for at in places],
            "positions": count[roles, places].astype(np.int64),
            "change": means[0, roles, places],
            **of_controls(means[1:, roles, places]),
        },
    )


def tokens_table(
    kind: str, changes: Sequence[Change], form: np.ndarray, tokenizer: Tokenizer, limit: int
) -> Table:
    """The tokens that contribute most to the divergence, of either sign."""
    means = np.stack([change.contribution / change.count.sum() for change in changes])
    some = np.argsort(-np.abs(means[0]), kind="stable")[:limit]
    some = some[means[0, some] != 0]
    total = changes[0].mean_divergence
    return rows_table(
        TokenRow,
        kind,
        {
            "token": token_labels(tokenizer, some.tolist()),
            "token_id": some,
            "contribution": means[0, some],
            "share": means[0, some] / (total if total else 1.0),
            **of_controls(means[1:, some]),
            "form": form[some],
        },
    )


def positions_table(kind: str, change: Change, halves: Halves, tokenizer: Tokenizer) -> Table:
    """The positions with the largest divergence, with their text."""
    total = change.divergence.sum()
    return rows_table(
        PositionRow,
        kind,
        {
            "place": np.arange(1, len(change.top_divergence) + 1),
            "prompt_id": np.array([halves.prompt_ids[row] for row in change.top_text], np.int64),
            "position": change.top_position,
            "divergence": change.top_divergence,
            "share": change.top_divergence / (total if total else 1.0),
            "token": token_labels(tokenizer, change.top_token.tolist()),
            "example": [
                _example(tokenizer, halves.texts[row].ids, at)
                for row, at in zip(
                    change.top_text.tolist(), change.top_position.tolist(), strict=True
                )
            ],
        },
    )


def models_table(
    kind: str, names: Sequence[str], changes: Sequence[Change], shares: Float[np.ndarray, "2 M"]
) -> Table:
    """Every model's divergence and context-free shares: of the fitted bias, of the mean change."""
    return rows_table(
        ModelRow,
        kind,
        {
            "model_number": np.arange(len(names)),
            "model": list(names),
            "divergence": np.array([change.mean_divergence for change in changes]),
            "context_free_share": shares[0],
            "context_free_share_of_mean": shares[1],
        },
    )


def of_controls(values: Float[np.ndarray, "K n"]) -> dict[str, Any]:
    """Mean, smallest and largest over controls; nothing without controls."""
    if not len(values):
        return {}
    over = (("mean", np.mean), ("low", np.min), ("high", np.max))
    return {f"control_{name}": reduce(values, axis=0) for name, reduce in over}


def _example(tokenizer: Tokenizer, ids: Sequence[int], at: int) -> str:
    before = tokenizer.decode(list(ids[max(0, at + 1 - CONTEXT) : at + 1]))
    return f"{before}«»{tokenizer.decode(list(ids[at + 1 : at + 5]))}"
