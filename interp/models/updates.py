"""What fine-tuning added to a matrix of a block: the factors of a LoRA, or the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor

from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.low_rank import Factors
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.precision import rounded_like, rounding_dtype
from interp.sites import Weight

_HALF_DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class MatrixUpdate:
    """The change of one matrix, ``(out, in)``: ``dense``, or the ``factors`` whose product it is.

    ``noise``: a singular value that the rounding of the weights alone can give; 0 for factors,
    which are exact.
    """

    dense: Float[Tensor, "out in"] | None
    factors: Factors | None
    noise: float

    @property
    def energy(self) -> float:
        """Sum of the squared singular values."""
        if self.factors is None:
            assert self.dense is not None
            return float(to_host(self.dense.double().square().sum()))
        left, right = (part.double() for part in self.factors)
        # tr(B A A' B') = sum of (B' B) * (A A')
        return float(to_host(((left.T @ left) * (right @ right.T)).sum()))


@torch.no_grad()
def matrix_update(pair: Pair, weight: Weight) -> MatrixUpdate | None:
    """The change of a matrix by fine-tuning; None if it is the same in both models.

    A LoRA's factors are read as they are: in 16 bits the difference of two matrices would be mostly
    rounding. If only the fine-tuned model is stored in 16 bits, it is compared with the base rounded
    to them.
    """
    base, tuned = pair.require_base("the update"), pair.tuned
    if base.module is tuned.module:
        layer = tuned.module.get_submodule(tuned.anatomy.place(weight).path)
        if not isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            return None
        if (factors := _factors(tuned, weight, layer)) is not None:
            return MatrixUpdate(None, factors, 0.0) if all(map(_any, factors)) else None
    after = tuned.weight(weight)
    before = rounded_like(base.weight(weight), after, rounding_dtype(base, tuned)).to(after.device)
    change = after - before
    if not _any(change):
        return None
    size = float(to_host(after.double().square().mean().sqrt()))
    return MatrixUpdate(change, None, rounding_noise(_rounding(tuned, after), size, change.shape))


def rounding_noise(eps: float, size: float, shape: Sequence[int]) -> float:
    """Twice the largest singular value that rounding to nearest gives a matrix of this shape.

    ``eps``: relative distance of neighbouring numbers; ``size``: root mean square of the entries.
    The errors are uniform in +- eps / 2 of an entry, and the largest singular value of independent
    errors is about their standard deviation times (sqrt(rows) + sqrt(columns)).
    """
    return 2 * eps / 12**0.5 * size * sum(side**0.5 for side in shape)


def _factors(model: Model, weight: Weight, layer: Any) -> Factors | None:
    """The factors of a plain LoRA, those of several active adapters side by side."""
    if not isinstance(layer, LoraLayer) or layer.lora_variant or layer.merged_adapters:
        return None
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if not active:
        return None
    left, right = [], []
    for name in active:
        up, down = (cast(Any, part[name]).weight for part in (layer.lora_B, layer.lora_A))
        if up.ndim != 2 or down.ndim != 2:
            return None
        left.append(widen(up.detach()) * layer.scaling[name])
        right.append(widen(down.detach()))
    place = model.anatomy.place(weight)
    return place.rows_of(torch.cat(left, 1)), torch.cat(right)


def _any(matrix: Tensor) -> bool:
    return bool(to_host((matrix != 0).any()))


def _rounding(model: Model, matrix: Tensor) -> float:
    """Relative distance of neighbouring numbers in the precision of a matrix: stored, or computed
    in.
    """
    stored = [each for each in _HALF_DTYPES if _is_exact_in(matrix, each)]
    return max(torch.finfo(each).eps for each in (model.dtype, torch.float32, *stored))


def _is_exact_in(matrix: Tensor, dtype: torch.dtype) -> bool:
    return bool(to_host((matrix.to(dtype).to(matrix.dtype) == matrix).all()))
