"""``Intruders``: leading singular vectors of a fine-tuned matrix unlike any of the base matrix.

Shuttleworth, Andreas, Torralba, Sharma (arXiv 2410.21228) compare the ``top_k`` left singular
vectors of each fine-tuned matrix with *all* singular vectors of the base matrix. A vector whose
largest absolute cosine is below ``eps`` is an intruder. Two controls are added. Vectors are also
compared with the subspace of the base vectors of similar singular value, because vectors within a
group of nearly equal singular values are arbitrary. And intruders are counted for random updates
with the singular values of the real update, because any large update of low rank makes intruders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.claims import ALPHA, Claim, Draws, statistic
from interp.errors import OptionError
from interp.experiments.singular_vectors import PartRow, VectorRow
from interp.maths import subspaces
from interp.maths.host import to_host
from interp.maths.statistics import permutation_p
from interp.maths.subspaces import Basis
from interp.models.low_rank import Factors
from interp.models.weights import Matrix, MatrixPair, WeightPair
from interp.rows import DrawRow, flag, key, measure, rows_table, text
from interp.table import Table

SMALL_SIDE, MIN_DRAWS, N_IMAGE_BASE_VECTORS = 64, 20, 40
COARSE_TOLERANCE = 1e-5


class MatrixRow(PartRow):
    """A row per matrix."""

    tensor: str = text("tensor that holds the matrix")
    rows: int = measure("rows of the matrix; columns if right vectors are compared")
    columns: int = measure("columns of the matrix; rows if right vectors are compared")
    k: int = measure("singular vectors examined")
    changed: bool = flag("fine-tuned and base weights differ")
    intruders: int = measure("vectors with max_cosine below eps")
    subspace_intruders: int = measure("vectors that are subspace intruders")
    min_cosine: float = measure("smallest max_cosine of the vectors")
    effective_rank: float = measure(
        "effective rank of the update: exponential of the entropy of its singular values"
    )
    norm: float = measure("Frobenius norm of the update")
    relative_norm: float = measure("norm of the update divided by that of the base")
    small: bool = VectorRow.small
    matrix_p: float = measure(
        "p: share of random updates with as many subspace intruders, the real one counted"
    )


class RandomUpdateRow(DrawRow, PartRow):
    """A row per matrix and random update."""

    intruders: int = MatrixRow.intruders
    subspace_intruders: int = MatrixRow.subspace_intruders
    min_cosine: float = MatrixRow.min_cosine


class TotalRow(DrawRow):
    """A row per draw of a random update of every matrix."""

    intruders_total: int = measure("intruders over all counted matrices")
    subspace_intruders_total: int = measure("subspace intruders over all counted matrices")


class CosineRow(PartRow):
    """A row per leading singular vector and singular vector of the base."""

    rank: int = VectorRow.rank
    base_rank: int = key("rank of the base's singular vector, from 1")
    cosine: float = measure("absolute cosine of the two vectors")


@dataclass(frozen=True)
class Intruders(Analyzer):
    """Count intruders among the ``top_k`` singular vectors of every matrix of a ``WeightPair``.

    ``side``: left or right singular vectors. ``gap``: relative difference up to which two singular
    values count as similar. ``draws``: random updates per matrix, at least 20; with 0 there is no
    null and nothing is tested. Returns a table of kind ``intruders``, one row per singular vector.
    """

    name: ClassVar[str] = "intruders"
    version: ClassVar[int] = 3

    top_k: int = option(10, "Leading singular vectors of each matrix.", ge=1)
    eps: float = option(0.5, "An intruder's largest |cosine| lies below this.")
    side: str = option("left", "left or right singular vectors.", choices=("left", "right"))
    gap: float = option(0.05, "Relative tolerance for equal singular values of the base.")
    draws: int = option(20, "Random updates: 20 or more, or 0.", ge=0)

    def check(self, known: Known) -> None:
        """Raise OptionError for ``eps`` or ``gap`` out of range, and for 1 to 19 draws."""
        del known
        if not 0 < self.eps <= 1 or not 0 <= self.gap < 1:
            raise OptionError(
                f"eps {self.eps} and gap {self.gap}: eps must be in (0, 1] and gap in [0, 1)"
            )
        if 0 < self.draws < MIN_DRAWS:
            raise OptionError(
                f"{self.draws} random updates cannot give p <= {ALPHA}; use {MIN_DRAWS} or more,"
                " or 0 for no null"
            )

    def run(self, study: WeightPair) -> Result:
        """Read the matrices one pair at a time, count intruders and compare with random updates."""
        results = study.map_matrices(partial(_examine_matrix, self, study), "matrices")
        rows, matrices, null = (
            _table(row, study.matrices, [result[row] for result in results])
            for row in (VectorRow, MatrixRow, RandomUpdateRow)
        )
        n_small = int(matrices["small"].sum())
        counted = ~matrices["small"] | (n_small == len(results))
        totals = {
            f"{name}_total": null[name].reshape(len(results), self.draws)[counted].sum(0)
            for name in ("intruders", "subspace_intruders")
        }
        most = max(
            range(len(results)),
            key=lambda row: (matrices["subspace_intruders"][row], -matrices["min_cosine"][row]),
        )
        notes = [*study.notes]
        if 0 < n_small < len(results):
            notes.append(
                f"{n_small} matrices with a side of {SMALL_SIDE} or less are not counted: there the"
                " cosines of random vectors come near eps"
            )
        return Result(
            rows,
            tables={
                "matrices": matrices,
                "null": null,
                "totals": rows_table(TotalRow, "", {"draw": np.arange(self.draws), **totals}),
                "image": _table(CosineRow, [study.matrices[most]], [results[most][CosineRow]]),
            },
            claims=self._claims(matrices, counted),
            summary={
                "matrices": len(results),
                "changed": int(matrices["changed"].sum()),
                "small": n_small,
                "vectors": len(rows),
                "intruders": int(rows["is_intruder"].sum()),
                "subspace_intruders": int(rows["subspace_intruder"].sum()),
                "share": float(rows["is_intruder"].mean()),
                "min_cosine": float(rows["max_cosine"].min()),
                "mean_effective_rank": float(matrices["effective_rank"].mean()),
                "mean_relative_norm": float(matrices["relative_norm"].mean()),
            },
            limits=[f"{note[:1].upper()}{note[1:]}." for note in notes],
        )

    def _claims(self, matrices: Table, counted: np.ndarray) -> list[Claim]:
        """Are there more intruders than with random updates, by single vectors and by subspaces?"""
        none_counted = bool(matrices["small"].all())
        has_null = self.draws > 0 and not none_counted
        comparison_text = "; no random updates were drawn to compare with"
        if none_counted:
            comparison_text = (
                f"; not tested, because all matrices have a side of {SMALL_SIDE} or less, where the"
                " cosines of random vectors come near eps"
            )
        elif has_null:
            comparison_text = (
                "; random updates of equal rank, norm and singular values give {control:.1f}"
                " ({control_low:.0f} to {control_high:.0f}), p = {p:.2g}"
            )
        control = (
            "random updates of equal rank, norm and singular values in every matrix"
            f" ({self.draws} draws)"
        )

        def claim(name: str, column: str, total: str, text: str) -> Claim:
            return Claim(
                name=name,
                estimate=statistic("sum", column, where={} if none_counted else {"small": [False]}),
                at_least=1.0,
                null=Draws("totals", total) if has_null else None,
                control=control if has_null else "",
                text=f"{text}{comparison_text}.",
            )

        return [
            claim(
                "intruders",
                "is_intruder",
                "intruders_total",
                f"{{value:.0f}} of {int(matrices['k'][counted].sum())} leading {self.side} singular"
                f" vectors in {int(counted.sum())} matrices are intruders (largest |cosine| with a"
                f" base vector below {self.eps:g})",
            ),
            claim(
                "intruders-by-subspace",
                "subspace_intruder",
                "subspace_intruders_total",
                "{value:.0f} of them are intruders also when compared with the subspace of base"
                " vectors of similar singular value",
            ),
        ]


def _examine_matrix(
    options: Intruders, study: WeightPair, index: int, matrix: Matrix
) -> dict[type, dict[str, Any]]:
    """Columns for one matrix, by class of rows: per vector, per matrix, per random update, and
    cosines for the figure.
    """
    weights = study.read(matrix)
    if options.side == "right":
        swapped = None if weights.factors is None else (weights.factors[1].T, weights.factors[0].T)
        weights = MatrixPair(weights.base.T, weights.tuned.T, swapped)
    count = min(options.top_k, *weights.base.shape)
    basis, changed = None, weights.is_changed
    if changed:
        basis = _basis(study, matrix, weights, options.side)
        leading = subspaces.leading_triplets(weights.tuned, count, basis.vectors[:, :count])
        comparison = subspaces.compare_with_basis(
            basis, leading.left, leading.values, options.eps, options.gap
        )
    else:
        # only the singular values are reported here; their error is the square of the vectors'
        leading = subspaces.leading_triplets(weights.base, count, tolerance=COARSE_TOLERANCE)
        comparison = subspaces.identical_comparison(count)
    base, update = weights.base, weights.factors
    if changed and update is None:
        update = weights.tuned.sub_(base)  # in place, to save the memory of another copy
    del weights
    spectrum = _spectrum(update)
    # row by row: a float64 norm of the full matrix would copy it
    base_norm = float(to_host(torch.linalg.vector_norm(base, dim=1).double().norm()))
    null = np.array(
        [
            _examine_random_update(options, base, update, basis, (study.seed, index, draw))
            for draw in range(options.draws)
        ],
        np.float64,
    ).reshape(-1, 3)
    cosine = to_host(comparison.cosine).astype(np.float64)
    intruder, subspace_intruder = map(to_host, (comparison.intruder, comparison.subspace_intruder))
    p = np.array([permutation_p(value, null[:, 2], "less") for value in cosine])
    is_small, norm = min(base.shape) <= SMALL_SIDE, float(to_host(spectrum.square().sum().sqrt()))
    return {
        VectorRow: {
            "rank": np.arange(1, count + 1),
            "sigma": to_host(leading.values),
            "max_cosine": cosine,
            "is_intruder": intruder,
            "nearest": to_host(comparison.nearest_index) + 1,
            "subspace_cosine": to_host(comparison.subspace).astype(np.float64),
            "subspace_intruder": subspace_intruder,
            "p": p,
            "beyond_null": subspace_intruder & (p <= ALPHA),
            "small": np.full(count, is_small),
        },
        MatrixRow: {
            "tensor": [matrix.tensor],
            "rows": [base.shape[0]],
            "columns": [base.shape[1]],
            "k": [count],
            "changed": [changed],
            "intruders": [int(intruder.sum())],
            "subspace_intruders": [int(subspace_intruder.sum())],
            "min_cosine": [float(cosine.min())],
            "effective_rank": [subspaces.effective_rank(spectrum)],
            "norm": [norm],
            "relative_norm": [norm / base_norm if base_norm else float("nan")],
            "small": [is_small],
            "matrix_p": [permutation_p(int(subspace_intruder.sum()), null[:, 1])],
        },
        RandomUpdateRow: {
            "draw": np.arange(options.draws),
            "intruders": null[:, 0].astype(np.int64),
            "subspace_intruders": null[:, 1].astype(np.int64),
            "min_cosine": null[:, 2],
        },
        CosineRow: _cosines(basis, leading.left),
    }


def _basis(study: WeightPair, matrix: Matrix, weights: MatrixPair, side: str) -> Basis:
    def compute() -> dict[str, np.ndarray]:
        basis = subspaces.left_basis(weights.base)
        return {"vectors": to_host(basis.vectors), "values": to_host(basis.values)}

    arrays = study.base_arrays(matrix, f"singular-basis-1 {side}", compute)
    return Basis(torch.from_numpy(arrays["vectors"]), torch.from_numpy(arrays["values"]))


def _spectrum(update: Tensor | Factors | None) -> Tensor:
    if update is None:
        return torch.zeros(1, dtype=torch.float64)
    return (
        subspaces.product_values(*update)
        if isinstance(update, tuple)
        else subspaces.singular_values(update)
    )


def _examine_random_update(
    options: Intruders,
    base: Tensor,
    real_update: Tensor | Factors | None,
    basis: Basis | None,
    seeds: tuple[int, int, int],
) -> tuple[int, int, float]:
    """Intruders, subspace intruders and the smallest cosine for one random update.

    The random update has the singular values of the real one.
    """
    if basis is None or real_update is None:
        return 0, 0, 1.0
    seed, index, draw = seeds
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) * 10_007 + draw)
    if isinstance(real_update, tuple):
        left, right = real_update
        update = (
            subspaces.random_rotation(left, generator)
            @ subspaces.random_rotation(right.T, generator).T
        )
    else:
        update = subspaces.random_rotation(real_update, generator)
        update = subspaces.random_rotation(update.T, generator).T
    update += base
    count = min(options.top_k, *base.shape)
    # a looser tolerance than for the real update: only counts are needed
    leading = subspaces.leading_triplets(
        update, count, basis.vectors[:, :count], COARSE_TOLERANCE, draw
    )
    comparison = subspaces.compare_with_basis(
        basis, leading.left, leading.values, options.eps, options.gap
    )
    return (
        int(to_host(comparison.intruder).sum()),
        int(to_host(comparison.subspace_intruder).sum()),
        float(to_host(comparison.cosine).min()),
    )


def _cosines(basis: Basis | None, left: Tensor) -> dict[str, np.ndarray]:
    """Cosines of the leading vectors with the first base vectors, as in the paper's figures."""
    if basis is None:
        cosines = np.eye(left.shape[1])
    else:
        cosines = to_host(
            (left.to(basis.vectors).T @ basis.vectors[:, :N_IMAGE_BASE_VECTORS]).abs()
        ).astype(np.float64)
    ranks, base_ranks = np.indices(cosines.shape)
    return {
        "rank": ranks.ravel() + 1,
        "base_rank": base_ranks.ravel() + 1,
        "cosine": cosines.ravel(),
    }


def _table(
    row: type[PartRow], matrices: Sequence[Matrix], parts: Sequence[dict[str, Any]]
) -> Table:
    """The columns of every matrix, one after the other."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    counts = [len(next(iter(part.values()))) for part in parts]
    keys = {
        "layer": np.repeat([matrix.layer for matrix in matrices], counts),
        "part": np.repeat(np.array([matrix.part for matrix in matrices], object), counts),
    }
    return rows_table(row, "", {**keys, **columns})
