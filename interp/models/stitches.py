"""Several fine-tuned models of one base together: stitched updates, and averaged ones.

Localize-and-Stitch (He et al. 2024, arXiv 2408.13656): ``theta = theta_base + sum_i w_i *
movement_i`` with ``w_i = mask_i / sum_j mask_j`` for each weight, and 0 where no mask includes it.
In memory only, like grafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import PairError, VocabularyMismatch
from interp.models.grafts import Scope
from interp.models.merged_tensors import bare
from interp.models.pair import Pair
from interp.models.parameter_pairs import ParameterPair


def aligned(pairs: Sequence[Pair], parts: str = "blocks") -> tuple[Scope, ...]:
    """One scope per pair, with the same weights in the same order, all in the first pair's base.

    A parameter is included if any of the models changed it; a model that did not change it gets the
    base's values. Raises PairError for models of different bases, or of one base in different
    dtypes.
    """
    first = pairs[0].require_base("stitching")
    for pair in pairs[1:]:
        base = pair.require_base("stitching")
        if base.anatomy.vocabulary != first.anatomy.vocabulary:
            raise VocabularyMismatch(
                f"{pair.tuned.name} and its base are compared over {base.anatomy.vocabulary} token"
                f" ids, and {pairs[0].tuned.name} over {first.anatomy.vocabulary}; stitch"
                " fine-tuned models that are compared over the same token ids"
            )
        if pair.digests.get("base") != pairs[0].digests.get("base") or base.dtype != first.dtype:
            raise PairError(
                f"{pair.tuned.name} and {pairs[0].tuned.name} are not fine-tuned from one base;"
                " stitch fine-tuned models of the same base"
            )
    scopes = [Scope.of(pair, parts) for pair in pairs]
    theirs = [{pair.name: pair for pair in scope.pieces} for scope in scopes]
    own = {bare(path): (path, value) for path, value in first.module.named_parameters()}
    named = [name for name in own if any(name in pieces for pieces in theirs)]
    left = min(scope.left_out + scope.size for scope in scopes) - sum(
        own[name][1].numel() for name in named
    )
    found = []
    for scope, pieces in zip(scopes, theirs, strict=True):
        moved = [pieces[name].tuned if name in pieces else own[name][1].data for name in named]
        rows = zip(named, moved, strict=True)
        made = tuple(
            ParameterPair(name, own[name][0], own[name][1].data, tuned) for name, tuned in rows
        )
        found.append(replace(scope, model=first, pieces=made, left_out=max(left, 0)))
    return tuple(found)


def stitched(scopes: Sequence[Scope], masks: Sequence[Bool[Tensor, " P"]]) -> list[Tensor]:
    """The base's tensors with every fine-tuned model's weights in its own mask, and their mean
    where masks overlap.

    Equal to the fine-tuned model bit for bit where one mask includes a weight, to the base where
    none does. Means are computed in float64 and rounded once, so that the order of the models does
    not matter.
    """
    parts = [
        scope.split(mask.to(scope.model.device)) for scope, mask in zip(scopes, masks, strict=True)
    ]
    found = []
    for at, pair in enumerate(scopes[0].pieces):
        counts = [part[at].to(torch.int16) for part in parts]
        claims = sum(counts[1:], counts[0])
        made, total = pair.base, torch.zeros_like(pair.base, dtype=torch.float64)
        for scope, part in zip(scopes, parts, strict=True):
            own = scope.pieces[at].tuned
            made = torch.where(part[at] & (claims == 1), own, made)
            total += part[at] * (own.double() - pair.base.double())
        mean = (pair.base.double() + total / claims.clamp(min=1)).to(pair.base.dtype)
        found.append(torch.where(claims > 1, mean, made))
    return found


def averaged(scopes: Sequence[Scope]) -> list[Tensor]:
    """The mean of all fine-tuned models, weight by weight."""
    everything = torch.ones(scopes[0].size, dtype=torch.bool, device=scopes[0].model.device)
    return stitched(scopes, [everything] * len(scopes))
