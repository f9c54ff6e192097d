"""Straight-through gradients of thresholds (Rajamanoharan et al. 2024, arXiv 2407.14435), with a
rectangular kernel as the derivative of the step.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _in_kernel(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (((x - threshold) / bandwidth).abs() < 0.5).to(x.dtype)


class _JumpRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, threshold, bandwidth):
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x * (x > threshold)

    @staticmethod
    def backward(ctx, grad_output):
        x, threshold = ctx.saved_tensors
        grad_threshold = (
            -(threshold / ctx.bandwidth) * _in_kernel(x, threshold, ctx.bandwidth) * grad_output
        )
        return (x > threshold) * grad_output, grad_threshold.sum(0), None


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, threshold, bandwidth, grad_to_input):
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth, ctx.grad_to_input = bandwidth, grad_to_input
        return (x > threshold).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        x, threshold = ctx.saved_tensors
        rectangle = _in_kernel(x, threshold, ctx.bandwidth) * grad_output / ctx.bandwidth
        return (rectangle if ctx.grad_to_input else None), -rectangle.sum(0), None, None


def jumprelu(
    x: Float[Tensor, "N F"], threshold: Float[Tensor, " F"], bandwidth: float
) -> Float[Tensor, "N F"]:
    """JumpReLU: ``x`` where it exceeds its threshold, else 0; within the bandwidth the gradient of
    the threshold is ``-threshold / bandwidth``.
    """
    return _JumpRelu.apply(x, threshold, bandwidth)


def heaviside(
    x: Float[Tensor, "N F"],
    threshold: Float[Tensor, " F"],
    bandwidth: float,
    grad_to_input: bool = False,
) -> Float[Tensor, "N F"]:
    """1 where ``x`` exceeds its threshold, else 0; the pseudo-derivative has width ``bandwidth``.
    ``grad_to_input`` also passes a gradient to ``x``.
    """
    return _Heaviside.apply(x, threshold, bandwidth, grad_to_input)
