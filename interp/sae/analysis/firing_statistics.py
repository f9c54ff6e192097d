"""Firing rates and activations of latents, accumulated over batches, and the positions at which
some of them fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.maths.host import to_host
from interp.sae.analysis.token_labels import ActiveTokens
from interp.sae.core.sparse_products import Codes

SPECIAL, CONTENT = range(2)


@dataclass(eq=False)
class FiringStatistics:
    """Sums over tokens for each of F latents: number of active special and content tokens, sum of
    codes, largest code.
    """

    latents: int
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        self.tokens = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.fired = torch.zeros(2, self.latents, dtype=torch.int64, device=self.device)
        self.total = torch.zeros(self.latents, dtype=torch.float64, device=self.device)
        self.largest = torch.zeros(self.latents, dtype=torch.float64, device=self.device)

    def update(self, codes: Codes, part: Int[Tensor, " N"]) -> FiringStatistics:
        """Add codes of N tokens, each ``SPECIAL`` or ``CONTENT``. Returns itself."""
        is_active = codes.values != 0
        latents, values = codes.pattern.latents[is_active], codes.values[is_active].double()
        cells = part[codes.pattern.rows[is_active]] * self.latents + latents
        self.fired += torch.bincount(cells, minlength=2 * self.latents).view(2, self.latents)
        self.tokens += torch.bincount(part, minlength=2)
        self.total.index_add_(0, latents, values)
        self.largest.scatter_reduce_(0, latents, values, "amax")
        return self

    @property
    def counts(self) -> Int[np.ndarray, " F"]:
        """Number of tokens on which each latent is active."""
        return to_host(self.fired.sum(0))

    @property
    def density(self) -> Float[np.ndarray, " F"]:
        """Share of tokens on which each latent is active."""
        return self.counts / max(1, int(to_host(self.tokens.sum())))

    @property
    def densities(self) -> Float[np.ndarray, "two F"]:
        """The same among special and among content tokens; NaN if there are none."""
        tokens = to_host(self.tokens)[:, None]
        return np.where(tokens > 0, to_host(self.fired) / np.maximum(tokens, 1), np.nan)

    @property
    def mean(self) -> Float[np.ndarray, " F"]:
        """Mean code where active; NaN for a latent that never is."""
        return np.where(self.counts > 0, to_host(self.total) / np.maximum(self.counts, 1), np.nan)

    @property
    def maximum(self) -> Float[np.ndarray, " F"]:
        """Largest code; 0 for a latent that is never active."""
        return to_host(self.largest)


@dataclass(eq=False)
class ActivePositions:
    """Token positions and codes at which some latents are active."""

    latents: Sequence[int]
    width: int
    _parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def update(self, codes: Codes, rows: Int[Tensor, " N"]) -> ActivePositions:
        """Add codes of N tokens, whose positions among all tokens are ``rows``. Returns itself."""
        is_requested = torch.zeros(self.width, dtype=torch.bool, device=codes.values.device)
        is_requested[
            torch.tensor(list(self.latents), dtype=torch.int64, device=is_requested.device)
        ] = True
        is_active = is_requested[codes.pattern.latents] & (codes.values != 0)
        columns = (
            codes.pattern.latents[is_active],
            rows.to(is_requested.device)[codes.pattern.rows[is_active]],
            codes.values[is_active].double(),
        )
        latents, tokens, values = (to_host(part) for part in columns)
        self._parts.append((latents, tokens, values))
        return self

    def result(self) -> dict[int, ActiveTokens]:
        """Positions and codes of each requested latent, by increasing position."""
        nothing = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        latents, rows, values = (
            np.concatenate(part) for part in zip(*(self._parts or nothing), strict=True)
        )
        order = np.lexsort((rows, latents))
        latents, rows, values = latents[order], rows[order], values[order]
        ends = {
            latent: np.searchsorted(latents, [latent, latent + 1])
            for latent in map(int, self.latents)
        }
        return {latent: ActiveTokens(rows[a:b], values[a:b]) for latent, (a, b) in ends.items()}
