"""What training minimises, each convention by its name: libraries differ by factors of D and by
squares.

Reconstruction (``config.loss``): ``sum``, mean over inputs of the summed squared error (SAELens,
dictionary_learning); ``mean``, mean over all numbers (O'Neill and Bui); ``fraction``, the sum by
the batch's variance (sparsify); ``norm``, mean over inputs and models of the error's norm, not
squared (the crosscoder code of Minder et al.).

Sparsity (``config.sparsity``): ``l1``, mean over inputs of ``sum_j |f_j| n_j`` with decoder norms
``n``, over models their sum; ``step``, the mean L0 through the thresholds' slopes; ``tanh``,
``tanh(4 f_j n_j)``; ``target``, ``(L0 / k - 1)^2``. Architectures with ``k`` have none.
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
from interp.sae.core.config import BY_BATCH, SPARSE
from interp.sae.core.dictionary import Dictionary, Reconstruction
from interp.sae.core.sparse_products import Codes, decode, top_per_row
from interp.sae.core.straight_through import step


class Loss(NamedTuple):
    """A training loss and its parts, each as it enters the total."""

    total: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    found: Reconstruction


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
"""A product by active rows is worth it where fewer than one code in so many is active."""
PRE = "a number of every latent before it is cut off"
SPARSITIES = ("l1", "step", "tanh", "target")


def reconstruction_loss(
    error: Float[Tensor, "N O"], target: Float[Tensor, "N O"], convention: str, models: int = 1
) -> Float[Tensor, ""]:
    """Loss of a reconstruction by the name of its convention; OptionError for one that is not
    known.
    """
    if convention not in RECONSTRUCTIONS:
        raise OptionError(
            f"unknown reconstruction loss {convention!r}; use {', '.join(RECONSTRUCTIONS)}"
        )
    return RECONSTRUCTIONS[convention](error, target, models)


def sparsity_loss(
    dictionary: Dictionary, found: Reconstruction, target_l0: float | None = None
) -> Float[Tensor, ""]:
    """Sparsity of codes by the configuration's convention, before its coefficient; 0 for
    architectures with ``k``.
    """
    config = dictionary.config
    if config.architecture in (*SPARSE, "matching_pursuit"):
        return found.output.new_zeros(())
    pre = required(found.pre, PRE)
    dense = pre.relu() if config.architecture == "gated" else dictionary.activated(pre)
    norms = dictionary.W_dec.unflatten(1, (config.models, -1)).norm(dim=2).sum(1)
    if config.sparsity == "l1":
        return (dense.abs() * norms).sum(1).mean()
    if config.sparsity == "tanh":
        return torch.tanh(4 * dense * norms).sum(1).mean()
    if config.sparsity not in SPARSITIES:
        raise OptionError(f"unknown sparsity {config.sparsity!r}; use {', '.join(SPARSITIES)}")
    if config.architecture != "jumprelu":
        raise OptionError(
            f"sparsity {config.sparsity} goes through thresholds, which {config.architecture}"
            " has not"
        )
    l0 = step(pre, dictionary.threshold, dictionary.bandwidth).sum(1).mean()
    if config.sparsity == "step":
        return l0
    if not target_l0:
        raise OptionError("sparsity target needs the number of codes that it is to reach")
    return (l0 / target_l0 - 1) ** 2


def auxiliary_loss(
    dictionary: Dictionary,
    x: Float[Tensor, "N D"],
    error: Float[Tensor, "N O"],
    dead: Bool[Tensor, " F"],
    count: int,
    revival: float = 0.0,
) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024): dead latents reconstruct what the others left, by its variance; 0
    where none is dead.

    ``x`` normalised inputs, ``error`` their targets less their reconstructions, ``count`` the
    largest pre-activations of dead latents per input (times the decoder's norms, where the
    dictionary ranks by them). A latent whose pre-activation is positive for no input has no code
    here either, and would never come back: the mean distance of these below 0, in root mean squares
    of the inputs, is added ``revival`` times (the distance of Conerly et al. 2025, for those alone
    that AuxK cannot reach; the combination is ours). Gradients reach the encoder columns and
    decoder rows of dead latents and no others.
    """
    which = dead.nonzero().flatten()
    if not len(which):
        return x.new_zeros(())
    left = error.detach()
    inside = (x - dictionary.b_dec if dictionary.config.input_bias else x).detach()
    columns = dictionary.W_enc.T.index_select(0, which).T
    pre = torch.addmm(dictionary.b_enc[which], inside, columns).to(inside.dtype)
    rows, count = dictionary.W_dec.index_select(0, which), min(count, len(which))
    weight = None if dictionary.importance is None else dictionary.importance[which]
    if count * _DENSE_FROM < len(which):
        pattern = top_per_row(pre.detach(), count, weight)
        guess = decode(Codes(pattern, pattern.values(pre), len(which)), rows)
    else:
        codes = pre.relu()
        if count < len(which):
            ranked = pre.detach() if weight is None else pre.detach() * weight
            # of equal values at the border all stay
            codes = codes * (
                ranked >= ranked.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
            )
        guess = (codes @ rows).to(inside.dtype)
    loss = (guess - left).square().mean() / _or_infinite((left - left.mean(0)).square().mean())
    if revival:
        loss = loss + revival * _distance(dictionary, inside, which[pre.detach().amax(0) <= 0])
    return torch.nan_to_num(loss, nan=0.0, posinf=0.0)


