"""Baselines at the same L0 as a trained dictionary: principal components and random directions.

Both are dictionaries, so the same functions score them. ``principal``: eigenvectors of the inputs'
covariance as pairs of opposite sign, of which the k with the largest magnitude are active; since
they are orthonormal this is the best reconstruction by k of these axes. ``random``: random unit
rows coded by matching pursuit, the strongest encoder for random rows that needs no training.

A baseline of a transcoder reads the same input as the transcoder: it is fitted to the least-squares
prediction of the target from the input (``Predicted``). Because its components are selected for
each input, it retains at least as much of the prediction as reduced-rank regression of rank k
(Izenman 1975), which uses the same k axes for all inputs.
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

_OWN = 0xBA5E


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
        wide = rows.detach().double()
        mean, count = wide.mean(0), self.count + len(wide)
        step = mean - self.mean
        centred = wide - mean
        self.deviation += centred.T @ centred + torch.outer(step, step) * (
            self.count * len(wide) / count
        )
        self.mean = self.mean + step * (len(wide) / count)
        self.count = count
        return self


def principal(seen: Covariance, k: int, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Principal components as a topk dictionary with 2D latents, two signs each.

    With k of D or more the reconstruction is exact.
    """
    _require(seen.count > 1, "principal components need at least two inputs")
    width = len(seen.mean)
    axes = torch.linalg.eigh(seen.deviation)[1].flip(1).T.to(dtype)
    made = Dictionary(DictionaryConfig("topk", width, 2 * width, k=min(max(k, 1), width)))
    made = made.to(axes)
    rows = torch.cat([axes, -axes])
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.W_enc.copy_(rows.T)
        made.b_dec.copy_(seen.mean)
    return made.requires_grad_(False)


def random_rows(
    seen: Covariance, k: int, latents: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Dictionary:
    """``latents`` random unit rows around the mean, coded by matching pursuit in at most k
    steps.
    """
    _require(latents >= 1 and seen.count > 0, "random rows need at least one latent and one input")
    config = DictionaryConfig(
        "matching_pursuit",
        len(seen.mean),
        latents,
        steps=min(max(k, 1), latents),
        residual_threshold=0.0,
    )
    # an offset, so that rows differ from the initial rows of a dictionary with this seed
    made = Dictionary(config, seed=seed + _OWN).to(seen.mean.device, dtype)
    with torch.no_grad():
        made.b_dec.copy_(seen.mean)
    return made.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Predicted:
    """A dictionary applied to a linear prediction of the target: inputs minus ``before``, times
    ``weight``, plus ``after``.
    """

    dictionary: Dictionary
    weight: Float[Tensor, "D O"]
    before: Float[Tensor, " D"]
    after: Float[Tensor, " O"]

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
        return self.dictionary.reconstruct((x - self.before) @ self.weight + self.after)


def predicted(
    seen: Covariance,
    inputs: int,
    make: Callable[[Covariance], Dictionary],
    dtype: torch.dtype = torch.float32,
) -> Predicted:
    """A baseline, built by ``make``, of the least-squares prediction of targets from inputs.

    ``seen``: covariance of inputs [N, D] and targets [N, O] concatenated; the first ``inputs``
    columns are inputs. Directions without variance in the inputs are left out (pseudo-inverse).
    """
    _require(seen.count > 1, "a least-squares prediction needs at least two inputs")
    own, cross = seen.deviation[:inputs, :inputs], seen.deviation[:inputs, inputs:]
    # smaller variances are rounding errors of float32 inputs
    weight = torch.linalg.pinv(own, hermitian=True, rtol=1e-12) @ cross
    before, after = seen.mean[:inputs], seen.mean[inputs:]
    made = make(Covariance(seen.count, after, weight.T @ own @ weight))
    return Predicted(made, weight.to(dtype), before.to(dtype), after.to(dtype))


def permuted(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    """The dictionary with permuted decoder rows: codes are unchanged, directions are wrong."""
    if dictionary.config.architecture == "matching_pursuit":
        raise OptionError("a matching pursuit has one matrix; permuting its rows changes nothing")
    made = Dictionary(replace(dictionary.config)).to(dictionary.W_dec)
    made.load_state_dict(dictionary.state_dict())
    order = torch.randperm(dictionary.config.width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.W_dec.copy_(dictionary.W_dec[order.to(dictionary.W_dec.device)])
    return made.requires_grad_(False)


def _require(right: bool, message: str) -> None:
    if not right:
        raise OptionError(message)
