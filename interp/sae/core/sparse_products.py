"""Sparse codes, and products that touch active rows only.

The encoder has to be evaluated in full to know which latents are active. The decoder's forward pass
and both weight gradients are products with the sparse matrix of codes, whose pattern is sorted by
latent once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.maths.host import to_host

Selector = Callable[[Tensor], "Pattern"]


class Pattern(NamedTuple):
    """Which codes are active, in CSR layout: ``starts`` [N + 1] delimits each input's part of
    ``latents`` [n]; the latents of an input need not be sorted.
    """

    starts: Int[Tensor, " N1"]
    latents: Int[Tensor, " n"]

    @property
    def rows(self) -> Int[Tensor, " n"]:
        """The input of each active code."""
        counts = self.starts.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def values(self, dense: Float[Tensor, "N F"]) -> Float[Tensor, " n"]:
        """Values of a dense matrix at the active codes."""
        return dense[self.rows, self.latents]


class Codes(NamedTuple):
    """Sparse codes of N inputs: a pattern and its values; ``width`` is the number of latents."""

    pattern: Pattern
    values: Float[Tensor, " n"]
    width: int

    def dense(self) -> Float[Tensor, "N F"]:
        """The codes as a dense matrix."""
        zeros = self.values.new_zeros(len(self.pattern.starts) - 1, self.width)
        return zeros.index_put((self.pattern.rows, self.pattern.latents), self.values)

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "N F"]) -> Codes:
        """The nonzero entries of a dense matrix of codes."""
        rows, latents = dense.nonzero(as_tuple=True)
        starts = torch.zeros(len(dense) + 1, dtype=torch.int64, device=dense.device)
        starts[1:] = torch.bincount(rows, minlength=len(dense)).cumsum(0)
        return cls(Pattern(starts, latents), dense[rows, latents], dense.shape[1])

    def counts(self) -> Int[Tensor, " F"]:
        """Number of inputs on which each latent is active."""
        return torch.bincount(self.pattern.latents[self.values.detach() != 0], minlength=self.width)


def topk_per_row(
    pre: Float[Tensor, "N F"], k: int, weight: Float[Tensor, " F"] | None = None
) -> Pattern:
    """The ``k`` largest positive values of each row (times ``weight``); fewer if fewer are
    positive.

    Ties are broken as ``torch.topk`` does, deterministically on a given device.
    """
    ranked = pre if weight is None else pre * weight
    best, latents = ranked.topk(k, dim=1, sorted=False)
    return _pattern_from_mask(best > 0, latents)


def topk_per_batch(
    pre: Float[Tensor, "N F"], k: int, weight: Float[Tensor, " F"] | None = None
) -> Pattern:
    """The ``k * N`` largest positive values over all rows (times ``weight``)."""
    ranked = pre if weight is None else pre * weight
    count, (n_inputs, width) = k * len(pre), pre.shape
    # the candidates suffice unless all candidates of some row are selected
    depth = min(width, 4 * k + 8)
    while True:
        best, latents = ranked.topk(depth, dim=1, sorted=False)
        n_selected = min(count, best.numel())
        smallest = best.flatten().kthvalue(best.numel() - n_selected + 1).values
        selected = best > smallest
        if depth == width or not bool(to_host(selected.all(1).any())):
            break
        depth = min(width, 2 * depth)
    ties = (best == smallest).flatten()
    n_ties = n_selected - int(to_host(selected.sum()))
    selected = selected.flatten()
    selected[ties.nonzero().flatten()[:n_ties]] = True
    return _pattern_from_mask(selected.view(n_inputs, depth) & (best > 0), latents)


def _pattern_from_mask(mask: Tensor, latents: Tensor) -> Pattern:
    starts = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
    starts[1:] = mask.sum(1).cumsum(0)
    return Pattern(starts, latents[mask])


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _gather_product(starts: Tensor, columns: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """A sparse times a dense matrix by gathering rows: up to 1.7 times faster than the sparse
    product on a CPU.
    """
    return torch.embedding_bag(
        dense,
        columns,
        starts,
        mode=0,
        per_sample_weights=values.to(dense.dtype),
        include_last_offset=True,
    )[0]


class _PatternByLatent(NamedTuple):
    """A pattern sorted by latent: the transposed sparse matrix."""

    order: Tensor
    starts: Tensor
    rows: Tensor

    @classmethod
    def from_pattern(cls, pattern: Pattern, width: int) -> _PatternByLatent:
        order = pattern.latents.argsort(stable=True)
        starts = torch.zeros(width + 1, dtype=torch.int64, device=order.device)
        starts[1:] = torch.bincount(pattern.latents, minlength=width).cumsum(0)
        return cls(order, starts, pattern.rows[order])

    def times(self, values: Tensor, dense: Tensor) -> Tensor:
        """Transposed codes [F, N] times ``dense`` [N, D]."""
        return _gather_product(self.starts, self.rows, values[self.order], dense)


_CHUNK = 2**24
"""Largest number of values gathered at a time."""


def inner_products(
    pattern: Pattern, left: Float[Tensor, "N D"], right: Float[Tensor, "F D"]
) -> Float[Tensor, " n"]:
    """For each active code, the inner product of its input's row of ``left`` and its latent's row
    of ``right``.
    """
    if left.dtype in (torch.float32, torch.float64):
        zeros = left.new_zeros(len(pattern.latents))
        pattern_matrix = _sparse(*pattern, zeros, (len(left), len(right)))
        # far faster than gathering the rows on a CPU
        return torch.sparse.sampled_addmm(pattern_matrix, left, right.T, beta=0.0).values()
    rows, result = pattern.rows, left.new_empty(len(pattern.latents))
    step = max(1, _CHUNK // left.shape[1])
    for start in range(0, len(rows), step):
        chunk = slice(start, start + step)
        result[chunk] = (left[rows[chunk]] * right[pattern.latents[chunk]]).sum(1)
    return result


class _Autoencode(torch.autograd.Function):
    """Encode, select, decode, with gradients for active rows only. See ``autoencode``."""

    @staticmethod
    def forward(ctx, x, w_enc, b_enc, w_dec, b_dec, subtract_bias, selector):
        centred = x - b_dec if subtract_bias else x
        pre = torch.addmm(b_enc, centred, w_enc)
        if pre.dtype != centred.dtype:
            # under autocast: select in half precision, then recompute the selected values
            pattern = selector(pre.to(centred.dtype))
            values = (inner_products(pattern, centred, w_enc.T) + b_enc[pattern.latents]).clamp_min(
                0
            )
        else:
            pattern = selector(pre)
            values = pattern.values(pre)
        out = _gather_product(pattern.starts, pattern.latents, values, w_dec) + b_dec
        ctx.save_for_backward(centred, w_enc, w_dec, *pattern, values)
        ctx.subtract = subtract_bias
        ctx.mark_non_differentiable(*pattern)
        ctx.set_materialize_grads(False)
        return out, values, *pattern

    @staticmethod
    def backward(ctx, grad_output, grad_values, *_):
        centred, w_enc, w_dec, starts, latents, values = ctx.saved_tensors
        pattern = Pattern(starts, latents)
        by_latent = _PatternByLatent.from_pattern(pattern, len(w_dec))
        g_dec = g_b_dec = None
        g_values = torch.zeros_like(values) if grad_values is None else grad_values
        if grad_output is not None:
            g_values = g_values + inner_products(pattern, grad_output, w_dec)
            g_dec = by_latent.times(values, grad_output)
            g_b_dec = grad_output.sum(0)
        g_enc = by_latent.times(g_values, centred).T
        g_b_enc = g_values.new_zeros(len(w_dec)).index_add_(0, latents, g_values)
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = _gather_product(starts, latents, g_values, w_enc.T)
        if ctx.subtract:
            # rows summed first: one product of a matrix and a vector
            g_input_sum = w_enc @ g_b_enc
            g_b_dec = -g_input_sum if g_b_dec is None else g_b_dec - g_input_sum
        return g_x, g_enc, g_b_enc, g_dec, g_b_dec, None, None


def autoencode(
    x: Float[Tensor, "N D"],
    w_enc: Float[Tensor, "D F"],
    b_enc: Float[Tensor, " F"],
    w_dec: Float[Tensor, "F O"],
    b_dec: Float[Tensor, " O"],
    *,
    subtract_bias: bool,
    selector: Selector,
) -> tuple[Float[Tensor, "N O"], Codes]:
    """``(sum of active codes * rows of w_dec) + b_dec``, and the codes; ``selector`` selects the
    active ones from the pre-activations.

    Gradients equal those of plain autograd with the selection held fixed, up to rounding.
    ``selector`` must return positive values only. Under autocast only the product used for the
    selection is in half precision.
    """
    out, values, starts, latents = _Autoencode.apply(
        x, w_enc, b_enc, w_dec, b_dec, subtract_bias, selector
    )
    return out, Codes(Pattern(starts, latents), values, len(w_dec))


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, w_dec, starts, latents):
        ctx.save_for_backward(values, w_dec, starts, latents)
        return _gather_product(starts, latents, values, w_dec)

    @staticmethod
    def backward(ctx, grad_output):
        values, w_dec, starts, latents = ctx.saved_tensors
        pattern = Pattern(starts, latents)
        g_values = inner_products(pattern, grad_output, w_dec) if ctx.needs_input_grad[0] else None
        g_dec = (
            _PatternByLatent.from_pattern(pattern, len(w_dec)).times(values, grad_output)
            if ctx.needs_input_grad[1]
            else None
        )
        return g_values, g_dec, None, None


def decode(codes: Codes, w_dec: Float[Tensor, "F O"]) -> Float[Tensor, "N O"]:
    """Sum of active codes times their decoder rows, with gradients for active rows only."""
    return _Decode.apply(codes.values, w_dec, *codes.pattern)
