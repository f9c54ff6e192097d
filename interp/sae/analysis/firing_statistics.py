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
from interp.sae.analysis.token_labels import Active
from interp.sae.core.sparse_products import Codes

SPECIAL, CONTENT = range(2)


@dataclass(eq=False)
class Activity:
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

    def update(self, codes: Codes, part: Int[Tensor, " N"]) -> Activity:
        """Add codes of N tokens, each ``SPECIAL`` or ``CONTENT``. Returns itself."""
        on = codes.values != 0
        latents, values = codes.pattern.latents[on], codes.values[on].double()
        place = part[codes.pattern.rows[on]] * self.latents + latents
        self.fired += torch.bincount(place, minlength=2 * self.latents).view(2, self.latents)
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
class TopActivations:
    """Token positions and codes at which some latents are active."""

    latents: Sequence[int]
    width: int
    _parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def update(self, codes: Codes, rows: Int[Tensor, " N"]) -> TopActivations:
        """Add codes of N tokens, whose positions among all tokens are ``rows``. Returns itself."""
        wanted = torch.zeros(self.width, dtype=torch.bool, device=codes.values.device)
        wanted[torch.tensor(list(self.latents), dtype=torch.int64, device=wanted.device)] = True
        on = wanted[codes.pattern.latents] & (codes.values != 0)
        found = (
            codes.pattern.latents[on],
            rows.to(wanted.device)[codes.pattern.rows[on]],
            codes.values[on].double(),
        )
        latents, tokens, values = (to_host(part) for part in found)
        self._parts.append((latents, tokens, values))
        return self

    def result(self) -> dict[int, Active]:
        """Positions and codes of each requested latent, by increasing position."""
        nothing = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        which, rows, values = (
            np.concatenate(part) for part in zip(*(self._parts or nothing), strict=True)
        )
        order = np.lexsort((rows, which))
        which, rows, values = which[order], rows[order], values[order]
        ends = {
            latent: np.searchsorted(which, [latent, latent + 1])
            for latent in map(int, self.latents)
        }
        return {latent: Active(rows[a:b], values[a:b]) for latent, (a, b) in ends.items()}
