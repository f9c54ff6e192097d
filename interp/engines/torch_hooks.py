"""The default engine: torch forward hooks on the Hugging Face modules, removed when the pass ends."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.engines.base import Batch, Direction, Edit, Run, as_single_part, model_inputs
from interp.engines.finite import with_finite_check
from interp.engines.shared_gradients import GradientRequest, split_gradients
from interp.engines.shared_prefix import run_split
from interp.engines.site_hooks import SiteHook, differentiate, require_unchanged, site_hooks
from interp.engines.skipped_blocks import Blocks, can_skip_blocks, needed_blocks, only_blocks
from interp.errors import required
from interp.models.anatomy import Target
from interp.models.model import Model
from interp.sites import Site


@dataclass(frozen=True)
class TorchEngine:
    """Hooks are registered for one pass and always removed, also when the pass raises."""

    name: str = "torch"

    @with_finite_check
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
        over: Bool[Tensor, "B T"] | None = None,
        along: Sequence[Direction] = (),
    ) -> Run:
        """See ``interp.engines.base.Engine.run``."""
        blocks = needed_blocks(
            model, reads, edits, keep, gradient_of is not None, cache is not None
        )
        if blocks is not None and not can_skip_blocks(self._pass, model, batch):
            blocks = None
        if gradient_of is None and keep is not None and cache is None:
            run = run_split(self._pass, model, batch, reads, edits, keep, use_cache, blocks)
            if run is not None:
                return run
        if (
            gradient_of is not None
            and over is not None
            and keep
            and cache is None
            and not use_cache
        ):
            request = GradientRequest(reads, edits, gradients_at, gradient_of, keep, over, along)
            run = split_gradients(self._pass, model, batch, request)
            if run is not None:
                return run
        run = self._pass(
            model,
            batch,
            reads=reads,
            edits=edits,
            gradients_at=gradients_at,
            gradient_of=gradient_of,
            keep=keep,
            cache=cache,
            use_cache=use_cache,
            blocks=blocks,
        )
        return run if over is None else as_single_part(run, over, along)

    def _pass(
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
        head_reads: Int[Tensor, "B kept"] | None = None,
        blocks: Blocks | None = None,
        live: bool = False,
    ) -> Run:
        """One pass.

        ``head_reads``: which of the ``keep`` last columns go into the head, by row; ``blocks``: the
        first and last block to run; ``live``: outputs, including values at ``gradients_at``, stay
        differentiable.
        """
        hooks = site_hooks(reads, edits, gradients_at)
        with ExitStack() as stack:
            module = stack.enter_context(model.active())
            stack.enter_context(torch.set_grad_enabled(live or gradient_of is not None))
            for site, hook in hooks.items():
                hooked_module, target = model.at(site)
                hook.at(site, target)
                hook.tokens = (batch.ids.shape[0], batch.ids.shape[1])
                stack.callback(_register_hook(hooked_module, target, hook).remove)
            stack.enter_context(only_blocks(model, blocks))
            if head_reads is not None:
                stack.callback(_select_head_columns(module, head_reads).remove)
            logits, cache = _forward(module, batch, keep, cache, use_cache)
            require_unchanged(model, [site for site, hook in hooks.items() if hook.was_overwritten])
            gradients = (
                {}
                if gradient_of is None
                else differentiate(
                    hooks, gradients_at, gradient_of, required(logits, "a head to differentiate")
                )
            )
        if live:
            return Run(
                logits, {site: hooks[site].value for site in (*reads, *gradients_at)}, {}, cache
            )
        values = {site: hooks[site].value.detach() for site in reads}
        return Run(None if logits is None else logits.detach(), values, gradients, cache)


@dataclass(frozen=True)
class _Hook:
    site_hook: SiteHook

    def before(
        self, _: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """Applied to the first input of a module."""
        if args:
            return (self.site_hook.process(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.site_hook.process(kwargs["hidden_states"])}

    def after(self, _: nn.Module, __: tuple, output: Any) -> Any:
        """Applied to the first output of a module."""
        if isinstance(output, (tuple, list)):
            return type(output)([self.site_hook.process(output[0]), *output[1:]])
        return self.site_hook.process(output)


def _register_hook(module: nn.Module, target: Target, hook: SiteHook) -> Any:
    if target.side == "in":
        return module.register_forward_pre_hook(_Hook(hook).before, with_kwargs=True)
    return module.register_forward_hook(_Hook(hook).after)


def _select_head_columns(module: nn.Module, columns: Int[Tensor, "B kept"]) -> Any:
    """Restrict the head to some columns: logits over a whole vocabulary are large."""

    def before(_: nn.Module, args: tuple) -> tuple:
        (value,) = args
        rows = torch.arange(len(value), device=value.device)[:, None]
        return (value[rows, columns.to(value.device)],)

    called: Any = module
    return called.get_output_embeddings().register_forward_pre_hook(before)


def _forward(
    module: nn.Module, batch: Batch, keep: int | None, cache: Any, use_cache: bool
) -> tuple[Tensor | None, Any]:
    inputs = model_inputs(batch, keep, cache, use_cache)
    model: Any = module.base_model if keep == 0 else module
    output = model(**inputs)
    # a state-space model has no key-value cache; later passes read whole texts again
    new_cache = getattr(output, "past_key_values", None) if use_cache else None
    return None if keep == 0 else output.logits, new_cache