def _distance(dictionary: Dictionary, inside: Tensor, which: Tensor) -> Tensor:
    """How far below 0 the pre-activations of latents that no input excites lie, in root mean
    squares of inputs.
    """
    if not len(which):
        return inside.new_zeros(())
    centre = inside.mean(0)
    # their mean over inputs is linear in them, so that no product over inputs is taken again
    below = -(dictionary.b_enc[which] + centre @ dictionary.W_enc.T.index_select(0, which).T)
    size = (inside - centre).square().mean().sqrt()
    return (below * dictionary.decoder_norms.sum(1)[which]).mean() / _or_infinite(size)


def _or_infinite(size: Tensor) -> Tensor:
    """Infinite for 0, so that a quotient and its slope are 0 where nothing varies (two models that
    are equal).
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
    """Everything that a step minimises, of normalised inputs and targets (the inputs where ``y`` is
    left out).

    ``sparsity``: coefficient of the configured sparsity. ``dead``: latents that have not been
    active for long; their AuxK loss counts ``auxiliary`` times, in units of what reconstructing the
    mean would cost by the configured convention (1 of ``fraction``), with ``auxiliary_count`` of
    them per input (half the input width by default); ``revival`` as in ``auxiliary_loss``.
    ``hold_decoder``: what a gated dictionary reconstructs from its gate alone does not move the
    decoder (Rajamanoharan et al. 2024, whose rows have norm 1); with rows of free norm the gate
    then collapses, and it must (as in SAELens).
    """
    config, y = dictionary.config, x if y is None else y
    found = dictionary.raw(x, training=True)
    error = y - found.output
    if config.architecture == "matryoshka":
        main = _by_prefix(dictionary, found, y)
    else:
        main = reconstruction_loss(error, y, config.loss, config.models)
    if config.architecture == "gated":
        rows, bias = dictionary.W_dec, dictionary.b_dec
        gate = required(found.pre, PRE).relu() @ (rows.detach() if hold_decoder else rows) + (
            bias.detach() if hold_decoder else bias
        )
        main = main + reconstruction_loss(y - gate, y, config.loss, config.models)
    thin = sparsity * sparsity_loss(dictionary, found, target_l0) if sparsity else x.new_zeros(())
    extra = x.new_zeros(())
    if dead is not None and auxiliary and config.architecture in SPARSE:
        most = reconstruction_loss(y - y.mean(0), y, config.loss, config.models)
        share = auxiliary_loss(
            dictionary, x, error, dead, auxiliary_count or max(1, config.inputs // 2), revival
        )
        extra = auxiliary * most.detach() * share
    return Loss(main + thin + extra, main.detach(), thin.detach(), extra.detach(), found)


def _by_prefix(dictionary: Dictionary, found: Reconstruction, y: Tensor) -> Tensor:
    """Mean over prefixes of the loss of what the first latents alone reconstruct (the last prefix
    is all of them).
    """
    config, (pattern, values, width) = dictionary.config, found.codes
    total = reconstruction_loss(y - found.output, y, config.loss, config.models)
    for prefix in config.prefixes[:-1]:
        inside = torch.where(pattern.latents < prefix, values, 0.0)
        out = dictionary.decode(Codes(pattern, inside, width))
        total = total + reconstruction_loss(y - out, y, config.loss, config.models)
    return total / len(config.prefixes)


def smallest_kept(dictionary: Dictionary, codes: Codes) -> float | None:
    """Smallest kept value (times importance) of a batch: what a batchtopk's threshold follows; None
    of no codes.
    """
    if dictionary.config.architecture not in BY_BATCH or not len(codes.values):
        return None
    weight = dictionary.importance
    values = codes.values.detach()
    ranked = values if weight is None else values * weight[codes.pattern.latents]
    return float(to_host(ranked.min()))
