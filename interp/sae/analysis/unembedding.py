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

STREAM = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Hooks of sites that are written in the residual stream's basis."""

_AT_ONCE = 32


class Effects(NamedTuple):
    """For n rows: the ``k`` most promoted and most suppressed tokens with their effects, and the
    largest absolute effect.
    """

    promoted: Int[Tensor, "n k"]
    up: Float[Tensor, "n k"]
    suppressed: Int[Tensor, "n k"]
    down: Float[Tensor, "n k"]
    largest: Float[Tensor, " n"]


def require_stream(site: Site) -> None:
    """Raise OptionError for a site that is not in the residual stream's basis."""
    if site.hook not in STREAM:
        raise OptionError(
            f"{site} is not in the residual stream, so decoder rows have no direct effect on"
            " logits; leave logit effects out with --no-logits"
        )


def unembedded(
    engine: Engine, model: Model, rows: Float[Tensor, "n D"], words: int
) -> Iterator[Float[Tensor, "b V"]]:
    """Logits of the first ``words`` tokens minus their mean, for a few rows at a time; 0 for rows
    of zeros.
    """
    end = Site(model.anatomy.n_layers - 1, "hook_resid_post")
    size = rows.double().square().mean(1, keepdim=True).sqrt()
    rows = (rows.double() / size.where(size > 0, torch.ones_like(size))).to(model.dtype)
    step = min(_AT_ONCE, model.context_length - 1)
    for part in rows.split(step):
        part = torch.cat([torch.zeros_like(part[:1]), part]).to(model.device)[None]
        shape = part.shape[:2]
        nothing = Batch(
            torch.zeros(shape, dtype=torch.int64, device=model.device),
            torch.ones(shape, dtype=torch.bool, device=model.device),
        )
        logits = (
            engine.run(model, nothing, edits=[Replace(end, part)], keep=None)
            .require_logits()[0, :, :words]
            .double()
        )
        effects = logits[1:] - logits[:1]
        yield effects - effects.mean(1, keepdim=True)


def effects(
    engine: Engine, model: Model, rows: Float[Tensor, "n D"], words: int, k: int = 10
) -> Effects:
    """Effects of rows on ``words`` tokens, strongest first."""
    found = []
    for part in unembedded(engine, model, rows, words):
        up, down = part.topk(min(k, words)), (-part).topk(min(k, words))
        found.append((up.indices, up.values, down.indices, -down.values, part.abs().amax(1)))
    return Effects(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def chance(
    engine: Engine, model: Model, width: int, words: int, draws: int, seed: int = 0
) -> Float[Tensor, " n"]:
    """Largest effects of ``draws`` random rows (the norm of a row does not matter)."""
    rows = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed))
    return torch.cat([part.abs().amax(1) for part in unembedded(engine, model, rows, words)])
