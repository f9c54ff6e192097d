"""Latent scaling: how much of each crosscoder latent is present in each model, independent of
decoder norms.

``beta(y, j)`` minimises ``sum_i |y_i - beta f_j(i) d_j|^2`` for a target ``y`` of one model and a
direction ``d_j`` (Minder et al. 2025, arXiv 2504.02922). There are two targets per model: the error
plus the latent's own contribution, which still contains a part that sparsity removed from a model's
decoder (complete shrinkage), and the reconstruction, in which other latents may contain it (latent
decoupling). The reconstruction includes the decoder bias, as in the code of the paper, whose
threshold assumes that; without the bias it is a third target. ``nu`` is the other model's beta
divided by the model's own: near 0 if a latent is specific. All betas come from one pass, in
O(active codes * D).
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
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import inner_products

BASE, TUNED = 0, 1
TARGETS = ("error", "reconstruction", "reconstruction_no_bias")
MIN_BETA = 1e-3
"""If a model's own beta is smaller than this, its ratio is NaN: the latent explains nothing of that
model.
"""


class LatentScalingResult(NamedTuple):
    """Results of latent scaling per latent; arrays [F], estimates with intervals over documents.

    ``beta`` by (target, direction, model): least-squares factors. ``nu`` by (target, direction):
    the other model's beta divided by the model's own. ``cosine, ratio``: cosine of the two models'
    slopes on the codes (``activation_slopes``), and length of the tuned model's slope divided by
    the base's. ``kept`` by model: inner product of the slopes divided by that model's squared
    length; 0 if the other model has nothing of it. ``part_cosine``: projection of each model's part
    on the other's decoder row divided by that on its own, averaged over both, with the
    contributions of other latents removed. ``decoder_cosine`` and ``norm_difference`` (0 base only,
    1 tuned only) depend on the decoder alone. ``moved`` [2, K, F]: sums per fold of tuned minus
    base rows along the base's and the tuned model's decoder row.
    """

    rate: NDArray[np.float64]
    folds_active: NDArray[np.int64]
    beta: dict[tuple[str, int, int], Estimate]
    nu: dict[tuple[str, int], Estimate]
    ratio: Estimate
    cosine: Estimate
    kept: tuple[Estimate, Estimate]
    part_cosine: Estimate
    decoder_cosine: NDArray[np.float64]
    norm_difference: NDArray[np.float64]
    moved: NDArray[np.float64]
    token_rates: TokenRates | None = None


class LatentScaling:
    """Accumulates rows ``[base | tuned]`` with document numbers; ``result`` returns the scaling of
    each latent.
    """

    def __init__(self, dictionary: Dictionary, folds: int = FOLDS) -> None:
        config = dictionary.config
        if config.models != 2 or config.is_transcoder or config.skip:
            raise OptionError(
                f"latent scaling needs a crosscoder of two models, not {config.models}; for a"
                " dictionary of one model use comparison base or tuned"
            )
        self.dictionary = dictionary
        self._sums = FoldSums(config.width, folds)
        self._slopes = ActivationSlopes(config.width, config.d_in, folds, 2)
        rows = dictionary.W_dec.detach().double()
        self._rows = [part.contiguous() for part in rows.chunk(2, 1)]
        self._gram = np.stack([[to_host((a * b).sum(1)) for b in self._rows] for a in self._rows])
        bias = dictionary.b_dec.detach().double().chunk(2)
        self._bias = np.stack([[to_host(row @ part) for part in bias] for row in self._rows])

    @torch.no_grad()
    def update(
        self,
        x: Float[Tensor, "N D"],
        documents: Int[Tensor, " N"],
        special: Bool[Tensor, " N"] | None = None,
    ) -> LatentScaling:
        """Add rows in their original units, with the document number of each row; activity on
        ``special`` rows is counted separately.
        """
        normalised_input, _ = self.dictionary.normalise(x)
        reconstruction = self.dictionary.reconstruct_normalised(normalised_input)
        codes, bias = reconstruction.codes, self.dictionary.b_dec
        pattern, values = codes.pattern, codes.values.double()
        sums = {"count": torch.ones_like(values), "square": values.square(), "code": values}
        targets = {
            "error": normalised_input - reconstruction.output,
            "reconstruction_no_bias": reconstruction.output - bias,
        }
        for target, target_rows in targets.items():
            for model, part in enumerate(target_rows.double().chunk(2, 1)):
                for direction, rows in enumerate(self._rows):
                    sums[f"{target} {direction} {model}"] = values * inner_products(
                        pattern, part.contiguous(), rows
                    )
        self._sums.add(documents, codes, **sums)
        self._sums.add_special(documents, codes, special)
        base, tuned = normalised_input.double().chunk(2, 1)
        self._slopes.add(self._sums.fold_of(documents), codes, base, tuned)
        self._sums.add_rows(documents, rows=torch.ones(len(x), device=x.device), moved=tuned - base)
        return self

    def result(self, level: float = 0.95) -> LatentScalingResult:
        """Betas, their ratios and intervals; NaN for a latent that was never active."""
        sums, gram, bias = self._sums.sums(), self._gram, self._bias
        norms = np.sqrt(np.stack([gram[BASE, BASE], gram[TUNED, TUNED]]))
        beta = {
            (target, direction, model): jackknife(
                sums, _beta(target, direction, model, gram, bias), level
            )
            for target in TARGETS
            for direction in (BASE, TUNED)
            for model in (BASE, TUNED)
        }
        nu = {
            (target, direction): jackknife(sums, _nu(target, direction, gram, bias), level)
            for target in TARGETS
            for direction in (BASE, TUNED)
        }

        def length(fold_sums: Sums, model: int, along: int) -> NDArray[np.float64]:
            """Length of the model's part of the latent along a unit direction."""
            return _beta("error", along, model, gram, bias)(fold_sums) * norms[along]

        def part_cosine(fold_sums: Sums) -> NDArray[np.float64]:
            base_ratio = length(fold_sums, BASE, TUNED) / length(fold_sums, BASE, BASE)
            tuned_ratio = length(fold_sums, TUNED, BASE) / length(fold_sums, TUNED, TUNED)
            return (base_ratio + tuned_ratio) / 2

        slope_products = self._slopes.products(
            {"bb": (BASE, BASE), "bt": (BASE, TUNED), "tt": (TUNED, TUNED)}
        )
        moved = np.stack([sums["moved"] @ to_host(rows).T for rows in self._rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = {
                "ratio": np.sqrt(slope_products["tt"] / slope_products["bb"]),
                "base": slope_products["bt"] / slope_products["bb"],
                "tuned": slope_products["bt"] / slope_products["tt"],
                "cosine": slope_products["bt"]
                / (np.sqrt(slope_products["bb"]) * np.sqrt(slope_products["tt"])),
            }
            estimates = {
                name: jackknife_estimate(values, level, effective_folds(sums))
                for name, values in slopes.items()
            }
            return LatentScalingResult(
                sums["count"].sum(0) / sums["rows"].sum(),
                self._sums.folds_active(),
                beta,
                nu,
                estimates["ratio"],
                estimates["cosine"],
                (estimates["base"], estimates["tuned"]),
                jackknife(sums, part_cosine, level),
                gram[BASE, TUNED] / norms.prod(0),
                (1 + (norms[TUNED] - norms[BASE]) / norms.max(0)) / 2,
                moved,
                self._sums.token_rates(),
            )


def _beta(
    target: str, direction: int, model: int, gram: NDArray[np.float64], bias: NDArray[np.float64]
):
    """A function from sums to least-squares factors; ``gram, bias`` [direction, model, F]: inner
    products of a direction with a model's decoder row and bias.
    """

    def betas(sums: Sums) -> NDArray[np.float64]:
        square = np.where(sums["square"] > 0, sums["square"], np.nan)
        sum_name = "error" if target == "error" else "reconstruction_no_bias"
        along = sums[f"{sum_name} {direction} {model}"]
        if target == "error":
            along = along + square * gram[direction, model]
        elif target == "reconstruction":
            # the same bias in every row
            along = along + sums["code"] * bias[direction, model]
        return along / (gram[direction, direction] * square)

    return betas


def _nu(target: str, direction: int, gram: NDArray[np.float64], bias: NDArray[np.float64]):
    own_beta, other_beta = (
        _beta(target, direction, model, gram, bias) for model in (direction, 1 - direction)
    )

    def ratios(sums: Sums) -> NDArray[np.float64]:
        denominator = own_beta(sums)
        return other_beta(sums) / np.where(np.abs(denominator) > MIN_BETA, denominator, np.nan)

    return ratios
