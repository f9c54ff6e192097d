"""What a dictionary reads in a pair of models, what it should reconstruct, and where its output is
inserted.

Identical tokens go to both models. An autoencoder or transcoder reads the tuned model. A crosscoder
reads both models concatenated, and each half of its output is inserted into its own model. A
dictionary of differences reads tuned minus base, and the base's activation plus its output is
inserted into the tuned model. A transcoder reads ``site`` and reconstructs ``target``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import OptionError
from interp.maths.precision import widen
from interp.sae.core.config import DictionaryConfig
from interp.sites import Site

TUNED, BOTH, DIFFERENCE = "tuned", "both", "difference"
OF = (TUNED, BOTH, DIFFERENCE)
BASE = "base"
ORDER = (
    "hook_resid_pre",
    "attn.hook_z",
    "attn.o.hook_out",
    "hook_attn_out",
    "mlp.hook_in",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "mlp.out.hook_out",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Sites of a block in the order of the forward pass."""

Values = Mapping[tuple[str, Site], Tensor]


@dataclass(frozen=True)
class Place:
    """A dictionary ``of`` the tuned model, both models or their difference, which reads ``site``
    and reconstructs ``target``.
    """

    site: Site
    target: Site
    of: str = TUNED

    @classmethod
    def of_dictionary(
        cls, config: DictionaryConfig, site: str, target: str, of: str, based: bool
    ) -> Place:
        """Inputs and outputs of a dictionary with this configuration; ``based``: whether there is a
        base. Raises OptionError.
        """
        if of not in OF:
            raise OptionError(f"unknown model role {of!r}; use {', '.join(OF)}")
        if config.models > 2 or (config.models == 2) != (of == BOTH):
            raise OptionError(f"a dictionary of {config.models} models cannot read {of!r}")
        if of != TUNED and not based:
            what = "a crosscoder" if of == BOTH else "a dictionary of differences"
            raise OptionError(f"{what} needs the base's activations too; add --base BASE")
        reads = Site.parse(site)
        if not config.is_transcoder:
            if target and Site.parse(target) != reads:
                raise OptionError(
                    f"this dictionary reconstructs the site it reads, {reads}, not {target};"
                    " leave --target out"
                )
            return cls(reads, reads, of)
        if not target:
            raise OptionError(
                "this transcoder's files do not name its target site; add --target SITE"
            )
        writes = Site.parse(target)
        if _at(reads) > _at(writes):
            raise OptionError(
                f"{reads} comes after {writes} in the forward pass, so the transcoder's output"
                " would change its own input; only a target at or after the input site can be"
                " evaluated"
            )
        return cls(reads, writes, of)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites to read in each model."""
        return tuple(dict.fromkeys((self.site, self.target)))

    @property
    def roles(self) -> tuple[str, ...]:
        """Models to read, the tuned one last."""
        return (TUNED,) if self.of == TUNED else (BASE, TUNED)

    @property
    def edited(self) -> tuple[str, ...]:
        """Models into which the output is inserted, the tuned one first."""
        return (TUNED, BASE) if self.of == BOTH else (TUNED,)

    @property
    def views(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For a crosscoder, maps from its rows to each model's half and to tuned minus base;
        otherwise empty.
        """
        if self.of != BOTH:
            return {}
        return {
            BASE: lambda rows: _half(rows, 0),
            TUNED: lambda rows: _half(rows, 1),
            DIFFERENCE: difference,
        }

    def rows(
        self, values: Values, counted: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N O"]]:
        """Inputs and targets of the dictionary at the counted positions."""
        x = self._of(values, self.site, counted)
        return x, x if self.target == self.site else self._of(values, self.target, counted)

    def _of(self, values: Values, site: Site, counted: Tensor) -> Tensor:
        found = [self._own(values, role, site, counted) for role in self.roles]
        found = [part.to(found[-1].device) for part in found]
        if self.of == TUNED:
            return found[0]
        return torch.cat(found, 1) if self.of == BOTH else found[1] - found[0]

    def _own(self, values: Values, role: str, site: Site, counted: Tensor) -> Tensor:
        value = values[role, site]
        # in half precision a difference would lose its significant digits
        return widen(value)[counted.to(value.device)]

    def put(
        self, role: str, output: Float[Tensor, "N O"], values: Values, counted: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N W"]:
        """Replacement of the target's activation in a model for this output, at the counted
        positions.
        """
        if self.of == BOTH:
            return _half(output, int(role == TUNED))
        if self.of == DIFFERENCE:
            base = self._own(values, BASE, self.target, counted)
            return base.to(output.device) + output.to(base.dtype)
        return output


def difference(rows: Float[Tensor, "N both"]) -> Float[Tensor, "N W"]:
    """Tuned minus base, from rows of both models concatenated."""
    return _half(rows, 1) - _half(rows, 0)


def _half(rows: Tensor, which: int) -> Tensor:
    return rows.unflatten(1, (2, -1))[:, which]


def _at(site: Site) -> tuple[int, int]:
    return site.layer, ORDER.index(site.hook)
