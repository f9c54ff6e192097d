"""Training losses, with each library's convention by name: they differ by factors of D and by
squares.

Reconstruction (``config.loss``): ``sum``, squared error summed over dimensions, mean over inputs
(SAELens, dictionary_learning); ``mean``, mean over all entries (O'Neill and Bui); ``fraction``, the
summed error divided by the variance of the batch (sparsify); ``norm``, norm of the error, not
squared, mean over inputs and models (the crosscoder code of Minder et al.).

Sparsity (``config.sparsity``): ``l1``, ``sum_j |f_j| n_j`` with decoder norms ``n`` (summed over
models), mean over inputs; ``step``, the mean L0 with straight-through gradients; ``tanh``, ``tanh(4
f_j n_j)``; ``target``, ``(L0 / k - 1)^2``. Architectures with ``k`` have no sparsity loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import OptionError, required
from interp.maths.host import to_host
from interp.sae.core.config import BATCHTOPK_ARCHITECTURES, TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary, Reconstruction
from interp.sae.core.sparse_products import Codes, decode, topk_per_row
from interp.sae.core.straight_through import heaviside


class Loss(NamedTuple):
    """A training loss and its terms, each including its coefficient."""

    total: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    forward: Reconstruction


def _sum(error: Tensor, target: Tensor, models: int) -> Tensor:
    return error.square().sum(1).mean()


def _mean(error: Tensor, target: Tensor, models: int) -> Tensor:
    return error.square().mean()


def _fraction(error: Tensor, target: Tensor, models: int) -> Tensor:
    return error.square().sum() / (target - target.mean(0)).square().sum()


def _norm(error: Tensor, target: Tensor, models: int) -> Tensor:
    return error.unflatten(1, (models, -1)).norm(dim=2).mean()


RECONSTRUCTIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "fraction": _fraction,
    "norm": _norm,
}
_DENSE_FROM = 32
"""The sparse product is used if fewer than one code in this many is active."""
PRE_ACTIVATIONS = "dense pre-activations"
SPARSITIES = ("l1", "step", "tanh", "target")


def reconstruction_loss(
    error: Float[Tensor, "N O"], target: Float[Tensor, "N O"], convention: str, models: int = 1
) -> Float[Tensor, ""]:
    """Reconstruction loss by the name of its convention; raises OptionError for an unknown one."""
    if convention not in RECONSTRUCTIONS:
        raise OptionError(
            f"unknown reconstruction loss {convention!r}; use {', '.join(RECONSTRUCTIONS)}"
        )
    return RECONSTRUCTIONS[convention](error, target, models)


def sparsity_loss(
    dictionary: Dictionary, reconstruction: Reconstruction, target_l0: float | None = None
) -> Float[Tensor, ""]:
    """Sparsity loss by the configured convention, without its coefficient; 0 for architectures with
    ``k``.
    """
    config = dictionary.config
    if config.architecture in (*TOPK_ARCHITECTURES, "matching_pursuit"):
        return reconstruction.output.new_zeros(())
    pre = required(reconstruction.pre, PRE_ACTIVATIONS)
    dense = pre.relu() if config.architecture == "gated" else dictionary.activate(pre)
    norms = dictionary.W_dec.unflatten(1, (config.models, -1)).norm(dim=2).sum(1)
    if config.sparsity == "l1":
        return (dense.abs() * norms).sum(1).mean()
    if config.sparsity == "tanh":
        return torch.tanh(4 * dense * norms).sum(1).mean()
    if config.sparsity not in SPARSITIES:
        raise OptionError(f"unknown sparsity {config.sparsity!r}; use {', '.join(SPARSITIES)}")
    if config.architecture != "jumprelu":
        raise OptionError(
            f"sparsity {config.sparsity} needs thresholds, which {config.architecture} does not"
            " have"
        )
    l0 = heaviside(pre, dictionary.threshold, dictionary.bandwidth).sum(1).mean()
    if config.sparsity == "step":
        return l0
    if not target_l0:
        raise OptionError("sparsity 'target' needs target_l0")
    return (l0 / target_l0 - 1) ** 2


def auxiliary_loss(
    dictionary: Dictionary,
    x: Float[Tensor, "N D"],
    error: Float[Tensor, "N O"],
    dead: Bool[Tensor, " F"],
    count: int,
    revival: float = 0.0,
) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024): dead latents reconstruct the residual; relative to the residual's
    variance, 0 if no latent is dead.

    ``x``: normalised inputs. ``error``: targets minus reconstructions. ``count``: number of dead
    latents used per input, those with the largest pre-activations (times decoder norms if the
    dictionary ranks by them). A latent whose pre-activation is positive for no input gets no
    gradient from AuxK; for these the mean distance of the pre-activation below 0, in root mean
    squares of the inputs, is added with weight ``revival`` (the distance of Conerly et al. 2025;
    the combination is ours). Only encoder columns and decoder rows of dead latents receive
    gradients.
    """
    dead_latents = dead.nonzero().flatten()
    if not len(dead_latents):
        return x.new_zeros(())
    residual = error.detach()
    centred_input = (x - dictionary.b_dec if dictionary.config.input_bias else x).detach()
    columns = dictionary.W_enc.T.index_select(0, dead_latents).T
    pre = torch.addmm(dictionary.b_enc[dead_latents], centred_input, columns).to(
        centred_input.dtype
    )
    rows, count = dictionary.W_dec.index_select(0, dead_latents), min(count, len(dead_latents))
    weight = None if dictionary.importance is None else dictionary.importance[dead_latents]
    if count * _DENSE_FROM < len(dead_latents):
        pattern = topk_per_row(pre.detach(), count, weight)
        prediction = decode(Codes(pattern, pattern.values(pre), len(dead_latents)), rows)
    else:
        codes = pre.relu()
        if count < len(dead_latents):
            ranked = pre.detach() if weight is None else pre.detach() * weight
            # ties at the boundary are all kept
            codes = codes * (
                ranked >= ranked.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
            )
        prediction = (codes @ rows).to(centred_input.dtype)
    loss = (prediction - residual).square().mean() / _or_infinite(
        (residual - residual.mean(0)).square().mean()
    )
    if revival:
        loss = loss + revival * _revival_distance(
            dictionary, centred_input, dead_latents[pre.detach().amax(0) <= 0]
        )
    return torch.nan_to_num(loss, nan=0.0, posinf=0.0)


