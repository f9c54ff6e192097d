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

from interp.engines.base import Batch, BatchPart, Direction, Edit, Run, as_single_part
from interp.engines.shared_prefix import (
    Layout,
    RunPass,
    SplittableEdit,
    can_split,
    gather_columns,
    layout_of,
    needs_full_passes,
    split_edits,
)
from interp.maths.host import to_host
from interp.maths.memory import is_out_of_memory
from interp.maths.precision import widen
from interp.models.caches import repeat_rows
from interp.models.model import Model
from interp.sites import Site

_is_supported: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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


def split_gradients(
    run: RunPass, model: Model, batch: Batch, request: GradientRequest
) -> Run | None:
    """The pass in two parts, or None if the batch, the model or an edit does not allow it.

    ``run`` makes one pass over one batch, see ``Engine.run``.
    """
    layout = layout_of(batch)
    if (
        layout is None
        or needs_full_passes(model)
        or not all(isinstance(edit, SplittableEdit) for edit in request.edits)
    ):
        return None
    # the differentiated logits must come after the prefix in every row
    if min(batch.lengths) - layout.prefix_length < request.keep or not can_split(
        run, model, layout
    ):
        return None
    if model.module not in _is_supported:
        _is_supported[model.module] = _split_matches_single(run, model, batch, request)
    return _run_split(run, model, layout, request) if _is_supported[model.module] else None


@dataclass(frozen=True)
class _SumMask:
    """The mask of cells to sum over; it is split between the parts as an edit is."""

    mask: Bool[Tensor, "B T"]

    def select_cells(self, cells: Callable[[Tensor], Tensor]) -> _SumMask:
        return _SumMask(cells(self.mask))


def _run_split(run: RunPass, model: Model, layout: Layout, request: GradientRequest) -> Run | None:
    halves = split_edits([*request.edits, *request.along, _SumMask(request.over)], layout)
    if halves is None:
        return None
    prefix_request, rest_request = (_restrict(request, half) for half in halves)
    rows, real = len(layout.batch.ids), layout.rest_batch.mask[:, layout.prefix_length :]
    rest_request = replace(rest_request, over=rest_request.over & real)
    sites = {"reads": request.reads, "gradients_at": request.gradients_at, "live": True}
    prefix_run = run(
        model, layout.prefix_batch, edits=prefix_request.edits, keep=0, use_cache=True, **sites
    )
    repeat_rows(prefix_run.cache, rows)
    prefix_keys_and_values = [
        value
        for layer in prefix_run.cache.layers
        if layer.is_initialized
        for value in (layer.keys, layer.values)
    ]
    _, n_last_columns, head_columns = layout.last_positions(request.keep)
    rest_run = run(
        model,
        layout.rest_batch,
        edits=rest_request.edits,
        keep=n_last_columns,
        cache=prefix_run.cache,
        use_cache=True,
        head_reads=head_columns,
        **sites,
    )
    logits = rest_run.require_logits()
    differentiated = [
        *(part.values[site] for part in (prefix_run, rest_run) for site in request.gradients_at),
        *prefix_keys_and_values,
    ]
    all_gradients = _gradients(request.gradient_of(logits).sum(), differentiated)
    count = len(request.gradients_at)
    parts = []
    for part_request, part_run, columns, part_gradients in (
        (
            prefix_request,
            prefix_run,
            layout.columns(0, layout.prefix_length)[:1],
            all_gradients[:count],
        ),
        (
            rest_request,
            rest_run,
            layout.columns(layout.prefix_length, layout.rest_length),
            all_gradients[count : 2 * count],
        ),
    ):
        values = {site: part_run.values[site].detach() for site in request.reads}
        gradients = dict(zip(request.gradients_at, part_gradients, strict=True))
        parts.append(
            BatchPart(values, gradients, part_request.over, _selector(layout.batch, columns))
        )
    derivatives = None
    if request.along:
        derivatives = parts[1].along(rest_request.along)
        if bool(to_host(prefix_request.over.any())):
            derivatives = derivatives + _inner_products(
                all_gradients[2 * count :], _tangents(run, model, layout, prefix_request)
            )
    return Run(logits.detach(), parts=tuple(parts), along=derivatives)


def _restrict(request: GradientRequest, part: Sequence[Any]) -> GradientRequest:
    count = len(request.edits)
    return replace(request, edits=part[:count], along=part[count:-1], over=part[-1].mask)


