"""Baselines at the same L0 as a trained dictionary: principal components and random directions.

Both are dictionaries, so the same functions score them. ``principal_components``: eigenvectors of
the inputs' covariance as pairs of opposite sign, of which the k with the largest magnitude are
active; since they are orthonormal this is the best reconstruction by k of these axes. ``random``:
random unit rows coded by matching pursuit, the strongest encoder for random rows that needs no
training.

A baseline of a transcoder reads the same input as the transcoder: it is fitted to the least-squares
prediction of the target from the input (``PredictionBaseline``). Because its components are
selected for each input, it retains at least as much of the prediction as reduced-rank regression of
rank k (Izenman 1975), which uses the same k axes for all inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import OptionError
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary, Reconstruction

_SEED_OFFSET = 0xBA5E


@dataclass(eq=False)
class Covariance:
    """Mean and covariance of rows, accumulated in float64 (merged as in Chan et al. 1983)."""

    count: int
    mean: Float[Tensor, " D"]
    deviation: Float[Tensor, "D D"]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Covariance:
        """Statistics of no rows."""
        zero = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, zero[0].clone(), zero)

    def update(self, rows: Float[Tensor, "N D"]) -> Covariance:
        """Add rows; returns itself."""
        if not len(rows):
            return self
        rows64 = rows.detach().double()
        mean, count = rows64.mean(0), self.count + len(rows64)
        step = mean - self.mean
        centred = rows64 - mean
        self.deviation += centred.T @ centred + torch.outer(step, step) * (
            self.count * len(rows64) / count
        )
        self.mean = self.mean + step * (len(rows64) / count)
        self.count = count
        return self


def principal_components(
    covariance: Covariance, k: int, dtype: torch.dtype = torch.float32
) -> Dictionary:
    """Principal components as a topk dictionary with 2D latents, two signs each.

    With k of D or more the reconstruction is exact.
    """
    _require(covariance.count > 1, "principal components need at least two inputs")
    width = len(covariance.mean)
    axes = torch.linalg.eigh(covariance.deviation)[1].flip(1).T.to(dtype)
    dictionary = Dictionary(DictionaryConfig("topk", width, 2 * width, k=min(max(k, 1), width)))
    dictionary = dictionary.to(axes)
    rows = torch.cat([axes, -axes])
    with torch.no_grad():
        dictionary.W_dec.copy_(rows)
        dictionary.W_enc.copy_(rows.T)
        dictionary.b_dec.copy_(covariance.mean)
    return dictionary.requires_grad_(False)


def random_directions(
    covariance: Covariance, k: int, latents: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Dictionary:
    """``latents`` random unit rows around the mean, coded by matching pursuit in at most k
    steps.
    """
    _require(
        latents >= 1 and covariance.count > 0, "random rows need at least one latent and one input"
    )
    config = DictionaryConfig(
        "matching_pursuit",
        len(covariance.mean),
        latents,
        steps=min(max(k, 1), latents),
        residual_threshold=0.0,
    )
    # an offset, so that rows differ from the initial rows of a dictionary with this seed
    dictionary = Dictionary(config, seed=seed + _SEED_OFFSET).to(covariance.mean.device, dtype)
    with torch.no_grad():
        dictionary.b_dec.copy_(covariance.mean)
    return dictionary.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class PredictionBaseline:
    """A dictionary applied to a linear prediction of the target: inputs minus ``input_mean``, times
    ``weight``, plus ``target_mean``.
    """

    dictionary: Dictionary
    weight: Float[Tensor, "D O"]
    input_mean: Float[Tensor, " D"]
    target_mean: Float[Tensor, " O"]

    @property
    def W_dec(self) -> Float[Tensor, "F O"]:
        """The dictionary's decoder rows, whose dtype and device inputs must have."""
        return self.dictionary.W_dec

    @property
    def config(self) -> DictionaryConfig:
        """The dictionary's configuration."""
        return self.dictionary.config

    def reconstruct(self, x: Float[Tensor, "N D"]) -> Reconstruction:
        """Codes and reconstruction of the prediction from inputs."""
        return self.dictionary.reconstruct((x - self.input_mean) @ self.weight + self.target_mean)


def least_squares_baseline(
    covariance: Covariance,
    input_width: int,
    make: Callable[[Covariance], Dictionary],
    dtype: torch.dtype = torch.float32,
) -> PredictionBaseline:
    """A baseline, built by ``make``, of the least-squares prediction of targets from inputs.

    ``covariance``: covariance of inputs [N, D] and targets [N, O] concatenated; the first
    ``input_width`` columns are inputs. Directions without variance in the inputs are left out
    (pseudo-inverse).
    """
    _require(covariance.count > 1, "a least-squares prediction needs at least two inputs")
    input_covariance, cross_covariance = (
        covariance.deviation[:input_width, :input_width],
        covariance.deviation[:input_width, input_width:],
    )
    # smaller variances are rounding errors of float32 inputs
    weight = torch.linalg.pinv(input_covariance, hermitian=True, rtol=1e-12) @ cross_covariance
    input_mean, target_mean = covariance.mean[:input_width], covariance.mean[input_width:]
    dictionary = make(
        Covariance(covariance.count, target_mean, weight.T @ input_covariance @ weight)
    )
    return PredictionBaseline(
        dictionary, weight.to(dtype), input_mean.to(dtype), target_mean.to(dtype)
    )


def permuted_decoder(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    """The dictionary with permuted decoder rows: codes are unchanged, directions are wrong."""
    if dictionary.config.architecture == "matching_pursuit":
        raise OptionError("a matching pursuit has one matrix; permuting its rows changes nothing")
    copy = Dictionary(replace(dictionary.config)).to(dictionary.W_dec)
    copy.load_state_dict(dictionary.state_dict())
    order = torch.randperm(dictionary.config.width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        copy.W_dec.copy_(dictionary.W_dec[order.to(dictionary.W_dec.device)])
    return copy.requires_grad_(False)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)
