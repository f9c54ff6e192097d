"""In which order neurons are pruned, and how many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def pruning_order(scores: Float[np.ndarray, "L N"], signed: bool) -> list[tuple[int, int]]:
    """Neurons in the order in which they are pruned: by the largest score, those whose score is
    above 0 (``signed``, Jain et al.), or all by the largest absolute value (Taylor pruning).
    """
    flat = (scores if signed else np.abs(scores)).ravel()
    order = np.argsort(-flat, kind="stable")
    if signed:
        order = order[flat[order] > 0]
    layers, units = np.unravel_index(order, scores.shape)
    return list(zip(layers.tolist(), units.tolist(), strict=True))


def sizes_within(sizes: Sequence[int], count: int) -> list[int]:
    """The sizes up to ``count``, ascending; ``count`` itself where all are larger."""
    return sorted({size for size in sizes if size <= count} or {count})
