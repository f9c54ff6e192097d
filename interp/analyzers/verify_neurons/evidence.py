"""What the interventions gave, as claims and tables read it."""

from dataclasses import dataclass, field

import numpy as np

from interp.errors import required
from interp.models.units import NEURON, Unit
from interp.trials.conditions import Judged
from interp.trials.patching import Patched


@dataclass
class Evidence:
    """What the interventions gave, before anything is claimed."""

    judged: list[Judged]
    changed: np.ndarray
    rows: list[int]
    has_base: bool
    selected: int
    sets: list = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    dose: dict[str, dict[int, float]] = field(default_factory=dict)
    random_dose: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    random: dict[str, list[float]] = field(default_factory=dict)
    harmless: list[float] = field(default_factory=list)
    patching: dict[str, Patched] = field(default_factory=dict)
    patch: str = "contribution"
    depth: int = 0
    tuned: int | None = None
    unit: Unit = NEURON

    def get(self, condition: str, group: str) -> Judged | None:
        """The judgement of one condition and class, or None where it was not run."""
        return next((item for item in self.judged if (item.condition, item.group) == (condition, group)), None)

    def require(self, condition: str, group: str) -> Judged:
        """The judgement of one condition and class, or OptionError where it was not run."""
        return required(self.get(condition, group), f"what {condition} answers to {group} prompts")

    @property
    def ablation(self) -> str:
        """The condition that the claims are about."""
        return "ablate-base" if self.has_base else "ablate-mean"
