"""What an adapter makes of each tensor of its base, whatever its kind: read from merged copies of
single modules.
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
    """A tensor that an adapter may change: its path in the module with adapters, as it was, and as
    it is applied.

    ``now`` is None where peft cannot say: its kind of layer is not merged, or its base holds codes.
    """

    path: str
    before: Tensor
    now: Tensor | None


def bare(path: str) -> str:
    """A tensor's name in the base, of its path in a module that may carry adapters."""
    for inside in _INSIDE:
        path = path.replace(inside, "")
    return path


def adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every outermost module that adapters replaced, with its path; one for tuned rows counts as
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
    """What one such module does to the tensors of the module that it stands for; one copy of it is
    in memory.

    Nothing where all of them are ``known``, by their names in the base.
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
    # peft merges of a decomposed update of an embedding the product alone
    return not any(is_packed(part) for part in inner.modules()) and not (
        decomposed and isinstance(inner, nn.Embedding)
    )


def _merged(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors inside a copy of a layer once its active adapters are merged there; none where
    peft cannot.
    """
    # peft keeps views of the tensors to which it tied a layer's beside them, and torch does not
    # copy these
    views: Any = getattr(layer, "kwargs", {}).get("tied_adapter") or {}
    each = copy.deepcopy(layer, {id(value): value for value in views.values()})
    try:
        with quiet():
            while isinstance(each, BaseTunerLayer):
                inside = _inside(each)
                each.merge()
                # an adapter of norms puts a module of its own in the place of the base's
                each = inside if isinstance(inside, BaseTunerLayer) else _inside(each)
    except Exception:  # peft says by errors of many classes that a kind of layer is not merged
        return {}
    return {name: value.data for name, value in each.named_parameters()}
