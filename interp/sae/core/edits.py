"""Edits of a model by latents: ablate, scale or add latents, and leave everything else of the
activation as it is.

Only the latents' contribution changes; the reconstruction error stays in, so effects are due to the
latents. A crosscoder and a dictionary of differences also need the base's activations on the same
tokens; ``latent_intervention`` then runs the base in parallel with the tuned model, both on whole
texts and in generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Edit
from interp.errors import OptionError
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.models.model import Model
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.sparse_products import Codes
from interp.sites import Site

MODEL_ROLES = ("tuned", "both", "difference")
"""What a dictionary reads: the tuned model's activations, those of base and tuned model
concatenated, or tuned minus base.
"""


@dataclass(frozen=True, eq=False)
class LatentEdit:
    """Add ``(factor - 1) f_j d_j + amount d_j`` for some latents j at a site: factor 0 ablates, an
    amount steers.

    ``amount`` is in units of codes. With factor 1 and amount 0 the activation is unchanged bit for
    bit. ``model_role`` is one of ``MODEL_ROLES``; for "both" and "difference", ``base`` holds the
    base's activations at the same positions, and of a crosscoder's decoder rows only the tuned
    model's half is added. ``revert`` (crosscoders): replace the tuned model's contribution of each
    latent by the base's, ``f_j (d_j^base - d_j^tuned)``, which undoes what fine-tuning changed in
    the latent. Raises OptionError for a dictionary that does not reconstruct this site.
    """

    site: Site
    dictionary: Dictionary
    latents: Int[Tensor, " K"]
    factor: float = 0.0
    amount: float = 0.0
    model_role: str = "tuned"
    base: Float[Tensor, "B T W"] | None = None
    revert: bool = False

    def __post_init__(self) -> None:
        require_model_role(self.dictionary, self.model_role)
        require_revert(self.revert, self.model_role)
        require_latents(self.dictionary, to_host(self.latents.unique()).tolist())

    @torch.no_grad()
    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The activation with the contribution of these latents changed."""
        if self.factor == 1 and self.amount == 0 and not self.revert:
            return value
        dictionary, width = self.dictionary, value.shape[-1]
        normalised_input, denormalise = dictionary.normalise(
            dictionary_inputs(dictionary, self.model_role, value, self.base)
        )
        latents = self.latents.to(normalised_input.device)
        change = normalised_input.new_zeros(len(normalised_input), width)
        output_scale = denormalise[1][-width:] if denormalise[1].ndim == 1 else denormalise[1]
        if self.factor != 1 or self.revert:
            pattern, values, count = dictionary.reconstruct_normalised(normalised_input).codes
            chosen = torch.zeros(count, dtype=torch.bool, device=normalised_input.device)
            chosen[latents] = True
            changed_codes = torch.where(
                chosen[pattern.latents], values * (-1.0 if self.revert else self.factor - 1), 0.0
            )
            # the last columns of a crosscoder are the tuned model's
            contributions = (
                dictionary.decode(Codes(pattern, changed_codes, count)) - dictionary.b_dec
            )
            change = contributions[:, -width:]
            if self.revert:
                scale = denormalise[1][:width] / output_scale if denormalise[1].ndim == 1 else 1.0
                change = change - contributions[:, :width] * scale
        if self.amount:
            change = change + self.amount * dictionary.W_dec[latents, -width:].sum(0)
        return value + (change * output_scale).reshape(value.shape).to(value)


def require_model_role(dictionary: Dictionary, model_role: str) -> None:
    """Raise OptionError if the dictionary cannot read ``model_role``, or writes to another site
    than it reads.
    """
    config = dictionary.config
    if model_role not in MODEL_ROLES:
        raise OptionError(f"unknown model role {model_role!r}; use {', '.join(MODEL_ROLES)}")
    if config.is_transcoder or config.skip:
        raise OptionError(
            "a transcoder reads one site and writes another; only dictionaries of one site can"
            " be edited"
        )
    if (config.models == 2) != (model_role == "both") or config.models > 2:
        raise OptionError(
            f"this dictionary is of {config.models} model{'s' * (config.models > 1)} and cannot"
            f" read {model_role!r}; a crosscoder of two models reads 'both', any other reads"
            " 'tuned' or 'difference'"
        )


def require_latents(dictionary: Dictionary, latents: Sequence[int]) -> None:
    """Raise OptionError for a latent that the dictionary does not have, or that is repeated."""
    width = dictionary.config.width
    if out_of_range := [latent for latent in latents if not 0 <= latent < width]:
        raise OptionError(
            f"there is no latent {out_of_range[0]}; the dictionary has {width}, numbered from 0"
        )
    if len(set(latents)) < len(latents):
        raise OptionError("a latent is given twice; give each one once")


def require_revert(revert: bool, model_role: str) -> None:
    """Raise OptionError if the dictionary has no decoder row of the base to revert to."""
    if revert and model_role != "both":
        raise OptionError(
            "only a crosscoder has a decoder row of the base to revert to; this dictionary"
            f" reads {model_role!r}"
        )


def dictionary_inputs(
    dictionary: Dictionary,
    model_role: str,
    tuned: Float[Tensor, "*cells W"],
    base: Float[Tensor, "*cells W"] | None,
) -> Float[Tensor, "N D"]:
    """Input rows of a dictionary from the site's activations in the tuned model and, unless it
    reads "tuned", in the base.
    """
    width = tuned.shape[-1]
    if dictionary.config.d_in != width:
        raise OptionError(
            f"the dictionary has width {dictionary.config.d_in} and the site has {width}"
        )
    rows = tuned.reshape(-1, width).to(dictionary.W_dec)
    if model_role == "tuned":
        return rows
    if base is None:
        raise OptionError(
            f"codes of {model_role!r} need the base's activations on the same tokens, and none were"
            " given"
        )
    base_rows = base.reshape(-1, width).to(dictionary.W_dec)
    return torch.cat([base_rows, rows], 1) if model_role == "both" else rows - base_rows


@dataclass(frozen=True, eq=False)
class PairedLatentEdits(Intervention):
    """Edits of latents whose codes also need the base's (the donor's) activations on the same
    tokens.
    """

    edits: Sequence[LatentEdit] = ()

    @property
    def reads(self) -> Sequence[Site]:
        """Sites at which the base is read."""
        return list(dict.fromkeys(edit.site for edit in self.edits))

    def bind(
        self,
        activations: Mapping[Site, Float[Tensor, "B T N"]],
        real: Bool[Tensor, "B T"] | None = None,
    ) -> list[Edit]:
        """The edits of one pass, given the base's activations at the same positions."""
        return [replace(edit, base=activations[edit.site]) for edit in self.edits]


def latent_intervention(
    name: str, edits: Sequence[LatentEdit], base: Model | None = None
) -> Intervention:
    """Edits of latents as an intervention; raises OptionError if one needs ``base`` and it is
    None.
    """
    if all(edit.model_role == "tuned" for edit in edits):
        return Intervention(name, {}, "edits", edits=list(edits))
    if base is None:
        raise OptionError("this dictionary also reads the base; add --base MODEL")
    return PairedLatentEdits(name, {}, "donor", donor=base, edits=tuple(edits))
