"""Singular vectors of one matrix compared with those of another: bases, leading vectors, cosines,
random updates.

Gram matrices are formed in float64: their eigenvectors are singular vectors at half the cost of a
full decomposition, and singular values stay exact down to 1e-8 of the largest. Leading vectors come
from block Krylov subspaces (Musco and Musco, arXiv 1504.05477) and are accepted only by their
residuals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy.linalg
import torch
from jaxtyping import Bool, Float, Int
from scipy.linalg import blas
from torch import Tensor

from interp.maths.host import to_host

_OVERSAMPLING, _MAX_STEPS, _MAX_GRAM_SIZE, _FLOAT32_TOLERANCE, _CHUNK_NUMBERS = (
    6,
    40,
    1024,
    1e-6,
    1 << 20,
)


@dataclass(frozen=True)
class Basis:
    """All left singular vectors of a matrix, as columns in float32, and its singular values,
    largest first.

    A tall matrix has as many vectors as columns; vectors of zero singular values are zero, since
    they are arbitrary.
    """

    vectors: Float[Tensor, "m p"]
    values: Float[Tensor, " p"]


@dataclass(frozen=True)
class SingularBasis:
    """The first singular triplets of a matrix, in float64, largest first."""

    left: Float[Tensor, "m k"]
    values: Float[Tensor, " k"]
    right: Float[Tensor, "n k"]


@dataclass(frozen=True)
class Comparison:
    """Per leading vector: ``cosine`` (the largest with any base vector), ``nearest_index`` (index
    of that base vector) and ``subspace`` (norm of its projection onto the base vectors of similar
    singular value).

    ``intruder`` is the published definition (arXiv 2410.21228); ``subspace_intruder`` requires both
    numbers to be below ``eps``.
    """

    cosine: Float[Tensor, " k"]
    nearest_index: Int[Tensor, " k"]
    subspace: Float[Tensor, " k"]
    intruder: Bool[Tensor, " k"]
    subspace_intruder: Bool[Tensor, " k"]


def gram(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m m"]:
    """``matrix @ matrix.T`` in float64, without a float64 copy of the whole matrix."""
    rows, columns = matrix.shape
    total = torch.zeros(rows, rows, dtype=torch.float64, device=matrix.device)
    step = max(1, _CHUNK_NUMBERS // max(rows, 1))
    parts = (matrix[:, start : start + step].double() for start in range(0, columns, step))
    if matrix.device.type != "cpu":
        for part in parts:
            total.addmm_(part, part.T)
        return total
    result = to_host(total).T
    for part in parts:
        # one triangle is half the work; to BLAS a row-major matrix is its transpose
        by_row = part.stride(1) == 1
        operand = to_host(part.T if by_row else part)
        # scipy generates these functions from Fortran; its annotations lack them
        result = blas.dsyrk(1.0, operand, 1.0, result, trans=int(by_row), lower=1, overwrite_c=1)  # pyright: ignore[reportAttributeAccessIssue]
    total = torch.from_numpy(result.T)
    return total.triu_().add_(total.triu(1).T)


def _gram_product(
    matrix: Float[Tensor, "m n"], vectors: Float[Tensor, "m b"]
) -> Float[Tensor, "m b"]:
    """``matrix @ matrix.T @ vectors`` in float64, without a float64 copy of the whole matrix."""
    total, step = torch.zeros_like(vectors), max(1, _CHUNK_NUMBERS // max(matrix.shape[0], 1))
    for start in range(0, matrix.shape[1], step):
        part = matrix[:, start : start + step].double()
        total.addmm_(part, part.T @ vectors)
    return total


def left_basis(matrix: Float[Tensor, "m n"]) -> Basis:
    """All left singular vectors and values of a matrix, by eigenvectors of its smaller Gram matrix
    in float64.
    """
    rows, columns = matrix.shape
    wide = matrix if rows <= columns else matrix.T
    squares, vectors = torch.linalg.eigh(gram(wide))
    values = squares.clamp(min=0).sqrt().flip(0)
    if rows <= columns:
        return Basis(vectors.float().flip(1), values)
    vectors = vectors.flip(1)
    vectors *= torch.where(values > 1e-7 * values[:1], 1 / values, 0)
    # filled in place: concatenating parts would need two copies
    left, step = (
        torch.empty(rows, columns, device=matrix.device),
        max(1, _CHUNK_NUMBERS // max(columns, 1)),
    )
    for start in range(0, rows, step):
        left[start : start + step] = matrix[start : start + step].double() @ vectors
    return Basis(left, values)


def singular_values(matrix: Float[Tensor, "m n"]) -> Float[Tensor, " p"]:
    """Singular values, largest first, in float64; values below 1e-8 of the largest are rounding
    errors.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(gram(wide)).clamp(min=0).sqrt().flip(0)


