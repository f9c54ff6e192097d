"""What happens at one site during a pass, independent of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines.base import Edit
from interp.errors import UnsupportedModel
from interp.models.anatomy import SUM_REMEDY
from interp.models.model import Model
from interp.models.places import Target
from interp.sites import Site

# Outputs that a block adds to the residual stream; some families add in place.
_ADDED_TO_STREAM = ("hook_attn_out", "hook_mlp_out", "attn.o.hook_out", "mlp.out.hook_out")


def _version(value: Tensor) -> int:
    """How often a tensor was modified in place; torch does not count in ``torch.inference_mode``."""
    return 0 if value.is_inference() else value._version


def require_unchanged(model: Model, changed: Sequence[Site]) -> None:
    """Raise UnsupportedModel for sites whose value was modified in place after it was read."""
    if changed:
        raise UnsupportedModel(
            f"{model.name} overwrites the value at {changed[0]} in place, so what was read there is"
            f" lost; {SUM_REMEDY}"
        )


class SiteHook:
    """Applies the edits in order, then makes a leaf for the gradient if needed, then stores the
    value.

    ``part``: the columns of a fused module's value that belong to this site, in each of ``groups``
    equal parts of its columns; None for all.
    ``factor``: multiplies the module's value to give the site's. ``copies_output``: the block may
    overwrite the module's value (Falcon adds its attention to its MLP's output in place), so the
    block gets a copy. ``tokens``: prompts and positions of the pass, to reshape the value of a
    module that returns one row per token (the experts of Llama-4). ``value`` is set after the pass
    if the site is read or differentiated.
    """

    value: Tensor
    _version: int = 0

    def __init__(self) -> None:
        self.part: tuple[int, int] | None = None
        self.factor = 1.0
        self.groups = 1
        self.copies_output = False
        self.tokens: tuple[int, int] | None = None
        self.edits: list[Edit] = []
        self.wants_gradient = False
        self.stores_value = False

    def process(self, module_value: Tensor) -> Tensor:
        """The module's value with this site's columns processed."""
        if (
            self.tokens is not None
            and module_value.ndim == 2
            and len(module_value) == self.tokens[0] * self.tokens[1]
        ):
            return self.process(module_value.unflatten(0, self.tokens)).flatten(0, 1)
        if self.part is None:
            return self._apply_scaled(module_value)
        start, stop = self.part
        if self.groups > 1:
            return self._in_groups(module_value, start, stop)
        site_value = module_value[..., start:stop]
        new = self._apply_scaled(site_value)
        # a differentiated slice must itself be passed on, also where its module's value has a gradient
        return (
            module_value
            if new is site_value and not self.wants_gradient
            else torch.cat([module_value[..., :start], new, module_value[..., stop:]], -1)
        )

    def _in_groups(self, module_value: Tensor, start: int, stop: int) -> Tensor:
        grouped = module_value.unflatten(-1, (self.groups, -1))
        site_value = grouped[..., start:stop].flatten(-2)
        new = self._apply_scaled(site_value)
        if not self.edits and not self.wants_gradient:
            return module_value
        own = new.unflatten(-1, (self.groups, -1))
        return torch.cat([grouped[..., :start], own, grouped[..., stop:]], -1).flatten(-2)

    def at(self, site: Site, target: Target) -> None:
        """Set the site and its location."""
        self.part, self.factor, self.groups = target.part, target.factor, target.groups
        self.copies_output = site.hook in _ADDED_TO_STREAM and target.side == "out"

    @property
    def was_overwritten(self) -> bool:
        """Whether the stored value was modified in place later in the pass."""
        return (
            self.stores_value and hasattr(self, "value") and _version(self.value) != self._version
        )

    def _apply_scaled(self, value: Tensor) -> Tensor:
        if self.factor == 1:
            new = self._apply_edits(value)
            return (
                new.clone()
                if self.copies_output and (self.edits or self.stores_value or self.wants_gradient)
                else new
            )
        scaled = value * self.factor
        new = self._apply_edits(scaled)
        # a value that is only read is passed on unchanged, bit for bit; a differentiated value must
        # itself be passed on
        return value if new is scaled and not scaled.requires_grad else new / self.factor

    def _apply_edits(self, value: Tensor) -> Tensor:
        for edit in self.edits:
            # a value from another model may have another precision; the module continues in its own
            value = edit.apply(value).to(value.dtype)
        if self.wants_gradient and not value.requires_grad:
            value = value.detach().requires_grad_()
        if self.stores_value or self.wants_gradient:
            self.value, self._version = value, _version(value)
        return value


def site_hooks(
    reads: Sequence[Site], edits: Sequence[Edit], gradients_at: Sequence[Site]
) -> dict[Site, SiteHook]:
    """One hook for every site that is read, edited or differentiated."""
    hooks: dict[Site, SiteHook] = {}
    for edit in edits:
        hooks.setdefault(edit.site, SiteHook()).edits.append(edit)
    for site in reads:
        hooks.setdefault(site, SiteHook()).stores_value = True
    for site in gradients_at:
        hooks.setdefault(site, SiteHook()).wants_gradient = True
    return hooks


def differentiate(
    hooks: Mapping[Site, SiteHook],
    sites: Sequence[Site],
    gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]],
    logits: Float[Tensor, "B kept V"],
) -> dict[Site, Float[Tensor, "B T _"]]:
    """Gradients of the sum of ``gradient_of(logits)`` with respect to the values at some sites."""
    gradients = torch.autograd.grad(
        gradient_of(logits).sum(), [hooks[site].value for site in sites], allow_unused=True
    )
    # a site that the kept logits do not depend on has gradient zero, not None
    return {
        site: torch.zeros_like(hooks[site].value) if gradient is None else gradient
        for site, gradient in zip(sites, gradients, strict=True)
    }
