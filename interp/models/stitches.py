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
from interp.models.merged_tensors import base_name
from interp.models.pair import Pair
from interp.models.parameter_pairs import ParameterPair


def align_scopes(pairs: Sequence[Pair], parts: str = "blocks") -> tuple[Scope, ...]:
    """One scope per pair, with the same weights in the same order, all in the first pair's base.

    A parameter is included if any of the models changed it; a model that did not change it gets the
    base's values. Raises PairError for models of different bases, or of one base in different
    dtypes.
    """
    base_model = pairs[0].require_base("stitching")
    for pair in pairs[1:]:
        base = pair.require_base("stitching")
        if base.anatomy.vocabulary != base_model.anatomy.vocabulary:
            raise VocabularyMismatch(
                f"{pair.tuned.name} and its base are compared over {base.anatomy.vocabulary} token"
                f" ids, and {pairs[0].tuned.name} over {base_model.anatomy.vocabulary}; stitch"
                " fine-tuned models that are compared over the same token ids"
            )
        if (
            pair.digests.get("base") != pairs[0].digests.get("base")
            or base.dtype != base_model.dtype
        ):
            raise PairError(
                f"{pair.tuned.name} and {pairs[0].tuned.name} are not fine-tuned from one base;"
                " stitch fine-tuned models of the same base"
            )
    scopes = [Scope.from_pair(pair, parts) for pair in pairs]
    pairs_by_name = [{pair.name: pair for pair in scope.pairs} for scope in scopes]
    base_parameters = {
        base_name(path): (path, value) for path, value in base_model.module.named_parameters()
    }
    names = [name for name in base_parameters if any(name in pieces for pieces in pairs_by_name)]
    n_unchanged = min(scope.n_unchanged + scope.size for scope in scopes) - sum(
        base_parameters[name][1].numel() for name in names
    )
    aligned_scopes = []
    for scope, scope_pairs in zip(scopes, pairs_by_name, strict=True):
        tuned_tensors = [
            scope_pairs[name].tuned if name in scope_pairs else base_parameters[name][1].data
            for name in names
        ]
        rows = zip(names, tuned_tensors, strict=True)
        parameter_pairs = tuple(
            ParameterPair(name, base_parameters[name][0], base_parameters[name][1].data, tuned)
            for name, tuned in rows
        )
        aligned_scopes.append(
            replace(scope, model=base_model, pairs=parameter_pairs, n_unchanged=max(n_unchanged, 0))
        )
    return tuple(aligned_scopes)


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
    tensors = []
    for index, pair in enumerate(scopes[0].pairs):
        counts = [part[index].to(torch.int16) for part in parts]
        n_masks = sum(counts[1:], counts[0])
        tensor, total = pair.base, torch.zeros_like(pair.base, dtype=torch.float64)
        for scope, part in zip(scopes, parts, strict=True):
            tuned_tensor = scope.pairs[index].tuned
            tensor = torch.where(part[index] & (n_masks == 1), tuned_tensor, tensor)
            total += part[index] * (tuned_tensor.double() - pair.base.double())
        mean = (pair.base.double() + total / n_masks.clamp(min=1)).to(pair.base.dtype)
        tensors.append(torch.where(n_masks > 1, mean, tensor))
    return tensors


def averaged(scopes: Sequence[Scope]) -> list[Tensor]:
    """The mean of all fine-tuned models, weight by weight."""
    full_mask = torch.ones(scopes[0].size, dtype=torch.bool, device=scopes[0].model.device)
    return stitched(scopes, [full_mask] * len(scopes))
