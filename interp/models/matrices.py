"""The matrix that a module applies, in one layout, and whether it holds numbers or codes."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import UnsupportedModel


def matrix_of(module: nn.Module) -> Float[Tensor, "out in"]:
    """A linear module's own matrix as ``(out, in)``; GPT-2's Conv1D stores ``(in, out)``."""
    weight = weight_of(module)
    return weight.T if isinstance(module, Conv1D) else weight


def weight_of(module: nn.Module) -> Tensor:
    """The parameter ``weight`` of a module; by torch's annotations it could be a module too."""
    return cast(Tensor, module.weight)


def embedding_of(model: PreTrainedModel) -> Tensor:
    """The matrix of the token embedding, a row per token."""
    return weight_of(model.get_input_embeddings())


def shape_of(module: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of a linear module, also where its weight is packed."""
    if is_packed(module):
        return cast(int, module.out_features), cast(int, module.in_features)
    rows, columns = matrix_of(module).shape
    return rows, columns


def is_packed(module: nn.Module) -> bool:
    """Whether a linear module holds codes (8-bit, 4-bit) in place of the numbers it applies."""
    # an adapter's layer holds numbers of its own; what it stands on is asked itself
    if hasattr(module, "base_layer"):
        return False
    weight = getattr(module, "weight", None)
    # one byte: float8 has a scale beside it
    plain = isinstance(weight, Tensor) and weight.is_floating_point() and weight.itemsize > 1
    return hasattr(module, "out_features") and not plain


def unwrapped(module: nn.Module) -> nn.Module:
    """What adapters stand on."""
    while hasattr(module, "base_layer"):
        module = cast(nn.Module, module.base_layer)
    return module


def keep_codes(name: str, model: nn.Module) -> None:
    """Let layers of bitsandbytes compute with their codes as they were loaded; raises
    UnsupportedModel where too late.

    On CPUs with AVX512-BF16 such a layer repacks its codes at its first pass and rounds their
    scales, and its ``state_dict()`` then gives back the codes without the order of their scales, so
    that every later pass is wrong (seen in 0.50.2). It does not where it believes that the CPU has
    no such instructions.
    """
    for path, part in model.named_modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            state = getattr(getattr(part, "weight", None), "quant_state", None)
            if getattr(state, "packing_format_for_cpu", False):
                raise UnsupportedModel(
                    f"{name} was run on this CPU before, and bitsandbytes repacked the codes of"
                    f" {path} then, which rounds them; load it again, and give it before its first"
                    " pass"
                )
            # no attribute of a plain module
            setattr(part, "support_avx512bf16_for_cpu", False)  # noqa: B010
