"""A dictionary of differences (tuned less base): what each latent's direction does in both models
where it is active.

Both models' rows are regressed on the latent's codes along its decoder row, with an intercept. The
two slopes differ by one where the latent reconstructs the difference, and say what it is: base 0, a
part that only the tuned model has; base -1 and tuned 0, one that only the base has; both of one
sign, more or less of what both have; -1/2 and 1/2, a direction turned into another, or noise of
both models, which differences alone do not tell apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.sae.analysis.activation_slopes import Lines
from interp.sae.analysis.jackknife import (
    FOLDS,
    Apart,
    Estimate,
    FoldSums,
    Sums,
    effective_folds,
    jackknife,
    resampled,
)
from interp.sae.analysis.latent_scaling import BASE, TINY, TUNED
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import Codes, products


class Slopes(NamedTuple):
    """Per latent [F]: its rate, both models' slopes, and ``base_part``, the base's slope by what
    the two differ in.

    ``row_cosine``: of the decoder row and the differences' slope over all dimensions; low where the
    latent fires for a difference that its row does not point along. ``moved`` [K, F]: sums of tuned
    less base rows per fold along the row.
    """

    rate: NDArray[np.float64]
    folds_active: NDArray[np.int64]
    slope: tuple[Estimate, Estimate]
    difference: Estimate
    base_part: Estimate
    row_cosine: Estimate
    moved: NDArray[np.float64]
    apart: Apart | None = None


class Regression:
    """Sums of regressing rows of both models on codes along decoder rows, with an intercept."""

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        config = dictionary.config
        if config.models != 1 or config.is_transcoder or config.skip:
            raise OptionError(
                "this way of comparing needs an autoencoder of one site, no crosscoder or"
                " transcoder"
            )
        if config.normalisation not in ("none", "scale"):
            raise OptionError(
                f"{config.normalisation} is undone per input; two models need one scale, or none"
            )
        self.dictionary = dictionary
        self.factor = (
            float(to_host(dictionary.scale[0])) if config.normalisation == "scale" else 1.0
        )
        self.sums = FoldSums(config.width, folds)
        self.rows = dictionary.W_dec.detach().double()

    def update(
        self,
        codes: Codes,
        both: tuple[Tensor, Tensor],
        documents: Tensor,
        special: Tensor | None = None,
    ) -> None:
        """Add a batch's codes and both models' rows, in units of the encoder; ``special`` rows are
        counted apart.
        """
        values = codes.values.double()
        along = [values * products(codes.pattern, part.double(), self.rows) for part in both]
        self.sums.add(
            documents,
            codes,
            count=torch.ones_like(values),
            sum=values,
            square=values.square(),
            base=along[BASE],
            tuned=along[TUNED],
        )
        self.sums.add_rows(
            documents,
            rows=torch.ones(len(documents), device=documents.device),
            base_rows=both[BASE],
            tuned_rows=both[TUNED],
        )
        self.sums.add_special(documents, codes, special)

    def found(self) -> dict[str, NDArray[np.float64]]:
        """Sums per fold, both models' row sums along decoder rows."""
        sums = self.sums.sums()
        rows = to_host(self.rows)
        for name in ("base_rows", "tuned_rows"):
            sums[name] = sums[name] @ rows.T
        return sums

    def slope(self, model: int):
        """The model's slope on a latent, of sums with a leading axis of jackknife samples."""
        name, norms = ("base", "tuned")[model], to_host(self.rows.square().sum(1))

        def of(sums: Sums) -> NDArray[np.float64]:
            n = sums["rows"][:, None]
            spread = sums["square"] - sums["sum"] ** 2 / n
            spread = np.where(spread > 0, spread, np.nan)
            return (sums[name] - sums["sum"] * sums[f"{name}_rows"] / n) / (norms * spread)

        return of


class DifferenceScaling:
    """Streams rows of both models through a dictionary of their differences."""

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        self._regression = Regression(dictionary, folds)
        self._lines = Lines(dictionary.config.width, dictionary.config.d_in, folds, 1)

    @torch.no_grad()
    def update(
        self,
        base: Float[Tensor, "N D"],
        tuned: Float[Tensor, "N D"],
        documents: Int[Tensor, " N"],
        special: Bool[Tensor, " N"] | None = None,
    ) -> DifferenceScaling:
        """Add rows in their own units; ``special`` ones are counted apart."""
        regression = self._regression
        codes = regression.dictionary.encode_sparse(tuned - base)
        regression.update(
            codes, (base * regression.factor, tuned * regression.factor), documents, special
        )
        self._lines.add(regression.sums.fold(documents), codes, tuned - base)
        return self

    def result(self, level: float = 0.95) -> Slopes:
        """Slopes and what follows of them; NaN for latents that are never active."""
        sums = self._regression.found()
        base, tuned = (self._regression.slope(model) for model in (BASE, TUNED))

        def difference(found: Sums) -> NDArray[np.float64]:
            return tuned(found) - base(found)

        def part(found: Sums) -> NDArray[np.float64]:
            moved = difference(found)
            return base(found) / np.where(np.abs(moved) > TINY, moved, np.nan)

        slopes = (jackknife(sums, base, level), jackknife(sums, tuned, level))
        rate = sums["count"].sum(0) / sums["rows"].sum()
        active = self._regression.sums.folds_active()
        moved = sums["tuned_rows"] - sums["base_rows"]
        lines, rows = self._lines, self._regression.rows
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(lines.products({"": (0, 0)})[""]) * to_host(lines.seen(rows).norm(dim=1))
            cosine = resampled(lines.along(rows) / size, level, effective_folds(sums))
        return Slopes(
            rate,
            active,
            slopes,
            jackknife(sums, difference, level),
            jackknife(sums, part, level),
            cosine,
            moved,
            self._regression.sums.apart(),
        )
