"""The beginning that all prompts of a batch share is read once, and every prompt goes on from its
keys and values.

A chat template's system turn is often most of a short prompt. A causal model computes the same
there for every prompt, so one row stands for all. What comes back is what a pass over whole prompts
gives, in its layout, to rounding.
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

SHORTEST, LEAST_SAVED = (
    8,
    0.25,
)  # tokens of a prefix, and share of a batch's tokens, from which on it is worth two passes
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_whole: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

Pass = Callable[..., Run]
Halves = tuple[Sequence[Any], Sequence[Any]]


@runtime_checkable
class PartialEdit(Protocol):
    """An edit that can be made for some cells of its batch alone."""

    def on(self, cells: Callable[[Tensor], Tensor]) -> Edit:
        """The same edit where ``cells`` takes what it holds of every cell, ``[B, T, ...]``, to
        those of the part.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """Where a left- or right-padded batch has its shared prefix, its rest, and every cell's
    position.
    """

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
        """The columns of ``count`` positions from ``first`` on; past a row's end those of its last
        token.
        """
        steps = torch.arange(first, first + count, device=self.starts.device)
        return self.starts + torch.minimum(steps[None], self.lengths - 1)

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        """The position of every cell, 0 on padding before it."""
        steps = torch.arange(self.batch.ids.shape[1], device=self.starts.device)
        return (steps[None] - self.starts).clamp(min=0).minimum(self.lengths - 1)

    def last(self, keep: int) -> tuple[Int[Tensor, "B keep"], int, Int[Tensor, "B keep"] | None]:
        """The positions of each row's last ``keep`` tokens, how many last columns of the rest hold
        them, and which.
        """
        wanted = self.lengths - keep + torch.arange(keep, device=self.lengths.device)[None]
        after = min(self.rest, keep + max(self.batch.lengths) - min(self.batch.lengths))
        inside = wanted - self.prefix - (self.rest - after)
        return wanted, after, inside.clamp(0, after - 1) if keep else None

    @property
    def beginning(self) -> Batch:
        """The prefix, once."""
        ids = at(self.batch.ids, self.columns(0, self.prefix)[:1])
        return Batch(ids, torch.ones_like(ids, dtype=torch.bool))

    @property
    def remainder(self) -> Batch:
        """What follows it in every row, padded on the right: no padding stands between tokens."""
        steps = torch.arange(self.prefix + self.rest, device=self.starts.device)
        mask = steps[None] < self.lengths
        return Batch(at(self.batch.ids, self.columns(self.prefix, self.rest)), mask)


def layout_of(batch: Batch) -> Layout | None:
    """How to divide a batch, None where that saves little."""
    shared, lengths = batch.shared, batch.lengths
    saved = shared * (len(lengths) - 1)
    if shared < SHORTEST or saved < LEAST_SAVED * sum(lengths):
        return None
    return Layout(batch, shared, max(lengths) - shared)


@contextmanager
def whole_prompts(model: Model) -> Iterator[None]:
    """While open, every pass of a model is over whole prompts and all blocks: for hooks that must
    see each once.
    """
    _whole[model.module] = _whole.get(model.module, 0) + 1
    try:
        yield
    finally:
        _whole[model.module] -= 1


def is_whole(model: Model) -> bool:
    """Whether every pass of a model is over whole prompts and all blocks now."""
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
    """The pass in two parts; None where the batch, the model or an edit must go through in one.

    ``run`` makes one pass over one batch, see ``Engine.run``; ``blocks``: the first and last that
    it needs.
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
    # the last columns of the shortest rows may lie in the prefix
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
        # what is read would stand twice
        value = second.values.pop(site)
        beginning = first.values[site].to(value.device)
        values[site] = at(
            torch.cat([beginning.expand(rows, -1, -1), value], 1), positions.to(value.device)
        )
    if use_cache:
        lay_out(second.cache, positions)
    return Run(logits, values, {}, second.cache if use_cache else None)


def in_halves(edits: Sequence[Any], layout: Layout) -> Halves | None:
    """What is held of cells (edits, say) for both parts; None where rows differ in the prefix."""
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
    if same and not to_host(torch.stack([each.to(same[0].device) for each in same]).all()):
        return None
    return beginning, [edit.on(cells(layout.columns(layout.prefix, layout.rest))) for edit in edits]


def divides(run: Pass, model: Model, layout: Layout) -> bool:
    """Whether two passes give what one gives: the kind of cache, and a proof on two rows at the
    first use.
    """
    text = model.module.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window is not None and layout.batch.ids.shape[1] + 1 >= window:
        return False
    if model.module not in _known:
        # positions scaled by the length of the text: two passes would scale them by two lengths
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
    """What stands in some columns of each row."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return value[rows, columns]
