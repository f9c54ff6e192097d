"""Sums per fold of documents, for intervals over documents without storing activations.

All of a document falls into one fold. Intervals are from the delete-one-fold jackknife (Miller,
1974, Biometrika 61) with Student's t; for ratios of sums it needs only the sums without each fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.sae.core.sparse_products import Codes

FOLDS = 20


class Estimate(NamedTuple):
    """A value per latent with its interval; NaN if undefined."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def above(self, threshold: float) -> NDArray[np.bool_]:
        """Whether the entire interval exceeds a threshold; False for NaN."""
        return self.low > threshold

    def below(self, threshold: float) -> NDArray[np.bool_]:
        """Whether the entire interval is below a threshold; False for NaN."""
        return self.high < threshold

    def within(self, size: float, centre: float = 0.0) -> NDArray[np.bool_]:
        """Whether the entire interval is closer than ``size`` to ``centre``; False for NaN."""
        return self.above(centre - size) & self.below(centre + size)


Sums = Mapping[str, NDArray[np.float64]]
"""Sums by name, each with a leading axis of jackknife samples."""


def jackknife(
    sums: Sums, statistic: Callable[[Sums], NDArray[np.float64]], level: float = 0.95
) -> Estimate:
    """A statistic of sums over all folds, with its interval from leaving out one fold at a time.

    ``sums``: arrays [K, ...], one row per fold; if one is named ``rows``, unequal fold sizes enter
    by Kish's effective number of folds. ``statistic`` maps sums with a leading axis to values with
    the same axis. The interval is NaN if a value without some fold is not finite.
    """
    folds = len(next(iter(sums.values())))
    if folds < 2:
        raise OptionError(f"an interval needs 2 folds or more, not {folds}")
    totals = {name: array.sum(0, keepdims=True) for name, array in sums.items()}
    samples = {
        name: np.concatenate([totals[name], totals[name] - array]) for name, array in sums.items()
    }
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return jackknife_estimate(statistic(samples), level, effective_folds(sums))


def effective_folds(sums: Sums) -> float | None:
    """Kish's effective number of folds by number of rows; None if rows were not counted."""
    rows = sums.get("rows")
    return None if rows is None else float(rows.sum() ** 2 / np.square(rows).sum())


def jackknife_estimate(
    values: Float[NDArray[np.float64], "K1 ..."],
    level: float = 0.95,
    effective: float | None = None,
) -> Estimate:
    """An estimate with its jackknife interval, from a statistic of all folds (first) and without
    each fold.

    As ``interp.maths.intervals.jackknife``, vectorised: deviations are from the full estimate, and
    the degrees of freedom are ``effective`` folds (default: all) minus one. Interval ends are NaN
    without degrees of freedom.
    """
    value, others, folds = values[0], values[1:], len(values) - 1
    freedom = (folds if effective is None else effective) - 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spread = np.sqrt((folds - 1) / folds * np.square(others - value).sum(0))
        half = (
            special.stdtrit(freedom, (1 + level) / 2) * spread
            if freedom > 0
            else np.full_like(spread, np.nan)
        )
        return Estimate(np.where(np.isfinite(value), value, np.nan), value - half, value + half)


class TokenRates(NamedTuple):
    """Per latent [F]: firing rate on special and on other rows, and the share of its activity on
    special rows.
    """

    special: NDArray[np.float64]
    content: NDArray[np.float64]
    share: NDArray[np.float64]


class FoldSums:
    """Running sums in float64 per fold: of values at active codes ``[K, F]`` and of row values
    ``[K, ...]``.
    """

    def __init__(self, width: int, folds: int = FOLDS) -> None:
        if folds < 2:
            raise OptionError(f"an interval needs 2 folds or more, not {folds}")
        self.width, self.folds = width, folds
        self._sums: dict[str, Tensor] = {}

    def fold_of(self, documents: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The fold of each row, by its document number."""
        return documents.remainder(self.folds)

    def add(
        self, documents: Int[Tensor, " N"], codes: Codes, **values: Float[Tensor, " n"]
    ) -> None:
        """Add values at the active codes of a batch."""
        cells = self.fold_of(documents)[codes.pattern.rows] * self.width + codes.pattern.latents
        for name, value in values.items():
            total = self._sum(name, (self.width,), cells.device)
            total.view(-1).index_add_(0, cells, value.double())

    def add_rows(self, documents: Int[Tensor, " N"], **values: Float[Tensor, "N ..."]) -> None:
        """Add values per row."""
        for name, value in values.items():
            total = self._sum(name, tuple(value.shape[1:]), value.device)
            total.index_add_(0, self.fold_of(documents), value.double())

    def add_special(
        self, documents: Int[Tensor, " N"], codes: Codes, special: Bool[Tensor, " N"] | None = None
    ) -> None:
        """Count special rows and active codes on them, for ``token_rates``; None counts nothing."""
        if special is not None:
            counted = special.double()
            self.add(documents, codes, special=counted[codes.pattern.rows])
            self.add_rows(documents, special_rows=counted)

    def token_rates(self) -> TokenRates | None:
        """Activity on special and on other rows, from the sums ``count`` and ``rows``; None if
        special rows were not counted.
        """
        sums = {name: to_host(value.sum(0)) for name, value in self._sums.items()}
        if "special" not in sums:
            return None
        count, special = sums["count"], sums["special"]
        with np.errstate(divide="ignore", invalid="ignore"):
            other = (count - special) / (sums["rows"] - sums["special_rows"])
            return TokenRates(special / sums["special_rows"], other, special / count)

    def _sum(self, name: str, shape: Sequence[int], device: torch.device) -> Tensor:
        if name not in self._sums:
            self._sums[name] = torch.zeros(self.folds, *shape, dtype=torch.float64, device=device)
        return self._sums[name]

    def sums(self) -> dict[str, NDArray[np.float64]]:
        """All sums [K, ...]; raises OptionError if nothing was added."""
        if not self._sums:
            raise OptionError("no rows were given; there is nothing to compare")
        return {name: to_host(value) for name, value in self._sums.items()}

    def folds_active(self) -> NDArray[np.int64]:
        """Number of folds in which each latent is active, from the sum ``count``."""
        return (self.sums()["count"] > 0).sum(0)
