"""A running median of norms that can be saved and resumed exactly: a histogram of log norms."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.maths.host import to_host

BINS, PER_OCTAVE, LOWEST = 8192, 64, -64


class RunningMedianNorms:
    """Histograms of norms in bins of 1/64 octave (1 percent), for several series (a site in a model
    each).
    """

    def __init__(self, counts: Float[Tensor, "P bins"]) -> None:
        self.counts = counts

    @classmethod
    def from_json(cls, value: Any, n_series: int) -> RunningMedianNorms:
        """Inverse of ``to_json``; None gives empty histograms."""
        counts = torch.zeros(n_series, BINS, dtype=torch.float64)
        histograms: Any = value or ()
        for series, bins in enumerate(histograms):
            for number, count in bins:
                counts[series, number] = count
        return cls(counts)

    def to_json(self) -> list[list[list[int]]]:
        """Non-empty bins of each series."""
        return [
            [[int(number), int(row[number])] for number in row.nonzero()[0]]
            for row in to_host(self.counts)
        ]

    def ratio(self, series: int, norms: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Norms divided by the median of all norms so far in that series, these included."""
        bins = ((norms.double().log2() - LOWEST) * PER_OCTAVE).nan_to_num(0.0, BINS - 1, 0.0).long()
        new_counts = torch.bincount(bins.clamp(0, BINS - 1), minlength=BINS)
        self.counts[series] += new_counts.to(self.counts)
        return norms / self.median(series)

    def median(self, series: int) -> float:
        """Median norm of a series, to 1 percent; NaN if there is none."""
        total = to_host(self.counts[series].cumsum(0))
        if not total[-1]:
            return float("nan")
        number = int((total >= total[-1] / 2).argmax())
        return float(2.0 ** ((number + 0.5) / PER_OCTAVE + LOWEST))

    def medians(self) -> list[float]:
        """Medians of all series."""
        return [self.median(place) for place in range(len(self.counts))]
