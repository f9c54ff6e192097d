"""Tensors of the base as changed by an adapter of any kind, computed from merged copies of single
modules.
"""

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from interp.models.matrices import is_packed
from interp.models.model import active_version, original_module
from interp.models.quiet import quiet_libraries

_WRAPPER_PARTS = (".base_layer", ".original_module", ".token_adapter")


@dataclass(frozen=True)
class MergedTensor:
    """A tensor that an adapter may change: its path in the module with adapters, before and after.

    ``after`` is None if peft cannot compute it: it does not merge this kind of layer, or the base
    stores codes.
    """

    path: str
    before: Tensor
    after: Tensor | None


def base_name(path: str) -> str:
    """A tensor's name in the base, from its path in a module that may have adapters."""
    for wrapper_part in _WRAPPER_PARTS:
        path = path.replace(wrapper_part, "")
    return path


def adapter_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every outermost module replaced by adapters, with its path; wrappers of trained rows count as
    the layer inside.
    """
    outer_paths: list[str] = []
    for path, layer in module.named_modules():
        if any(path.startswith(f"{outer}.") for outer in outer_paths) or isinstance(
            layer, TrainableTokensWrapper
        ):
            continue
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            outer_paths.append(path)
            yield path, layer


@torch.no_grad()
def merged_tensors(path: str, layer: nn.Module, known: Collection[str] = ()) -> list[MergedTensor]:
    """The changes of one such module to the tensors of the module it replaces; holds one copy in
    memory.

    Empty if all of them are in ``known``, by their names in the base.
    """
    if isinstance(layer, AuxiliaryTrainingWrapper):
        after = dict(active_version(layer).named_parameters())
        original = original_module(layer).named_parameters()
        return [
            MergedTensor(f"{path}.original_module.{name}", value.data, after[name].data)
            for name, value in original
        ]
    inner_path, inner = path, layer
    while isinstance(inner, BaseTunerLayer):
        inner_path, inner = f"{inner_path}.base_layer", _base_layer(inner)
    original = dict(inner.named_parameters())
    if all(base_name(f"{inner_path}.{name}") in known for name in original):
        return []
    after = _tensors_after_merging(layer) if _can_merge(layer, inner) else {}
    return [
        MergedTensor(f"{inner_path}.{name}", value.data, after.get(name))
        for name, value in original.items()
    ]


def _base_layer(layer: nn.Module) -> nn.Module:
    return cast(nn.Module, layer.base_layer)


def _can_merge(layer: nn.Module, inner: nn.Module) -> bool:
    decomposed = any(getattr(layer, "use_dora", {}).values())
    # for DoRA on an embedding peft merges only the product of the factors
    return not any(is_packed(part) for part in inner.modules()) and not (
        decomposed and isinstance(inner, nn.Embedding)
    )


def _tensors_after_merging(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors in a copy of a layer after merging its active adapters; empty if peft cannot
    merge them.
    """
    # peft keeps views of tied tensors in the layer, and torch cannot deep-copy views
    views: Any = getattr(layer, "kwargs", {}).get("tied_adapter") or {}
    layer_copy = copy.deepcopy(layer, {id(value): value for value in views.values()})
    try:
        with quiet_libraries():
            while isinstance(layer_copy, BaseTunerLayer):
                base_layer = _base_layer(layer_copy)
                layer_copy.merge()
                # an adapter of norms replaces the base's module
                layer_copy = (
                    base_layer
                    if isinstance(base_layer, BaseTunerLayer)
                    else _base_layer(layer_copy)
                )
    except Exception:  # peft raises errors of many classes if a kind of layer cannot be merged
        return {}
    return {name: value.data for name, value in layer_copy.named_parameters()}
