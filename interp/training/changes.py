"""What a fine-tune changed and how far, as something to train anew; and the norms of such changes."""

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
    """A way to train: which numbers, from where, and how large the result is.

    ``norms``: Frobenius norm of the fine-tune's change by module (of a full model: by tensor).
    ``size``: root mean square of what its training moved, see ``interp.training.recipe.planned``.
    """

    kind: str
    norms: dict[str, float]
    size: float

    @property
    def settings(self) -> dict[str, Setting]:
        """What the fine-tune's own files say of its configuration."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens that the base has an embedding of."""
        ...

    def begin(self, seed: int) -> nn.Module:
        """The base with what is to be trained at its start."""
        ...

    def trained(self) -> tuple[dict[str, float], float]:
        """Norms and size, as of the fine-tune, of what is trained now."""
        ...

    def scale(self, by: Mapping[str, float]) -> None:
        """Multiply the change of each module."""
        ...

    def save(self, directory: Path) -> None:
        """Write what is trained now, as a user of it expects it."""
        ...

    def end(self) -> None:
        """Put the base back."""
        ...


def product_norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``left @ right``, [out, r] and [r, in], from the triangles of both: nothing
    cancels.
    """
    one, other = (torch.linalg.qr(part.double(), mode="r").R for part in (left, right.T))
    return float(to_host((one @ other.T).norm()))


def root_mean_square(parts: Iterable[Tensor]) -> float:
    """Over all numbers of all parts."""
    total, count = 0.0, 0
    for part in parts:
        total += float(to_host(part.double().square().sum()))
        count += part.numel()
    return (total / count) ** 0.5 if count else 0.0


def rows_of(module: PreTrainedModel) -> int:
    """Tokens that a model has an embedding of."""
    embedding: Any = module.get_input_embeddings()
    return embedding.weight.shape[0]
