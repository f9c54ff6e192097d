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
from interp.models.model import trained, untrained
from interp.models.quiet import quiet

_INSIDE = (".base_layer", ".original_module", ".token_adapter")


@dataclass(frozen=True)
class Merged:
    """A tensor that an adapter may change: its path in the module with adapters, before and after.

    ``now`` is None if peft cannot compute it: it does not merge this kind of layer, or the base
    stores codes.
    """

    path: str
    before: Tensor
    now: Tensor | None


def bare(path: str) -> str:
    """A tensor's name in the base, from its path in a module that may have adapters."""
    for inside in _INSIDE:
        path = path.replace(inside, "")
    return path


def adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every outermost module replaced by adapters, with its path; wrappers of trained rows count as
    the layer inside.
    """
    inside: list[str] = []
    for path, layer in module.named_modules():
        if any(path.startswith(f"{outer}.") for outer in inside) or isinstance(
            layer, TrainableTokensWrapper
        ):
            continue
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            inside.append(path)
            yield path, layer


@torch.no_grad()
def merged_tensors(path: str, layer: nn.Module, known: Collection[str] = ()) -> list[Merged]:
    """The changes of one such module to the tensors of the module it replaces; holds one copy in
    memory.

    Empty if all of them are in ``known``, by their names in the base.
    """
    if isinstance(layer, AuxiliaryTrainingWrapper):
        now = dict(trained(layer).named_parameters())
        own = untrained(layer).named_parameters()
        return [
            Merged(f"{path}.original_module.{name}", value.data, now[name].data)
            for name, value in own
        ]
    where, inner = path, layer
    while isinstance(inner, BaseTunerLayer):
        where, inner = f"{where}.base_layer", _inside(inner)
    own = dict(inner.named_parameters())
    if all(bare(f"{where}.{name}") in known for name in own):
        return []
    now = _merged(layer) if _can_merge(layer, inner) else {}
    return [Merged(f"{where}.{name}", value.data, now.get(name)) for name, value in own.items()]


def _inside(layer: nn.Module) -> nn.Module:
    return cast(nn.Module, layer.base_layer)


def _can_merge(layer: nn.Module, inner: nn.Module) -> bool:
    decomposed = any(getattr(layer, "use_dora", {}).values())
    # for DoRA on an embedding peft merges only the product of the factors
    return not any(is_packed(part) for part in inner.modules()) and not (
        decomposed and isinstance(inner, nn.Embedding)
    )


def _merged(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors in a copy of a layer after merging its active adapters; empty if peft cannot
    merge them.
    """
    # peft keeps views of tied tensors in the layer, and torch cannot deep-copy views
    views: Any = getattr(layer, "kwargs", {}).get("tied_adapter") or {}
    each = copy.deepcopy(layer, {id(value): value for value in views.values()})
    try:
        with quiet():
            while isinstance(each, BaseTunerLayer):
                inside = _inside(each)
                each.merge()
                # an adapter of norms replaces the base's module
                each = inside if isinstance(inside, BaseTunerLayer) else _inside(each)
    except Exception:  # peft raises errors of many classes if a kind of layer cannot be merged
        return {}
    return {name: value.data for name, value in each.named_parameters()}
