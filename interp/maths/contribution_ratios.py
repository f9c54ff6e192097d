"""Share of one of two parts in a sum, by vector norms, as in TuCo, OutputCo and beta."""

import torch
from jaxtyping import Float
from torch import Tensor


def norm(values: Float[Tensor, "B P D"], order: int = 1) -> Float[Tensor, " B"]:
    """Norm of each prompt's values over positions and width: L1 for order 1, Euclidean for order
    2.
    """
    return torch.linalg.vector_norm(values, ord=order, dim=(1, 2))


def ratio(part: Float[Tensor, "*any"], rest: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """``part / (part + rest)`` of two norms; 0 if both are 0."""
    total = part + rest
    return torch.where(
        total > 0, part / total.clamp(min=torch.finfo(total.dtype).tiny), torch.zeros_like(total)
    )


class CumulativeContributions:
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
        self.betas.append(ratio(norm(self.tuned, self.order), norm(self.base, self.order)))
        token_norms = [
            torch.linalg.vector_norm(value, ord=self.order, dim=-1)
            for value in (self.tuned, self.base)
        ]
        self.tokens.append(ratio(*token_norms))
        self.base_sizes.append(norm(base, self.order))
        self.tuned_sizes.append(norm(tuned, self.order))
        norm_product = norm(base, 2) * norm(tuned, 2)
        self.cosines.append(
            (base * tuned).sum((1, 2))
            / norm_product.clamp(min=torch.finfo(norm_product.dtype).tiny)
        )
