"""``Intruders``: leading singular vectors of a tuned matrix that no vector of the base's resembles.

Shuttleworth, Andreas, Torralba, Sharma (arXiv 2410.21228): of every matrix the ``top_k`` left
singular vectors of the tuned weight are compared with *all* of the base's; one whose largest
absolute cosine stays below ``eps`` is an intruder. Two controls: the same against the base's
vectors of like singular value together, since within a cluster of equal values vectors are
arbitrary; and random updates with the singular values of the real one, since a large enough update
of any direction makes intruders.
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

SMALL, FEWEST_DRAWS, SHOWN_OF_BASE = 64, 20, 40
ROUGH = 1e-5
NAN = float("nan")


@dataclass(frozen=True)
class Intruders(Analyzer):
    """Intruders among the ``top_k`` singular vectors of every matrix of a ``WeightPair``, on one
    ``side``.

    ``gap``: base singular values within this share of a vector's own count as like. ``draws``
    random updates per matrix, 20 or more, or 0 for none, in which case nothing is claimed. Returns
    a table of kind ``intruders``, one row per singular vector.
    """

    name: ClassVar[str] = "intruders"
    version: ClassVar[int] = 3

    top_k: int = 10
    eps: float = 0.5
    side: str = "left"
    gap: float = 0.05
    draws: int = 20
    parent: str | None = None

    def __call__(self, study: WeightPair) -> Table:
        """Stream all pairs of matrices, count, compare with random updates."""
        self.require()
        found = study.each(lambda index, matrix: _examine(self, study, index, matrix), "matrices")
        rows, matrices, null = (
            _joined([one[name] for one in found]) for name in ("vectors", "matrix", "null")
        )
        counted = ~matrices["small"] if not matrices["small"].all() else np.ones(len(found), bool)
        totals = {
            f"{name}_total": null[name].reshape(len(found), self.draws)[counted].sum(0)
            for name in ("intruders", "apart")
        }
        worst = max(
            found, key=lambda one: (one["matrix"]["apart"][0], -one["matrix"]["min_cosine"][0])
        )
        notes = [*study.notes]
        if 0 < (small := int(matrices["small"].sum())) < len(found):
            notes.append(
                f"{small} more matrices of size {SMALL} or less, where random vectors come near"
                " eps, do not count"
            )
        run = table(
            self.name,
            _described(rows),
            provenance=study.provenance(self),
            summary={
                "matrices": len(found),
                "changed": int(matrices["changed"].sum()),
                "small": int(matrices["small"].sum()),
                "vectors": len(rows["sigma"]),
                "intruders": int(rows["is_intruder"].sum()),
                "apart": int(rows["apart"].sum()),
                "share": float(rows["is_intruder"].mean()),
                "min_cosine": float(rows["max_cosine"].min()),
                "mean_effective_rank": float(matrices["effective_rank"].mean()),
                "mean_relative_norm": float(matrices["relative_norm"].mean()),
                "limits": [f"{note[:1].upper()}{note[1:]}." for note in notes],
            },
            tables={
                "matrices": table("intruders-matrices", _described(matrices)),
                "null": table("intruders-null", _described(null)),
                "totals": table(
                    "intruders-totals", _described({"draw": np.arange(self.draws)} | totals)
                ),
                "image": table("intruders-image", _described(worst["image"])),
            },
        )
        return conclude(run, self._claims(matrices))

    def require(self) -> None:
        """Raise OptionError for options that mean nothing."""
        if self.top_k < 1:
            raise OptionError(f"{self.top_k} singular vectors are none; use --top-k 1 or more")
        if not 0 < self.eps <= 1 or not 0 <= self.gap < 1:
            raise OptionError(
                f"eps {self.eps} and gap {self.gap}: a cosine lies in (0, 1], a relative gap in"
                " [0, 1)"
            )
        if self.side not in ("left", "right"):
            raise OptionError(f"side {self.side!r} is no side of a matrix; use left or right")
        if self.draws and self.draws < FEWEST_DRAWS:
            raise OptionError(
                f"{self.draws} random updates cannot give p of {ALPHA}; use {FEWEST_DRAWS} or more,"
                " or 0"
            )

    def _claims(self, matrices: dict[str, np.ndarray]) -> list[Claim]:
        """More intruders than random updates give, by single vectors as published and by subspaces
        too.
        """
        counted = ~matrices["small"]
        none = not counted.any()
        where = {} if none else {"small": [False]}
        tested = bool(self.draws) and not none
        vectors = int(matrices["k"].sum() if none else matrices["k"][counted].sum())
        drawn = "random updates of equal rank, norm and singular values in every matrix"
        beside = "; no random updates were drawn to compare it with"
        if none:
            beside = (
                f"; all matrices are of size {SMALL} or less, where random vectors come near eps:"
                " not tested"
            )
        elif tested:
            beside = (
                "; random updates of equal rank, norm and singular values give {control:.1f}"
                " ({control_low:.0f} to {control_high:.0f}), p = {p:.2g}"
            )

        def claim(name: str, column: str, total: str, text: str) -> Claim:
            return Claim(
                name=name,
                estimate=statistic("sum", column, where=where),
                at_least=1.0,
                null=Draws("totals", f"{total}_total") if tested else None,
                control=f"{drawn} ({self.draws} draws)" if tested else "",
                text=f"{text}{beside}.",
            )

        return [
            claim(
                "intruders",
                "is_intruder",
                "intruders",
                f"{{value:.0f}} of {vectors} leading {self.side} singular vectors in"
                f" {len(counted) if none else int(counted.sum())} matrices are intruders (no"
                f" |cosine| with a base vector reaches {self.eps:g})",
            ),
            claim(
                "intruders-by-subspace",
                "apart",
                "apart",
                "{value:.0f} of them are intruders also against the base's vectors of like singular"
                " value together",
            ),
        ]


def _examine(
    options: Intruders, study: WeightPair, index: int, matrix: Matrix
) -> dict[str, dict[str, np.ndarray]]:
    """One matrix: columns of its vectors, of itself, of its random updates, and its cosines for the
    image.
    """
    both = study.read(matrix)
    if options.side == "right":
        swapped = None if both.factors is None else (both.factors[1].T, both.factors[0].T)
        both = MatrixPair(both.base.T, both.tuned.T, swapped)
    count = min(options.top_k, *both.base.shape)
    basis, changed = None, both.changed
    if changed:
        basis = _basis(study, matrix, both, options.side)
        found = subspaces.leading(both.tuned, count, basis.vectors[:, :count])
        compared = subspaces.compare(basis, found.left, found.values, options.eps, options.gap)
    else:
        # values alone are told of these, and their error is the square of the vectors'
        found, compared = (
            subspaces.leading(both.base, count, tolerance=ROUGH),
            subspaces.unchanged(count),
        )
    base, change = both.base, both.factors
    if changed and change is None:
        change = both.tuned.sub_(base)  # in its place: a copy more is what memory is short of
    del both
    # by rows: a norm in float64 of the whole would copy the whole
    spectrum, size = (
        _spectrum(change),
        float(to_host(torch.linalg.vector_norm(base, dim=1).double().norm())),
    )
    null = [
        _drawn(options, base, change, basis, (study.seed, index, draw))
        for draw in range(options.draws)
    ]
    least = np.array([one[2] for one in null])
    cosine, apart = to_host(compared.cosine).astype(np.float64), to_host(compared.apart)
    p = np.array([permutation_p(value, least, "less") for value in cosine])
    small, norm = min(base.shape) <= SMALL, float(to_host(spectrum.square().sum().sqrt()))
    named = {"layer": matrix.layer, "part": matrix.part}
    intruder = to_host(compared.intruder)
    return {
        "vectors": _columns(
            count,
            named,
            rank=np.arange(1, count + 1),
            sigma=to_host(found.values),
            max_cosine=cosine,
            is_intruder=intruder,
            nearest=to_host(compared.nearest) + 1,
            subspace_cosine=to_host(compared.subspace).astype(np.float64),
            apart=apart,
            p=p,
            beyond_null=apart & (p <= ALPHA),
            small=np.full(count, small),
        ),
        "matrix": _columns(
            1,
            named,
            tensor=[matrix.tensor],
            rows=[base.shape[0]],
            columns=[base.shape[1]],
            k=[count],
            changed=[changed],
            intruders=[int(intruder.sum())],
            apart=[int(apart.sum())],
            min_cosine=[float(cosine.min())],
            effective_rank=[subspaces.effective_rank(spectrum)],
            norm=[norm],
            relative_norm=[norm / size if size else NAN],
            small=[small],
            matrix_p=[permutation_p(int(apart.sum()), [one[1] for one in null])],
        ),
        "null": _columns(
            len(null),
            named,
            draw=np.arange(len(null)),
            intruders=np.array([one[0] for one in null], np.int64),
            apart=np.array([one[1] for one in null], np.int64),
            min_cosine=least,
        ),
        "image": _image(basis, found.left, named),
    }


def _basis(study: WeightPair, matrix: Matrix, both: MatrixPair, side: str) -> Basis:
    def compute() -> dict[str, np.ndarray]:
        made = subspaces.left_basis(both.base)
        return {"vectors": to_host(made.vectors), "values": to_host(made.values)}

    kept = study.of_base(matrix, f"singular-basis-1 {side}", compute)
    return Basis(torch.from_numpy(kept["vectors"]), torch.from_numpy(kept["values"]))


def _spectrum(change: Tensor | Factors | None) -> Tensor:
    if change is None:
        return torch.zeros(1, dtype=torch.float64)
    return (
        subspaces.product_values(*change)
        if isinstance(change, tuple)
        else subspaces.singular_values(change)
    )


def _drawn(
    options: Intruders,
    base: Tensor,
    change: Tensor | Factors | None,
    basis: Basis | None,
    seeds: tuple[int, int, int],
) -> tuple[int, int, float]:
    """Intruders, those apart, and the least cosine after a random update with the real one's
    singular values.
    """
    if basis is None or change is None:
        return 0, 0, 1.0
    seed, index, draw = seeds
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) * 10_007 + draw)
    if isinstance(change, tuple):
        left, right = change
        update = (
            subspaces.random_rotation(left, generator)
            @ subspaces.random_rotation(right.T, generator).T
        )
    else:
        update = subspaces.random_rotation(change, generator)
        update = subspaces.random_rotation(update.T, generator).T
    update += base
    count = min(options.top_k, *base.shape)
    # a looser tolerance than the real one's: a count needs no fourth digit
    found = subspaces.leading(update, count, basis.vectors[:, :count], ROUGH, draw)
    compared = subspaces.compare(basis, found.left, found.values, options.eps, options.gap)
    intruder, apart, cosine = (
        to_host(part) for part in (compared.intruder, compared.apart, compared.cosine)
    )
    return int(intruder.sum()), int(apart.sum()), float(cosine.min())


def _image(basis: Basis | None, left: Tensor, named: dict[str, Any]) -> dict[str, np.ndarray]:
    """Cosines of the leading vectors with the base's first ones, as the paper draws them."""
    count = left.shape[1]
    if basis is None:
        cosines = np.eye(count)
    else:
        cosines = to_host(
            (left.to(basis.vectors).T @ basis.vectors[:, :SHOWN_OF_BASE]).abs()
        ).astype(np.float64)
    mine, theirs = (part.ravel() for part in np.indices(cosines.shape))
    return _columns(
        cosines.size, named, rank=mine + 1, base_rank=theirs + 1, cosine=cosines.ravel()
    )


