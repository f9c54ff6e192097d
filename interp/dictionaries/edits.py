"""Latents turned off, scaled or added inside a model, as an edit: only their part changes, the error stays in.

What a dictionary does not explain is never replaced by its reconstruction, so that an effect is the latents' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.dictionaries.active import Codes
from interp.dictionaries.dictionary import Dictionary
from interp.errors import OptionError
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Latents:
    """Add ``(factor - 1) f_j d_j + amount d_j`` of some latents to a site: factor 0 ablates, an amount steers.

    ``amount`` is in units of codes. At factor 1 and amount 0 the value is left bit for bit. Raises OptionError for a
    dictionary that does not reconstruct its own site.
    """

    site: Site
    dictionary: Dictionary
    latents: Int[Tensor, " K"]
    factor: float = 0.0
    amount: float = 0.0

    def __post_init__(self) -> None:
        config = self.dictionary.config
        if config.models > 1 or config.is_transcoder:
            raise OptionError("only a dictionary of this one site can be edited through; a crosscoder reads two models")
        if len(self.latents) and int(self.latents.max()) >= config.width:
            raise OptionError(f"latent {int(self.latents.max())} is none of {config.width}")

    @torch.no_grad()
    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with these latents' part changed and everything else kept."""
        if self.factor == 1 and self.amount == 0:
            return value
        dictionary = self.dictionary
        rows = value.reshape(-1, value.shape[-1]).to(dictionary.W_dec.dtype)
        inside, undo = dictionary.normalised(rows)
        change = inside.new_zeros(inside.shape)
        if self.factor != 1:
            pattern, values, width = dictionary.raw(inside).codes
            chosen = torch.zeros(width, dtype=torch.bool, device=rows.device)
            chosen[self.latents.to(rows.device)] = True
            part = torch.where(chosen[pattern.latents], values * (self.factor - 1), 0.0)
            change = dictionary.decode(Codes(pattern, part, width)) - dictionary.b_dec
        if self.amount:
            change = change + self.amount * dictionary.W_dec[self.latents.to(rows.device)].sum(0)
        return value + (change * undo[1]).reshape(value.shape).to(value)
