"""Effects of a decoder row on the logits: its direction through the model's final norm and
unembedding.

A row replaces the output of the last block, at root mean square 1. The logits of a zero vector and
the mean over the vocabulary are subtracted, which leaves the tokens that the direction promotes and
suppresses, compared with random rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines import Batch, Engine
from interp.errors import OptionError
from interp.interventions.edits import Replace
from interp.models.model import Model
from interp.sites import Site

RESIDUAL_HOOKS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Hooks of sites that are written in the residual stream's basis."""

_ROWS_PER_PASS = 32


class TokenEffects(NamedTuple):
    """For n rows: the ``k`` most promoted and most suppressed tokens with their effects, and the
    largest absolute effect.
    """

    promoted: Int[Tensor, "n k"]
    up: Float[Tensor, "n k"]
    suppressed: Int[Tensor, "n k"]
    down: Float[Tensor, "n k"]
    largest: Float[Tensor, " n"]


def require_residual_site(site: Site) -> None:
    """Raise OptionError for a site that is not in the residual stream's basis."""
    if site.hook not in RESIDUAL_HOOKS:
        raise OptionError(
            f"{site} is not in the residual stream, so decoder rows have no direct effect on"
            " logits; leave logit effects out with --no-logits"
        )


def direction_logits(
    engine: Engine, model: Model, rows: Float[Tensor, "n D"], n_tokens: int
) -> Iterator[Float[Tensor, "b V"]]:
    """Logits of the first ``n_tokens`` tokens minus their mean, for a few rows at a time; 0 for
    rows of zeros.
    """
    last_site = Site(model.anatomy.n_layers - 1, "hook_resid_post")
    rms = rows.double().square().mean(1, keepdim=True).sqrt()
    rows = (rows.double() / rms.where(rms > 0, torch.ones_like(rms))).to(model.dtype)
    step = min(_ROWS_PER_PASS, model.context_length - 1)
    for part in rows.split(step):
        part = torch.cat([torch.zeros_like(part[:1]), part]).to(model.device)[None]
        shape = part.shape[:2]
        empty_batch = Batch(
            torch.zeros(shape, dtype=torch.int64, device=model.device),
            torch.ones(shape, dtype=torch.bool, device=model.device),
        )
        logits = (
            engine.run(model, empty_batch, edits=[Replace(last_site, part)], keep=None)
            .require_logits()[0, :, :n_tokens]
            .double()
        )
        effects = logits[1:] - logits[:1]
        yield effects - effects.mean(1, keepdim=True)


def token_effects(
    engine: Engine, model: Model, rows: Float[Tensor, "n D"], n_tokens: int, k: int = 10
) -> TokenEffects:
    """Effects of rows on ``n_tokens`` tokens, strongest first."""
    blocks = []
    for part in direction_logits(engine, model, rows, n_tokens):
        up, down = part.topk(min(k, n_tokens)), (-part).topk(min(k, n_tokens))
        blocks.append((up.indices, up.values, down.indices, -down.values, part.abs().amax(1)))
    return TokenEffects(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def random_effects(
    engine: Engine, model: Model, width: int, n_tokens: int, draws: int, seed: int = 0
) -> Float[Tensor, " n"]:
    """Largest effects of ``draws`` random rows (the norm of a row does not matter)."""
    rows = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed))
    return torch.cat(
        [part.abs().amax(1) for part in direction_logits(engine, model, rows, n_tokens)]
    )
