"""Straight-through gradients of thresholds (Rajamanoharan et al. 2024, arXiv 2407.14435), with a
rectangular kernel as the derivative of the step.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _near(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (((x - threshold) / bandwidth).abs() < 0.5).to(x.dtype)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, threshold, bandwidth):
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x * (x > threshold)

    @staticmethod
    def backward(ctx, slope):
        x, threshold = ctx.saved_tensors
        at_threshold = -(threshold / ctx.bandwidth) * _near(x, threshold, ctx.bandwidth) * slope
        return (x > threshold) * slope, at_threshold.sum(0), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, threshold, bandwidth, to_input):
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return (x > threshold).to(x.dtype)

    @staticmethod
    def backward(ctx, slope):
        x, threshold = ctx.saved_tensors
        rectangle = _near(x, threshold, ctx.bandwidth) * slope / ctx.bandwidth
        return (rectangle if ctx.to_input else None), -rectangle.sum(0), None, None


def jump(
    x: Float[Tensor, "N F"], threshold: Float[Tensor, " F"], bandwidth: float
) -> Float[Tensor, "N F"]:
    """JumpReLU: ``x`` where it exceeds its threshold, else 0; within the bandwidth the gradient of
    the threshold is ``-threshold / bandwidth``.
    """
    return _Jump.apply(x, threshold, bandwidth)


def step(
    x: Float[Tensor, "N F"],
    threshold: Float[Tensor, " F"],
    bandwidth: float,
    to_input: bool = False,
) -> Float[Tensor, "N F"]:
    """1 where ``x`` exceeds its threshold, else 0; the pseudo-derivative has width ``bandwidth``.
    ``to_input`` also passes a gradient to ``x``.
    """
    return _Step.apply(x, threshold, bandwidth, to_input)
