"""Synthetic activations with known features: sums of directions that fire independently, in trees,
or correlated.

``flat``: independent firing. ``hierarchical``: trees of mutually exclusive parents with mutually
exclusive children, plus single features, after the data of Costa et al. (2025, arXiv 2506.03093).
``scaled``: after SynthSAEBench (arXiv 2602.14687): Zipf frequencies, a forest of mutually exclusive
children, a low-rank Gaussian copula. The data of that benchmark cannot be downloaded everywhere;
this generates similar data from a seed, at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host

Fire = Callable[[int, torch.Generator], Tensor]

# independent streams of random numbers
_WORLD, _TRAINING, _HELD_OUT = range(3)
_SEED_OFFSET = 0xDA7A


class Draw(NamedTuple):
    """Inputs and the codes that made them: ``x = codes @ directions + bias``."""

    x: Float[Tensor, "N D"]
    codes: Float[Tensor, "N G"]


@dataclass(frozen=True, eq=False)
class World:
    """True ``directions`` (unit rows) and how they fire; ``parents`` [G] is -1 for features without
    a parent.

    ``mean`` and ``spread``: of magnitudes (normal, clipped at 0). A child fires only if its parent
    does.
    """

    name: str
    directions: Float[Tensor, "G D"]
    bias: Float[Tensor, " D"]
    parents: Int[Tensor, " G"]
    fire: Fire
    mean: float
    spread: float
    seed: int

    def draw(self, count: int, batch: int = 0, *, held_out: bool = False) -> Draw:
        """Batch number ``batch``, independent of other draws; ``held_out`` batches never occur in
        training.
        """
        generator = _generator(self.seed, _HELD_OUT if held_out else _TRAINING, batch)
        fires = self.fire(count, generator)
        size = self.mean + self.spread * torch.randn(int(to_host(fires.sum())), generator=generator)
        codes = torch.zeros(fires.shape).masked_scatter_(fires, size.relu())
        return Draw(codes @ self.directions + self.bias, codes)

    @property
    def overlap(self) -> float:
        """Mean over features of the largest absolute cosine with another feature."""
        return _overlap(self.directions)


def _generator(seed: int, stream: int, batch: int = 0) -> torch.Generator:
    mixed = np.random.SeedSequence([_SEED_OFFSET, seed, stream, batch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def _overlap(directions: Tensor) -> float:
    cosines = (directions @ directions.T).abs().fill_diagonal_(0)
    return float(to_host(cosines.max(1).values.mean()))


def spread_directions(
    features: int, width: int, generator: torch.Generator, overlap: float = 0.0, steps: int = 200
) -> Float[Tensor, "G D"]:
    """Unit rows: orthonormal if they fit, otherwise separated by Adam until their mean largest
    overlap is reached.

    If ``overlap`` is not reached in ``steps`` steps, the last rows are used; see ``World.overlap``.
    """
    rows = torch.randn(features, width, generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    if features <= width and not overlap:
        return torch.linalg.qr(rows.T)[0].T.contiguous()
    free = rows.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], 0.01)
    for _ in range(steps):
        if overlap and _overlap(rows) <= overlap:
            break
        optimiser.zero_grad()
        gram = free @ free.T
        off = gram - torch.diag(gram.diagonal())
        (off.square().sum() + features * (gram.diagonal() - 1).square().sum()).backward()
        optimiser.step()
        if overlap:
            rows = free.detach() / free.detach().norm(dim=1, keepdim=True)
    return free.detach() / free.detach().norm(dim=1, keepdim=True)


def _bias(width: int, norm: float, generator: torch.Generator) -> Tensor:
    free = torch.randn(width, generator=generator)
    return norm * free / free.norm()


def flat(
    features: int = 64,
    width: int = 32,
    *,
    low: float = 0.01,
    high: float = 0.2,
    bias: float = 1.0,
    exactly: int | None = None,
    seed: int = 0,
) -> World:
    """Independent features with firing probabilities log-uniform from ``low`` to ``high``.

    ``exactly``: this many features fire in every input, drawn without replacement with these
    probabilities as weights.
    """
    _require(
        0 < low <= high <= 1,
        f"probabilities from {low} to {high} are invalid; use 0 < low <= high <= 1",
    )
    _require(
        exactly is None or 1 <= exactly <= features,
        f"exactly {exactly} of {features} features cannot fire",
    )
    generator = _generator(seed, _WORLD)
    p = torch.exp(
        torch.empty(features).uniform_(math.log(low), math.log(high), generator=generator)
    )

    def fire(count: int, stream: torch.Generator) -> Bool[Tensor, "N G"]:
        chance = torch.rand(count, features, generator=stream)
        if exactly is None:
            return chance < p
        # the first of exponential clocks (Efraimidis and Spirakis 2006)
        first = (-chance.log() / p).topk(exactly, dim=1, largest=False).indices
        return torch.zeros(count, features, dtype=torch.bool).scatter_(1, first, True)

    directions = spread_directions(features, width, generator)
    parents = torch.full((features,), -1)
    return World("flat", directions, _bias(width, bias, generator), parents, fire, 1.0, 0.25, seed)


def hierarchical(
    trees: int = 1,
    singles: int = 8,
    width: int = 32,
    *,
    active: float = 1.0,
    single: float = 0.05,
    seed: int = 0,
) -> World:
    """``trees`` of 3 parents with 3 children each (12 features), and ``singles`` single features.

    A tree is active with probability ``active``; then each of its parents fires with probability
    0.2, at most one, and if a parent fires each of its children with 0.2, at most one. ``single``:
    firing probability of each single feature.
    """
    _require(0 < active <= 1 and 0 < single <= 1, "active and single are probabilities above 0")
    generator = _generator(seed, _WORLD)
    features = 12 * trees + singles
    parents = torch.full((features,), -1)
    # tree by tree: parents at 0, 1, 2 and the children of parent i at 3 + 3i and after
    within = torch.tensor([-1] * 3 + [i // 3 for i in range(9)])
    for tree in range(trees):
        parents[12 * tree : 12 * tree + 12] = torch.where(within < 0, -1, within + 12 * tree)

    def fire(count: int, stream: torch.Generator) -> Bool[Tensor, "N G"]:
        awake = torch.rand(count, trees, 1, generator=stream) < active
        upper = (torch.rand(count, trees, 1, generator=stream) / 0.2).long() == torch.arange(3)
        upper = upper & awake
        lower = (torch.rand(count, trees, 3, 1, generator=stream) / 0.2).long() == torch.arange(3)
        lower = (lower & upper[..., None]).flatten(2)
        alone = torch.rand(count, singles, generator=stream) < single
        return torch.cat([torch.cat([upper, lower], 2).flatten(1), alone], 1)

    directions = spread_directions(features, width, generator)
    return World("hierarchical", directions, torch.zeros(width), parents, fire, 1.5, 0.25, seed)


def scaled(
    features: int = 512,
    width: int = 64,
    *,
    roots: int = 4,
    branching: int = 4,
    depth: int = 3,
    zipf: float = 0.5,
    low: float = 5e-4,
    high: float = 0.4,
    rank: int = 25,
    correlation: float = 0.1,
    overlap: float = 0.15,
    seed: int = 0,
) -> World:
    """Zipf frequencies, a forest with mutually exclusive siblings, and correlations by a copula of
    low ``rank``.

    Frequencies decrease as ``index ** -zipf`` from ``high`` to ``low``. The forest consists of the
    most frequent features, breadth first; the others fire on their own. A feature fires if its
    normal variable exceeds ``sqrt(2) erfinv(1 - 2p)``; a child's p is conditional on its parent,
    and of several siblings that would fire a random one is kept, so children are rarer than the
    Zipf law. ``overlap``: target of the mean largest overlap.
    """
    _require(
        0 < low <= high < 1,
        f"probabilities from {low} to {high} are invalid; use 0 < low <= high < 1",
    )
    _require(
        rank * correlation**2 < 1,
        f"rank {rank} times correlation {correlation} squared must stay below 1",
    )
    levels = [roots * branching**level for level in range(depth + 1)]
    _require(
        sum(levels) <= features, f"a forest of {sum(levels)} features does not fit into {features}"
    )
    generator = _generator(seed, _WORLD)
    weight = torch.arange(1, features + 1, dtype=torch.float64) ** -zipf
    span = float(to_host(weight.max() - weight.min()))
    p = low + (high - low) * (weight - weight.min()) / (span if span > 0 else 1.0)
    parents, starts = torch.full((features,), -1), [0]
    for level in levels:
        starts.append(starts[-1] + level)
    for level in range(1, depth + 1):
        parents[starts[level] : starts[level + 1]] = (
            torch.arange(levels[level]) // branching + starts[level - 1]
        )
    has = parents >= 0
    conditional = torch.where(has, (p / p[parents.clamp_min(0)]).clamp_max(1 - 1e-6), p)
    threshold = (math.sqrt(2) * torch.erfinv(1 - 2 * conditional)).float()
    factor = torch.randn(features, rank, generator=generator) * correlation
    # every feature keeps some variance of its own
    factor = factor * (0.99**0.5 / factor.norm(dim=1, keepdim=True)).clamp_max(1.0)
    noise = (1 - factor.square().sum(1)).sqrt()

    def fire(count: int, stream: torch.Generator) -> Bool[Tensor, "N G"]:
        shared = torch.randn(count, rank, generator=stream) @ factor.T
        normal = shared + noise * torch.randn(count, features, generator=stream)
        fires = normal > threshold
        for level in range(1, depth + 1):
            part = slice(starts[level], starts[level + 1])
            wants = (fires[:, part] & fires[:, parents[part]]).unflatten(1, (-1, branching))
            lot = torch.rand(wants.shape, generator=stream) * wants
            fires[:, part] = (wants & (lot == lot.max(2, keepdim=True).values)).flatten(1)
        return fires

    directions = spread_directions(features, width, generator, overlap)
    return World("scaled", directions, torch.zeros(width), parents, fire, 1.0, 0.25, seed)


RECIPES: dict[str, Callable[..., World]] = {
    "flat": flat,
    "hierarchical": hierarchical,
    "scaled": scaled,
}


def benchmark_world(name: str, seed: int = 0, features: int = 512) -> World:
    """A recipe with 512 features in width 64, about seven active at a time, or 128 in width 32,
    three or four active.

    Raises OptionError for an unknown name or size.
    """
    sizes: dict[int, dict[str, dict]] = {
        512: {
            "flat": {"features": 512, "width": 64, "low": 1e-3, "high": 0.06},
            "hierarchical": {
                "trees": 32,
                "singles": 128,
                "width": 64,
                "active": 0.15,
                "single": 0.02,
            },
            "scaled": {},
        },
        128: {
            "flat": {"features": 128, "width": 32, "low": 4e-3, "high": 0.1},
            "hierarchical": {
                "trees": 8,
                "singles": 32,
                "width": 32,
                "active": 0.25,
                "single": 0.03,
            },
            "scaled": {"features": 128, "width": 32, "roots": 1},
        },
    }
    _require(name in RECIPES, f"unknown recipe {name!r}; use {', '.join(RECIPES)}")
    _require(
        features in sizes,
        f"recipes exist for {' or '.join(map(str, sizes))} features, not {features}",
    )
    return RECIPES[name](**sizes[features][name], seed=seed)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)


def rates(world: World, count: int = 20_000) -> np.ndarray:
    """Firing rate of each feature, over ``count`` held-out draws."""
    return to_host((world.draw(count, 2**20, held_out=True).codes > 0).double().mean(0))
