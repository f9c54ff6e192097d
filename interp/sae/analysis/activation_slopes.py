"""Slope of each model's activations on a latent's code, over all dimensions, with unbiased lengths.

The slope is ``sum_i (f(i) - mean) x(i)`` for rows ``x`` and codes ``f``, independent of the
decoder. It is accumulated per fold of documents; products of slopes from different folds contain no
noise of a row with itself, so lengths and cosines are not inflated by noise (cross-validated, as
Walther et al. 2016, NeuroImage 137, do for distances). Wide rows are first projected on random
orthonormal directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.maths.host import to_host
from interp.sae.core.sparse_products import Codes

MAX_WIDTH = 128
"""Wider rows are projected to this width: the error of a cosine c is about (1 - c^2) /
sqrt(128).
"""
_CHUNK = 1 << 16
_ROUNDING = 1e-12
"""A sum of products this small relative to their magnitudes is 0."""


class ActivationSlopes:
    """Running sums of codes times rows, per fold and latent, for ``n_parts`` sets of rows of width
    ``width`` each.
    """

    def __init__(self, latents: int, width: int, folds: int, n_parts: int) -> None:
        self.latents, self.width, self.folds, self.n_parts = latents, width, folds, n_parts
        self.projection: Tensor | None = None
        if width > MAX_WIDTH:
            random_matrix = torch.randn(
                width, MAX_WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
            self.projection = torch.linalg.qr(random_matrix)[0]
        self._sums: dict[str, Tensor] = {}

    def projected(self, rows: Float[Tensor, "N D"]) -> Float[Tensor, "N R"]:
        """Rows in float64, projected if they are wide."""
        rows = rows.double()
        return rows if self.projection is None else rows @ self.projection.to(rows.device)

    def add(self, folds: Int[Tensor, " N"], codes: Codes, *rows: Float[Tensor, "N D"]) -> None:
        """Add a batch: the fold of each row, its codes, and the rows of each part."""
        x = torch.cat([self.projected(part) for part in rows], 1)
        if not self._sums:
            shapes = {
                "along": (self.folds * self.latents, x.shape[1]),
                "codes": (self.folds * self.latents,),
                "rows": (x.shape[1],),
                "count": (),
            }
            self._sums = {name: x.new_zeros(shape) for name, shape in shapes.items()}
        sums, inputs = self._sums, codes.pattern.rows
        cells, values = folds[inputs] * self.latents + codes.pattern.latents, codes.values.double()
        for piece in torch.arange(len(inputs), device=inputs.device).split(_CHUNK):
            sums["along"].index_add_(0, cells[piece], values[piece, None] * x[inputs[piece]])
        sums["codes"].index_add_(0, cells, values)
        sums["rows"] += x.sum(0)
        sums["count"] += len(x)

    def slopes(self) -> Float[Tensor, "K F PR"]:
        """Each fold's contribution to each latent's slope, up to a factor per latent; parts are
        concatenated.
        """
        sums, shape = self._sums, (self.folds, self.latents, -1)
        mean = sums["rows"] / sums["count"]
        return (sums["along"] - sums["codes"][:, None] * mean).view(shape)

    def products(
        self, pairs: Mapping[str, tuple[int, int]]
    ) -> dict[str, Float[NDArray[np.float64], "K1 F"]]:
        """Inner products of two parts' slopes by name, over pairs of different folds: with all
        folds, then without each one.
        """
        slopes = self.slopes().chunk(self.n_parts, 2)
        result = {}
        for name, (first, second) in pairs.items():
            # [K, K, F]: fold by fold
            fold_products = to_host(torch.einsum("kfr,lfr->klf", slopes[first], slopes[second]))
            different_folds = fold_products * (1 - np.eye(self.folds))[:, :, None]
            total = different_folds.sum((0, 1))
            value = np.concatenate(
                [total[None], total - different_folds.sum(1) - different_folds.sum(0)]
            )
            # without one of its two folds a latent has no pairs left: set rounding errors to 0
            # before roots
            result[name] = np.where(
                np.abs(value) > _ROUNDING * np.abs(different_folds).sum((0, 1)), value, 0.0
            )
        return result

    def along_directions(
        self, directions: Float[Tensor, "F D"], part: int = 0
    ) -> Float[NDArray[np.float64], "K1 F"]:
        """Inner product of each latent's slope with a given direction: with all folds, then without
        each one.
        """
        products = to_host(
            (self.slopes().chunk(self.n_parts, 2)[part] * self.projected(directions)).sum(2)
        )
        return np.concatenate([products.sum(0)[None], products.sum(0) - products])
