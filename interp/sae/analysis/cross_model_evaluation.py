"""One model's dictionary applied to the other model: what remains of each latent, and how its
firing changed.

Features that only the other model has are not in this dictionary; they are in the unexplained
variance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.sae.analysis.differences import Regression
from interp.sae.analysis.jackknife import FOLDS, Estimate, Sums, TokenRates, jackknife
from interp.sae.analysis.latent_scaling import BASE, MIN_BETA
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import inner_products

ROLES = ("base", "tuned")


class CrossModelEvaluation(NamedTuple):
    """Results per latent [F] of the dictionary of model ``own_model``: firing rates in base and
    tuned model, and ratios of the other model to its own.

    ``rate_ratio, mean_ratio, explained_ratio``: firing rate, mean code where active, and explained
    squared error, other model by own. ``kept``: slope of the other model's rows on the codes along
    the decoder row, by the slope of its own rows. ``fired`` [K, F]: activations in the tuned model
    minus those in the base, per fold. ``unexplained``: unexplained share of variance in base and
    tuned model.
    """

    own_model: int
    rate: tuple[NDArray[np.float64], NDArray[np.float64]]
    folds_active: NDArray[np.int64]
    rate_ratio: Estimate
    mean_ratio: Estimate
    explained_ratio: Estimate
    kept: Estimate
    fired: NDArray[np.float64]
    unexplained: tuple[float, float]
    token_rates: TokenRates | None = None


class CrossModelEvaluator:
    """Accumulates rows of both models through the dictionary of one of them, ``own_model`` (0 base,
    1 tuned).
    """

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS, own_model: int = BASE) -> None:
        self.own_model = own_model
        self._regression = Regression(dictionary, folds)

    @torch.no_grad()
    def update(
        self,
        base: Float[Tensor, "N D"],
        tuned: Float[Tensor, "N D"],
        documents: Int[Tensor, " N"],
        special: Bool[Tensor, " N"] | None = None,
    ) -> CrossModelEvaluator:
        """Add rows in their original units; activity on ``special`` rows is counted separately."""
        regression = self._regression
        dictionary, norms = regression.dictionary, regression.rows.square().sum(1)
        scaled_rows = (base * regression.factor, tuned * regression.factor)
        for model, (name, x) in enumerate(zip(ROLES, scaled_rows, strict=True)):
            reconstruction = dictionary.reconstruct_normalised(x)
            codes, error = reconstruction.codes, (x - reconstruction.output).double()
            values = codes.values.double()
            # increase of the squared error without the latent
            gain = 2 * values * inner_products(codes.pattern, error, regression.rows)
            gain = gain + values.square() * norms[codes.pattern.latents]
            sums = {"count": torch.ones_like(values), "sum": values, "gain": gain}
            regression.sums.add(
                documents, codes, **{f"{name}_{key}": value for key, value in sums.items()}
            )
            regression.sums.add_rows(
                documents,
                **{
                    f"{name}_error": error.square().sum(1),
                    f"{name}_norm": x.double().square().sum(1),
                },
            )
            regression.sums.add_rows(documents, **{f"{name}_plain": x})
            if model == self.own_model:
                own_codes = codes
        regression.update(own_codes, scaled_rows, documents, special)
        return self

    def result(self, level: float = 0.95) -> CrossModelEvaluation:
        """Ratios with their intervals; NaN for latents that never fire in their own model."""
        sums, own_model, other_model = (
            self._regression.fold_sums(),
            self.own_model,
            1 - self.own_model,
        )
        own_slope, other_slope = (
            self._regression.slope(model) for model in (own_model, other_model)
        )

        def share(fold_sums: Sums) -> NDArray[np.float64]:
            slope = own_slope(fold_sums)
            return other_slope(fold_sums) / np.where(np.abs(slope) > MIN_BETA, slope, np.nan)

        def ratio(name: str):
            return lambda sums: (
                sums[f"{ROLES[other_model]}_{name}"] / sums[f"{ROLES[own_model]}_{name}"]
            )

        def mean_ratio(fold_sums: Sums) -> NDArray[np.float64]:
            return ratio("sum")(fold_sums) / ratio("count")(fold_sums)

        n_rows = sums["rows"].sum()
        unexplained = []
        for name in ROLES:
            mean = sums[f"{name}_plain"].sum(0) / n_rows
            unexplained.append(
                float(
                    sums[f"{name}_error"].sum()
                    / (sums[f"{name}_norm"].sum() - n_rows * np.square(mean).sum())
                )
            )
        rate, size, gain, kept = (
            jackknife(sums, one, level)
            for one in (ratio("count"), mean_ratio, ratio("gain"), share)
        )
        return CrossModelEvaluation(
            own_model,
            (sums["base_count"].sum(0) / n_rows, sums["tuned_count"].sum(0) / n_rows),
            (sums[f"{ROLES[own_model]}_count"] > 0).sum(0),
            rate,
            size,
            gain,
            kept,
            sums["tuned_count"] - sums["base_count"],
            (unexplained[0], unexplained[1]),
            self._regression.sums.token_rates(),
        )
