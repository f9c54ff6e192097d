"""Logit effects of decoder rows, compared with those of random rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from interp.experiments.records import records_table
from interp.maths.host import to_host
from interp.maths.statistics import benjamini_hochberg, permutation_p
from interp.rows import key, measure, text
from interp.sae import Dictionary
from interp.sae.analysis.unembedding import TokenEffects, random_effects, token_effects
from interp.study import Study
from interp.table import Table

N_TOKENS = 10


class LogitRow:
    """A row per latent, model and token."""

    latent: int = key("number of the latent")
    model: str = key("model of the decoder row and of the unembedding")
    side: str = key("promoted or suppressed")
    rank: int = key("by magnitude of the effect, from 0")
    token_id: int = key("the token's id")
    token: str = text("the token")
    effect: float = measure(
        "logit of the row at root mean square 1, minus the mean over the vocabulary", "logits"
    )


@dataclass(frozen=True)
class LogitEffects:
    """By model: effects of the selected latents' rows, and the largest effect of each random
    row.
    """

    latents: Sequence[int]
    effects: Mapping[str, TokenEffects]
    random_effects: Mapping[str, Float[NDArray, " n"]]

    def largest(self, role: str = "tuned") -> Float[NDArray, " n"]:
        """The largest absolute effect of each latent."""
        return to_host(self.effects[role].largest)

    def p(self, role: str = "tuned") -> tuple[NDArray, NDArray]:
        """p of the largest effects compared with random rows, and the same corrected for all
        latents.
        """
        p_values = np.array(
            [permutation_p(one, self.random_effects[role]) for one in self.largest(role)]
        )
        return p_values, benjamini_hochberg(p_values)

    def table(self, decode: Callable[[list[int]], str]) -> Table:
        """A row per latent, model and token."""
        rows = []
        for role, effects in self.effects.items():
            for side, ids, sizes in (
                ("promoted", effects.promoted, effects.up),
                ("suppressed", effects.suppressed, effects.down),
            ):
                for latent, tokens, values in zip(
                    self.latents, to_host(ids).tolist(), to_host(sizes).tolist(), strict=True
                ):
                    for rank, (token, value) in enumerate(zip(tokens, values, strict=True)):
                        rows.append(
                            {
                                "latent": latent,
                                "model": role,
                                "side": side,
                                "rank": rank,
                                "token_id": token,
                                "token": decode([token]),
                                "effect": value,
                            }
                        )
        return records_table(LogitRow, "", rows)


@torch.no_grad()
def logit_effects(
    study: Study, dictionary: Dictionary, latents: Sequence[int], draws: int
) -> LogitEffects:
    """Effects of some latents' decoder rows in the tuned model; for a crosscoder also the base's
    rows in the base.
    """
    models = dictionary.config.models
    rows = dictionary.W_dec.detach()[list(latents)].unflatten(1, (models, -1))
    roles = ("base", "tuned") if models == 2 else ("tuned",)
    n_tokens = min(len(study.pair.tokenizer), study.pair.tuned.anatomy.vocabulary)
    effects_of = {
        role: token_effects(study.engine, study.pair[role], rows[:, at], n_tokens, N_TOKENS)
        for at, role in enumerate(roles)
    }
    # enough that a single row can be significant after correction for all of them
    draws = max(draws, 20 * len(latents))
    random_of = {
        role: to_host(
            random_effects(
                study.engine, study.pair[role], rows.shape[2], n_tokens, draws, study.seed
            )
        )
        for role in roles
    }
    return LogitEffects(tuple(latents), effects_of, random_of)
