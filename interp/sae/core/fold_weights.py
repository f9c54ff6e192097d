"""Equivalent parameters: decoder norms and input scales folded into the weights.

Every fold leaves the function unchanged up to rounding, or is refused.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.sae.core.config import TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary


def fold_decoder_norm(dictionary: Dictionary) -> Dictionary:
    """The same dictionary with decoder rows of norm 1 (for a crosscoder, norms that sum to 1 over
    models).

    Codes are multiplied by the norms. Raises OptionError if that would select other codes (top k by
    value with unequal norms), if rows cannot be scaled (matching pursuit), and for rows of norm 0.
    """
    config, norms = dictionary.config, dictionary.decoder_norms.sum(1)
    if bool(to_host((norms == 0).any())):
        raise OptionError(
            f"latent {int(to_host(norms.argmin()))} has a decoder row of norm 0; remove it first"
        )
    if config.architecture == "matching_pursuit":
        if bool(to_host(((norms - 1).abs() < 1e-4).all())):
            return copy.deepcopy(dictionary)
        raise OptionError(
            "a matching pursuit's atoms have norm 1 by definition; scaling them changes its codes"
        )
    equal_norms = bool(to_host(((norms / norms[0] - 1).abs() < 1e-4).all()))
    if config.architecture in TOPK_ARCHITECTURES and config.rank_by == "value" and not equal_norms:
        raise OptionError(
            f"this {config.architecture} ranks by value and its decoder rows have norms from"
            f" {to_host(norms).min():.3g} to {to_host(norms).max():.3g}: with unit norms it"
            " would select other codes"
        )
    folded = copy.deepcopy(dictionary)
    with torch.no_grad():
        folded.W_dec.div_(norms[:, None])
        if config.architecture == "gated":
            # the gate's sign is unchanged; the magnitude is scaled
            folded.r_mag.add_(norms.log())
            folded.b_mag.mul_(norms)
        else:
            folded.W_enc.mul_(norms)
            folded.b_enc.mul_(norms)
        if config.architecture == "jumprelu":
            folded.threshold.mul_(norms)
        elif config.architecture in ("batchtopk", "matryoshka") and config.rank_by == "value":
            folded.threshold.mul_(norms[0].double())
    return folded


def fold_scale(dictionary: Dictionary) -> Dictionary:
    """The same dictionary for unscaled inputs: each model's input scale is folded into the weights.

    Codes stay the same, except for a matching pursuit, whose codes are divided by the scale because
    its atoms keep their norm. Raises OptionError if inputs are normalised individually, and if
    ranking by norm would select other codes.
    """
    config = dictionary.config
    if config.normalisation == "none":
        return copy.deepcopy(dictionary)
    if config.normalisation != "scale":
        raise OptionError(
            f"{config.normalisation} is computed per input and cannot be folded into weights"
        )
    input_scale = dictionary.scale.repeat_interleave(config.d_in).to(dictionary.W_dec.dtype)
    output_scale = dictionary.scale.repeat_interleave(config.outputs // config.models).to(
        dictionary.W_dec.dtype
    )
    folded = Dictionary(replace(config, normalisation="none")).to(dictionary.W_dec)
    folded.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        folded.scale.fill_(1)
        folded.b_dec.div_(output_scale)
        if config.architecture == "matching_pursuit":
            folded.config = replace(
                folded.config,
                residual_threshold=config.residual_threshold / float(to_host(input_scale[0])),
            )
            return folded
        importance = dictionary.importance
        if (
            importance is not None
            and len(dictionary.scale.unique()) > 1
            and config.architecture in TOPK_ARCHITECTURES
        ):
            raise OptionError(
                "codes are ranked by norms summed over models; folding unequal scales would"
                " select other codes"
            )
        folded.W_enc.mul_(input_scale[:, None])
        folded.W_dec.div_(output_scale)
        if config.skip:
            folded.W_skip.mul_(input_scale).div_(output_scale[:, None])
        if importance is not None and config.architecture in ("batchtopk", "matryoshka"):
            folded.threshold.div_(float(to_host(input_scale[0])))
    return folded
