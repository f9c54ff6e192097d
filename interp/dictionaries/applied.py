"""A base model's dictionary applied to the tuned model: what of each latent is left, and how its firing changed.

What only the tuned model has is not in such a dictionary: it is in the share that the dictionary leaves unexplained.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.dictionaries.active import products
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.differences import Regression
from interp.dictionaries.folds import FOLDS, Estimate, Sums, jackknife
from interp.dictionaries.scaling import BASE, TINY, TUNED


class Applied(NamedTuple):
    """Per latent [F]: rates in both models; by what factor rate, mean where active, and explained variance changed.

    ``kept``: slope of the tuned model's rows on the base's codes along the latent, by the base's own. ``fired`` [K, F]:
    how much more often it was active in the tuned model, per fold. ``unexplained``: share of variance that is left in
    base and tuned.
    """

    rate: tuple[NDArray[np.float64], NDArray[np.float64]]
    folds_active: NDArray[np.int64]
    rate_ratio: Estimate
    mean_ratio: Estimate
    explained_ratio: Estimate
    kept: Estimate
    fired: NDArray[np.float64]
    unexplained: tuple[float, float]


class BaseOnTuned:
    """Streams rows of both models through the base's dictionary."""

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        self._regression = Regression(dictionary, folds)

    @torch.no_grad()
    def update(
        self, base: Float[Tensor, "N D"], tuned: Float[Tensor, "N D"], documents: Int[Tensor, " N"]
    ) -> BaseOnTuned:
        """Add rows in their own units."""
        regression = self._regression
        dictionary, norms = regression.dictionary, regression.rows.square().sum(1)
        both = (base * regression.factor, tuned * regression.factor)
        for name, x in zip(("base", "tuned"), both, strict=True):
            found = dictionary.raw(x)
            codes, error = found.codes, (x - found.output).double()
            values = codes.values.double()
            # how much larger the squared error would be without the latent
            gain = 2 * values * products(codes.pattern, error, regression.rows)
            gain = gain + values.square() * norms[codes.pattern.latents]
            own = {"count": torch.ones_like(values), "sum": values, "gain": gain}
            regression.sums.add(documents, codes, **{f"{name}_{key}": value for key, value in own.items()})
            regression.sums.add_rows(
                documents, **{f"{name}_error": error.square().sum(1), f"{name}_norm": x.double().square().sum(1)}
            )
            regression.sums.add_rows(documents, **{f"{name}_plain": x})
            if name == "base":
                base_codes = codes
        regression.update(base_codes, both, documents)
        return self

    def result(self, level: float = 0.95) -> Applied:
        """Changes and their intervals; NaN where a latent is silent in the base."""
        sums = self._regression.found()
        base, tuned = (self._regression.slope(model) for model in (BASE, TUNED))

        def kept(found: Sums) -> NDArray[np.float64]:
            own = base(found)
            return tuned(found) / np.where(np.abs(own) > TINY, own, np.nan)

        def ratio(name: str):
            return lambda found: found[f"tuned_{name}"] / found[f"base_{name}"]

        def mean_ratio(found: Sums) -> NDArray[np.float64]:
            return ratio("sum")(found) / ratio("count")(found)

        n = sums["rows"].sum()
        left = []
        for name in ("base", "tuned"):
            mean = sums[f"{name}_plain"].sum(0) / n
            left.append(float(sums[f"{name}_error"].sum() / (sums[f"{name}_norm"].sum() - n * np.square(mean).sum())))
        return Applied(
            (sums["base_count"].sum(0) / n, sums["tuned_count"].sum(0) / n),
            (sums["base_count"] > 0).sum(0),
            *(jackknife(sums, one, level) for one in (ratio("count"), mean_ratio, ratio("gain"), kept)),
            sums["tuned_count"] - sums["base_count"], tuple(left),
        )  # fmt: skip
