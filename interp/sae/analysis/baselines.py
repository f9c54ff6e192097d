"""What a trained dictionary has to beat at the same L0: principal components, and directions drawn
at random.

Both are dictionaries like any other, so the same functions score them. ``principal``: the
eigenvectors of the inputs' covariance as signed pairs, of which an input takes the k with the
largest magnitude; being orthonormal they give the best reconstruction by k of these axes.
``random``: random unit rows, of which matching pursuit takes k, one by what the others left; the
strongest encoder that random rows can have without training.

Both read what they reconstruct, which a transcoder may not: beside one stand the same two of the
target's least-squares prediction from the input (``Predicted``). Where the target is the input they
are the baselines of an autoencoder. As the prediction's components are chosen anew for every input,
they keep no less of it than a linear map of rank k, the reduced-rank regression (Izenman 1975),
whose k axes are the same for all.
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
    """Mean and covariance of inputs, streamed in float64 (merged as in Chan et al. 1983)."""

    count: int
    mean: Float[Tensor, " D"]
    deviation: Float[Tensor, "D D"]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Covariance:
        """Of no inputs yet."""
        zero = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, zero[0].clone(), zero)

    def update(self, rows: Float[Tensor, "N D"]) -> Covariance:
        """Take in inputs; returns itself."""
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
    """The principal components of what was seen as a topk dictionary of 2D latents, a pair of signs
    each.

    With k of D or more it reconstructs everything.
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
    """``latents`` random unit rows from the mean of what was seen, coded by matching pursuit in at
    most k steps.
    """
    _require(latents >= 1 and seen.count > 0, "random rows need a latent and an input")
    config = DictionaryConfig(
        "matching_pursuit",
        len(seen.mean),
        latents,
        steps=min(max(k, 1), latents),
        residual_threshold=0.0,
    )
    # not the rows that a dictionary of this seed started from
    made = Dictionary(config, seed=seed + _OWN).to(seen.mean.device, dtype)
    with torch.no_grad():
        made.b_dec.copy_(seen.mean)
    return made.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Predicted:
    """A dictionary of what a linear map predicts of targets: ``(x - before) @ weight + after`` goes
    through it.
    """

    dictionary: Dictionary
    weight: Float[Tensor, "D O"]
    before: Float[Tensor, " D"]
    after: Float[Tensor, " O"]

    @property
    def W_dec(self) -> Float[Tensor, "F O"]:
        """The dictionary's rows: inputs are given in their type, where they lie."""
        return self.dictionary.W_dec

    @property
    def config(self) -> DictionaryConfig:
        """The dictionary's."""
        return self.dictionary.config

    def reconstruct(self, x: Float[Tensor, "N D"]) -> Reconstruction:
        """Codes of the prediction from inputs, and what the dictionary makes of them."""
        return self.dictionary.reconstruct((x - self.before) @ self.weight + self.after)


def predicted(
    seen: Covariance,
    inputs: int,
    make: Callable[[Covariance], Dictionary],
    dtype: torch.dtype = torch.float32,
) -> Predicted:
    """A baseline, as ``make`` makes it, of targets' least-squares prediction from inputs.

    ``seen``: of inputs [N, D] and targets [N, O] side by side, of which the first ``inputs``
    columns are inputs. Directions in which inputs do not vary are left out (the pseudo-inverse).
    """
    _require(seen.count > 1, "a least-squares prediction needs at least two inputs")
    own, cross = seen.deviation[:inputs, :inputs], seen.deviation[:inputs, inputs:]
    # smaller variances than this are rounding of float32 inputs
    weight = torch.linalg.pinv(own, hermitian=True, rtol=1e-12) @ cross
    before, after = seen.mean[:inputs], seen.mean[inputs:]
    made = make(Covariance(seen.count, after, weight.T @ own @ weight))
    return Predicted(made, weight.to(dtype), before.to(dtype), after.to(dtype))


def permuted(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    """The dictionary with its decoder rows permuted: its codes mean what they meant, its directions
    do not.
    """
    if dictionary.config.architecture == "matching_pursuit":
        raise OptionError(
            "a matching pursuit has one matrix; dealing its rows out anew changes nothing"
        )
    made = Dictionary(replace(dictionary.config)).to(dictionary.W_dec)
    made.load_state_dict(dictionary.state_dict())
    order = torch.randperm(dictionary.config.width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.W_dec.copy_(dictionary.W_dec[order.to(dictionary.W_dec.device)])
    return made.requires_grad_(False)


def _require(right: bool, message: str) -> None:
    if not right:
        raise OptionError(message)