def product_values(left: Float[Tensor, "m r"], right: Float[Tensor, "r n"]) -> Float[Tensor, " q"]:
    """Singular values of ``left @ right`` from its factors: QR of each, then an SVD of an r by r
    matrix.
    """
    left_factor, right_factor = (
        torch.linalg.qr(left.double()).R,
        torch.linalg.qr(right.double().T).R,
    )
    return torch.linalg.svdvals(left_factor @ right_factor.T)


def effective_rank(values: Float[Tensor, " p"]) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007); 0 if
    all are zero.
    """
    total = float(to_host(values.sum()))
    if not total > 0:
        return 0.0
    share = values / total
    return math.exp(-float(to_host(torch.xlogy(share, share).sum())))


def leading_triplets(
    matrix: Float[Tensor, "m n"],
    count: int,
    start_vectors: Float[Tensor, "m b"] | None = None,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> SingularBasis:
    """The first ``count`` singular triplets.

    If the smaller side is at most 1024, the start is an eigendecomposition of the Gram matrix in
    float32; otherwise it is the left vectors ``start_vectors`` and random ones drawn from ``seed``.
    ``tolerance`` bounds residuals relative to the largest squared singular value; the error of a
    vector is at most that divided by the relative gap of the squares. If the subspace would grow
    too large, all vectors are computed instead.
    """
    rows, columns = matrix.shape
    count = min(count, rows, columns)
    is_transposed = rows > columns
    wide = matrix.T if is_transposed else matrix
    gram_matrix = gram(wide) if wide.shape[0] <= _MAX_GRAM_SIZE else None
    if start_vectors is not None and is_transposed and gram_matrix is None:
        start_vectors = matrix.T @ start_vectors.to(matrix)

    def times(vectors: Tensor) -> Tensor:
        if gram_matrix is not None:
            return gram_matrix @ vectors
        if tolerance >= _FLOAT32_TOLERANCE:
            return (wide @ (wide.T @ vectors.to(wide))).double()
        return _gram_product(wide, vectors)

    size, block = wide.shape[0], count + _OVERSAMPLING
    pairs = None
    if 4 * block <= size:
        if gram_matrix is not None:
            # squares can overflow float32
            largest = gram_matrix.diagonal().max().clamp(min=1e-300)
            start = _largest_eigenpairs((gram_matrix / largest).float(), block)[0].double()
        else:
            start = _start_block(
                size, block, None if start_vectors is None else start_vectors[:, :count], seed
            ).to(wide.device)
        pairs = _block_lanczos(times, size, count, start, tolerance)
    if pairs is None:
        pairs = _largest_eigenpairs(gram(wide) if gram_matrix is None else gram_matrix, count)
    left, values = pairs[0], pairs[1].sqrt()
    right = (wide.T @ left.to(wide)).double() * torch.where(values > 0, 1 / values, 0)
    return (
        SingularBasis(right, values, left) if is_transposed else SingularBasis(left, values, right)
    )


def _start_block(
    size: int, block: int, start_vectors: Float[Tensor, "m b"] | None, seed: int
) -> Float[Tensor, "m _"]:
    """A start block: the vectors ``start_vectors``, slightly perturbed, and random ones."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, block, generator=generator, dtype=torch.float64)
    if start_vectors is not None:
        # an exact start would end the recurrence before it reaches another direction
        directions = start_vectors.double()
        directions = directions / directions.norm(dim=0).clamp(min=1e-30)
        start = start.to(directions)
        start[:, : directions.shape[1]] = directions + 1e-3 * start[
            :, : directions.shape[1]
        ] / math.sqrt(size)
    return start


