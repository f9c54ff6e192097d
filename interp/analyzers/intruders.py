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
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.analyzers.base import Analyzer
from interp.claims import ALPHA, Claim, Draws, conclude, statistic
from interp.errors import OptionError
from interp.maths import subspaces
from interp.maths.host import to_host
from interp.maths.statistics import permutation_p
from interp.maths.subspaces import Basis
from interp.models.low_rank import Factors
from interp.models.weights import Matrix, MatrixPair, WeightPair
from interp.table import Table, table

SMALL_SIDE, MIN_DRAWS, N_IMAGE_BASE_VECTORS = 64, 20, 40
COARSE_TOLERANCE = 1e-5
NAN = float("nan")


@dataclass(frozen=True)
class Intruders(Analyzer):
    """Count intruders among the ``top_k`` singular vectors of every matrix of a ``WeightPair``.

    ``side``: left or right singular vectors. ``gap``: relative difference up to which two singular
    values count as similar. ``draws``: random updates per matrix, at least 20; with 0 there is no
    null and nothing is tested. Returns a table of kind ``intruders``, one row per singular vector.
    """

    name: ClassVar[str] = "intruders"
    version: ClassVar[int] = 3

    top_k: int = 10
    eps: float = 0.5
    side: str = "left"
    gap: float = 0.05
    draws: int = 20

    def __call__(self, study: WeightPair) -> Table:
        """Read the matrices one pair at a time, count intruders and compare with random updates."""
        self.require()
        matrix_results = study.map_matrices(
            lambda index, matrix: _examine_matrix(self, study, index, matrix), "matrices"
        )
        rows, matrices, null = (
            _concatenate([result[name] for result in matrix_results])
            for name in ("vectors", "matrix", "null")
        )
        counted = (
            ~matrices["small"]
            if not matrices["small"].all()
            else np.ones(len(matrix_results), bool)
        )
        totals = {
            f"{name}_total": null[name].reshape(len(matrix_results), self.draws)[counted].sum(0)
            for name in ("intruders", "subspace_intruders")
        }
        most_intruders = max(
            matrix_results,
            key=lambda result: (
                result["matrix"]["subspace_intruders"][0],
                -result["matrix"]["min_cosine"][0],
            ),
        )
        notes = [*study.notes]
        if 0 < (small := int(matrices["small"].sum())) < len(matrix_results):
            notes.append(
                f"{small} matrices with a side of {SMALL_SIDE} or less are not counted: there the"
                " cosines of random vectors come near eps"
            )
        run = table(
            self.name,
            _with_meanings(rows),
            provenance=study.provenance(self),
            summary={
                "matrices": len(matrix_results),
                "changed": int(matrices["changed"].sum()),
                "small": int(matrices["small"].sum()),
                "vectors": len(rows["sigma"]),
                "intruders": int(rows["is_intruder"].sum()),
                "subspace_intruders": int(rows["subspace_intruder"].sum()),
                "share": float(rows["is_intruder"].mean()),
                "min_cosine": float(rows["max_cosine"].min()),
                "mean_effective_rank": float(matrices["effective_rank"].mean()),
                "mean_relative_norm": float(matrices["relative_norm"].mean()),
                "limits": [f"{note[:1].upper()}{note[1:]}." for note in notes],
            },
            tables={
                "matrices": table("intruders-matrices", _with_meanings(matrices)),
                "null": table("intruders-null", _with_meanings(null)),
                "totals": table(
                    "intruders-totals", _with_meanings({"draw": np.arange(self.draws)} | totals)
                ),
                "image": table("intruders-image", _with_meanings(most_intruders["image"])),
            },
        )
        return conclude(run, self._claims(matrices))

    def require(self) -> None:
        """Raise OptionError for invalid options."""
        if self.top_k < 1:
            raise OptionError(f"--top-k is {self.top_k}; use 1 or more")
        if not 0 < self.eps <= 1 or not 0 <= self.gap < 1:
            raise OptionError(
                f"eps {self.eps} and gap {self.gap}: eps must be in (0, 1] and gap in [0, 1)"
            )
        if self.side not in ("left", "right"):
            raise OptionError(f"unknown side {self.side!r}; use left or right")
        if self.draws and self.draws < MIN_DRAWS:
            raise OptionError(
                f"{self.draws} random updates cannot give p <= {ALPHA}; use {MIN_DRAWS} or more,"
                " or 0 for no null"
            )

    def _claims(self, matrices: dict[str, np.ndarray]) -> list[Claim]:
        """Are there more intruders than with random updates, by single vectors and by subspaces?"""
        counted = ~matrices["small"]
        none_counted = not counted.any()
        where = {} if none_counted else {"small": [False]}
        has_null = bool(self.draws) and not none_counted
        n_vectors = int(matrices["k"].sum() if none_counted else matrices["k"][counted].sum())
        null_text = "random updates of equal rank, norm and singular values in every matrix"
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

        def claim(name: str, column: str, total: str, text: str) -> Claim:
            return Claim(
                name=name,
                estimate=statistic("sum", column, where=where),
                at_least=1.0,
                null=Draws("totals", f"{total}_total") if has_null else None,
                control=f"{null_text} ({self.draws} draws)" if has_null else "",
                text=f"{text}{comparison_text}.",
            )

        return [
            claim(
                "intruders",
                "is_intruder",
                "intruders",
                f"{{value:.0f}} of {n_vectors} leading {self.side} singular vectors in"
                f" {len(counted) if none_counted else int(counted.sum())} matrices are intruders"
                f" (largest |cosine| with a base vector below {self.eps:g})",
            ),
            claim(
                "intruders-by-subspace",
                "subspace_intruder",
                "subspace_intruders",
                "{value:.0f} of them are intruders also when compared with the subspace of base"
                " vectors of similar singular value",
            ),
        ]


