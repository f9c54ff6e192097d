"""What happens at one site during a pass, whichever engine brings the value there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines.base import Edit
from interp.errors import UnsupportedModel
from interp.models.anatomy import WITHOUT_SUM
from interp.models.model import Model
from interp.models.places import Target
from interp.sites import Site

# What a block adds, or a projection gives that it adds: some add in place.
_ADDED = ("hook_attn_out", "hook_mlp_out", "attn.o.hook_out", "mlp.out.hook_out")


def _version(value: Tensor) -> int:
    """How often a value was written over; within ``torch.inference_mode`` nobody counts."""
    return 0 if value.is_inference() else value._version


def require_unchanged(model: Model, changed: Sequence[Site]) -> None:
    """Raise UnsupportedModel for sites whose value was written over in place after it was read."""
    if changed:
        raise UnsupportedModel(
            f"{model.name} writes over the value at {changed[0]} in place: what was read there is"
            f" lost; {WITHOUT_SUM}"
        )


class Tap:
    """Edits in order, then (where wanted) a leaf for the gradient, then the record.

    ``part``: the columns of a fused module's value that are this site; None for all. ``factor``:
    what the module's value is multiplied by to be this site's. ``copies``: the module's value may
    be written over once the block has it (Falcon adds its attention to its MLP's output in place),
    so the block is given a copy of what is kept here. ``tokens``: prompts and positions of the
    pass, by which a value is read that a module gives as one row per token (the experts of
    Llama-4). ``value`` is there after the pass, where it is read or differentiated.
    """

    value: Tensor
    _version: int = 0

    def __init__(self) -> None:
        self.part: tuple[int, int] | None = None
        self.factor = 1.0
        self.copies = False
        self.tokens: tuple[int, int] | None = None
        self.edits: list[Edit] = []
        self.wants_gradient = False
        self.keeps = False

    def pass_on(self, whole: Tensor) -> Tensor:
        """The value a module goes on with, this site's columns taken through the tap."""
        if (
            self.tokens is not None
            and whole.ndim == 2
            and len(whole) == self.tokens[0] * self.tokens[1]
        ):
            return self.pass_on(whole.unflatten(0, self.tokens)).flatten(0, 1)
        if self.part is None:
            return self._scaled(whole)
        start, stop = self.part
        piece = whole[..., start:stop]
        new = self._scaled(piece)
        return (
            whole if new is piece else torch.cat([whole[..., :start], new, whole[..., stop:]], -1)
        )

    def at(self, site: Site, target: Target) -> None:
        """The site, and where it is."""
        self.part, self.factor = target.part, target.factor
        self.copies = site.hook in _ADDED and target.side == "out"

    @property
    def written_over(self) -> bool:
        """Whether the value that is kept was changed in place later in the pass."""
        return self.keeps and hasattr(self, "value") and _version(self.value) != self._version

    def _scaled(self, value: Tensor) -> Tensor:
        if self.factor == 1:
            new = self._take(value)
            return (
                new.clone()
                if self.copies and (self.edits or self.keeps or self.wants_gradient)
                else new
            )
        scaled = value * self.factor
        new = self._take(scaled)
        # a value that is only read goes on bit for bit; one that is differentiated has to be what
        # goes on
        return value if new is scaled and not scaled.requires_grad else new / self.factor

    def _take(self, value: Tensor) -> Tensor:
        for edit in self.edits:
            # another model's value may be held in another precision; what the module goes on with
            # is in its own
            value = edit.apply(value).to(value.dtype)
        if self.wants_gradient and not value.requires_grad:
            value = value.detach().requires_grad_()
        if self.keeps or self.wants_gradient:
            self.value, self._version = value, _version(value)
        return value


def taps(
    reads: Sequence[Site], edits: Sequence[Edit], gradients_at: Sequence[Site]
) -> dict[Site, Tap]:
    """A tap for every site that is read, edited or differentiated."""
    found: dict[Site, Tap] = {}
    for edit in edits:
        found.setdefault(edit.site, Tap()).edits.append(edit)
    for site in reads:
        found.setdefault(site, Tap()).keeps = True
    for site in gradients_at:
        found.setdefault(site, Tap()).wants_gradient = True
    return found


def differentiate(
    tapped: Mapping[Site, Tap],
    sites: Sequence[Site],
    gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]],
    logits: Float[Tensor, "B kept V"],
) -> dict[Site, Float[Tensor, "B T _"]]:
    """Gradients of the sum of ``gradient_of(logits)`` with respect to the values at some sites."""
    got = torch.autograd.grad(
        gradient_of(logits).sum(), [tapped[site].value for site in sites], allow_unused=True
    )
    # a site from which the kept logits cannot be reached has gradient zero, not none
    return {
        site: torch.zeros_like(tapped[site].value) if gradient is None else gradient
        for site, gradient in zip(sites, got, strict=True)
    }
