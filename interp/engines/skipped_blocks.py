"""Blocks that a pass does not need are skipped.

A pass under ``Enter`` starts where the stream is given; one without a head ends after the last
block that is read or edited. Results equal those of the whole pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.engines.base import Batch, Edit, Run
from interp.engines.shared_prefix import needs_full_passes
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.unexamined_changes import blocks_of
from interp.sites import Site

Blocks = tuple[int, int]
# whether a model's blocks return a tensor or a 1-tuple; None if they return more or cannot be
# skipped
_output_types: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def needed_blocks(
    model: Model,
    reads: Sequence[Site],
    edits: Sequence[Edit],
    keep: int | None,
    gradients: bool,
    cached: bool,
) -> Blocks | None:
    """The first and the last block that a pass needs; None for all of them.

    ``cached``: the pass continues from keys and values, which an inserted stream does not extend
    for the blocks below.
    """
    if gradients or needs_full_passes(model):
        return None
    used_layers = [site.layer for site in (*reads, *(edit.site for edit in edits))]
    entry_layers = [edit.site.layer for edit in edits if getattr(edit, "begins", False)]
    last = model.anatomy.n_layers - 1
    first = (
        min(entry_layers)
        if entry_layers and min(used_layers) == min(entry_layers) and not cached
        else 0
    )
    last_used = max(used_layers) if keep == 0 and used_layers else last
    return None if (first, last_used) == (0, last) else (first, last_used)


def can_skip_blocks(run: Callable[..., Run], model: Model, batch: Batch) -> bool:
    """Whether blocks of this model can be skipped; checked on one prompt at the first use."""
    if model.module not in _output_types:
        _output_types[model.module] = None
        _output_types[model.module] = _checked_output_type(run, model, batch)
    return _output_types[model.module] is not None


def _checked_output_type(run: Callable[..., Run], model: Model, batch: Batch) -> str | None:
    output_types: list[str] = []

    def record_output(_: nn.Module, __: tuple, output: Any) -> None:
        is_single = isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], Tensor)
        output_types.append(
            "stream" if isinstance(output, Tensor) else "tuple" if is_single else "more"
        )

    blocks, middle = blocks_of(model), model.anatomy.n_layers // 2
    one_row = Batch(batch.ids[:1], batch.real[:1])
    hooks = [block.register_forward_hook(record_output) for block in blocks]
    try:
        full_run = run(model, one_row, reads=[Site(middle, "hook_resid_pre")], keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    if set(output_types) not in ({"stream"}, {"tuple"}) or len(output_types) != len(blocks):
        return None
    _output_types[model.module] = output_types[0]
    replace_stream = _ReplaceStream(
        Site(middle, "hook_resid_pre"), full_run.values[Site(middle, "hook_resid_pre")]
    )
    logits = run(
        model, one_row, edits=[replace_stream], keep=1, blocks=(middle, len(blocks) - 1)
    ).require_logits()
    error = (logits - full_run.require_logits()).abs().max() / full_run.require_logits().abs().max()
    return (
        output_types[0] if bool(to_host(error <= max(1e-5, torch.finfo(model.dtype).eps))) else None
    )


class _ReplaceStream:
    def __init__(self, site: Site, value: Tensor) -> None:
        self.site, self._value = site, value

    def apply(self, value: Tensor) -> Tensor:
        return self._value.to(value)


@contextmanager
def only_blocks(model: Model, blocks: Blocks | None) -> Iterator[None]:
    """While open, blocks outside of ``blocks`` (first and last) return their input unchanged."""
    first, last = blocks or (0, model.anatomy.n_layers)
    skipped = (
        [block for layer, block in enumerate(blocks_of(model)) if not first <= layer <= last]
        if blocks
        else []
    )
    original_forwards = [(block, block.__dict__.get("forward")) for block in skipped]
    output_type = _output_types.get(model.module)
    for block in skipped:
        block.forward = _pass_through_tuple if output_type == "tuple" else _pass_through
    try:
        yield
    finally:
        _restore(original_forwards)


def _restore(original_forwards: Iterable[tuple[nn.Module, Any]]) -> None:
    for block, forward in original_forwards:
        if forward is None:
            del block.forward
        else:  # accelerate replaces ``forward`` when it offloads weights
            block.forward = forward


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _pass_through_tuple(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
    return (hidden_states,)
