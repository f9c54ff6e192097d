"""The matrix of a linear module, in one layout, and whether it is stored as numbers or as codes."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import UnsupportedModel


def matrix_of(module: nn.Module) -> Float[Tensor, "out in"]:
    """A linear module's matrix as ``(out, in)``; GPT-2's Conv1D stores ``(in, out)``."""
    weight = weight_of(module)
    return weight.T if isinstance(module, Conv1D) else weight


def weight_of(module: nn.Module) -> Tensor:
    """The parameter ``weight`` of a module, typed as a tensor."""
    return cast(Tensor, module.weight)


def embedding_of(model: PreTrainedModel) -> Tensor:
    """The token embedding, one row per token."""
    return weight_of(model.get_input_embeddings())


def shape_of(module: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of a linear module, also if its weight is packed."""
    if is_packed(module):
        return cast(int, module.out_features), cast(int, module.in_features)
    rows, columns = matrix_of(module).shape
    return rows, columns


def is_packed(module: nn.Module) -> bool:
    """Whether a linear module stores codes (8-bit, 4-bit) instead of numbers."""
    # an adapter's layer has plain tensors; its base layer is checked separately
    if hasattr(module, "base_layer"):
        return False
    weight = getattr(module, "weight", None)
    # one byte: float8 has a separate scale
    plain = isinstance(weight, Tensor) and weight.is_floating_point() and weight.itemsize > 1
    return hasattr(module, "out_features") and not plain


def base_layer_of(module: nn.Module) -> nn.Module:
    """The base layer inside adapters."""
    while hasattr(module, "base_layer"):
        module = cast(nn.Module, module.base_layer)
    return module


def prevent_repacking(name: str, model: nn.Module) -> None:
    """Make bitsandbytes layers compute with their codes as loaded; raises UnsupportedModel if too
    late.

    On CPUs with AVX512-BF16 such a layer repacks its codes at its first pass and rounds their
    scales. Its ``state_dict()`` then returns the codes without the order of their scales, so every
    later pass is wrong (seen in 0.50.2). Layers that believe that the CPU lacks these instructions
    do not repack.
    """
    for path, part in model.named_modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            state = getattr(getattr(part, "weight", None), "quant_state", None)
            if getattr(state, "packing_format_for_cpu", False):
                raise UnsupportedModel(
                    f"{name} was already run on this CPU, and bitsandbytes then repacked the codes"
                    f" of {path}, which rounds them; load it again, and use it here before its"
                    " first pass"
                )
            # not an attribute of a plain module
            setattr(part, "support_avx512bf16_for_cpu", False)  # noqa: B010
