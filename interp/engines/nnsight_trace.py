"""The second engine: the same passes through nnsight, locally or on the National Deep Inference
Fabric (NDIF).

nnsight interleaves intervention code with the model's own forward pass, so sites are visited in the
order in which a block computes them. For a remote pass the same code is sent to the service, which
knows the model by its Hub id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import nnsight
import torch
from jaxtyping import Bool, Float
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.schema.config import CONFIG
from torch import Tensor

from interp.engines.base import Batch, Direction, Edit, Run, as_single_part, model_inputs
from interp.engines.finite import with_finite_check
from interp.engines.site_hooks import SiteHook, differentiate, require_unchanged, site_hooks
from interp.errors import OptionError, RemoteFailure, UnsupportedModel
from interp.models.model import Model
from interp.models.offload import execution_device
from interp.sites import HOOK_ORDER, Site

_REMOTE_CLASS = "nnsight.modeling.transformers.TransformersModel"


@dataclass(frozen=True)
class NNsightEngine:
    """Passes through nnsight; values, edits and gradients equal those of ``TorchEngine``.

    ``remote`` sends every pass to NDIF, which runs the pair's models by their Hub ids with the
    local attention kernel; it needs a key in ``NDIF_API_KEY``. Models are still loaded and checked
    locally. Adapters and models without a Hub id cannot be run remotely. ``backend`` makes the
    object that sends one remote pass; tests replace it.
    """

    remote: bool = False
    backend: Callable[..., Any] = RemoteBackend
    name: str = field(default="nnsight", init=False)
    _wrapped: dict[int, nnsight.NNsight] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.remote:
            return
        if not CONFIG.API.APIKEY:
            raise OptionError(
                "remote passes need an NDIF key and none is set; get one at login.ndif.us and put "
                "it into NDIF_API_KEY, or run locally without --remote"
            )
        nnsight.register("interp")  # sent by value: this package is not installed at the service

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
        """See ``interp.engines.base.Engine.run``; with ``keep`` 0 the head still computes one
        position.
        """
        hooks = site_hooks(reads, edits, gradients_at)
        plan = _plan(model, hooks, (batch.ids.shape[0], batch.ids.shape[1]))
        inputs = model_inputs(batch, 1 if keep == 0 else keep, cache, use_cache)
        backend = None
        if self.remote:
            backend = self.backend(
                remote_key(model),
                env={"attn_implementation": model.module.config._attn_implementation},
            )
        with (
            model.active() as module,
            torch.set_grad_enabled(gradient_of is not None),
            _translated_errors(),
        ):
            traced = self._wrap(module)
            with traced.trace(**inputs, backend=backend):
                saved = nnsight.save(_visit(traced, plan, hooks, reads, gradients_at, gradient_of))
        logits, cache, values, gradients, overwritten = saved
        require_unchanged(
            model, [site for site, written in zip(hooks, overwritten, strict=True) if written]
        )
        values, gradients = (
            dict(zip(reads, values, strict=True)),
            dict(zip(gradients_at, gradients, strict=False)),
        )
        run = Run(None if keep == 0 else logits, values, gradients, cache if use_cache else None)
        return run if over is None else as_single_part(run, over, along)

    def _wrap(self, module: Any) -> nnsight.NNsight:
        if id(module) not in self._wrapped:
            kind = _OffloadedModel if next(module.parameters()).is_meta else nnsight.NNsight
            self._wrapped[id(module)] = kind(module)
        return self._wrapped[id(module)]


class _OffloadedModel(nnsight.NNsight):
    """A module whose weights are loaded only while it runs: inputs go to the device on which it
    runs, not to where the weights are stored.
    """

    @property
    def device(self) -> torch.device:
        module: Any = self._module
        return execution_device(module.get_input_embeddings())


def remote_key(model: Model) -> str:
    """The key of a model at NDIF; raises OptionError for a model that is not served there."""
    name, _, revision = model.name.partition("@")
    if (
        model.adapter_on is not None
        or name.count("/") != 1
        or name.startswith((".", "/", "organism:"))
    ):
        raise OptionError(
            f"{model.name} cannot be run remotely: NDIF serves models by their Hub id (owner/name);"
            " run it locally"
        )
    if model.resized:
        raise OptionError(
            f"{model.name} cannot be run remotely: NDIF runs it with its full vocabulary, and this "
            f"comparison uses the {model.anatomy.vocabulary} token ids that base and fine-tuned "
            "model share; run it locally"
        )
    return f"{_REMOTE_CLASS}:" + json.dumps(
        {"repo_id": name, "revision": revision or None, "task": "text-generation"}
    )


def _plan(
    model: Model, hooks: Mapping[Site, SiteHook], tokens: tuple[int, int]
) -> list[tuple[str, str, list[SiteHook]]]:
    """Module path, side and hooks for each visit, in the order of computation; sites of one fused
    module share a visit.
    """
    plan: list[tuple[str, str, list[SiteHook]]] = []
    for site in sorted(hooks, key=lambda site: (site.layer, HOOK_ORDER.index(site.hook))):
        target = model.anatomy.target(site)
        hooks[site].at(site, target)
        hooks[site].tokens = tokens
        if plan and plan[-1][:2] == (target.path, target.side):
            plan[-1][2].append(hooks[site])
        else:
            plan.append((target.path, target.side, [hooks[site]]))
    return plan


def _visit(
    traced: nnsight.NNsight,
    plan: Sequence[tuple[str, str, list[SiteHook]]],
    hooks: Mapping[Site, SiteHook],
    reads: Sequence[Site],
    gradients_at: Sequence[Site],
    gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]] | None,
) -> tuple[Tensor, Any, list[Tensor], list[Tensor], list[bool]]:
    """The code that runs with the forward pass, possibly on another machine.

    Returns logits, cache, values at ``reads``, gradients, and for each site whether it was
    overwritten after it was read. Only objects of torch and transformers are returned, because this
    package need not be installed on the other machine.
    """
    for path, side, visit_hooks in plan:
        module = traced.get(path)
        module_value = module.input if side == "in" else module.output
        is_sequence = isinstance(module_value, (tuple, list))
        value = module_value[0] if is_sequence else module_value
        new = value
        for hook in visit_hooks:
            new = hook.process(new)
        if new is value:
            continue
        if side == "in":
            module.input = new
        else:
            module.output = type(module_value)([new, *module_value[1:]]) if is_sequence else new
    output = traced.output
    gradients = (
        {}
        if gradient_of is None
        else differentiate(hooks, gradients_at, gradient_of, output.logits)
    )
    values = [hooks[site].value.detach() for site in reads]
    overwritten = [hook.was_overwritten for hook in hooks.values()]
    return (
        output.logits.detach(),
        output.get("past_key_values"),
        values,
        list(gradients.values()),
        overwritten,
    )


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Errors of nnsight as errors of interp."""
    try:
        yield
    except RemoteError as error:
        raise RemoteFailure(f"NDIF did not run the pass: {' '.join(str(error).split())}") from error
    except OutOfOrderError as error:
        raise UnsupportedModel(
            "nnsight cannot visit the sites of this model in the order of its blocks; use the torch"
            " engine"
        ) from error
