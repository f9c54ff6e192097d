"""The change that a fine-tune made to its base, which can be trained again; norms of changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.maths.host import to_host
from interp.training.recipe import Setting


@runtime_checkable
class Change(Protocol):
    """The parameters that a fine-tune changed, ready to be trained from the base again.

    ``norms``: Frobenius norm of the fine-tune's change by module (of a full model by tensor).
    ``size``: root mean square of the trained parameters' change, see
    ``interp.training.recipe.planned_steps``.
    """

    kind: str
    norms: dict[str, float]
    size: float

    @property
    def settings(self) -> dict[str, Setting]:
        """The configuration in the fine-tune's files."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the base has an embedding of."""
        ...

    def begin(self, seed: int) -> nn.Module:
        """The base, with the trainable parameters at their start values."""
        ...

    def trained_norms(self) -> tuple[dict[str, float], float]:
        """``norms`` and ``size`` of the change that is being trained."""
        ...

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the change of each module by a factor."""
        ...

    def save(self, directory: Path) -> None:
        """Write the trained model or adapter in its usual format."""
        ...

    def end(self) -> None:
        """Restore the base."""
        ...


def product_norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``left @ right``, [out, r] and [r, in], by the QR factors of both, without
    cancellation.
    """
    left_factor, right_factor = (
        torch.linalg.qr(part.double(), mode="r").R for part in (left, right.T)
    )
    return float(to_host((left_factor @ right_factor.T).norm()))


def root_mean_square(parts: Iterable[Tensor]) -> float:
    """Root mean square over all elements of all tensors; 0 without any."""
    total, count = 0.0, 0
    for part in parts:
        total += float(to_host(part.double().square().sum()))
        count += part.numel()
    return (total / count) ** 0.5 if count else 0.0


def vocabulary_size(module: PreTrainedModel) -> int:
    """Number of tokens that a model has an embedding of."""
    embedding: Any = module.get_input_embeddings()
    return embedding.weight.shape[0]
