"""The default engine: torch forward hooks on the Hugging Face modules themselves, removed when the pass ends."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.engines.base import Batch, Edit, Run
from interp.models.anatomy import Target
from interp.models.model import Model
from interp.sites import Site


@dataclass(frozen=True)
class TorchEngine:
    """Hooks registered for one pass and always removed, also when the pass raises."""

    name: str = "torch"

    def run(
        self,
        model: Model,
        batch: Batch,
        *,
        reads: Sequence[Site] = (),
        edits: Sequence[Edit] = (),
        gradients_at: Sequence[Site] = (),
        gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]] | None = None,
        keep: int | None = 1,
        cache: Any = None,
        use_cache: bool = False,
    ) -> Run:
        """See ``interp.engines.base.Engine.run``."""
        taps = _taps(reads, edits, gradients_at)
        with ExitStack() as stack:
            module = stack.enter_context(model.active())
            stack.enter_context(torch.set_grad_enabled(gradient_of is not None))
            for site, tap in taps.items():
                place, target = model.at(site)
                stack.callback(_register(place, target, tap).remove)
            logits, cache = _forward(module, batch, keep, cache, use_cache)
            found: dict[Site, Tensor] = {}
            if gradient_of is not None:
                sites = list(gradients_at)
                total = gradient_of(logits).sum()
                got = torch.autograd.grad(total, [taps[site].value for site in sites], allow_unused=True)
                # a site from which the kept logits cannot be reached has gradient zero, not none
                found = {
                    site: torch.zeros_like(taps[site].value) if gradient is None else gradient
                    for site, gradient in zip(sites, got, strict=True)
                }
        values = {site: taps[site].value.detach() for site in reads}
        return Run(None if logits is None else logits.detach(), values, found, cache)


class _Tap:
    """What happens at one site: edits in order, then (where wanted) a leaf for the gradient, then the record."""

    def __init__(self) -> None:
        self.part: tuple[int, int] | None = None
        self.edits: list[Edit] = []
        self.wants_gradient = False
        self.keeps = False
        self.value: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        for edit in self.edits:
            value = edit.apply(value)
        if self.wants_gradient and not value.requires_grad:
            value = value.detach().requires_grad_()
        if self.keeps or self.wants_gradient:
            self.value = value
        return value

    def _within(self, whole: Tensor) -> Tensor:
        """The value of a fused module with this site's columns taken through the tap."""
        if self.part is None:
            return self(whole)
        start, stop = self.part
        piece = whole[..., start:stop]
        new = self(piece)
        return whole if new is piece else torch.cat([whole[..., :start], new, whole[..., stop:]], -1)

    def before(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """As a hook on what a module reads first."""
        if args:
            return (self._within(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._within(kwargs["hidden_states"])}

    def after(self, _: nn.Module, __: tuple, output: Any) -> Any:
        """As a hook on what a module returns first."""
        return (self._within(output[0]), *output[1:]) if isinstance(output, tuple) else self._within(output)


def _taps(reads: Sequence[Site], edits: Sequence[Edit], gradients_at: Sequence[Site]) -> dict[Site, _Tap]:
    taps: dict[Site, _Tap] = {}
    for edit in edits:
        taps.setdefault(edit.site, _Tap()).edits.append(edit)
    for site in reads:
        taps.setdefault(site, _Tap()).keeps = True
    for site in gradients_at:
        taps.setdefault(site, _Tap()).wants_gradient = True
    return taps


def _register(module: nn.Module, target: Target, tap: _Tap) -> Any:
    tap.part = target.part
    if target.side == "in":
        return module.register_forward_pre_hook(tap.before, with_kwargs=True)
    return module.register_forward_hook(tap.after)


def _forward(
    module: nn.Module, batch: Batch, keep: int | None, cache: Any, use_cache: bool
) -> tuple[Tensor | None, Any]:
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.mask.long(),
        "position_ids": batch.positions,
        "use_cache": use_cache,
    }
    if cache is not None:
        inputs["past_key_values"] = cache
    if keep == 0:
        output = module.base_model(**inputs)
        return None, output.past_key_values if use_cache else None
    output = module(**inputs, logits_to_keep=keep or 0)
    return output.logits, output.past_key_values if use_cache else None
