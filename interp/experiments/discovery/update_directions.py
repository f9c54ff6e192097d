"""Update directions: what fine-tuning writes into the residual stream.

The left singular vectors of the change of the two matrices of a block that write to the residual
stream, the output projection of attention and the down projection of the MLP ("Watch the Weights",
arXiv 2508.00161).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.errors import UnsupportedModel
from interp.maths.host import to_host
from interp.maths.subspaces import SingularBasis, leading_triplets
from interp.models.low_rank import Factors
from interp.models.pair import Pair
from interp.models.updates import MatrixUpdate, matrix_update
from interp.sites import Weight

WRITING = ("attn.o", "mlp.out")
"""Matrices of a block whose output is added to the residual stream."""
MOST = 20
"""Directions of a matrix at most, as in the reference."""
_SAME = 1e-9


@dataclass(frozen=True)
class MatrixDirections:
    """Leading singular triplets of the change of one matrix: ``left`` [D, r], ``values`` [r],
    ``right`` [W, r]. No more than the numerical rank.
    """

    left: Float[np.ndarray, "D r"]
    values: Float[np.ndarray, " r"]
    right: Float[np.ndarray, "W r"]


@dataclass(frozen=True)
class ModelDirections:
    """Directions of one fine-tuned model by matrix, and ``energy``: the sum of all squared singular
    values of the changes of these matrices.
    """

    matrices: Mapping[Weight, MatrixDirections]
    energy: float

    @property
    def keys(self) -> list[tuple[Weight, int]]:
        """Matrix and rank, from 0, of every direction, in the order of the model."""
        return [
            (weight, rank)
            for weight, one in self.matrices.items()
            for rank in range(len(one.values))
        ]

    @property
    def shares(self) -> Float[np.ndarray, " n"]:
        """Share of every direction in the energy."""
        squares = [one.values**2 / self.energy for one in self.matrices.values()]
        return np.concatenate([np.zeros(0), *squares])


def update_directions(pair: Pair, most: int = MOST) -> ModelDirections:
    """The directions of a pair's fine-tuned model; none where a matrix did not change.

    Ranks beyond the numerical rank (NumPy's rule in float32), and directions that the rounding of
    the weights could give, are left out: they are arbitrary. Raises UnsupportedModel for a family
    without a matrix that can be read exactly.
    """
    anatomy = pair.tuned.anatomy
    names = [name for name in WRITING if name in anatomy.matrices]
    if not names:
        raise UnsupportedModel(
            f"{anatomy.architecture} has neither an attention output projection nor a down"
            " projection that can be read exactly, so its update has no directions here"
        )
    found: dict[Weight, MatrixDirections] = {}
    energy = 0.0
    for layer in range(anatomy.n_layers):
        for name in names:
            weight = Weight(layer, name)
            if (update := matrix_update(pair, weight)) is None:
                continue
            energy += update.energy
            if (directions := _directions(update, most)) is not None:
                found[weight] = directions
    return ModelDirections(found, energy)


def _directions(update: MatrixUpdate, most: int) -> MatrixDirections | None:
    if update.factors is not None:
        triplets = product_triplets(update.factors)
        shape = len(triplets.left), len(triplets.right)
    else:
        assert update.dense is not None
        triplets, shape = leading_triplets(update.dense, most), tuple(update.dense.shape)
    values = to_host(triplets.values)
    count = min(most, numerical_rank(values, shape, update.noise))
    if not count:
        return None
    return MatrixDirections(
        to_host(triplets.left[:, :count]), values[:count], to_host(triplets.right[:, :count])
    )


def numerical_rank(values: Float[np.ndarray, " p"], shape: Sequence[int], noise: float) -> int:
    """Singular values, largest first, beyond rounding: NumPy's rule for float32, and ``noise``."""
    if not values.size or not values[0] > 0:
        return 0
    smallest = max(noise, max(shape) * float(np.finfo(np.float32).eps) * float(values[0]))
    return int((values > smallest).sum())


def place_of(weight: Weight, rank: int) -> str:
    """A direction in words; ``rank`` from 0."""
    return f"{weight}, rank {rank + 1}"


def product_triplets(factors: Factors) -> SingularBasis:
    """Singular triplets of ``left @ right`` from its factors: QR of each, then an SVD of an r by r
    matrix, in float64.
    """
    first, second = (torch.linalg.qr(part.double()) for part in (factors[0], factors[1].T))
    left, values, right = torch.linalg.svd(first.R @ second.R.T, full_matrices=False)
    return SingularBasis(first.Q @ left, values, second.Q @ right.T)


def shares_outside(models: Sequence[ModelDirections]) -> list[Float[np.ndarray, " n"]]:
    """For every direction u of every model, ``1 - |P u|^2``: the part of it that is not in the span
    of the directions of all other models for the same matrix.

    Of every other model the first c directions count, where c is such that all together span at
    most half of the width: else nothing would be outside of many models. Every model is treated in
    the same way. 1 for a single model.
    """
    return [
        np.concatenate(
            [
                np.zeros(0),
                *(
                    _outside(one.left, [other.matrices.get(weight) for other in others])
                    for weight, one in model.matrices.items()
                ),
            ]
        )
        for at, model in enumerate(models)
        for others in [[*models[:at], *models[at + 1 :]]]
    ]


def _outside(
    left: Float[np.ndarray, "D r"], others: Sequence[MatrixDirections | None]
) -> Float[np.ndarray, " r"]:
    width = len(left)
    count = max(1, width // (2 * max(len(others), 1)))
    columns = [one.left[:, :count] for one in others if one is not None]
    if not columns:
        return np.ones(left.shape[1])
    basis, values, _ = np.linalg.svd(np.concatenate(columns, 1), full_matrices=False)
    basis = basis[:, values > 1e-6 * values[0]]
    outside = 1 - np.square(basis.T @ left).sum(0)
    return np.where(outside > _SAME, outside, 0.0)


def shares_along(model: ModelDirections, other: ModelDirections) -> Float[np.ndarray, " n"]:
    """For every direction u of ``model``, the share of another model's energy that its update of
    the same matrix has along u.
    """
    parts = [np.zeros(0)]
    for weight, one in model.matrices.items():
        theirs = other.matrices.get(weight)
        if theirs is None or not other.energy:
            parts.append(np.zeros(len(one.values)))
            continue
        cosines = one.left.T @ theirs.left
        parts.append(np.square(cosines * theirs.values).sum(1) / other.energy)
    return np.concatenate(parts)
