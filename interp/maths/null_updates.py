"""Random updates of a matrix to compare its change with: entries permuted, or singular vectors
rotated.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from interp.maths.subspaces import random_rotation


def permuted_update(
    change: Float[Tensor, "..."], generator: torch.Generator
) -> Float[Tensor, "..."]:
    """The entries in random order: norm and sizes of entries stay, singular values do not.

    The spectral norm of a change of rank 1 falls far, so that this null is too easy for a LoRA.
    """
    order = torch.randperm(change.numel(), generator=generator).to(change.device)
    return change.flatten()[order].view(change.shape)


def rotated_update(
    change: Float[Tensor, "..."], generator: torch.Generator, left: bool = True
) -> Float[Tensor, "..."]:
    """``Q1 change Q2`` with random orthogonal matrices, as ``random_rotation`` makes them: all
    singular values stay.

    Without ``left`` only the rows are rotated (``change Q2``). A vector becomes a random one of its
    length; of more than two axes the last is that of the columns.
    """
    matrix = change.reshape(-1, change.shape[-1]) if change.ndim > 1 else change[:, None]
    if left or change.ndim == 1:
        matrix = random_rotation(matrix, generator)
    if change.ndim > 1:
        matrix = random_rotation(matrix.T.contiguous(), generator).T
    return matrix.reshape(change.shape)


def seeded(seed: int, *words: str | int) -> torch.Generator:
    """A generator that depends on a seed and on what is drawn, not on what was drawn before."""
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