def _gradients(total: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """Gradients; zero for a value that the output does not depend on."""
    differentiable = [value for value in values if value.requires_grad]
    computed = iter(torch.autograd.grad(total, differentiable, allow_unused=True))
    gradients = [next(computed) if value.requires_grad else None for value in values]
    return [
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(values, gradients, strict=True)
    ]


def _selector(batch: Batch, columns: Tensor) -> Callable[[Tensor], Tensor]:
    shape = batch.ids.shape
    return lambda value: gather_columns(
        value.expand(*shape, *value.shape[2:]), columns.to(value.device)
    )


@dataclass(frozen=True)
class _Perturbation:
    """Moves a site's value along a direction, as an edit for forward-mode differentiation."""

    direction: Direction
    mask: Bool[Tensor, "r n"]

    @property
    def site(self) -> Site:
        return self.direction.site

    def apply(self, value: Tensor) -> Tensor:
        primal = forward_ad.unpack_dual(value).primal
        tangent = torch.where(
            self.mask.to(primal.device)[..., None], self.direction.at_value(primal), 0.0
        )
        return value + forward_ad.make_dual(torch.zeros_like(primal), tangent.to(primal.dtype))


def _tangents(
    run: RunPass, model: Model, layout: Layout, request: GradientRequest
) -> list[Tensor | None]:
    """Derivatives of the prefix's keys and values, in order, along all directions together."""
    edits: list[Edit] = [
        *request.edits,
        *(_Perturbation(direction, request.over) for direction in request.along),
    ]
    # fused attention kernels have no forward-mode derivative
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch compiles some of its formulas for this with a deprecated function
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        cache = run(model, layout.prefix_batch, edits=edits, keep=0, use_cache=True).cache
        keys_and_values = [
            value
            for layer in cache.layers
            if layer.is_initialized
            for value in (layer.keys, layer.values)
        ]
        return [forward_ad.unpack_dual(value).tangent for value in keys_and_values]


def _inner_products(
    gradients: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> Float[Tensor, " B"] | Any:
    total: Any = 0.0
    for gradient, tangent in zip(gradients, tangents, strict=True):
        if tangent is not None:
            total = total + (widen(gradient) * widen(tangent)).double().sum((1, 2, 3)).to(
                gradients[0].device
            )
    return total


def _split_matches_single(
    run: RunPass, model: Model, batch: Batch, request: GradientRequest
) -> bool:
    """Whether split and whole passes agree on two rows without edits, in summed gradients and in
    the derivatives of each row.
    """
    short, long = min(batch.lengths), max(batch.lengths)
    rows = [batch.lengths.index(short), len(batch.lengths) - 1 - batch.lengths[::-1].index(long)]
    two_rows = Batch(batch.ids[rows], batch.mask[rows], batch.prefix_length, (short, long))
    sites = list(dict.fromkeys([*request.gradients_at[:2], *request.gradients_at[-2:]]))
    single_run = run(
        model, two_rows, reads=sites, gradients_at=sites, gradient_of=_mean_square, keep=1
    )
    over = two_rows.mask
    along = [Direction(site, _reference_value(single_run.values[site])) for site in sites]
    single_run = as_single_part(single_run, over, along)
    layout = Layout(two_rows, two_rows.prefix_length, long - two_rows.prefix_length)
    try:
        split_run = _run_split(
            run, model, layout, GradientRequest(sites, (), sites, _mean_square, 1, over, along)
        )
    except (NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # a kernel of this model does not support this differentiation
    if split_run is None:
        return False
    tolerance = max(1e-4, 16 * torch.finfo(model.dtype).eps)
    pairs = [(single_run.require_derivatives(), split_run.require_derivatives())]
    for site in sites:
        (single_part,), (prefix_part, rest_part) = single_run.parts, split_run.parts
        gradient = single_part.gradients[site]
        pairs.append(
            (
                gather_columns(gradient, layout.columns(0, layout.prefix_length)).sum(0),
                prefix_part.gradients[site][0],
            )
        )
        pairs.append(
            (rest_part.select(gradient)[rest_part.mask], rest_part.gradients[site][rest_part.mask])
        )
    return all(_is_close(expected, actual, tolerance) for expected, actual in pairs)


def _is_close(expected: Tensor, actual: Tensor, tolerance: float) -> bool:
    difference, size = (expected.double() - actual.double()).norm(), expected.double().norm()
    return bool(to_host(difference <= tolerance * size))


def _reference_value(value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
    """A reference value of similar size, the same in all cells; along the direction towards zero a
    norm after the site would show no change.
    """
    wave = torch.arange(value.shape[-1], device=value.device, dtype=value.dtype).cos()
    return (wave * value.abs().mean()).expand_as(value)


def _mean_square(logits: Float[Tensor, "B kept V"]) -> Float[Tensor, " B"]:
    """A function to which every logit contributes."""
    return widen(logits[:, -1]).square().mean(-1)
