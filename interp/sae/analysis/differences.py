"""A dictionary of differences (tuned minus base): slopes of both models along each latent's decoder
row.

Both models' rows are regressed on the latent's codes along its decoder row, with an intercept. If
the latent reconstructs the difference, the slopes differ by one: base 0 means only the tuned model
has the feature; base -1 and tuned 0, only the base has it; equal signs, a change in strength; -1/2
and 1/2, a rotated direction or independent noise of both models, which differences cannot tell
apart.
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
from interp.sae.analysis.activation_slopes import ActivationSlopes
from interp.sae.analysis.jackknife import (
    FOLDS,
    Estimate,
    FoldSums,
    Sums,
    TokenRates,
    effective_folds,
    jackknife,
    jackknife_estimate,
)
from interp.sae.analysis.latent_scaling import BASE, MIN_BETA, TUNED
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import Codes, inner_products


class DifferenceSlopes(NamedTuple):
    """Results per latent [F]: firing rate, both models' slopes, their difference, and
    ``base_part``, the base's slope divided by that difference.

    ``row_cosine``: cosine of the decoder row and the slope of the differences over all dimensions;
    low if the latent fires for a difference in another direction than its row. ``moved`` [K, F]:
    sums of tuned minus base rows along the decoder row, per fold.
    """

    rate: NDArray[np.float64]
    folds_active: NDArray[np.int64]
    slope: tuple[Estimate, Estimate]
    difference: Estimate
    base_part: Estimate
    row_cosine: Estimate
    moved: NDArray[np.float64]
    token_rates: TokenRates | None = None


class Regression:
    """Sums for regressing rows of both models on codes along decoder rows, with an intercept."""

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        config = dictionary.config
        if config.models != 1 or config.is_transcoder or config.skip:
            raise OptionError(
                "this comparison needs an autoencoder of one site, not a crosscoder or transcoder"
            )
        if config.normalisation not in ("none", "scale"):
            raise OptionError(
                f"{config.normalisation} is undone per input; to compare two models use scale or"
                " none"
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
        rows_of_models: tuple[Tensor, Tensor],
        documents: Tensor,
        special: Tensor | None = None,
    ) -> None:
        """Add a batch's codes and both models' rows, in the encoder's units; activity on
        ``special`` rows is counted separately.
        """
        values = codes.values.double()
        along = [
            values * inner_products(codes.pattern, part.double(), self.rows)
            for part in rows_of_models
        ]
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
            base_rows=rows_of_models[BASE],
            tuned_rows=rows_of_models[TUNED],
        )
        self.sums.add_special(documents, codes, special)

    def fold_sums(self) -> dict[str, NDArray[np.float64]]:
        """Sums per fold, with both models' row sums projected on decoder rows."""
        sums = self.sums.sums()
        rows = to_host(self.rows)
        for name in ("base_rows", "tuned_rows"):
            sums[name] = sums[name] @ rows.T
        return sums

    def slope(self, model: int):
        """A function from sums with a leading axis of jackknife samples to the model's slopes."""
        name, norms = ("base", "tuned")[model], to_host(self.rows.square().sum(1))

        def slopes(sums: Sums) -> NDArray[np.float64]:
            n = sums["rows"][:, None]
            spread = sums["square"] - sums["sum"] ** 2 / n
            spread = np.where(spread > 0, spread, np.nan)
            return (sums[name] - sums["sum"] * sums[f"{name}_rows"] / n) / (norms * spread)

        return slopes


class DifferenceScaling:
    """Accumulates rows of both models through a dictionary of their differences."""

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        self._regression = Regression(dictionary, folds)
        self._slopes = ActivationSlopes(dictionary.config.width, dictionary.config.d_in, folds, 1)

    @torch.no_grad()
    def update(
        self,
        base: Float[Tensor, "N D"],
        tuned: Float[Tensor, "N D"],
        documents: Int[Tensor, " N"],
        special: Bool[Tensor, " N"] | None = None,
    ) -> DifferenceScaling:
        """Add rows in their original units; activity on ``special`` rows is counted separately."""
        regression = self._regression
        codes = regression.dictionary.encode_sparse(tuned - base)
        regression.update(
            codes, (base * regression.factor, tuned * regression.factor), documents, special
        )
        self._slopes.add(regression.sums.fold_of(documents), codes, tuned - base)
        return self

    def result(self, level: float = 0.95) -> DifferenceSlopes:
        """Slopes and derived quantities; NaN for latents that never fire."""
        sums = self._regression.fold_sums()
        base, tuned = (self._regression.slope(model) for model in (BASE, TUNED))

        def difference(fold_sums: Sums) -> NDArray[np.float64]:
            return tuned(fold_sums) - base(fold_sums)

        def base_part(fold_sums: Sums) -> NDArray[np.float64]:
            denominator = difference(fold_sums)
            return base(fold_sums) / np.where(np.abs(denominator) > MIN_BETA, denominator, np.nan)

        slopes = (jackknife(sums, base, level), jackknife(sums, tuned, level))
        rate = sums["count"].sum(0) / sums["rows"].sum()
        active = self._regression.sums.folds_active()
        row_differences = sums["tuned_rows"] - sums["base_rows"]
        activation_slopes, rows = self._slopes, self._regression.rows
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(activation_slopes.products({"": (0, 0)})[""]) * to_host(
                activation_slopes.projected(rows).norm(dim=1)
            )
            cosine = jackknife_estimate(
                activation_slopes.along_directions(rows) / size, level, effective_folds(sums)
            )
        return DifferenceSlopes(
            rate,
            active,
            slopes,
            jackknife(sums, difference, level),
            jackknife(sums, base_part, level),
            cosine,
            row_differences,
            self._regression.sums.token_rates(),
        )
