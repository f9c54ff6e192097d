"""Passes with gradients that process the prefix shared by all prompts of a batch only once.

The forward pass is split as in ``shared_prefix``. In the backward pass the gradients at a cell of
the prefix come out summed over the rows, which is enough for sums over cells of values times
gradients.

A row's own derivative along directions in the prefix can still be computed: it is the inner product
of the row's gradient with respect to its copy of the prefix's keys and values, and the change of
these along the directions. That change is the same for all rows and takes one pass of forward-mode
differentiation over the prefix.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.engines.base import Batch, Direction, Edit, Part, Run, in_one_part
from interp.engines.shared_prefix import (
    Layout,
    PartialEdit,
    Pass,
    at,
    divides,
    in_halves,
    is_whole,
    layout_of,
)
from interp.maths.host import to_host
from interp.maths.memory import ran_out_of_memory
from interp.maths.precision import widen
from interp.models.caches import repeat
from interp.models.model import Model
from interp.sites import Site

_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class GradientRequest:
    """The arguments of a pass with gradients, see ``Engine.run``."""

    reads: Sequence[Site]
    edits: Sequence[Any]
    gradients_at: Sequence[Site]
    gradient_of: Callable[[Float[Tensor, "B kept V"]], Float[Tensor, " B"]]
    keep: int
    over: Bool[Tensor, "B T"]
    along: Sequence[Direction]


def divided_gradients(run: Pass, model: Model, batch: Batch, asked: GradientRequest) -> Run | None:
    """The pass in two parts, or None if the batch, the model or an edit does not allow it.

    ``run`` makes one pass over one batch, see ``Engine.run``.
    """
    layout = layout_of(batch)
    if (
        layout is None
        or is_whole(model)
        or not all(isinstance(edit, PartialEdit) for edit in asked.edits)
    ):
        return None
    # the differentiated logits must come after the prefix in every row
    if min(batch.lengths) - layout.prefix < asked.keep or not divides(run, model, layout):
        return None
    if model.module not in _known:
        _known[model.module] = _proven(run, model, batch, asked)
    return _in_two(run, model, layout, asked) if _known[model.module] else None


@dataclass(frozen=True)
class _Over:
    """The mask of cells to sum over; it is split between the parts as an edit is."""

    at: Bool[Tensor, "B T"]

    def on(self, cells: Callable[[Tensor], Tensor]) -> _Over:
        return _Over(cells(self.at))


def _in_two(run: Pass, model: Model, layout: Layout, asked: GradientRequest) -> Run | None:
    halves = in_halves([*asked.edits, *asked.along, _Over(asked.over)], layout)
    if halves is None:
        return None
    first, rest = (_cut(asked, half) for half in halves)
    rows, real = len(layout.batch.ids), layout.remainder.mask[:, layout.prefix :]
    rest = replace(rest, over=rest.over & real)
    sites = {"reads": asked.reads, "gradients_at": asked.gradients_at, "live": True}
    before = run(model, layout.beginning, edits=first.edits, keep=0, use_cache=True, **sites)
    repeat(before.cache, rows)
    copies = [
        value
        for layer in before.cache.layers
        if layer.is_initialized
        for value in (layer.keys, layer.values)
    ]
    _, after, gathered = layout.last(asked.keep)
    then = run(
        model,
        layout.remainder,
        edits=rest.edits,
        keep=after,
        cache=before.cache,
        use_cache=True,
        head_reads=gathered,
        **sites,
    )
    logits = then.require_logits()
    wanted = [
        *(part.values[site] for part in (before, then) for site in asked.gradients_at),
        *copies,
    ]
    found = _gradients(asked.gradient_of(logits).sum(), wanted)
    count = len(asked.gradients_at)
    parts = []
    for half, seen, columns, some in (
        (first, before, layout.columns(0, layout.prefix)[:1], found[:count]),
        (rest, then, layout.columns(layout.prefix, layout.rest), found[count : 2 * count]),
    ):
        values = {site: seen.values[site].detach() for site in asked.reads}
        gradients = dict(zip(asked.gradients_at, some, strict=True))
        parts.append(Part(values, gradients, half.over, _cells(layout.batch, columns)))
    totals = None
    if asked.along:
        totals = parts[1].along(rest.along)
        if bool(to_host(first.over.any())):
            totals = totals + _along(found[2 * count :], _tangents(run, model, layout, first))
    return Run(logits.detach(), parts=tuple(parts), along=totals)


def _cut(asked: GradientRequest, half: Sequence[Any]) -> GradientRequest:
    count = len(asked.edits)
    return replace(asked, edits=half[:count], along=half[count:-1], over=half[-1].at)


def _gradients(of: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Gradients; zero for a value that the output does not depend on."""
    able = [value for value in wanted if value.requires_grad]
    got = iter(torch.autograd.grad(of, able, allow_unused=True))
    found = [next(got) if value.requires_grad else None for value in wanted]
    return [
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(wanted, found, strict=True)
    ]


