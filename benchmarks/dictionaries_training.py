"""Training on synthetic inputs by the package's own learner: what
``benchmarks.dictionaries_recovery`` trains with.

A step is ``interp sae train``'s; only the rows come from elsewhere. Architectures without ``k`` are
steered to an L0; decoder rows have free norms (``interp sae train --free-norms``), as in SAELens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.sae import Dictionary, DictionaryConfig, Training
from interp.sae.core.config import TOPK_ARCHITECTURES
from interp.sae.training.learner import FREE_NORM, Learner


@dataclass(frozen=True)
class Settings:
    """How long and how fast; ``dead_after`` inputs without firing a latent counts as dead."""

    steps: int = 2000
    lr: float = 2e-3
    warm: float = 0.05
    decay: float = 0.2
    dead_after: int = 50_000

    def training(self, l0: float, batch: int) -> Training:
        """These as options of a training."""
        return Training(
            self.steps,
            batch,
            learning_rate=self.lr,
            warm_up=int(self.warm * self.steps),
            decay=self.decay,
            dead_after=self.dead_after,
            target_l0=l0,
            unit=False,
        )


def config_of(architecture: str, width: int, latents: int, l0: float) -> DictionaryConfig:
    """An architecture's configuration for a mean of ``l0`` codes."""
    more: dict[str, Any] = {"k": max(1, round(l0))} if architecture in TOPK_ARCHITECTURES else {}
    if architecture == "matryoshka":
        more["prefixes"] = tuple(
            sorted({max(1, latents // part) for part in (16, 8, 4, 2)} | {latents})
        )
    if architecture == "matching_pursuit":
        more |= {"steps": max(1, round(l0)), "residual_threshold": 0.0}
    if architecture == "jumprelu":
        more["sparsity"] = "step"
    if architecture in TOPK_ARCHITECTURES:
        more["rank_by"] = "norm"
    return DictionaryConfig(architecture, width, latents, **more)


def fit(
    config: DictionaryConfig,
    batch: Callable[[int], Tensor],
    l0: float,
    settings: Settings,
    seed: int = 0,
) -> Dictionary:
    """Train on ``batch(0)``, ``batch(1)``, ...; ``l0`` is what architectures without ``k`` are
    steered to.
    """
    norm = 1.0 if config.architecture == "matching_pursuit" else FREE_NORM
    dictionary, first = Dictionary(config, seed=seed, decoder_norm=norm), batch(0)
    if config.architecture == "jumprelu":
        with torch.no_grad():
            dictionary.threshold.fill_(0.1)
        dictionary.bandwidth = 0.1
    learner = Learner(
        config.architecture,
        dictionary,
        settings.training(float(l0), len(first)).with_defaults(config),
    )
    learner.centre(first.mean(0), first.std(0), first.square().mean(0, keepdim=True).mean(1).sqrt())
    for step in range(settings.steps):
        learner.step(step, batch(step), None)
    return dictionary.requires_grad_(False)
