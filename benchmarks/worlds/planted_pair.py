"""Activations of a pair of models whose differences are known: a planted fine-tune, its control, an
identical pair.

Rows of both models are sums of directions that fire together, plus independent noise. Some
directions exist in one model only. Distractors exist in both, but are rotated or larger in the
tuned model, and must not be classified as tuned-only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host

KINDS = ("shared", "easy", "narrow", "base-only", "rotated", "rescaled")
TRUTH = {"easy": "tuned-only", "narrow": "tuned-only"}
"""Class of a kind, if it is not the kind itself."""

VARIANTS = ("planted", "control", "identical", "exchanged")
NONE = "none"
"""Kind of a latent that resembles no planted feature."""


class Rows(NamedTuple):
    """Rows of both models, and their document numbers."""

    base: Float[Tensor, "N D"]
    tuned: Float[Tensor, "N D"]
    documents: Int[Tensor, " N"]

    @property
    def both(self) -> Float[Tensor, "N D2"]:
        """The input of a crosscoder: [base | tuned]."""
        return torch.cat([self.base, self.tuned], 1)


@dataclass(frozen=True, eq=False)
class PlantedPair:
    """Directions of each feature in both models and their firing rates; ``kinds`` [G]: how each
    feature was changed.
    """

    base: Float[Tensor, "G D"]
    tuned: Float[Tensor, "G D"]
    rates: Float[Tensor, " G"]
    kinds: tuple[str, ...]
    variant: str
    noise: float
    per_document: int
    seed: int

    def draw(self, documents: int, batch: int = 0) -> Rows:
        """Rows of some documents, numbered from ``batch * documents``; deterministic for each
        batch.

        Firing rates vary between documents, so rows of one document are not independent.
        """
        generator = _generator(self.seed, 1, batch)
        count, features = documents * self.per_document, len(self.rates)
        lift = torch.randn(documents, features, generator=generator).mul(0.7).exp() / math.exp(
            0.245
        )
        p = (self.rates * lift).clamp_max(0.9).repeat_interleave(self.per_document, 0)
        size = (1 + 0.25 * torch.randn(count, features, generator=generator)).relu()
        codes = size * (torch.rand(count, features, generator=generator) < p)
        base = codes @ self.base + self.noise * torch.randn(
            count, self.base.shape[1], generator=generator
        )
        number = torch.arange(documents) + batch * documents
        number = number.repeat_interleave(self.per_document)
        if self.variant == "identical":
            return Rows(base, base.clone(), number)
        tuned = codes @ self.tuned + self.noise * torch.randn(
            count, self.tuned.shape[1], generator=generator
        )
        if self.variant == "exchanged":
            swap = (torch.rand(documents, generator=generator) < 0.5).repeat_interleave(
                self.per_document
            )[:, None]
            base, tuned = torch.where(swap, tuned, base), torch.where(swap, base, tuned)
        return Rows(base, tuned, number)

    @property
    def active(self) -> float:
        """Mean number of active features per row."""
        return float(to_host(self.rates.sum()))

    @property
    def classes(self) -> list[str]:
        """The true class of every feature."""
        return [TRUTH.get(kind, kind) for kind in self.kinds]

    def closest(
        self, rows: Float[Tensor, "F O"], comparison: str, min_cosine: float = 0.7
    ) -> NDArray[np.int64]:
        """The feature with the largest |cosine| to each latent's decoder row; -1 if it is below
        ``min_cosine``.

        ``comparison``: "crosscoder" (rows [base | tuned]), "difference" (tuned minus base), "base"
        or "tuned".
        """
        truth = {
            "crosscoder": torch.cat([self.base, self.tuned], 1),
            "difference": self.tuned - self.base,
            "base": self.base,
            "tuned": self.tuned,
        }[comparison].double()
        rows = rows.detach().double().to(truth.device)
        unit = [m / m.norm(dim=1, keepdim=True).clamp_min(1e-12) for m in (rows, truth)]
        best = (unit[0] @ unit[1].T).abs().max(1)
        return to_host(torch.where(best.values >= min_cosine, best.indices, -1))


def _generator(seed: int, stream: int, batch: int = 0) -> torch.Generator:
    mixed = np.random.SeedSequence([0xD1FF, seed, stream, batch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def planted_pair(
    width: int = 64,
    *,
    shared: int = 16,
    easy: int = 4,
    narrow: int = 4,
    base_only: int = 4,
    rotated: int = 4,
    rescaled: int = 4,
    angle: float = 30.0,
    factor: float = 2.0,
    noise: float = 0.05,
    per_document: int = 16,
    variant: str = "planted",
    seed: int = 0,
) -> PlantedPair:
    """A pair of models with known differences. Easy features fire in 8 % of rows, narrow ones in
    0.5 %, others in 2 to 15 %. ``control``: the same features, all shared, with independent noise.
    ``identical``: the tuned rows equal the base's. ``exchanged``: the planted pair with base and
    tuned exchanged in half of the documents.

    Directions are orthonormal if ``width`` allows it, otherwise random.
    """
    if variant not in VARIANTS:
        raise OptionError(f"unknown variant {variant!r}; use {', '.join(VARIANTS)}")
    counts = dict(zip(KINDS, (shared, easy, narrow, base_only, rotated, rescaled), strict=True))
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    generator = _generator(seed, 0)
    directions = torch.randn(len(kinds) + rotated, width, generator=generator)
    if len(directions) <= width:
        directions = torch.linalg.qr(directions.T)[0].T.contiguous()
    else:
        directions = directions / directions.norm(dim=1, keepdim=True)
    directions, aside = directions[: len(kinds)], list(directions[len(kinds) :])
    low, high = math.log(0.02), math.log(0.15)
    rates = torch.empty(len(kinds)).uniform_(low, high, generator=generator).exp()
    base, tuned = directions.clone(), directions.clone()
    for index, kind in enumerate(kinds):
        rates[index] = {"easy": 0.08, "narrow": 0.005}.get(kind, rates[index])
        if variant in ("control", "identical"):
            continue
        if kind in TRUTH:
            base[index] = 0
        elif kind == "base-only":
            tuned[index] = 0
        elif kind == "rotated":
            off = aside.pop()
            off = off - (off @ directions[index]) * directions[index]
            turn = math.radians(angle)
            tuned[index] = math.cos(turn) * directions[index] + math.sin(turn) * off / off.norm()
        elif kind == "rescaled":
            tuned[index] = factor * directions[index]
    if variant in ("control", "identical"):
        kinds = ["shared"] * len(kinds)
    return PlantedPair(base, tuned, rates, tuple(kinds), variant, noise, per_document, seed)