def _cells(batch: Batch, columns: Tensor) -> Callable[[Tensor], Tensor]:
    shape = batch.ids.shape
    return lambda value: at(value.expand(*shape, *value.shape[2:]), columns.to(value.device))


@dataclass(frozen=True)
class _Push:
    """Moves a site's value along a direction, as an edit for forward-mode differentiation."""

    direction: Direction
    at: Bool[Tensor, "r n"]

    @property
    def site(self) -> Site:
        return self.direction.site

    def apply(self, value: Tensor) -> Tensor:
        own = forward_ad.unpack_dual(value).primal
        way = torch.where(self.at.to(own.device)[..., None], self.direction.of(own), 0.0)
        return value + forward_ad.make_dual(torch.zeros_like(own), way.to(own.dtype))


def _tangents(
    run: Pass, model: Model, layout: Layout, first: GradientRequest
) -> list[Tensor | None]:
    """Derivatives of the prefix's keys and values, in order, along all directions together."""
    edits: list[Edit] = [*first.edits, *(_Push(direction, first.over) for direction in first.along)]
    # fused attention kernels have no forward-mode derivative
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch compiles some of its formulas for this with a deprecated function
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        cache = run(model, layout.beginning, edits=edits, keep=0, use_cache=True).cache
        kept = [
            value
            for layer in cache.layers
            if layer.is_initialized
            for value in (layer.keys, layer.values)
        ]
        return [forward_ad.unpack_dual(value).tangent for value in kept]


def _along(
    gradients: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> Float[Tensor, " B"] | Any:
    total: Any = 0.0
    for gradient, tangent in zip(gradients, tangents, strict=True):
        if tangent is not None:
            total = total + (widen(gradient) * widen(tangent)).double().sum((1, 2, 3)).to(
                gradients[0].device
            )
    return total


def _proven(run: Pass, model: Model, batch: Batch, asked: GradientRequest) -> bool:
    """Whether split and whole passes agree on two rows without edits, in summed gradients and in
    the derivatives of each row.
    """
    short, long = min(batch.lengths), max(batch.lengths)
    rows = [batch.lengths.index(short), len(batch.lengths) - 1 - batch.lengths[::-1].index(long)]
    some = Batch(batch.ids[rows], batch.mask[rows], batch.shared, (short, long))
    sites = list(dict.fromkeys([*asked.gradients_at[:2], *asked.gradients_at[-2:]]))
    whole = run(model, some, reads=sites, gradients_at=sites, gradient_of=_size, keep=1)
    over = some.mask
    along = [Direction(site, _elsewhere(whole.values[site])) for site in sites]
    whole = in_one_part(whole, over, along)
    layout = Layout(some, some.shared, long - some.shared)
    try:
        parts = _in_two(
            run, model, layout, GradientRequest(sites, (), sites, _size, 1, over, along)
        )
    except (NotImplementedError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise
        return False  # a kernel of this model does not support this differentiation
    if parts is None:
        return False
    bound = max(1e-4, 16 * torch.finfo(model.dtype).eps)
    pairs = [(whole.require_along(), parts.require_along())]
    for site in sites:
        (all_of_it,), (first, rest) = whole.parts, parts.parts
        gradient = all_of_it.gradients[site]
        pairs.append(
            (at(gradient, layout.columns(0, layout.prefix)).sum(0), first.gradients[site][0])
        )
        pairs.append((rest.cells(gradient)[rest.at], rest.gradients[site][rest.at]))
    return all(_near(expected, actual, bound) for expected, actual in pairs)


def _near(one: Tensor, other: Tensor, bound: float) -> bool:
    apart, size = (one.double() - other.double()).norm(), one.double().norm()
    return bool(to_host(apart <= bound * size))


def _elsewhere(value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
    """A reference value of similar size, the same in all cells; along the direction towards zero a
    norm after the site would show no change.
    """
    wave = torch.arange(value.shape[-1], device=value.device, dtype=value.dtype).cos()
    return (wave * value.abs().mean()).expand_as(value)


def _size(logits: Float[Tensor, "B kept V"]) -> Float[Tensor, " B"]:
    """A function to which every logit contributes."""
    return widen(logits[:, -1]).square().mean(-1)