def _revival_distance(dictionary: Dictionary, centred_input: Tensor, latents: Tensor) -> Tensor:
    """Mean distance below 0 of the pre-activations of latents that no input activates, in root mean
    squares of inputs.
    """
    if not len(latents):
        return centred_input.new_zeros(())
    centre = centred_input.mean(0)
    # the mean pre-activation is linear in the mean input, so one product suffices
    below = -(dictionary.b_enc[latents] + centre @ dictionary.W_enc.T.index_select(0, latents).T)
    size = (centred_input - centre).square().mean().sqrt()
    return (below * dictionary.decoder_norms.sum(1)[latents]).mean() / _or_infinite(size)


def _or_infinite(size: Tensor) -> Tensor:
    """Replace 0 by infinity, so that a quotient and its gradient are 0 if nothing varies (two equal
    models).
    """
    return size.where(size > 0, math.inf)


def training_loss(
    dictionary: Dictionary,
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "N O"] | None = None,
    *,
    sparsity: float = 0.0,
    target_l0: float | None = None,
    dead: Bool[Tensor, " F"] | None = None,
    auxiliary: float = 1 / 32,
    auxiliary_count: int | None = None,
    revival: float = 1.0,
    hold_decoder: bool = True,
) -> Loss:
    """The complete training loss, from normalised inputs and targets (by default the inputs).

    ``sparsity``: coefficient of the configured sparsity loss. ``dead``: mask of dead latents.
    ``auxiliary``: coefficient of their AuxK loss, in units of the loss of predicting the mean (1
    for ``fraction``), with ``auxiliary_count`` latents per input (half the input width by default).
    ``revival``: see ``auxiliary_loss``. ``hold_decoder``: the reconstruction from a gated
    dictionary's gate does not train the decoder (Rajamanoharan et al. 2024, with decoder rows of
    norm 1); with free norms it has to, else the gate collapses (as in SAELens).
    """
    config, y = dictionary.config, x if y is None else y
    reconstruction = dictionary.reconstruct_normalised(x, training=True)
    error = y - reconstruction.output
    if config.architecture == "matryoshka":
        reconstruction_term = _by_prefix(dictionary, reconstruction, y)
    else:
        reconstruction_term = reconstruction_loss(error, y, config.loss, config.models)
    if config.architecture == "gated":
        rows, bias = dictionary.W_dec, dictionary.b_dec
        gate = required(reconstruction.pre, PRE_ACTIVATIONS).relu() @ (
            rows.detach() if hold_decoder else rows
        ) + (bias.detach() if hold_decoder else bias)
        reconstruction_term = reconstruction_term + reconstruction_loss(
            y - gate, y, config.loss, config.models
        )
    sparsity_term = (
        sparsity * sparsity_loss(dictionary, reconstruction, target_l0)
        if sparsity
        else x.new_zeros(())
    )
    auxiliary_term = x.new_zeros(())
    if dead is not None and auxiliary and config.architecture in TOPK_ARCHITECTURES:
        loss_of_mean = reconstruction_loss(y - y.mean(0), y, config.loss, config.models)
        relative_loss = auxiliary_loss(
            dictionary, x, error, dead, auxiliary_count or max(1, config.inputs // 2), revival
        )
        auxiliary_term = auxiliary * loss_of_mean.detach() * relative_loss
    return Loss(
        reconstruction_term + sparsity_term + auxiliary_term,
        reconstruction_term.detach(),
        sparsity_term.detach(),
        auxiliary_term.detach(),
        reconstruction,
    )


def _by_prefix(dictionary: Dictionary, reconstruction: Reconstruction, y: Tensor) -> Tensor:
    """Mean over prefixes of the reconstruction loss with the leading latents only (the last prefix
    is all of them).
    """
    config, (pattern, values, width) = dictionary.config, reconstruction.codes
    total = reconstruction_loss(y - reconstruction.output, y, config.loss, config.models)
    for prefix in config.prefixes[:-1]:
        prefix_values = torch.where(pattern.latents < prefix, values, 0.0)
        out = dictionary.decode(Codes(pattern, prefix_values, width))
        total = total + reconstruction_loss(y - out, y, config.loss, config.models)
    return total / len(config.prefixes)


def smallest_selected(dictionary: Dictionary, codes: Codes) -> float | None:
    """Smallest selected value (times importance) of a batch, which the threshold of a batchtopk
    follows; None without codes.
    """
    if dictionary.config.architecture not in BATCHTOPK_ARCHITECTURES or not len(codes.values):
        return None
    weight = dictionary.importance
    values = codes.values.detach()
    ranked = values if weight is None else values * weight[codes.pattern.latents]
    return float(to_host(ranked.min()))
