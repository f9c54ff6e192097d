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
from interp.sites import HOOK_ORDER, Site

TUNED, BOTH, DIFFERENCE = "tuned", "both", "difference"
MODEL_ROLES = (TUNED, BOTH, DIFFERENCE)
BASE = "base"

Values = Mapping[tuple[str, Site], Tensor]


@dataclass(frozen=True)
class InputOutput:
    """A dictionary ``model_role`` the tuned model, both models or their difference, which reads
    ``site`` and reconstructs ``target``.
    """

    site: Site
    target: Site
    model_role: str = TUNED

    @classmethod
    def from_config(
        cls, config: DictionaryConfig, site: str, target: str, model_role: str, has_base: bool
    ) -> InputOutput:
        """Inputs and outputs of a dictionary with this configuration; ``has_base``: whether there
        is a base. Raises OptionError.
        """
        if model_role not in MODEL_ROLES:
            raise OptionError(f"unknown model role {model_role!r}; use {', '.join(MODEL_ROLES)}")
        if config.models > 2 or (config.models == 2) != (model_role == BOTH):
            raise OptionError(f"a dictionary of {config.models} models cannot read {model_role!r}")
        if model_role != TUNED and not has_base:
            kind = "a crosscoder" if model_role == BOTH else "a dictionary of differences"
            raise OptionError(f"{kind} needs the base's activations too; add --base BASE")
        input_site = Site.parse(site)
        if not config.is_transcoder:
            if target and Site.parse(target) != input_site:
                raise OptionError(
                    f"this dictionary reconstructs the site it reads, {input_site}, not {target};"
                    " leave --target out"
                )
            return cls(input_site, input_site, model_role)
        if not target:
            raise OptionError(
                "this transcoder's files do not name its target site; add --target SITE"
            )
        target_site = Site.parse(target)
        if _pass_order(input_site) > _pass_order(target_site):
            raise OptionError(
                f"{input_site} comes after {target_site} in the forward pass, so the transcoder's"
                " output would change its own input; only a target at or after the input site can"
                " be evaluated"
            )
        return cls(input_site, target_site, model_role)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites to read in each model."""
        return tuple(dict.fromkeys((self.site, self.target)))

    @property
    def roles(self) -> tuple[str, ...]:
        """Models to read, the tuned one last."""
        return (TUNED,) if self.model_role == TUNED else (BASE, TUNED)

    @property
    def spliced_roles(self) -> tuple[str, ...]:
        """Models into which the output is inserted, the tuned one first."""
        return (TUNED, BASE) if self.model_role == BOTH else (TUNED,)

    @property
    def views(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For a crosscoder, maps from its rows to each model's half and to tuned minus base;
        otherwise empty.
        """
        if self.model_role != BOTH:
            return {}
        return {
            BASE: lambda rows: _model_half(rows, 0),
            TUNED: lambda rows: _model_half(rows, 1),
            DIFFERENCE: difference,
        }

    def rows(
        self, values: Values, counted: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N O"]]:
        """Inputs and targets of the dictionary at the counted positions."""
        x = self._rows_at(values, self.site, counted)
        return x, x if self.target == self.site else self._rows_at(values, self.target, counted)

    def _rows_at(self, values: Values, site: Site, counted: Tensor) -> Tensor:
        parts = [self._activations(values, role, site, counted) for role in self.roles]
        parts = [part.to(parts[-1].device) for part in parts]
        if self.model_role == TUNED:
            return parts[0]
        return torch.cat(parts, 1) if self.model_role == BOTH else parts[1] - parts[0]

    def _activations(self, values: Values, role: str, site: Site, counted: Tensor) -> Tensor:
        value = values[role, site]
        # in half precision a difference would lose its significant digits
        return widen(value)[counted.to(value.device)]

    def replacement(
        self, role: str, output: Float[Tensor, "N O"], values: Values, counted: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N W"]:
        """Replacement of the target's activation in a model for this output, at the counted
        positions.
        """
        if self.model_role == BOTH:
            return _model_half(output, int(role == TUNED))
        if self.model_role == DIFFERENCE:
            base = self._activations(values, BASE, self.target, counted)
            return base.to(output.device) + output.to(base.dtype)
        return output


def difference(rows: Float[Tensor, "N both"]) -> Float[Tensor, "N W"]:
    """Tuned minus base, from rows of both models concatenated."""
    return _model_half(rows, 1) - _model_half(rows, 0)


def _model_half(rows: Tensor, which: int) -> Tensor:
    return rows.unflatten(1, (2, -1))[:, which]


def _pass_order(site: Site) -> tuple[int, int]:
    return site.layer, HOOK_ORDER.index(site.hook)
