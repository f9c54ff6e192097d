"""Other parameters, same function: decoder norms and input scales moved into the weights.

Every fold is an identity up to rounding, or it is refused.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.sae.core.config import SPARSE
from interp.sae.core.dictionary import Dictionary


def fold_decoder_norm(dictionary: Dictionary) -> Dictionary:
    """The same dictionary with decoder rows of norm 1 (a crosscoder's: norms over models summing to
    1).

    Codes are multiplied by the norms. Raises OptionError where that would choose other codes (k by
    value of unlike norms), where rows cannot be scaled (matching pursuit) and for rows of norm 0.
    """
    config, norms = dictionary.config, dictionary.decoder_norms.sum(1)
    if bool(to_host((norms == 0).any())):
        raise OptionError(
            f"latent {int(to_host(norms.argmin()))} has a decoder row of norm 0, which has no"
            " direction"
        )
    if config.architecture == "matching_pursuit":
        if bool(to_host(((norms - 1).abs() < 1e-4).all())):
            return copy.deepcopy(dictionary)
        raise OptionError(
            "a matching pursuit's atoms are of norm 1 by definition; scaling them changes what it"
            " finds"
        )
    same = bool(to_host(((norms / norms[0] - 1).abs() < 1e-4).all()))
    if config.architecture in SPARSE and config.rank_by == "value" and not same:
        raise OptionError(
            f"this {config.architecture} ranks by value and its decoder rows have norms from"
            f" {to_host(norms).min():.3g} to {to_host(norms).max():.3g}: with unit norms it would"
            " choose other codes"
        )
    folded = copy.deepcopy(dictionary)
    with torch.no_grad():
        folded.W_dec.div_(norms[:, None])
        if config.architecture == "gated":
            # the gate's sign stays as it is; the magnitude is what is scaled
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
    """The same dictionary for inputs as they are: its scale of every model goes into the weights.

    Codes stay as they are, except of a matching pursuit, whose codes are divided by its scale as
    its atoms keep their norm. Raises OptionError where inputs are normalised one by one, and where
    the skip connection spans models.
    """
    config = dictionary.config
    if config.normalisation == "none":
        return copy.deepcopy(dictionary)
    if config.normalisation != "scale":
        raise OptionError(
            f"{config.normalisation} depends on every input and cannot be folded into weights"
        )
    inputs = dictionary.scale.repeat_interleave(config.d_in).to(dictionary.W_dec.dtype)
    outputs = dictionary.scale.repeat_interleave(config.outputs // config.models).to(
        dictionary.W_dec.dtype
    )
    folded = Dictionary(replace(config, normalisation="none")).to(dictionary.W_dec)
    folded.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        folded.scale.fill_(1)
        folded.b_dec.div_(outputs)
        if config.architecture == "matching_pursuit":
            folded.config = replace(
                folded.config,
                residual_threshold=config.residual_threshold / float(to_host(inputs[0])),
            )
            return folded
        importance = dictionary.importance
        if (
            importance is not None
            and len(dictionary.scale.unique()) > 1
            and config.architecture in SPARSE
        ):
            raise OptionError(
                "codes are ranked by norms summed over models; folding unlike scales would choose"
                " others"
            )
        folded.W_enc.mul_(inputs[:, None])
        folded.W_dec.div_(outputs)
        if config.skip:
            folded.W_skip.mul_(inputs).div_(outputs[:, None])
        if importance is not None and config.architecture in ("batchtopk", "matryoshka"):
            folded.threshold.div_(float(to_host(inputs[0])))
    return folded
