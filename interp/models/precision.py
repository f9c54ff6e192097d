"""Rounded storage: a fine-tuned model stored in 16 bits differs from its 32-bit base in almost
every number.

The change due to fine-tuning is then the difference from the base rounded to the same 16 bits.
Whether a tensor was rounded is seen from its values, whatever its dtype: a model saved in bfloat16
is loaded as float32 on a CPU.
"""

import itertools

import torch
from torch import Tensor

from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.offload import named_tensors

_HALF_DTYPES = (torch.bfloat16, torch.float16)
_N_CHECKED = 8
_CHUNK_SIZE = 1 << 20


def rounding_dtype(base: Model, tuned: Model) -> torch.dtype | None:
    """The 16-bit format in which the fine-tuned model is stored and the base is not; None without
    such a difference.

    It is determined from the first matrices of each model.
    """
    if base.module is tuned.module:
        return None
    tuned_matrices, base_matrices = _first_matrices(tuned), _first_matrices(base)
    for dtype in _HALF_DTYPES:
        if (
            tuned_matrices
            and all(_is_exact_in(matrix, dtype) for matrix in tuned_matrices)
            and not all(_is_exact_in(matrix, dtype) for matrix in base_matrices)
        ):
            return dtype
    return None


def rounded_like(base: Tensor, tuned: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The base's tensor, rounded to ``dtype`` if the fine-tuned model's was."""
    if dtype is None or not base.is_floating_point() or not _is_exact_in(tuned, dtype):
        return base
    return base.to(dtype).to(base.dtype)


def precision_notes(base: Model, tuned: Model) -> tuple[str, ...]:
    """Notes if the two models are stored, or computed, in different precision."""
    dtype, notes = rounding_dtype(base, tuned), []
    if dtype is not None:
        notes.append(
            f"{tuned.name} is stored in {dtype_name(dtype)} and {base.name} is not: a weight counts"
            f" as changed if it differs from the base's rounded to {dtype_name(dtype)}; activations"
            " use the unrounded weights"
        )
    if base.dtype != tuned.dtype:
        notes.append(
            f"{base.name} computes in {dtype_name(base.dtype)} and {tuned.name} in"
            f" {dtype_name(tuned.dtype)}: divergences include rounding errors; use --dtype float32"
            " to compute both in the same precision"
        )
    return tuple(notes)


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


def _first_matrices(model: Model) -> list[Tensor]:
    matrices = (
        value
        for _, value in named_tensors(model.module)
        if value.ndim > 1 and value.is_floating_point()
    )
    return list(itertools.islice(matrices, _N_CHECKED))


def _is_exact_in(value: Tensor, dtype: torch.dtype) -> bool:
    # in parts, because an embedding would be in memory three times, and the first part usually
    # decides
    chunks = value.flatten().split(_CHUNK_SIZE)
    return value.dtype == dtype or all(
        to_host((chunk.to(dtype).to(chunk.dtype) == chunk).all()) for chunk in chunks
    )
