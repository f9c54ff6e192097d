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
from interp.models.offload import tensors

_HALVES = (torch.bfloat16, torch.float16)
_LOOKED_AT = 8
_AT_ONCE = 1 << 20


def rounded_to(base: Model, tuned: Model) -> torch.dtype | None:
    """The 16-bit format in which the fine-tuned model is stored and the base is not; None without
    such a difference.

    It is determined from the first matrices of each model.
    """
    if base.module is tuned.module:
        return None
    mine, theirs = _matrices(tuned), _matrices(base)
    for half in _HALVES:
        if (
            mine
            and all(_fits(matrix, half) for matrix in mine)
            and not all(_fits(matrix, half) for matrix in theirs)
        ):
            return half
    return None


def alike(base: Tensor, tuned: Tensor, half: torch.dtype | None) -> Tensor:
    """The base's tensor, rounded to ``half`` if the fine-tuned model's was."""
    if half is None or not base.is_floating_point() or not _fits(tuned, half):
        return base
    return base.to(half).to(base.dtype)


def precision_notes(base: Model, tuned: Model) -> tuple[str, ...]:
    """Notes if the two models are stored, or computed, in different precision."""
    half, notes = rounded_to(base, tuned), []
    if half is not None:
        notes.append(
            f"{tuned.name} is stored in {name_of(half)} and {base.name} is not: a weight counts as "
            f"changed if it differs from the base's rounded to {name_of(half)}; activations use the "
            "unrounded weights"
        )
    if base.dtype != tuned.dtype:
        notes.append(
            f"{base.name} computes in {name_of(base.dtype)} and {tuned.name} in "
            f"{name_of(tuned.dtype)}: divergences include rounding errors; use --dtype float32 to "
            "compute both in the same precision"
        )
    return tuple(notes)


def name_of(dtype: torch.dtype) -> str:
    """Name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


def _matrices(model: Model) -> list[Tensor]:
    found = (
        value for _, value in tensors(model.module) if value.ndim > 1 and value.is_floating_point()
    )
    return list(itertools.islice(found, _LOOKED_AT))


def _fits(value: Tensor, half: torch.dtype) -> bool:
    # in parts, because an embedding would be in memory three times, and the first part usually
    # decides
    parts = value.flatten().split(_AT_ONCE)
    return value.dtype == half or all(
        to_host((chunk.to(half).to(chunk.dtype) == chunk).all()) for chunk in parts
    )
