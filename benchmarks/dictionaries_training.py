"""A short training loop for synthetic inputs: what ``benchmarks.dictionaries_recovery`` and its tests train with.

Adam with warm-up and a linear decay over the last fifth; decoder rows of length 1, the gradient along them taken away;
AuxK for latents silent for long; L1 and step penalties steered so that L0 comes out as asked. ``fit`` can be
replaced by any function of the same arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries.config import BY_BATCH, SPARSE
from interp.dictionaries.losses import smallest_kept, training_loss


@dataclass(frozen=True)
class Settings:
    """How long and how fast; ``dead_after`` inputs without firing a latent counts as dead."""

    steps: int = 2000
    lr: float = 2e-3
    warm: float = 0.05
    decay: float = 0.2
    dead_after: int = 50_000
    auxiliary: float = 1 / 32


def config_of(architecture: str, width: int, latents: int, l0: float) -> DictionaryConfig:
    """An architecture's configuration for a mean of ``l0`` codes."""
    more = {"k": max(1, round(l0))} if architecture in SPARSE else {}
    if architecture == "matryoshka":
        more["prefixes"] = tuple(sorted({max(1, latents // part) for part in (16, 8, 4, 2)} | {latents}))
    if architecture == "matching_pursuit":
        more |= {"steps": max(1, round(l0)), "residual_threshold": 0.0}
    if architecture == "jumprelu":
        more["sparsity"] = "step"
    return DictionaryConfig(architecture, width, latents, **more)


def rate(step: int, settings: Settings) -> float:
    """Share of the learning rate at a step."""
    rising = (step + 1) / max(1, settings.warm * settings.steps)
    falling = (settings.steps - step) / max(1, settings.decay * settings.steps)
    return min(1.0, rising, falling)


def fit(
    config: DictionaryConfig, batch: Callable[[int], Tensor], l0: float, settings: Settings, seed: int = 0
) -> Dictionary:
    """Train on ``batch(0)``, ``batch(1)``, ...; ``l0`` is what architectures without ``k`` are steered to."""
    dictionary = Dictionary(config, seed=seed)
    with torch.no_grad():
        dictionary.b_dec.copy_(batch(0).mean(0))
        if config.architecture == "jumprelu":
            dictionary.threshold.fill_(0.1)
            dictionary.bandwidth = 0.1
    steered = config.architecture not in (*SPARSE, "matching_pursuit")
    optimiser = torch.optim.Adam(dictionary.parameters(), settings.lr)
    silent = torch.zeros(config.width)
    strength, threshold = 1e-2, None
    for step in range(settings.steps):
        x = batch(step)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * rate(step, settings)
        optimiser.zero_grad()
        dead = silent > settings.dead_after
        loss = training_loss(
            dictionary, x, sparsity=strength if steered else 0.0, dead=dead if bool(dead.any()) else None,
            auxiliary=settings.auxiliary,
        )  # fmt: skip
        loss.total.backward()
        with torch.no_grad():
            rows, slope = dictionary.W_dec, dictionary.W_dec.grad
            slope -= (slope * rows).sum(1, keepdim=True) * rows
            optimiser.step()
            rows /= rows.norm(dim=1, keepdim=True)
            if config.architecture == "jumprelu":
                dictionary.threshold.clamp_min_(0)
        counts = loss.found.codes.counts()
        silent = torch.where(counts > 0, 0.0, silent + len(x))
        if steered:
            excess = (float(counts.sum()) / len(x) + 1e-3) / l0
            strength = min(max(strength * excess**0.05, 1e-5), 10.0)
        kept = smallest_kept(dictionary, loss.found.codes) if config.architecture in BY_BATCH else None
        if kept is not None:
            threshold = kept if threshold is None else threshold + 0.01 * (kept - threshold)
            dictionary.threshold.fill_(threshold)
    return dictionary.requires_grad_(False)
