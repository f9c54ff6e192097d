"""Streamed counts of the tokens that one model makes likelier than another, position by position."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.maths.host import in_host_memory, to_host


@dataclass
class TokenCounts:
    """Counts over the vocabulary, streamed: no logits are kept.

    ``more`` and ``less`` [V]: sums over texts of the share of a text's positions at which the token
    is among the ``k`` whose logit rose, or fell, most. ``likelier`` [V]: positions at which its log
    probability rose. ``gain`` [V]: sum over positions of the change of its log probability, nats.
    ``divergence``: sum over positions of KL(tuned || base), nats.
    ``best`` [2, V] and ``seen_at`` [2, V]: by how much the logit difference of a token exceeds the
    mean difference of the position most (up, down), and the running number of the first such
    position; -1 for none. All in host memory.
    """

    vocabulary: int
    k: int
    n_texts: int = 0
    n_positions: int = 0
    divergence: float = 0.0
    shares: list[Float[Tensor, " V"]] = field(default_factory=list)
    likelier: Float[Tensor, " V"] = field(default_factory=lambda: torch.zeros(0))
    gain: Float[Tensor, " V"] = field(default_factory=lambda: torch.zeros(0))
    best: Float[Tensor, "2 V"] = field(default_factory=lambda: torch.zeros(0))
    seen_at: Int[Tensor, "2 V"] = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        size = self.vocabulary
        self.shares = [torch.zeros(size, dtype=torch.float64) for _ in range(2)]
        self.likelier = torch.zeros(size, dtype=torch.float64)
        self.gain = torch.zeros(size, dtype=torch.float64)
        self.best = torch.zeros(2, size)
        self.seen_at = torch.full((2, size), -1)

    def update(
        self,
        base: Float[Tensor, "P V"],
        tuned: Float[Tensor, "P V"],
        weights: Float[Tensor, " P"],
        numbers: Int[Tensor, " P"],
    ) -> tuple[Float[Tensor, "P k"], Int[Tensor, "P k"]]:
        """Count some positions; returns in host memory by how much the k largest rises exceed the
        position's mean difference, [P, k], 0 where they do not count, and their tokens.

        ``base`` and ``tuned``: logits in float32; ``tuned`` is overwritten. In host memory:
        ``weights`` [P], of a position, one over the positions of its text; ``numbers`` [P], of the
        positions.
        """
        # one buffer of [P, V] for everything: the memory that these passes need is the logits'
        buffer = torch.empty_like(base)
        base_normalizer = _log_normalizer(base, buffer)
        # leaves the fine-tuned model's probabilities in the buffer, times a number for each row
        shift = _log_normalizer(tuned, buffer) - base_normalizer
        difference = tuned.sub_(base)
        mean_change = torch.linalg.vecdot(buffer, difference) / buffer.sum(1)
        self.divergence += float(to_host((mean_change - shift).sum()))
        mean = difference.mean(1, keepdim=True)
        # sums of a batch in float32: conversion to float64 would take as long as all the rest
        self.gain += in_host_memory(difference.sum(0)).double() - in_host_memory(shift.sum())
        torch.gt(difference, shift[:, None], out=buffer)
        self.likelier += in_host_memory(buffer.sum(0))
        rises = None
        for side, largest in enumerate((True, False)):
            values, tokens = difference.topk(self.k, dim=1, largest=largest)
            counted = beyond_median(difference, values, largest, buffer)
            beyond_mean = (values - mean if largest else mean - values).clamp(min=0)
            sizes = in_host_memory(torch.where(counted, beyond_mean, 0.0))
            tokens, counted = in_host_memory(tokens), in_host_memory(counted)
            amount = torch.where(counted, weights[:, None].double(), 0.0)
            self.shares[side].scatter_add_(0, tokens.flatten(), amount.flatten())
            self._remember(side, sizes, tokens, numbers)
            rises = (sizes, tokens) if side == 0 else rises
        self.n_positions += len(base)
        assert rises is not None
        return rises

    def _remember(
        self,
        side: int,
        sizes: Float[Tensor, "P k"],
        tokens: Int[Tensor, "P k"],
        numbers: Int[Tensor, " P"],
    ) -> None:
        """Keep the largest size of every token, and the first position that has it."""
        largest = torch.zeros(self.vocabulary).scatter_reduce_(
            0, tokens.flatten(), sizes.flatten(), "amax"
        )
        reached = (sizes > 0) & (sizes == largest[tokens])
        first = torch.full((self.vocabulary,), torch.iinfo(torch.int64).max).scatter_reduce_(
            0, tokens[reached], numbers[:, None].expand(tokens.shape)[reached], "amin"
        )
        best, seen_at = self.best[side], self.seen_at[side]
        is_new = (largest > best) | ((largest > 0) & (largest == best) & (first < seen_at))
        self.seen_at[side] = torch.where(is_new, first, seen_at)
        self.best[side] = torch.maximum(best, largest)

    @property
    def net_share(self) -> Float[np.ndarray, " V"]:
        """Mean over texts of the share of positions among the top k rises minus among the falls."""
        more, less = (to_host(part) for part in self.shares)
        return (more - less) / max(self.n_texts, 1)

    @property
    def likelier_share(self) -> Float[np.ndarray, " V"]:
        """Share of positions at which the log probability rose."""
        return to_host(self.likelier) / max(self.n_positions, 1)

    @property
    def mean_divergence(self) -> float:
        """Mean over positions of KL(tuned || base), nats."""
        return self.divergence / max(self.n_positions, 1)

    @property
    def mean_gain(self) -> Float[np.ndarray, " V"]:
        """Mean change of the log probability, nats."""
        return to_host(self.gain) / max(self.n_positions, 1)


def _log_normalizer(
    logits: Float[Tensor, "P V"], buffer: Float[Tensor, "P V"]
) -> Float[Tensor, " P"]:
    largest = logits.amax(1, keepdim=True)
    torch.sub(logits, largest, out=buffer)
    return largest[:, 0] + buffer.exp_().sum(1).log()


def beyond_median(
    difference: Float[Tensor, "P V"],
    values: Float[Tensor, "P k"],
    largest: bool,
    buffer: Float[Tensor, "P V"] | None = None,
) -> Bool[Tensor, "P k"]:
    """Which of the k extreme values of every row lie strictly beyond the row's median.

    ``values`` are in order, the most extreme first. Without this an identical pair would list the
    first tokens of the vocabulary, since the top k of equal numbers are the first. The median is
    the lower one for the largest values and the upper one for the smallest, so that exchanging the
    models exchanges the sides.
    """
    n_tokens = difference.shape[1]
    buffer = torch.empty_like(difference) if buffer is None else buffer
    last = values[:, -1:]
    torch.lt(difference, last, out=buffer) if largest else torch.gt(difference, last, out=buffer)
    # with more than half of the row below, the median is too
    passes = buffer.sum(1) >= (n_tokens - 1) // 2 + 1
    counted = passes[:, None].expand(values.shape).clone()
    if rows := to_host(torch.where(~passes)[0]).tolist():
        rest = difference[rows] if largest else -difference[rows]
        median = rest.median(1, keepdim=True).values
        counted[rows] = (values[rows] if largest else -values[rows]) > median
    return counted
