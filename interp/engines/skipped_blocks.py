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
from interp.engines.shared_prefix import is_whole
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.unexamined_changes import blocks_of
from interp.sites import Site

Blocks = tuple[int, int]
# whether a model's blocks return a tensor or a 1-tuple; None if they return more or cannot be
# skipped
_returns: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


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
    if gradients or is_whole(model):
        return None
    touched = [site.layer for site in (*reads, *(edit.site for edit in edits))]
    entered = [edit.site.layer for edit in edits if getattr(edit, "begins", False)]
    last = model.anatomy.n_layers - 1
    low = min(entered) if entered and min(touched) == min(entered) and not cached else 0
    high = max(touched) if keep == 0 and touched else last
    return None if (low, high) == (0, last) else (low, high)


def may_skip(run: Callable[..., Run], model: Model, batch: Batch) -> bool:
    """Whether blocks of this model can be skipped; checked on one prompt at the first use."""
    if model.module not in _returns:
        _returns[model.module] = None
        _returns[model.module] = _proven(run, model, batch)
    return _returns[model.module] is not None


def _proven(run: Callable[..., Run], model: Model, batch: Batch) -> str | None:
    seen: list[str] = []

    def look(_: nn.Module, __: tuple, output: Any) -> None:
        alone = isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], Tensor)
        seen.append("stream" if isinstance(output, Tensor) else "tuple" if alone else "more")

    blocks, middle = blocks_of(model), model.anatomy.n_layers // 2
    some = Batch(batch.ids[:1], batch.real[:1])
    hooks = [block.register_forward_hook(look) for block in blocks]
    try:
        whole = run(model, some, reads=[Site(middle, "hook_resid_pre")], keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    if set(seen) not in ({"stream"}, {"tuple"}) or len(seen) != len(blocks):
        return None
    _returns[model.module] = seen[0]
    enter = _Enter(Site(middle, "hook_resid_pre"), whole.values[Site(middle, "hook_resid_pre")])
    found = run(
        model, some, edits=[enter], keep=1, blocks=(middle, len(blocks) - 1)
    ).require_logits()
    error = (found - whole.require_logits()).abs().max() / whole.require_logits().abs().max()
    return seen[0] if bool(to_host(error <= max(1e-5, torch.finfo(model.dtype).eps))) else None


class _Enter:
    def __init__(self, site: Site, value: Tensor) -> None:
        self.site, self._value = site, value

    def apply(self, value: Tensor) -> Tensor:
        return self._value.to(value)


@contextmanager
def only_blocks(model: Model, blocks: Blocks | None) -> Iterator[None]:
    """While open, blocks outside of ``blocks`` (first and last) return their input unchanged."""
    low, high = blocks or (0, model.anatomy.n_layers)
    idle = (
        [block for layer, block in enumerate(blocks_of(model)) if not low <= layer <= high]
        if blocks
        else []
    )
    before = [(block, block.__dict__.get("forward")) for block in idle]
    form = _returns.get(model.module)
    for block in idle:
        block.forward = _hand_on_tuple if form == "tuple" else _hand_on
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Iterable[tuple[nn.Module, Any]]) -> None:
    for block, own in before:
        if own is None:
            del block.forward
        else:  # accelerate replaces ``forward`` when it offloads weights
            block.forward = own


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _hand_on_tuple(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
    return (hidden_states,)
