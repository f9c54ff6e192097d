"""Streaming accumulators that can be merged: running moments and running top-k.

Memory does not depend on the number of rows. Sums are float64, so that the result depends on the
batching only in the last bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_NUMBERS_IN_CACHE, _NUMBERS_ON_DEVICE, _MIN_ROWS = 1 << 15, 1 << 24, 16


def float64_blocks(
    rows: Float[Tensor, "rows *features"],
) -> Iterator[Float[Tensor, "some *features"]]:
    """The rows in float64, in order and in small blocks, each a copy.

    On a CPU, several passes over a block then stay in cache: sums of large batches are three times
    as fast.
    """
    size = _NUMBERS_IN_CACHE if rows.device.type == "cpu" else _NUMBERS_ON_DEVICE
    for block in rows.split(max(_MIN_ROWS, size // max(rows[:1].numel(), 1))):
        yield block.to(torch.float64, copy=True)


def float64_sum(rows: Float[Tensor, "rows *features"]) -> Float[Tensor, "*features"]:
    """The sum of the rows, in float64."""
    total = torch.zeros(rows.shape[1:], dtype=torch.float64, device=rows.device)
    for block in float64_blocks(rows):
        total += block.sum(0)
    return total


@dataclass
class Moments:
    """Count, mean and sum of squared deviations per feature (Welford 1962, merged as in Chan et al.
    1983).
    """

    count: float
    mean: Float[Tensor, "*features"]
    deviation: Float[Tensor, "*features"]

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device | str = "cpu") -> "Moments":
        """Moments of no rows, for features of the given shape."""
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0.0, zero, zero.clone())

    def update(self, rows: Float[Tensor, "rows *features"]) -> "Moments":
        """Add rows; returns itself."""
        if rows.shape[0] == 0:
            return self
        for block in float64_blocks(rows):
            mean = block.mean(0)
            self.merge(Moments(float(block.shape[0]), mean, block.sub_(mean).square_().sum(0)))
        return self

    def merge(self, other: "Moments") -> "Moments":
        """Add another accumulator over different rows; returns itself."""
        total = self.count + other.count
        if other.count:
            shift = other.mean - self.mean
            self.mean = self.mean + shift * (other.count / total)
            self.deviation = (
                self.deviation
                + other.deviation
                + shift.square() * (self.count * other.count / total)
            )
            self.count = total
        return self

    @property
    def variance(self) -> Float[Tensor, "*features"]:
        """Unbiased variance; zero for fewer than two rows."""
        return self.deviation / max(self.count - 1, 1)

    @property
    def root_mean_square(self) -> Float[Tensor, "*features"]:
        """Square root of the mean of squares; zero for no rows."""
        return (self.deviation / max(self.count, 1) + self.mean.square()).sqrt()


@dataclass
class TopK:
    """The k largest values per feature and the row of each; ties go to the row seen first."""

    values: Float[Tensor, "features k"]
    rows: Int[Tensor, "features k"]

    @classmethod
    def empty(cls, features: int, k: int, device: torch.device | str = "cpu") -> "TopK":
        """No rows yet: every value is minus infinity and every row -1."""
        values = torch.full((features, k), -torch.inf, device=device)
        return cls(values, torch.full((features, k), -1, dtype=torch.int64, device=device))

    def update(
        self,
        values: Float[Tensor, "rows features"],
        rows: Int[Tensor, " rows"],
        keep: Bool[Tensor, " rows"] | None = None,
    ) -> "TopK":
        """Add rows of values, identified by ``rows``; rows where ``keep`` is false are ignored."""
        if keep is not None:
            values, rows = values[keep], rows[keep]
        return self.merge(TopK(values.T.float(), rows.expand(values.shape[1], -1)))

    def merge(self, other: "TopK") -> "TopK":
        """Add the rows of another accumulator; returns itself."""
        values = torch.cat([self.values, other.values], 1)
        rows = torch.cat([self.rows, other.rows], 1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.values.shape[1]]
        self.values, self.rows = values.gather(1, order), rows.gather(1, order)
        return self
