"""What a decoder row says to the vocabulary: its direction through the model's own final norm and
head.

A row is put in the place of the last block's output at the size that the norm gives anyway (root
mean square 1), the logits of nothing at all are subtracted, and the mean over the vocabulary: what
is left are tokens that the direction promotes and suppresses, beside random rows.
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
"""Hooks of sites whose directions are the residual stream's own."""

_AT_ONCE = 32


class Effects(NamedTuple):
    """Of n rows the ``k`` tokens promoted most and suppressed most with their effects, and the
    largest by size.
    """

    promoted: Int[Tensor, "n k"]
    up: Float[Tensor, "n k"]
    suppressed: Int[Tensor, "n k"]
    down: Float[Tensor, "n k"]
    largest: Float[Tensor, " n"]


def require_stream(site: Site) -> None:
    """OptionError for a site that is not written in the residual stream's own directions."""
    if site.hook not in STREAM:
        raise OptionError(
            f"what is written at {site} does not lie in the residual stream, so that rows have no"
            " effects on logits; leave them out with --no-logits"
        )


def unembedded(
    engine: Engine, model: Model, rows: Float[Tensor, "n D"], words: int
) -> Iterator[Float[Tensor, "b V"]]:
    """Logits of the first ``words`` tokens less their mean, of some rows at a time; a row of zeros
    says nothing.
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
    """Largest effects of ``draws`` random rows; their norm is every row's."""
    rows = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed))
    return torch.cat([part.abs().amax(1) for part in unembedded(engine, model, rows, words)])
