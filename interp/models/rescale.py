"""Scaling of singular directions, and of whole updates, in memory; every bit is restored
afterwards.

Weights are scaled instead of activations, because queries, keys and values have no sites of their
own, and gate and up projection share their input. Under an adapter the base's matrix is edited, so
that the sum of both is scaled.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from interp.errors import UnsupportedModel
from interp.maths.precision import widen
from interp.models import preflight
from interp.models.matrices import is_packed, matrix_of, weight_of
from interp.models.model import Model, active_version, original_module
from interp.models.pair import Pair
from interp.sites import Weight

_TRAINS_ROWS = "trains single rows of a matrix (trainable_token_indices)"


@dataclass(frozen=True)
class SingularDirection:
    """A singular triplet of a matrix: ``sigma * left @ right.T`` is a term of it."""

    weight: Weight
    left: Float[Tensor, " out"]
    sigma: float
    right: Float[Tensor, " in"]


@contextmanager
def rescaled(model: Model, directions: Sequence[SingularDirection], scale: float) -> Iterator[None]:
    """The model with each direction's singular value multiplied: ``W + (scale - 1) sigma left
    right.T``.

    At 1 nothing is changed. Raises UnsupportedModel for quantised or offloaded matrices, and for
    DoRA, whose norm depends on the whole matrix.
    """
    saved: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        for direction in directions if scale != 1 else ():
            place = model.anatomy.place(direction.weight)
            module = _editable_module(model, place.path)
            if place.path not in saved:
                saved[place.path] = weight_of(module), weight_of(module).data.clone()
            matrix = matrix_of(module).data
            rows = (
                place.rows_of(torch.arange(matrix.shape[0], dtype=torch.float64)[:, None])[:, 0]
                .long()
                .to(matrix.device)
            )
            change = (scale - 1) * direction.sigma * torch.outer(direction.left, direction.right)
            matrix[rows] = (widen(matrix[rows]) + change.to(matrix.device)).to(matrix.dtype)
        yield
    finally:
        for parameter, original in saved.values():
            parameter.data.copy_(original)


def _editable_module(model: Model, path: str) -> nn.Module:
    module = model.module.get_submodule(path)
    if isinstance(module, TrainableTokensWrapper):
        raise UnsupportedModel(
            f"{model.name} {_TRAINS_ROWS}, so {path} cannot be edited; merge the adapter"
        )
    if isinstance(module, AuxiliaryTrainingWrapper):
        module = active_version(module) if model.adapter_on else original_module(module)
    if isinstance(module, BaseTunerLayer):
        if model.adapter_on and _is_dora(module):
            raise UnsupportedModel(
                f"{model.name} is a DoRA adapter, whose matrices cannot be edited; merge the "
                "adapter"
            )
        module = module.get_base_layer()
    if is_packed(module) or weight_of(module).is_meta:
        raise UnsupportedModel(
            f"{path} of {model.name} is quantised or offloaded and cannot be edited; give the "
            "unquantised model, or load it on one device"
        )
    return module


def _is_dora(layer: BaseTunerLayer) -> bool:
    return bool(getattr(layer, "lora_magnitude_vector", None))


@contextmanager
def update_scaled(pair: Pair, scale: float) -> Iterator[None]:
    """The fine-tuned model with its whole update scaled: ``base + scale (tuned - base)`` for every
    parameter.

    At 1 nothing is changed. Raises UnsupportedModel if that cannot be done exactly (an adapter
    other than LoRA, or a head that only one of the two ties to its embedding).
    """
    if scale == 1:
        yield
        return
    base, tuned = pair.require_base("scaling the update"), pair.tuned
    change = _scale_adapter if base.module is tuned.module else _interpolate
    undo: list = []
    try:
        change(base, tuned, scale, undo)
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


@torch.no_grad()
def _interpolate(base: Model, tuned: Model, scale: float, undo: list) -> None:
    preflight.require_same_head_tying(base, tuned)
    base_parameters = dict(base.module.named_parameters())
    for name, parameter in tuned.module.named_parameters():
        if parameter.is_meta or name not in base_parameters or not parameter.is_floating_point():
            raise UnsupportedModel(
                f"{name} of {tuned.name} cannot be interpolated between base and fine-tuned model "
                "in memory; load both on one device"
            )
        _replace(
            parameter,
            _between(base_parameters[name].data.to(parameter.device), parameter.data, scale),
            undo,
        )


@torch.no_grad()
def _scale_adapter(base: Model, tuned: Model, scale: float, undo: list) -> None:
    for module in tuned.module.modules():
        if isinstance(module, TrainableTokensWrapper):
            raise UnsupportedModel(
                f"{tuned.name} {_TRAINS_ROWS}, so its update cannot be scaled as a whole; merge the"
                " adapter"
            )
        if isinstance(module, AuxiliaryTrainingWrapper):
            trained_parameters = dict(active_version(module).named_parameters())
            for name, original in original_module(module).named_parameters():
                _replace(
                    trained_parameters[name],
                    _between(original.data, trained_parameters[name].data, scale),
                    undo,
                )
        elif isinstance(module, BaseTunerLayer):
            scaling = getattr(module, "scaling", None)
            if _is_dora(module) or not isinstance(scaling, dict):
                raise UnsupportedModel(
                    f"{tuned.name} is not a plain LoRA adapter, so its update cannot be scaled as a"
                    " whole; merge the adapter"
                )
            original = dict(scaling)
            undo.append(partial(scaling.update, original))
            scaling.update({name: scale * value for name, value in original.items()})


def _between(base: Tensor, tuned: Tensor, scale: float) -> Tensor:
    return (widen(base) + scale * (widen(tuned) - widen(base))).to(tuned.dtype)


def _replace(parameter: nn.Parameter, value: Tensor, undo: list) -> None:
    original = parameter.data
    undo.append(lambda: setattr(parameter, "data", original))
    parameter.data = value
