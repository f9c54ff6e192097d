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
from interp.sae.analysis.jackknife import FOLDS, Apart, Estimate, Sums, jackknife
from interp.sae.analysis.latent_scaling import BASE, TINY
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import products

ROLES = ("base", "tuned")


class Applied(NamedTuple):
    """Results per latent [F] of the dictionary of model ``own``: firing rates in base and tuned
    model, and ratios of the other model to its own.

    ``rate_ratio, mean_ratio, explained_ratio``: firing rate, mean code where active, and explained
    squared error, other model by own. ``kept``: slope of the other model's rows on the codes along
    the decoder row, by the slope of its own rows. ``fired`` [K, F]: activations in the tuned model
    minus those in the base, per fold. ``unexplained``: unexplained share of variance in base and
    tuned model.
    """

    own: int
    rate: tuple[NDArray[np.float64], NDArray[np.float64]]
    folds_active: NDArray[np.int64]
    rate_ratio: Estimate
    mean_ratio: Estimate
    explained_ratio: Estimate
    kept: Estimate
    fired: NDArray[np.float64]
    unexplained: tuple[float, float]
    apart: Apart | None = None


class OneOnOther:
    """Accumulates rows of both models through the dictionary of one of them, ``own`` (0 base, 1
    tuned).
    """

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS, own: int = BASE) -> None:
        self.own = own
        self._regression = Regression(dictionary, folds)

    @torch.no_grad()
    def update(
        self,
        base: Float[Tensor, "N D"],
        tuned: Float[Tensor, "N D"],
        documents: Int[Tensor, " N"],
        special: Bool[Tensor, " N"] | None = None,
    ) -> OneOnOther:
        """Add rows in their original units; activity on ``special`` rows is counted separately."""
        regression = self._regression
        dictionary, norms = regression.dictionary, regression.rows.square().sum(1)
        both = (base * regression.factor, tuned * regression.factor)
        for model, (name, x) in enumerate(zip(ROLES, both, strict=True)):
            found = dictionary.raw(x)
            codes, error = found.codes, (x - found.output).double()
            values = codes.values.double()
            # increase of the squared error without the latent
            gain = 2 * values * products(codes.pattern, error, regression.rows)
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
            if model == self.own:
                own_codes = codes
        regression.update(own_codes, both, documents, special)
        return self

    def result(self, level: float = 0.95) -> Applied:
        """Ratios with their intervals; NaN for latents that never fire in their own model."""
        sums, own, other = self._regression.found(), self.own, 1 - self.own
        here, there = (self._regression.slope(model) for model in (own, other))

        def share(found: Sums) -> NDArray[np.float64]:
            slope = here(found)
            return there(found) / np.where(np.abs(slope) > TINY, slope, np.nan)

        def ratio(name: str):
            return lambda found: found[f"{ROLES[other]}_{name}"] / found[f"{ROLES[own]}_{name}"]

        def mean_ratio(found: Sums) -> NDArray[np.float64]:
            return ratio("sum")(found) / ratio("count")(found)

        n = sums["rows"].sum()
        left = []
        for name in ROLES:
            mean = sums[f"{name}_plain"].sum(0) / n
            left.append(
                float(
                    sums[f"{name}_error"].sum()
                    / (sums[f"{name}_norm"].sum() - n * np.square(mean).sum())
                )
            )
        rate, size, gain, part = (
            jackknife(sums, one, level)
            for one in (ratio("count"), mean_ratio, ratio("gain"), share)
        )
        return Applied(
            own,
            (sums["base_count"].sum(0) / n, sums["tuned_count"].sum(0) / n),
            (sums[f"{ROLES[own]}_count"] > 0).sum(0),
            rate,
            size,
            gain,
            part,
            sums["tuned_count"] - sums["base_count"],
            (left[0], left[1]),
            self._regression.sums.apart(),
        )
