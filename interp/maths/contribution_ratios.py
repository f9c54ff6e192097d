"""Share of one of two parts in a sum, by vector norms, as in TuCo, OutputCo and beta."""

import torch
from jaxtyping import Float
from torch import Tensor


def size(value: Float[Tensor, "B P D"], order: int = 1) -> Float[Tensor, " B"]:
    """Norm of each prompt's values over positions and width: L1 for order 1, Euclidean for order
    2.
    """
    return torch.linalg.vector_norm(value, ord=order, dim=(1, 2))


def share(part: Float[Tensor, "*any"], rest: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """``part / (part + rest)`` of two norms; 0 if both are 0."""
    whole = part + rest
    return torch.where(
        whole > 0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny), torch.zeros_like(whole)
    )


class Running:
    """Cumulative sums of both parts over blocks, and the ratio of their norms after each block.

    Vectors are added before norms are taken. ``betas`` and the norms of single updates have shape
    ``[B]`` per block; ``tokens`` has the ratio at every position, ``[B, P]``.
    """

    def __init__(self, order: int = 1, keep: Float[Tensor, "B P D"] | None = None) -> None:
        """``keep`` multiplies every value: 0 at padding and at excluded dimensions."""
        self.order, self.keep = order, keep
        self.base: Tensor | None = None
        self.tuned: Tensor | None = None
        self.betas: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.base_sizes: list[Tensor] = []
        self.tuned_sizes: list[Tensor] = []
        self.cosines: list[Tensor] = []

    def add(self, base: Float[Tensor, "B P D"], tuned: Float[Tensor, "B P D"]) -> None:
        """Add one block's updates: the base's, and the difference that the fine-tuned model
        adds.
        """
        if self.keep is not None:
            base, tuned = base * self.keep, tuned * self.keep
        self.base = base if self.base is None else self.base + base
        self.tuned = tuned if self.tuned is None else self.tuned + tuned
        self.betas.append(share(size(self.tuned, self.order), size(self.base, self.order)))
        each = [
            torch.linalg.vector_norm(value, ord=self.order, dim=-1)
            for value in (self.tuned, self.base)
        ]
        self.tokens.append(share(*each))
        self.base_sizes.append(size(base, self.order))
        self.tuned_sizes.append(size(tuned, self.order))
        length = size(base, 2) * size(tuned, 2)
        self.cosines.append(
            (base * tuned).sum((1, 2)) / length.clamp(min=torch.finfo(length.dtype).tiny)
        )
