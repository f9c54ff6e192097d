"""The whole update at another strength: weights ``W_base + alpha (W_tuned - W_base)``, in memory
and exactly undone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from interp.errors import UnsupportedModel
from interp.maths.precision import widen
from interp.models import preflight
from interp.models.matrices import is_packed
from interp.models.model import Model, adapter_versions, original_module
from interp.models.pair import Pair


@contextmanager
def interpolated(pair: Pair, alpha: float) -> Iterator[Model]:
    """The fine-tuned model with ``alpha`` times its weight change; the original tensors are
    restored when closed.

    Needs memory for one more copy of the fine-tuned weights (none for a LoRA pair). Raises
    UnsupportedModel, see ``require_interpolable``.
    """
    require_interpolable(pair)
    tuned, base = pair.tuned, pair.require_base("interpolation")
    with ExitStack() as stack:
        if base.module is tuned.module:
            _scale_adapters(stack, tuned, alpha)
        elif alpha != 1:
            base_parameters = dict(base.module.named_parameters())
            for name, parameter in tuned.module.named_parameters():
                _replace_data(
                    stack, parameter, _interpolated_tensor(base_parameters[name], parameter, alpha)
                )
        yield tuned


def require_interpolable(pair: Pair) -> None:
    """Raise UnsupportedModel for quantised or offloaded weights, and adapters not linear in their
    scale.

    Also for models of which only one ties its head: there are no weights between the two.
    """
    tuned, base = pair.tuned, pair.require_base("interpolation")
    if base.module is not tuned.module:
        preflight.require_same_head_tying(base, tuned)
    for layer in tuned.module.modules():
        if is_packed(layer) or any(value.is_meta for value in layer.parameters(recurse=False)):
            raise UnsupportedModel(
                f"{tuned.name} is quantised or offloaded, so its weights cannot be interpolated; "
                "load the unquantised model on one device"
            )
        if isinstance(layer, BaseTunerLayer) and not (
            isinstance(layer, LoraLayer) and not layer.lora_variant
        ):
            raise UnsupportedModel(
                f"{tuned.name} is a {type(layer).__name__} adapter, whose change is not linear in "
                "its scale; merge it and give the merged model"
            )


def _scale_adapters(stack: ExitStack, tuned: Model, alpha: float) -> None:
    for layer in tuned.module.modules():
        if isinstance(layer, AuxiliaryTrainingWrapper):
            original_parameters = dict(original_module(layer).named_parameters())
            for version in adapter_versions(layer).values():
                for name, parameter in version.named_parameters():
                    _replace_data(
                        stack,
                        parameter,
                        _interpolated_tensor(original_parameters[name], parameter, alpha),
                    )
        elif isinstance(layer, LoraLayer):
            stack.callback(layer.scaling.update, dict(layer.scaling))
            layer.scaling.update({name: alpha * factor for name, factor in layer.scaling.items()})


def _interpolated_tensor(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    base = base.to(tuned.device)
    if alpha in (0, 1):
        return base.detach().to(tuned.dtype) if alpha == 0 else tuned.detach()
    wide_base = widen(base.detach())
    return (wide_base + alpha * (widen(tuned.detach()) - wide_base)).to(tuned.dtype)


def _replace_data(stack: ExitStack, parameter: nn.Parameter, value: torch.Tensor) -> None:
    original = parameter.data
    parameter.data = value

    def restore() -> None:
        parameter.data = original

    stack.callback(restore)
