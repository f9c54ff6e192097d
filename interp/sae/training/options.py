"""Training options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from interp.errors import OptionError, required
from interp.sae.core.config import TOPK_ARCHITECTURES, DictionaryConfig

PRECISIONS = ("float32", "bfloat16")
FIXED_COUNT = (*TOPK_ARCHITECTURES, "matching_pursuit")
"""Architectures whose number of codes is set directly and not by a penalty."""
HAS_DEFAULT = "a value that Training.with_defaults fills in"


@dataclass(frozen=True)
class Training:
    """Options of a training run; ``with_defaults`` fills in those that are None.

    ``steps`` of ``batch`` rows each (per process). ``learning_rate``: of Adam, by default ``2e-4 /
    sqrt(F / 2^14)`` (Gao et al. 2024); it increases over ``warm_up`` steps and decreases to 0 over
    the last share ``decay``. ``sparsity``: coefficient of the configured sparsity loss, increasing
    over ``sparsity_warm_up`` steps. ``target_l0``: mean number of codes per input to reach for
    architectures without ``k``; the coefficient starts at ``sparsity`` and is adjusted to the
    measured L0 (for the sparsity loss ``target`` it is the target in the loss). ``dead_after``:
    number of rows without activity after which a latent is dead. ``auxiliary``: coefficient of
    AuxK, in units of the loss of predicting the mean; ``auxiliary_count``: number of dead latents
    used per input; ``revival``: weight of the distance term for dead latents that no input
    activates. ``rescue``: coefficient of dead latents' distance to their threshold, for
    architectures without ``k``. ``clip``: maximum gradient norm, 0 for no clipping. ``unit``: keep
    decoder rows at norm 1 and remove the parallel part of their gradients. ``precision``: of the
    encoder's matrix product; everything else is float32. ``threshold_rate``: rate of the running
    mean of the smallest selected value, by default 0.01 and larger with fewer than 2,000 steps, so
    that it covers the last twentieth. ``centre``: initialise the decoder bias at the mean of the
    targets.
    """

    steps: int
    batch: int = 4096
    learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    warm_up: int | None = None
    decay: float = 0.2
    sparsity: float | None = None
    sparsity_warm_up: int | None = None
    target_l0: float | None = None
    dead_after: int | None = None
    auxiliary: float = 1 / 32
    auxiliary_count: int | None = None
    revival: float = 1.0
    rescue: float = 3e-6
    clip: float = 1.0
    unit: bool | None = None
    precision: str = "float32"
    threshold_rate: float | None = None
    centre: bool = True
    checkpoint_every: int = 1000
    log_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise OptionError(
                    f"a training run needs {name} of at least 1, not {getattr(self, name)}"
                )
        for name in (
            "learning_rate",
            "sparsity",
            "warm_up",
            "sparsity_warm_up",
            "auxiliary",
            "revival",
            "rescue",
            "clip",
            "target_l0",
        ):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise OptionError(f"{name} must be a number of at least 0, not {value}")
        for name in ("decay", "threshold_rate"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.dead_after is not None and self.dead_after < 1:
            raise OptionError(f"dead_after must be at least 1 row, not {self.dead_after}")
        if self.precision not in PRECISIONS:
            raise OptionError(f"unknown precision {self.precision!r}; use {', '.join(PRECISIONS)}")
        object.__setattr__(self, "betas", tuple(self.betas))

    def with_defaults(self, config: DictionaryConfig, world: int = 1) -> Training:
        """These options with defaults filled in for a dictionary; raises OptionError for an L0 that
        it cannot reach.
        """
        if self.target_l0 and self.target_l0 > config.width:
            raise OptionError(
                f"a target L0 of {self.target_l0:g} exceeds the dictionary's {config.width}"
                " latents; give a smaller one, or a wider dictionary"
            )
        rows = self.steps * self.batch * world
        defaults = {
            "learning_rate": 2e-4 / math.sqrt(config.width / 2**14),
            "warm_up": min(1000, self.steps // 20),
            "sparsity": (
                0.0
                if config.architecture in FIXED_COUNT
                else 1e-2
                if self.steers_l0(config)
                else 1.0
            ),
            "sparsity_warm_up": min(5000, self.steps // 10),
            "threshold_rate": min(1.0, max(0.01, 20 / self.steps)),
            "dead_after": min(10_000_000, max(self.batch * world, rows // 10)),
            # a crosscoder's norms show which model has a latent, and ranking by norm needs free
            # norms
            "unit": config.models == 1 and config.rank_by == "value",
        }
        return replace(
            self, **{name: value for name, value in defaults.items() if getattr(self, name) is None}
        )

    def steers_l0(self, config: DictionaryConfig) -> bool:
        """Whether the sparsity coefficient is adjusted to ``target_l0``."""
        return (
            bool(self.target_l0)
            and config.architecture not in FIXED_COUNT
            and config.sparsity != "target"
        )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counting from 0."""
        warm_up = min(1.0, (step + 1) / (required(self.warm_up, HAS_DEFAULT) + 1))
        decay_steps = max(1, round(self.decay * self.steps))
        return (
            required(self.learning_rate, HAS_DEFAULT)
            * warm_up
            * min(1.0, (self.steps - step) / decay_steps if self.decay else 1.0)
        )

    def sparsity_at(self, step: int) -> float:
        """Sparsity coefficient at a step, counting from 0."""
        return required(self.sparsity, HAS_DEFAULT) * min(
            1.0, step / self.sparsity_warm_up if self.sparsity_warm_up else 1.0
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Training:
        """Inverse of ``to_json``; raises OptionError for fields that this version does not know."""
        if unknown := sorted(set(value) - {field.name for field in fields(cls)}):
            raise OptionError(f"these options have the unknown field {unknown[0]!r}")
        return cls(**{**value, "betas": tuple(value.get("betas", cls.betas))})
