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
from interp.models.caches import arrange_columns, is_plain, repeat_rows
from interp.models.model import Model
from interp.models.preflight import rope_scaling_boundary
from interp.sites import Site

MIN_PREFIX_TOKENS = 8
"""Minimum number of shared tokens for which a batch is split into two passes."""
MIN_SAVED_SHARE = 0.25
"""Minimum share of the batch's tokens that splitting must save."""
_is_supported: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_n_full_pass_contexts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

RunPass = Callable[..., Run]
SplitEdits = tuple[Sequence[Any], Sequence[Any]]


@runtime_checkable
class SplittableEdit(Protocol):
    """An edit that can be restricted to some cells of its batch."""

    def select_cells(self, cells: Callable[[Tensor], Tensor]) -> Edit:
        """The same edit for a part of the batch; ``cells`` selects that part of a tensor ``[B, T,
        ...]``.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """A padded batch divided into its shared prefix and the rest, with the position of every cell."""

    batch: Batch
    prefix_length: int
    rest_length: int
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

    def last_positions(
        self, keep: int
    ) -> tuple[Int[Tensor, "B keep"], int, Int[Tensor, "B keep"] | None]:
        """The positions of each row's last ``keep`` tokens, how many last columns of the rest
        contain them, and which of those columns they are.
        """
        positions = self.lengths - keep + torch.arange(keep, device=self.lengths.device)[None]
        n_last_columns = min(
            self.rest_length, keep + max(self.batch.lengths) - min(self.batch.lengths)
        )
        columns = positions - self.prefix_length - (self.rest_length - n_last_columns)
        return positions, n_last_columns, columns.clamp(0, n_last_columns - 1) if keep else None

    @property
    def prefix_batch(self) -> Batch:
        """The prefix as a batch of one row."""
        ids = gather_columns(self.batch.ids, self.columns(0, self.prefix_length)[:1])
        return Batch(ids, torch.ones_like(ids, dtype=torch.bool))

    @property
    def rest_batch(self) -> Batch:
        """The rest of every row, padded on the right so that tokens stay adjacent."""
        steps = torch.arange(self.prefix_length + self.rest_length, device=self.starts.device)
        mask = steps[None] < self.lengths
        return Batch(
            gather_columns(self.batch.ids, self.columns(self.prefix_length, self.rest_length)), mask
        )


def layout_of(batch: Batch) -> Layout | None:
    """How to split a batch; None if that saves little."""
    prefix_length, lengths = batch.prefix_length, batch.lengths
    n_saved = prefix_length * (len(lengths) - 1)
    if prefix_length < MIN_PREFIX_TOKENS or n_saved < MIN_SAVED_SHARE * sum(lengths):
        return None
    return Layout(batch, prefix_length, max(lengths) - prefix_length)


@contextmanager
def full_passes(model: Model) -> Iterator[None]:
    """While open, every pass of a model runs over whole prompts and all blocks, for hooks that must
    see each of them once.
    """
    _n_full_pass_contexts[model.module] = _n_full_pass_contexts.get(model.module, 0) + 1
    try:
        yield
    finally:
        _n_full_pass_contexts[model.module] -= 1


def needs_full_passes(model: Model) -> bool:
    """Whether every pass of a model currently runs over whole prompts and all blocks."""
    return _n_full_pass_contexts.get(model.module, 0) > 0


def run_split(
    run: RunPass,
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
        or needs_full_passes(model)
        or not all(isinstance(edit, SplittableEdit) for edit in edits)
    ):
        return None
    if not can_split(run, model, layout):
        return None
    part_edits = split_edits(edits, layout)
    if part_edits is None:
        return None
    return _run_in_two(
        partial(run, blocks=blocks), model, layout, reads, part_edits, keep, use_cache
    )


def _run_in_two(
    run: RunPass,
    model: Model,
    layout: Layout,
    reads: Sequence[Site],
    edits: SplitEdits,
    keep: int,
    use_cache: bool,
) -> Run:
    rows, prefix = len(layout.batch.ids), layout.prefix_length
    # the last columns of the shortest rows may be in the prefix
    n_prefix_columns = min(prefix, max(0, keep - (min(layout.batch.lengths) - prefix)))
    prefix_run = run(
        model,
        layout.prefix_batch,
        reads=reads,
        edits=edits[0],
        keep=n_prefix_columns,
        use_cache=True,
    )
    repeat_rows(prefix_run.cache, rows)
    last_positions, n_rest_columns, head_columns = layout.last_positions(keep)
    rest_run = run(
        model,
        layout.rest_batch,
        reads=reads,
        edits=edits[1],
        keep=n_rest_columns if keep else 0,
        cache=prefix_run.cache,
        use_cache=True,
        head_reads=head_columns,
    )
    logits = rest_run.logits
    if logits is not None and n_prefix_columns:
        in_prefix, columns = (
            (last_positions < prefix) & (last_positions >= prefix - n_prefix_columns),
            (last_positions - prefix + n_prefix_columns),
        )
        logits[in_prefix] = prefix_run.require_logits()[0, columns[in_prefix]]
    positions = layout.positions
    values = {}
    for site in dict.fromkeys(reads):
        # pop, so that the value is not in memory twice
        value = rest_run.values.pop(site)
        beginning = prefix_run.values[site].to(value.device)
        values[site] = gather_columns(
            torch.cat([beginning.expand(rows, -1, -1), value], 1), positions.to(value.device)
        )
    if use_cache:
        arrange_columns(rest_run.cache, positions)
    return Run(logits, values, {}, rest_run.cache if use_cache else None)


def split_edits(edits: Sequence[Any], layout: Layout) -> SplitEdits | None:
    """Edits (or other per-cell data) for both parts; None if rows differ in the prefix."""
    shape, row_equality = layout.batch.ids.shape, []

    def selector(columns: Int[Tensor, "B n"]) -> Callable[[Tensor], Tensor]:
        return lambda value: gather_columns(
            value.expand(*shape, *value.shape[len(shape) :]), columns.to(value.device)
        )

    def select_prefix(value: Tensor) -> Tensor:
        rows = selector(layout.columns(0, layout.prefix_length))(value)
        row_equality.append((rows == rows[:1]).all())
        return rows[:1]

    prefix_edits = [edit.select_cells(select_prefix) for edit in edits]
    if row_equality and not to_host(
        torch.stack([equal.to(row_equality[0].device) for equal in row_equality]).all()
    ):
        return None
    return prefix_edits, [
        edit.select_cells(selector(layout.columns(layout.prefix_length, layout.rest_length)))
        for edit in edits
    ]


def can_split(run: RunPass, model: Model, layout: Layout) -> bool:
    """Whether two passes give the same result as one: the cache must be of a suitable kind, and two
    rows are compared at the first use.
    """
    text = model.module.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window is not None and layout.batch.ids.shape[1] + 1 >= window:
        return False
    if model.module not in _is_supported:
        # positions scaled by text length would be scaled differently in the two passes
        _is_supported[model.module] = rope_scaling_boundary(
            model
        ) is None and _split_matches_single(run, model, layout.batch)
    return _is_supported[model.module]


def _split_matches_single(run: RunPass, model: Model, batch: Batch) -> bool:
    short, long = min(batch.lengths), max(batch.lengths)
    rows = [batch.lengths.index(short), len(batch.lengths) - 1 - batch.lengths[::-1].index(long)]
    two_rows = Batch(batch.ids[rows], batch.mask[rows], batch.prefix_length, (short, long))
    prefix_run = run(
        model,
        Layout(two_rows, two_rows.prefix_length, long - two_rows.prefix_length).prefix_batch,
        keep=0,
        use_cache=True,
    )
    if not is_plain(prefix_run.cache):
        return False
    expected = run(model, two_rows, keep=1).require_logits().double()
    split_run = _run_in_two(
        run,
        model,
        Layout(two_rows, two_rows.prefix_length, long - two_rows.prefix_length),
        (),
        ([], []),
        1,
        False,
    )
    error = (split_run.require_logits().double() - expected).abs().max() / expected.abs().max()
    return bool(to_host(error) < max(1e-4, 8 * torch.finfo(model.dtype).eps))


def gather_columns(
    value: Shaped[Tensor, "B T *rest"], columns: Int[Tensor, "rows n"]
) -> Shaped[Tensor, "rows n *rest"]:
    """The values in some columns of each row."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return value[rows, columns]
