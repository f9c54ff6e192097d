"""How dictionaries are trained, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from interp.errors import OptionError, required
from interp.sae.core.config import SPARSE, DictionaryConfig

PRECISIONS = ("float32", "bfloat16")
BY_COUNT = (*SPARSE, "matching_pursuit")
"""Architectures whose codes are counted, so that no penalty decides on how many there are."""
SETTLED = "a number that Training.settled puts in"


@dataclass(frozen=True)
class Training:
    """Options of a training; a number that is None is settled by ``settled`` from the others.

    ``steps`` of ``batch`` rows each (of every process, where there are several). ``learning_rate``:
    of Adam, by default ``2e-4 / sqrt(F / 2^14)`` (Gao et al. 2024); it rises over ``warm_up`` steps
    and falls to 0 over the last share ``decay``. ``sparsity``: coefficient of the configured
    sparsity, rising over ``sparsity_warm_up`` steps; ``target_l0``: mean codes per input that
    architectures without ``k`` are steered to, by a coefficient that begins at ``sparsity`` and
    follows the L0 (of the convention ``target``: what stands in its loss). ``dead_after``: a latent
    that was not active for so many rows is dead. ``auxiliary``: coefficient of AuxK, whose
    ``auxiliary_count`` largest dead latents reconstruct what is left, in units of the loss of the
    mean, and ``revival`` of the distance, in it, of those that no input excites; ``rescue``: of
    dead latents' distance to their threshold, for architectures without ``k``. ``clip``: largest
    norm of a gradient, 0 for any. ``unit``: decoder rows keep norm 1, their gradients' parallel
    part is removed. ``precision``: of the encoder's product; weights and everything else are
    float32. ``threshold_rate``: of the running mean of the smallest kept value, by default 0.01,
    and more in fewer than 2,000 steps, so that it is of the last twentieth. ``centre``: the
    decoder's bias begins at the mean of the targets.
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
                    f"a training needs {name} of at least 1, not {getattr(self, name)}"
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
                raise OptionError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.dead_after is not None and self.dead_after < 1:
            raise OptionError(
                f"a latent cannot be dead after {self.dead_after} rows; give at least 1"
            )
        if self.precision not in PRECISIONS:
            raise OptionError(f"unknown precision {self.precision!r}; use {', '.join(PRECISIONS)}")
        object.__setattr__(self, "betas", tuple(self.betas))

    def settled(self, config: DictionaryConfig, world: int = 1) -> Training:
        """These options with every number that depends on a dictionary put in; OptionError for what
        it cannot reach.
        """
        if self.target_l0 and self.target_l0 > config.width:
            raise OptionError(
                f"an L0 of {self.target_l0:g} is more codes than the dictionary's {config.width}"
                " latents; give fewer, or a wider dictionary"
            )
        rows = self.steps * self.batch * world
        own = {
            "learning_rate": 2e-4 / math.sqrt(config.width / 2**14),
            "warm_up": min(1000, self.steps // 20),
            "sparsity": (
                0.0 if config.architecture in BY_COUNT else 1e-2 if self.steers(config) else 1.0
            ),
            "sparsity_warm_up": min(5000, self.steps // 10),
            "threshold_rate": min(1.0, max(0.01, 20 / self.steps)),
            "dead_after": min(10_000_000, max(self.batch * world, rows // 10)),
            # over models norms say whose a latent is, and ranking by norm needs free ones
            "unit": config.models == 1 and config.rank_by == "value",
        }
        return replace(
            self, **{name: value for name, value in own.items() if getattr(self, name) is None}
        )

    def steers(self, config: DictionaryConfig) -> bool:
        """Whether the coefficient of the sparsity follows ``target_l0``."""
        return (
            bool(self.target_l0)
            and config.architecture not in BY_COUNT
            and config.sparsity != "target"
        )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / (required(self.warm_up, SETTLED) + 1))
        falling = max(1, round(self.decay * self.steps))
        return (
            required(self.learning_rate, SETTLED)
            * rise
            * min(1.0, (self.steps - step) / falling if self.decay else 1.0)
        )

    def sparsity_at(self, step: int) -> float:
        """Coefficient of the sparsity at a step, counted from 0."""
        return required(self.sparsity, SETTLED) * min(
            1.0, step / self.sparsity_warm_up if self.sparsity_warm_up else 1.0
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Training:
        """Inverse of ``to_json``; OptionError names fields that this version does not know."""
        if unknown := sorted(set(value) - {field.name for field in fields(cls)}):
            raise OptionError(f"these options have the unknown field {unknown[0]!r}")
        return cls(**{**value, "betas": tuple(value.get("betas", cls.betas))})