def _block_lanczos(
    multiply: Callable[[Tensor], Tensor],
    size: int,
    count: int,
    start: Float[Tensor, "m b"],
    tolerance: float,
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"]] | None:
    """Ritz vectors and values of a Gram matrix by block Lanczos, fully orthogonalised; None without
    convergence.
    """
    block = start.shape[1]
    newest = torch.linalg.qr(start).Q
    basis, projected = newest, newest.new_zeros(block, 0)
    for step in range(1, _MAX_STEPS + 1):
        residual_block = multiply(newest)
        # the coefficients of the orthogonalisation are the new part of the projected matrix, so
        # nothing is multiplied twice
        coefficients = basis.T @ residual_block
        residual_block = residual_block - basis @ coefficients
        correction = basis.T @ residual_block
        residual_block, coefficients = (
            residual_block - basis @ correction,
            coefficients + correction,
        )
        padding = projected.new_zeros(
            coefficients.shape[0] - projected.shape[0], projected.shape[1]
        )
        projected = torch.cat([torch.cat([projected, padding]), coefficients], 1)
        newest, border = torch.linalg.qr(residual_block)
        pivots = to_host(border.diagonal().abs())
        is_exhausted = bool(pivots.min() <= 1e-12 * max(pivots.max(), 1e-300))
        is_full = 2 * (basis.shape[1] + block) > size or step == _MAX_STEPS
        if step in (1, 2) or step % 3 == 0 or is_exhausted or is_full:
            ritz_vectors, ritz_values = _largest_eigenpairs(projected, count)
            residual = (border @ ritz_vectors[-block:]).norm(dim=0).max()
            if to_host(residual <= tolerance * ritz_values[0]):
                return basis @ ritz_vectors, ritz_values
        if is_exhausted or is_full:
            return None
        basis = torch.cat([basis, newest], 1)
    return None


def _largest_eigenpairs(
    matrix: Float[Tensor, "m m"], count: int
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"]]:
    """The ``count`` largest eigenvectors and eigenvalues of a symmetric matrix (upper triangle),
    largest first.
    """
    index_range = (matrix.shape[0] - count, matrix.shape[0] - 1)
    squares, vectors = scipy.linalg.eigh(
        to_host(matrix), lower=False, subset_by_index=index_range, check_finite=False
    )
    squares, vectors = (
        torch.from_numpy(part[..., ::-1].copy()).to(matrix.device) for part in (squares, vectors)
    )
    return vectors, squares.clamp(min=0)


def compare_with_basis(
    basis: Basis,
    left: Float[Tensor, "m k"],
    values: Float[Tensor, " k"],
    eps: float = 0.5,
    gap: float = 0.05,
) -> Comparison:
    """Compare each column of ``left`` with all vectors of the base, by absolute cosines (signs are
    arbitrary).

    ``gap`` is the largest relative difference of ``values`` from base singular values that count as
    similar: within a group of equal singular values any rotation of the vectors is equally valid.
    """
    cosines = (left.to(basis.vectors).T @ basis.vectors).abs()
    largest = cosines.max(1)
    is_similar = (basis.values[None] - values[:, None]).abs() <= gap * values[:, None]
    subspace = (
        cosines.square().masked_fill(~is_similar.to(cosines.device), 0).sum(1).sqrt().clamp(max=1)
    )
    cosine = largest.values.clamp(max=1)
    return Comparison(
        cosine, largest.indices, subspace, cosine < eps, (cosine < eps) & (subspace < eps)
    )


def random_rotation(
    matrix: Float[Tensor, "m n"], generator: torch.Generator
) -> Float[Tensor, "m n"]:
    """The matrix with its left singular vectors rotated at random; all singular values stay the
    same.

    Uses random signs and Hartley transforms, twice each, in place of a Haar rotation, which would
    need a QR.
    """
    rows, columns = matrix.shape
    signs = [
        torch.randint(0, 2, (rows, 1), generator=generator).to(matrix) * 2 - 1 for _ in range(3)
    ]
    step = max(1, _CHUNK_NUMBERS // max(rows, 1))
    result = torch.empty_like(matrix, memory_format=torch.contiguous_format)
    for start in range(0, columns, step):
        part = matrix[:, start : start + step] * signs[0]
        for sign in signs[1:]:
            image = torch.fft.fft(part, dim=0, norm="ortho")
            part = (image.real - image.imag) * sign
        result[:, start : start + step] = part
    return result


def compare_leading_vectors(
    base: Float[Tensor, "m n"],
    tuned: Float[Tensor, "m n"],
    k: int = 10,
    eps: float = 0.5,
    side: str = "left",
) -> tuple[SingularBasis, Comparison]:
    """Compare the ``k`` leading vectors of the fine-tuned matrix with all of the base's
    (Shuttleworth et al., arXiv 2410.21228).

    ``side`` is ``left`` or ``right``; matrices are ``(out, in)``. Equal matrices have equal vectors
    by definition.
    """
    if side == "right":
        base, tuned = base.T, tuned.T
    basis = left_basis(base)
    if torch.equal(base, tuned):
        count = min(k, *base.shape)
        left, values = basis.vectors[:, :count].double(), basis.values[:count]
        triplets = SingularBasis(
            left, values, (base.T @ left.to(base)).double() / values.clamp(min=1e-300)
        )
        return triplets, identical_comparison(count)
    triplets = leading_triplets(tuned, k, basis.vectors[:, :k])
    return triplets, compare_with_basis(basis, triplets.left, triplets.values, eps)


def identical_comparison(count: int) -> Comparison:
    """The comparison of a matrix with itself, for any spectrum."""
    ones, none = torch.ones(count), torch.zeros(count, dtype=torch.bool)
    return Comparison(ones, torch.arange(count), ones, none, none)
