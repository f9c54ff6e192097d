"""Copies of a model in memory that can be trained: its own weights, or a random start."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel
from interp.models.matrices import is_packed
from interp.models.model import Model, active_version, original_module
from interp.models.quiet import error_text, quiet_libraries


def merged_copy(model: Model) -> PreTrainedModel:
    """A copy of a model's module without adapters: merged where the model has its adapter on.

    The model itself is left as it is. Raises UnsupportedModel for a quantised or partly offloaded
    model, and for an adapter that peft cannot merge.
    """
    reason = ""
    if any(parameter.is_meta for parameter in model.module.parameters()):
        reason = "is partly offloaded to main memory or disk"
    elif any(is_packed(part) for part in model.module.modules()):
        reason = "is quantised"
    if reason:
        raise UnsupportedModel(
            f"{model.name} {reason}, so that no copy of it can be trained; load it whole, in"
            " float32 or bfloat16"
        )
    try:
        with quiet_libraries(), torch.no_grad():
            with model.active() as module:
                duplicate = copy.deepcopy(module)
            _without_adapters(duplicate, merge=model.adapter_on is not False)
    except Exception as error:  # peft raises errors of many classes if a layer cannot be merged
        raise UnsupportedModel(
            f"{model.name} cannot be copied without its adapter ({error_text(error)}); merge it,"
            " save the whole model, and give that"
        ) from error
    return duplicate.eval().requires_grad_(False)


def random_start(model: Model, seed: int) -> PreTrainedModel:
    """A copy of a model's module with new weights, as its architecture initialises them.

    Raises UnsupportedModel as ``merged_copy`` does.
    """
    duplicate = merged_copy(model)
    kind = cast(Any, type(duplicate))
    with torch.random.fork_rng(), quiet_libraries():
        torch.manual_seed(seed)
        fresh: PreTrainedModel = kind(copy.deepcopy(duplicate.config))
    # the copy stays on its device and in its dtype
    duplicate.load_state_dict(fresh.state_dict())
    return duplicate


def _without_adapters(module: nn.Module, merge: bool) -> None:
    for name, child in list(module.named_children()):
        own = _own_layer(child, merge)
        setattr(module, name, own)
        _without_adapters(own, merge)


def _own_layer(layer: nn.Module, merge: bool) -> nn.Module:
    if isinstance(layer, BaseTunerLayer):
        inner = layer.get_base_layer()
        if merge:
            if isinstance(inner, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                raise TypeError("one adapter lies in another")
            # merging several adapters adds them up in place
            layer.merge(safe_merge=True)
            inner = layer.get_base_layer()
        return _own_layer(inner, merge)
    if isinstance(layer, AuxiliaryTrainingWrapper):
        chosen = active_version(layer) if merge else original_module(layer)
        return _own_layer(chosen, merge)
    return layer
