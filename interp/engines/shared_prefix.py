"""The prefix shared by all prompts of a batch is processed once, and every prompt continues from
its keys and values.

The system turn of a chat template is often most of a short prompt. A causal model computes the same
values there for every prompt, so one row is enough. Results equal those of a pass over whole
prompts, in the same layout, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from interp.engines.base import Batch, Edit, Run
from interp.maths.host import to_host
from interp.models.caches import is_plain, lay_out, repeat
from interp.models.model import Model
from interp.models.preflight import scaled_beyond
from interp.sites import Site

SHORTEST = 8
"""Minimum number of shared tokens for which a batch is split into two passes."""
LEAST_SAVED = 0.25
"""Minimum share of the batch's tokens that splitting must save."""
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_whole: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

Pass = Callable[..., Run]
Halves = tuple[Sequence[Any], Sequence[Any]]


@runtime_checkable
class PartialEdit(Protocol):
    """An edit that can be restricted to some cells of its batch."""

    def on(self, cells: Callable[[Tensor], Tensor]) -> Edit:
        """The same edit for a part of the batch; ``cells`` selects that part of a tensor ``[B, T,
        ...]``.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """A padded batch divided into its shared prefix and the rest, with the position of every cell."""

    batch: Batch
    prefix: int
    rest: int
    starts: Int[Tensor, "B one"] = field(init=False)
    lengths: Int[Tensor, "B one"] = field(init=False)

    def __post_init__(self) -> None:
        mask = self.batch.mask
        object.__setattr__(self, "starts", mask.int().argmax(1, keepdim=True))
        object.__setattr__(self, "lengths", mask.sum(1, keepdim=True))

    def columns(self, first: int, count: int) -> Int[Tensor, "B count"]:
        """The columns of ``count`` positions from ``first`` on; past the end of a row, that of its
        last token.
        """
        steps = torch.arange(first, first + count, device=self.starts.device)
        return self.starts + torch.minimum(steps[None], self.lengths - 1)

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        """The position of every cell, 0 on padding before it."""
        steps = torch.arange(self.batch.ids.shape[1], device=self.starts.device)
        return (steps[None] - self.starts).clamp(min=0).minimum(self.lengths - 1)

    def last(self, keep: int) -> tuple[Int[Tensor, "B keep"], int, Int[Tensor, "B keep"] | None]:
        """The positions of each row's last ``keep`` tokens, how many last columns of the rest
        contain them, and which of those columns they are.
        """
        wanted = self.lengths - keep + torch.arange(keep, device=self.lengths.device)[None]
        after = min(self.rest, keep + max(self.batch.lengths) - min(self.batch.lengths))
        inside = wanted - self.prefix - (self.rest - after)
        return wanted, after, inside.clamp(0, after - 1) if keep else None

    @property
    def beginning(self) -> Batch:
        """The prefix as a batch of one row."""
        ids = at(self.batch.ids, self.columns(0, self.prefix)[:1])
        return Batch(ids, torch.ones_like(ids, dtype=torch.bool))

    @property
    def remainder(self) -> Batch:
        """The rest of every row, padded on the right so that tokens stay adjacent."""
        steps = torch.arange(self.prefix + self.rest, device=self.starts.device)
        mask = steps[None] < self.lengths
        return Batch(at(self.batch.ids, self.columns(self.prefix, self.rest)), mask)


def layout_of(batch: Batch) -> Layout | None:
    """How to split a batch; None if that saves little."""
    shared, lengths = batch.shared, batch.lengths
    saved = shared * (len(lengths) - 1)
    if shared < SHORTEST or saved < LEAST_SAVED * sum(lengths):
        return None
    return Layout(batch, shared, max(lengths) - shared)


@contextmanager
def whole_prompts(model: Model) -> Iterator[None]:
    """While open, every pass of a model runs over whole prompts and all blocks, for hooks that must
    see each of them once.
    """
    _whole[model.module] = _whole.get(model.module, 0) + 1
    try:
        yield
    finally:
        _whole[model.module] -= 1


def is_whole(model: Model) -> bool:
    """Whether every pass of a model currently runs over whole prompts and all blocks."""
    return _whole.get(model.module, 0) > 0


def divided(
    run: Pass,
    model: Model,
    batch: Batch,
    reads: Sequence[Site],
    edits: Sequence[Edit],
    keep: int,
    use_cache: bool,
    blocks: tuple[int, int] | None = None,
) -> Run | None:
    """The pass in two parts, or None if the batch, the model or an edit does not allow it.

    ``run`` makes one pass over one batch, see ``Engine.run``; ``blocks``: the first and last block
    that it needs.
    """
    layout = layout_of(batch)
    if (
        layout is None
        or is_whole(model)
        or not all(isinstance(edit, PartialEdit) for edit in edits)
    ):
        return None
    if not divides(run, model, layout):
        return None
    halves = in_halves(edits, layout)
    if halves is None:
        return None
    return _in_two(partial(run, blocks=blocks), model, layout, reads, halves, keep, use_cache)


def _in_two(
    run: Pass,
    model: Model,
    layout: Layout,
    reads: Sequence[Site],
    edits: Halves,
    keep: int,
    use_cache: bool,
) -> Run:
    rows, prefix = len(layout.batch.ids), layout.prefix
    # the last columns of the shortest rows may be in the prefix
    before = min(prefix, max(0, keep - (min(layout.batch.lengths) - prefix)))
    first = run(model, layout.beginning, reads=reads, edits=edits[0], keep=before, use_cache=True)
    repeat(first.cache, rows)
    wanted, after, gathered = layout.last(keep)
    second = run(
        model,
        layout.remainder,
        reads=reads,
        edits=edits[1],
        keep=after if keep else 0,
        cache=first.cache,
        use_cache=True,
        head_reads=gathered,
    )
    logits = second.logits
    if logits is not None and before:
        inside, columns = (
            (wanted < prefix) & (wanted >= prefix - before),
            (wanted - prefix + before),
        )
        logits[inside] = first.require_logits()[0, columns[inside]]
    positions = layout.positions
    values = {}
    for site in dict.fromkeys(reads):
        # pop, so that the value is not in memory twice
        value = second.values.pop(site)
        beginning = first.values[site].to(value.device)
        values[site] = at(
            torch.cat([beginning.expand(rows, -1, -1), value], 1), positions.to(value.device)
        )
    if use_cache:
        lay_out(second.cache, positions)
    return Run(logits, values, {}, second.cache if use_cache else None)


def in_halves(edits: Sequence[Any], layout: Layout) -> Halves | None:
    """Edits (or other per-cell data) for both parts; None if rows differ in the prefix."""
    shape, same = layout.batch.ids.shape, []

    def cells(columns: Int[Tensor, "B n"]) -> Callable[[Tensor], Tensor]:
        return lambda value: at(
            value.expand(*shape, *value.shape[len(shape) :]), columns.to(value.device)
        )

    def first(value: Tensor) -> Tensor:
        found = cells(layout.columns(0, layout.prefix))(value)
        same.append((found == found[:1]).all())
        return found[:1]

    beginning = [edit.on(first) for edit in edits]
    if same and not to_host(torch.stack([equal.to(same[0].device) for equal in same]).all()):
        return None
    return beginning, [edit.on(cells(layout.columns(layout.prefix, layout.rest))) for edit in edits]


def divides(run: Pass, model: Model, layout: Layout) -> bool:
    """Whether two passes give the same result as one: the cache must be of a suitable kind, and two
    rows are compared at the first use.
    """
    text = model.module.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window is not None and layout.batch.ids.shape[1] + 1 >= window:
        return False
    if model.module not in _known:
        # positions scaled by text length would be scaled differently in the two passes
        _known[model.module] = scaled_beyond(model) is None and _proven(run, model, layout.batch)
    return _known[model.module]


def _proven(run: Pass, model: Model, batch: Batch) -> bool:
    short, long = min(batch.lengths), max(batch.lengths)
    rows = [batch.lengths.index(short), len(batch.lengths) - 1 - batch.lengths[::-1].index(long)]
    some = Batch(batch.ids[rows], batch.mask[rows], batch.shared, (short, long))
    beginning = run(
        model, Layout(some, some.shared, long - some.shared).beginning, keep=0, use_cache=True
    )
    if not is_plain(beginning.cache):
        return False
    whole = run(model, some, keep=1).require_logits().double()
    parts = _in_two(
        run, model, Layout(some, some.shared, long - some.shared), (), ([], []), 1, False
    )
    error = (parts.require_logits().double() - whole).abs().max() / whole.abs().max()
    return bool(to_host(error) < max(1e-4, 8 * torch.finfo(model.dtype).eps))


def at(
    value: Shaped[Tensor, "B T *rest"], columns: Int[Tensor, "rows n"]
) -> Shaped[Tensor, "rows n *rest"]:
    """The values in some columns of each row."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return value[rows, columns]
