"""Pairs of parameters of base and fine-tuned model; for an adapter, those that it changes, as
merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import UnsupportedModel
from interp.maths.precision import widen
from interp.models.matrices import weight_of
from interp.models.merged_tensors import base_name, merged_tensors
from interp.models.model import Model, active_version, effective_weight, original_module


@dataclass(frozen=True, eq=False)
class ParameterPair:
    """One parameter: its ``name`` in the base, its ``path`` in the module, its values in both
    models.

    ``tuned`` may have a wider dtype than ``base``, which has the model's.
    """

    name: str
    path: str
    base: Float[Tensor, ...]
    tuned: Float[Tensor, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.base.numel()

    @property
    def changes(self) -> Float[Tensor, " n"]:
        """Change of each weight, in at least float32: both are widened before the subtraction."""
        return (widen(self.tuned) - widen(self.base)).flatten()


@torch.no_grad()
def adapter_parameter_pairs(base: Model, tuned: Model) -> list[ParameterPair]:
    """The parameters changed by the adapters of one module, as if merged; the base is held once."""
    pairs = []
    with tuned.active() as module:
        for path, layer in module.named_modules():
            if isinstance(layer, TrainableTokensWrapper | TrainableTokensLayer):
                raise UnsupportedModel(
                    f"{tuned.name} trains single rows of {path} (trainable_token_indices), for "
                    "which grafts are not supported; merge it, save the merged model, and give "
                    "that with --base"
                )
            if isinstance(layer, AuxiliaryTrainingWrapper):
                trained_parameters = dict(active_version(layer).named_parameters())
                for name, base_values in original_module(layer).named_parameters():
                    parameter_path = f"{path}.original_module.{name}"
                    pairs.append(
                        ParameterPair(
                            base_name(parameter_path),
                            parameter_path,
                            base_values.data,
                            trained_parameters[name].data,
                        )
                    )
            elif isinstance(layer, BaseTunerLayer) and not _is_linear(layer):
                pairs += _merged_pairs(tuned.name, path, layer)
            elif isinstance(layer, BaseTunerLayer):
                _require_plain_embedding(layer, tuned.name, path)
                parameter_path = f"{path}.base_layer.weight"
                base_values = weight_of(layer.get_base_layer()).data
                pairs.append(
                    ParameterPair(
                        base_name(parameter_path),
                        parameter_path,
                        base_values,
                        _merged_weight(layer, base_values, base.dtype),
                    )
                )
                if (merged_bias := _merged_bias(layer, tuned.name, path)) is not None:
                    parameter_path = f"{path}.base_layer.bias"
                    base_bias = cast(Tensor, layer.get_base_layer().bias)
                    pairs.append(
                        ParameterPair(
                            base_name(parameter_path), parameter_path, base_bias.data, merged_bias
                        )
                    )
    return pairs


def _is_linear(layer: BaseTunerLayer) -> bool:
    """Whether the adapter applies to one matrix, not to the parameters of experts or to a norm."""
    return isinstance(layer.get_base_layer(), (nn.Linear, nn.Embedding, Conv1D)) and not isinstance(
        layer, ParamWrapper
    )


def _merged_pairs(name: str, path: str, layer: Any) -> list[ParameterPair]:
    """The changes of a layer of another kind, from a merged copy; raises UnsupportedModel if peft
    cannot merge it.
    """
    pairs = []
    # with one layer for each of several parameters of a module, the outermost merges them all
    for merged in (
        ()
        if isinstance(layer, ParamWrapper) and path.endswith(".base_layer")
        else merged_tensors(path, layer)
    ):
        if merged.after is None:
            raise UnsupportedModel(
                f"{name} changes {path} by a {type(layer).__name__}, which peft does not merge; "
                "merge the adapter with the code that trained it, save the merged model, and give "
                "that with --base"
            )
        pairs.append(
            ParameterPair(base_name(merged.path), merged.path, merged.before, merged.after)
        )
    return pairs


def _require_plain_embedding(layer: Any, name: str, path: str) -> None:
    """Raise UnsupportedModel for DoRA on an embedding, of which peft merges only the product of the
    factors.
    """
    decomposed = getattr(layer, "use_dora", {})
    if isinstance(layer.get_base_layer(), nn.Embedding) and any(
        decomposed.get(adapter) for adapter in layer.active_adapters
    ):
        raise UnsupportedModel(
            f"{name} changes the embedding {path} by DoRA, whose magnitudes peft does not merge, so"
            " no graft can equal the fine-tuned model; use --scope blocks"
        )


def _merged_bias(layer: Any, name: str, path: str) -> Tensor | None:
    """The merged bias if an adapter of the layer has its own (lora_bias), else None."""
    has_bias = getattr(layer, "lora_bias", {})
    if not (active := [adapter for adapter in layer.active_adapters if has_bias.get(adapter)]):
        return None
    base_bias = layer.get_base_layer().bias
    if base_bias is None:
        raise UnsupportedModel(
            f"{name} adds a bias to {path} (lora_bias), which has none in the base, so it cannot be"
            " grafted; train with lora_bias=False"
        )
    added: Any = sum(
        widen(layer.lora_B[adapter].bias) * layer.scaling[adapter] for adapter in active
    )
    return (widen(base_bias) + added).to(base_bias.dtype)


def _merged_weight(layer: Any, base_weight: Tensor, dtype: torch.dtype) -> Tensor:
    inner = layer.get_base_layer()
    if isinstance(inner, nn.Embedding):
        added: Any = sum(layer.get_delta_weight(name) for name in layer.active_adapters)
        return (widen(base_weight) + widen(added)).to(base_weight.dtype)
    merged_matrix = effective_weight(layer, dtype, True)
    return (merged_matrix.T.contiguous() if isinstance(inner, Conv1D) else merged_matrix).to(
        base_weight.dtype
    )