def _examine_matrix(
    options: Intruders, study: WeightPair, index: int, matrix: Matrix
) -> dict[str, dict[str, np.ndarray]]:
    """Results for one matrix: per vector, per matrix, per random update, and cosines for the
    figure.
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
        leading, comparison = (
            subspaces.leading_triplets(weights.base, count, tolerance=COARSE_TOLERANCE),
            subspaces.identical_comparison(count),
        )
    base, update = weights.base, weights.factors
    if changed and update is None:
        update = weights.tuned.sub_(base)  # in place, to save the memory of another copy
    del weights
    # row by row: a float64 norm of the full matrix would copy it
    spectrum, base_norm = (
        _spectrum(update),
        float(to_host(torch.linalg.vector_norm(base, dim=1).double().norm())),
    )
    null = [
        _examine_random_update(options, base, update, basis, (study.seed, index, draw))
        for draw in range(options.draws)
    ]
    smallest_cosines = np.array([draw[2] for draw in null])
    cosine, subspace_intruder = (
        to_host(comparison.cosine).astype(np.float64),
        to_host(comparison.subspace_intruder),
    )
    p = np.array([permutation_p(value, smallest_cosines, "less") for value in cosine])
    is_small, norm = min(base.shape) <= SMALL_SIDE, float(to_host(spectrum.square().sum().sqrt()))
    keys = {"layer": matrix.layer, "part": matrix.part}
    intruder = to_host(comparison.intruder)
    return {
        "vectors": _columns(
            count,
            keys,
            rank=np.arange(1, count + 1),
            sigma=to_host(leading.values),
            max_cosine=cosine,
            is_intruder=intruder,
            nearest=to_host(comparison.nearest_index) + 1,
            subspace_cosine=to_host(comparison.subspace).astype(np.float64),
            subspace_intruder=subspace_intruder,
            p=p,
            beyond_null=subspace_intruder & (p <= ALPHA),
            small=np.full(count, is_small),
        ),
        "matrix": _columns(
            1,
            keys,
            tensor=[matrix.tensor],
            rows=[base.shape[0]],
            columns=[base.shape[1]],
            k=[count],
            changed=[changed],
            intruders=[int(intruder.sum())],
            subspace_intruders=[int(subspace_intruder.sum())],
            min_cosine=[float(cosine.min())],
            effective_rank=[subspaces.effective_rank(spectrum)],
            norm=[norm],
            relative_norm=[norm / base_norm if base_norm else NAN],
            small=[is_small],
            matrix_p=[permutation_p(int(subspace_intruder.sum()), [draw[1] for draw in null])],
        ),
        "null": _columns(
            len(null),
            keys,
            draw=np.arange(len(null)),
            intruders=np.array([draw[0] for draw in null], np.int64),
            subspace_intruders=np.array([draw[1] for draw in null], np.int64),
            min_cosine=smallest_cosines,
        ),
        "image": _image(basis, leading.left, keys),
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
    intruder, subspace_intruder, cosine = (
        to_host(part)
        for part in (comparison.intruder, comparison.subspace_intruder, comparison.cosine)
    )
    return int(intruder.sum()), int(subspace_intruder.sum()), float(cosine.min())


def _image(basis: Basis | None, left: Tensor, keys: dict[str, Any]) -> dict[str, np.ndarray]:
    """Cosines of the leading vectors with the first base vectors, as in the paper's figures."""
    count = left.shape[1]
    if basis is None:
        cosines = np.eye(count)
    else:
        cosines = to_host(
            (left.to(basis.vectors).T @ basis.vectors[:, :N_IMAGE_BASE_VECTORS]).abs()
        ).astype(np.float64)
    ranks, base_ranks = (part.ravel() for part in np.indices(cosines.shape))
    return _columns(
        cosines.size, keys, rank=ranks + 1, base_rank=base_ranks + 1, cosine=cosines.ravel()
    )