def _columns(count: int, named: dict[str, Any], **columns: Any) -> dict[str, np.ndarray]:
    same = {
        name: np.full(count, value, dtype=object if isinstance(value, str) else None)
        for name, value in named.items()
    }
    return same | {name: np.asarray(values) for name, values in columns.items()}


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


_MEANINGS = {
    "layer": ("key", "block, -1 outside blocks"),
    "part": ("key", "which matrix of the block"),
    "rank": ("key", "place of the singular vector, from 1, largest singular value first"),
    "base_rank": ("key", "place of the base's singular vector, from 1"),
    "draw": ("key", "number of the random update"),
    "tensor": ("text", "the tensor that holds it"),
    "rows": ("measure", "rows of the matrix on the side compared"),
    "columns": ("measure", "columns"),
    "k": ("measure", "singular vectors looked at"),
    "sigma": ("measure", "singular value in the tuned matrix"),
    "max_cosine": ("measure", "largest absolute cosine with any singular vector of the base"),
    "cosine": ("measure", "absolute cosine of the two"),
    "is_intruder": ("flag", "max_cosine below eps, as published"),
    "nearest": ("measure", "place of the base vector that it is most like, from 1"),
    "subspace_cosine": (
        "measure",
        "length of its part among the base's vectors of like singular value",
    ),
    "p": (
        "measure",
        "share of random updates whose least cosine is as small, with the draw itself",
    ),
    "beyond_null": ("flag", "an intruder by both measures, and p at most 0.05 within its matrix"),
    "small": ("flag", "smaller side of 64 or less, where random vectors come near eps"),
    "changed": ("flag", "tuned and base differ in any number"),
    "intruders": ("measure", "vectors below eps"),
    "min_cosine": ("measure", "smallest of the largest cosines"),
    "effective_rank": (
        "measure",
        "of the update: exponential of the entropy of its singular values",
    ),
    "norm": ("measure", "Frobenius norm of the update"),
    "relative_norm": ("measure", "the same over the base's norm"),
    "matrix_p": (
        "measure",
        "share of random updates with as many intruders apart, with the real one",
    ),
    "intruders_total": ("measure", "intruders over all matrices that count"),
    "apart_total": ("measure", "intruders by both measures over all matrices that count"),
}
_APART = {
    True: ("flag", "an intruder also against the base's vectors of like singular value together"),
    False: ("measure", "vectors that are intruders by both measures"),
}


def _described(columns: dict[str, np.ndarray]) -> dict[str, tuple]:
    told = _MEANINGS | (
        {"apart": _APART[columns["apart"].dtype == bool]} if "apart" in columns else {}
    )
    return {name: (values, *told[name]) for name, values in columns.items()}
