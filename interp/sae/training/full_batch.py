"""Train a small autoencoder on rows that are all in memory, every step on all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DictionaryError
from interp.maths.host import to_host
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.training.losses import reconstruction_loss


class FullBatch(NamedTuple):
    """A trained dictionary; explained variance and mean L0 on the rows that it was trained on."""

    dictionary: Dictionary
    explained: float
    l0: float


def train_full_batch(
    rows: Float[Tensor, "N D"],
    width: int,
    *,
    sparsity: float,
    learning_rate: float,
    epochs: int,
    scale: bool = False,
    seed: int = 0,
) -> FullBatch:
    """The autoencoder of O'Neill and Bui (2024, arXiv 2405.12522; their code): relu codes, mean
    squared error over all entries plus ``sparsity`` times the mean L1 of the codes, Adam at a
    constant rate, encoder columns of norm 1, a bias that is subtracted and added back.

    Encoder and decoder start in different random directions, the decoder's bias at 0. Each latent's
    decoder row has norm 1; the authors' code normalises the weights of each output dimension
    instead. ``scale``: inputs are divided by their root mean square first. In the
    dtype and on the device of ``rows``. Raises DictionaryError for a loss that is not finite.
    """
    config = DictionaryConfig(
        "standard",
        rows.shape[1],
        width,
        loss="mean",
        normalisation="scale" if scale else "none",
    )
    dictionary = Dictionary(config, seed=seed)
    generator = torch.Generator().manual_seed((seed + 0x5EED_0002) % 2**32)
    with torch.no_grad():
        encoder = torch.randn(width, rows.shape[1], generator=generator)
        dictionary.W_enc.copy_(encoder.T)
        reach = rows.shape[1] ** -0.5
        dictionary.b_enc.uniform_(-reach, reach, generator=generator)
    dictionary = dictionary.to(rows)
    if scale:
        size = rows.square().mean().sqrt()
        dictionary.scale.copy_(torch.where(size > 0, 1 / size, 1.0))
    normalised, _ = dictionary.normalise(rows)
    encoder_weight, decoder_weight = dictionary.W_enc, dictionary.W_dec
    constrained = ((encoder_weight, 0), (decoder_weight, 1))
    for weight, dim in constrained:
        _unit_norms(weight, dim)
    trained = [encoder_weight, decoder_weight, dictionary.b_enc, dictionary.b_dec]
    optimiser = torch.optim.Adam(trained, learning_rate, fused=True)
    loss = torch.zeros(())
    for _ in range(epochs):
        optimiser.zero_grad(set_to_none=True)
        codes, error = _codes_and_error(dictionary, normalised)
        # not training_loss: it keeps every step's codes in sparse form, most of the time here
        penalty = sparsity * codes.sum(1).mean()
        loss = reconstruction_loss(error, normalised, config.loss) + penalty
        loss.backward()
        for weight, dim in constrained:
            _remove_parallel(weight, dim)
        optimiser.step()
        for weight, dim in constrained:
            _unit_norms(weight, dim)
    dictionary.requires_grad_(False)
    return FullBatch(dictionary, *_measured(dictionary, normalised, loss.detach()))


def _codes_and_error(dictionary: Dictionary, rows: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
    codes = dictionary.activate(dictionary.pre_activations(rows))
    return codes, rows - torch.addmm(dictionary.b_dec, codes, dictionary.W_dec)


@torch.no_grad()
def _remove_parallel(weight: Tensor, dim: int) -> None:
    """Take out of the gradient what would change norms along ``dim``."""
    if weight.grad is not None:
        weight.grad -= weight * (weight.grad * weight).sum(dim, keepdim=True)


@torch.no_grad()
def _unit_norms(weight: Tensor, dim: int) -> None:
    weight.div_(weight.norm(dim=dim, keepdim=True).clamp_min(1e-30))


def _measured(
    dictionary: Dictionary, rows: Float[Tensor, "N D"], loss: Float[Tensor, ""]
) -> tuple[float, float]:
    """Explained variance and mean L0; DictionaryError for a loss that is not finite."""
    if not np.isfinite(value := float(to_host(loss))):
        raise DictionaryError(
            f"the loss of the heads' autoencoder is {value}; lower the learning rate, or divide"
            " inputs by their root mean square"
        )
    with torch.no_grad():
        codes, error = _codes_and_error(dictionary, rows)
        variance = (rows - rows.mean(0)).square().sum()
        # nothing varies where all heads write the same
        explained = torch.where(variance > 0, 1 - error.square().sum() / variance, 0.0)
        numbers = to_host(torch.stack([explained, (codes > 0).to(rows).sum(1).mean()]))
    return float(numbers[0]), float(numbers[1])


def strongest_codes(dictionary: Dictionary, rows: Float[Tensor, "N D"]) -> Tensor:
    """The strongest latent of every row [N]; ``width`` where none is active."""
    with torch.no_grad():
        normalised, _ = dictionary.normalise(rows)
        value, latent = dictionary.pre_activations(normalised).max(1)
    return torch.where(value > 0, latent, dictionary.config.width)