def _columns(count: int, keys: dict[str, Any], **columns: Any) -> dict[str, np.ndarray]:
    key_columns = {
        name: np.full(count, value, dtype=object if isinstance(value, str) else None)
        for name, value in keys.items()
    }
    return key_columns | {name: np.asarray(values) for name, values in columns.items()}


def _concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


_MEANINGS = {
    "layer": ("key", "block; -1 outside the blocks"),
    "part": ("key", "matrix of the block"),
    "rank": ("key", "rank of the singular vector, from 1, largest singular value first"),
    "base_rank": ("key", "rank of the base's singular vector, from 1"),
    "draw": ("key", "number of the random update"),
    "tensor": ("text", "tensor that holds the matrix"),
    "rows": ("measure", "rows of the matrix; columns if right vectors are compared"),
    "columns": ("measure", "columns of the matrix; rows if right vectors are compared"),
    "k": ("measure", "singular vectors examined"),
    "sigma": ("measure", "singular value in the fine-tuned matrix"),
    "max_cosine": ("measure", "largest absolute cosine with any singular vector of the base"),
    "cosine": ("measure", "absolute cosine of the two vectors"),
    "is_intruder": ("flag", "max_cosine is below eps (the published definition)"),
    "nearest": ("measure", "rank of the most similar base vector, from 1"),
    "subspace_cosine": (
        "measure",
        "norm of its projection onto base vectors of similar singular value",
    ),
    "p": (
        "measure",
        "p: share of random updates whose smallest cosine is as small, the real one counted",
    ),
    "beyond_null": ("flag", "a subspace intruder with p at most 0.05 within its matrix"),
    "small": ("flag", "the smaller side is 64 or less: cosines of random vectors come near eps"),
    "changed": ("flag", "fine-tuned and base weights differ"),
    "intruders": ("measure", "vectors with max_cosine below eps"),
    "min_cosine": ("measure", "smallest max_cosine of the vectors"),
    "effective_rank": (
        "measure",
        "effective rank of the update: exponential of the entropy of its singular values",
    ),
    "norm": ("measure", "Frobenius norm of the update"),
    "relative_norm": ("measure", "norm of the update divided by that of the base"),
    "matrix_p": (
        "measure",
        "p: share of random updates with as many subspace intruders, the real one counted",
    ),
    "intruders_total": ("measure", "intruders over all counted matrices"),
    "subspace_intruders_total": ("measure", "subspace intruders over all counted matrices"),
    "subspace_intruder": (
        "flag",
        "an intruder also when compared with base vectors of similar singular value",
    ),
    "subspace_intruders": ("measure", "vectors that are subspace intruders"),
}


def _with_meanings(columns: dict[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (values, *_MEANINGS[name]) for name, values in columns.items()}
