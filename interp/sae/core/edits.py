"""Latents turned off, scaled or added inside a model, as an edit: only their part changes, the
error stays in.

What a dictionary does not explain is never replaced by its reconstruction, so that an effect is the
latents' own. A crosscoder and a dictionary of differences read the base's values on the same tokens
besides; ``intervention`` has the base run beside the tuned model, on whole texts and token by token
alike.
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

READS = ("tuned", "both", "difference")
"""What a dictionary's codes are of: the site's own value, the base's and the tuned model's side by
side, tuned less base."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Add ``(factor - 1) f_j d_j + amount d_j`` of some latents to a site: factor 0 ablates, an
    amount steers.

    ``amount`` is in units of codes. At factor 1 and amount 0 the value is left bit for bit. ``of``
    is one of ``READS``; for the last two ``base`` has the base's values of the same cells, and of a
    crosscoder's decoder rows only the tuned model's part is added. ``revert``: of a crosscoder, the
    tuned model's part of each gives way to the base's, ``f_j (d_j^base - d_j^tuned)``, which undoes
    what tuning did to the latent and leaves what it did not. Raises OptionError for a dictionary
    that does not reconstruct this site.
    """

    site: Site
    dictionary: Dictionary
    latents: Int[Tensor, " K"]
    factor: float = 0.0
    amount: float = 0.0
    of: str = "tuned"
    base: Float[Tensor, "B T W"] | None = None
    revert: bool = False

    def __post_init__(self) -> None:
        config = self.dictionary.config
        require_reads(self.dictionary, self.of)
        require_revert(self.revert, self.of)
        wrong = [
            latent for latent in to_host(self.latents).tolist() if not 0 <= latent < config.width
        ]
        if wrong:
            raise OptionError(f"latent {wrong[0]} is none of {config.width}")

    @torch.no_grad()
    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with these latents' part changed and everything else kept."""
        if self.factor == 1 and self.amount == 0 and not self.revert:
            return value
        dictionary, width = self.dictionary, value.shape[-1]
        inside, undo = dictionary.normalised(read_rows(dictionary, self.of, value, self.base))
        latents = self.latents.to(inside.device)
        change = inside.new_zeros(len(inside), width)
        factor = undo[1][-width:] if undo[1].ndim == 1 else undo[1]
        if self.factor != 1 or self.revert:
            pattern, values, count = dictionary.raw(inside).codes
            chosen = torch.zeros(count, dtype=torch.bool, device=inside.device)
            chosen[latents] = True
            part = torch.where(
                chosen[pattern.latents], values * (-1.0 if self.revert else self.factor - 1), 0.0
            )
            # a crosscoder's last columns are the tuned model's
            both = dictionary.decode(Codes(pattern, part, count)) - dictionary.b_dec
            change = both[:, -width:]
            if self.revert:
                scale = undo[1][:width] / factor if undo[1].ndim == 1 else 1.0
                change = change - both[:, :width] * scale
        if self.amount:
            change = change + self.amount * dictionary.W_dec[latents, -width:].sum(0)
        return value + (change * factor).reshape(value.shape).to(value)


def require_reads(dictionary: Dictionary, of: str) -> None:
    """OptionError where codes ``of`` that kind are not this dictionary's, or it writes to another
    site.
    """
    config = dictionary.config
    if of not in READS:
        raise OptionError(f"codes of {of!r} are not known; use {', '.join(READS)}")
    if config.is_transcoder or config.skip:
        raise OptionError(
            "a transcoder reads one site and writes another; only dictionaries of one site are"
            " edited"
        )
    if (config.models == 2) != (of == "both") or config.models > 2:
        raise OptionError(
            f"this dictionary is of {config.models} model{'s' * (config.models > 1)} and was read"
            f" as of {of!r}; a crosscoder reads two models (both), any other one (tuned,"
            " difference)"
        )


def require_revert(revert: bool, of: str) -> None:
    """OptionError where a latent has no base's part that could take the tuned model's place."""
    if revert and of != "both":
        raise OptionError(
            f"only a crosscoder holds the base's part of a latent; this dictionary is of {of!r}"
        )


def read_rows(
    dictionary: Dictionary,
    of: str,
    value: Float[Tensor, "*cells W"],
    base: Float[Tensor, "*cells W"] | None,
) -> Float[Tensor, "N D"]:
    """What a dictionary reads, given the site's values in the tuned model and (but for "tuned") in
    the base.
    """
    width = value.shape[-1]
    if dictionary.config.d_in != width:
        raise OptionError(
            f"the dictionary is of width {dictionary.config.d_in} and the site of {width}"
        )
    rows = value.reshape(-1, width).to(dictionary.W_dec)
    if of == "tuned":
        return rows
    if base is None:
        raise OptionError(
            f"codes of {of!r} need the base's values on the same tokens, and none were given"
        )
    other = base.reshape(-1, width).to(dictionary.W_dec)
    return torch.cat([other, rows], 1) if of == "both" else rows - other


@dataclass(frozen=True, eq=False)
class _Beside(Intervention):
    """Edits of latents whose codes need what the donor (the base) computes on the same tokens."""

    edits: Sequence[Latents] = ()

    @property
    def reads(self) -> Sequence[Site]:
        """Where the base is read."""
        return list(dict.fromkeys(edit.site for edit in self.edits))

    def bind(
        self,
        activations: Mapping[Site, Float[Tensor, "B T N"]],
        real: Bool[Tensor, "B T"] | None = None,
    ) -> list[Edit]:
        """The edits of one pass, given the base's values on the same columns."""
        return [replace(edit, base=activations[edit.site]) for edit in self.edits]


def intervention(name: str, edits: Sequence[Latents], base: Model | None = None) -> Intervention:
    """Edits of latents as an intervention; raises OptionError where one needs ``base`` and there is
    none.
    """
    if all(edit.of == "tuned" for edit in edits):
        return Intervention(name, {}, "edits", fixed=list(edits))
    if base is None:
        raise OptionError(
            "this dictionary reads the base besides the tuned model; add --base MODEL"
        )
    return _Beside(name, {}, "donor", donor=base, edits=tuple(edits))
