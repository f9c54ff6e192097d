"""Results of the interventions, as claims and tables read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from interp.errors import required
from interp.experiments.conditions import ConditionResult
from interp.experiments.patching import PatchingResult
from interp.experiments.sampled import SampledAnswers
from interp.models.units import NEURON, Unit

Effects = Mapping[str, float]
"""``exact``, ``behaviour``, ``recovery``, ``rate`` and ``difference`` of a set: see
``Outcomes.effects``.
"""


@dataclass
class Evidence:
    """Results of the interventions, before claims are made.

    ``dose``: effects of the prefixes of the ranking by direction and size; ``random_dose`` and
    ``random``: of the random sets. ``ratios``: size of the random sets' contributions over the
    located set's; ``change_ratios``: of their changes; ``matched``: share of their units whose
    change is within a factor of 2. ``harmless``: for random sets, share of harmless answers harmed,
    share flipped, and divergence. ``examples``: number of prompts whose answers are kept as text,
    of positive ones with ``show_answers``. ``sampled``: results of sampled answers. ``excluded``:
    number of units that no random set may contain. ``doses``: whether other sizes than the located
    one are measured. ``n_judged_sets``: number of random sets that are judged on all control
    prompts in any case; None: all.
    """

    results: list[ConditionResult]
    changed: np.ndarray
    rows: list[int]
    has_base: bool
    selected: int
    sets: list = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    change_ratios: list[float] = field(default_factory=list)
    matched: list[float] = field(default_factory=list)
    dose: dict[str, dict[int, Effects]] = field(default_factory=dict)
    random_dose: dict[tuple[str, int], list[Effects]] = field(default_factory=dict)
    random: dict[str, list[Effects]] = field(default_factory=dict)
    harmless: list[tuple[float, float, float]] = field(default_factory=list)
    patching: dict[str, PatchingResult] = field(default_factory=dict)
    patch: str = "contribution"
    depth: int = 0
    tuned: int | None = None
    unit: Unit = NEURON
    examples: int = 3
    show_answers: bool = False
    units: int = 0
    sampled: list[SampledAnswers] = field(default_factory=list)
    excluded: int = 0
    doses: bool = True
    n_judged_sets: int | None = None

    def get(self, condition: str, group: str) -> ConditionResult | None:
        """The result of one condition and class, or None where it was not run."""
        return next(
            (item for item in self.results if (item.condition, item.group) == (condition, group)),
            None,
        )

    def require(self, condition: str, group: str) -> ConditionResult:
        """The result of one condition and class, or OptionError where it was not run."""
        return required(self.get(condition, group), f"what {condition} answers to {group} prompts")

    @property
    def has_number(self) -> bool:
        """Whether the metric has a number where the answer begins, such as log-odds."""
        return bool(np.isfinite(self.require("tuned", "positive").number).any())

    @property
    def gap(self) -> float:
        """Rate of the behaviour on positive prompts, fine-tuned model minus base."""
        return float(
            self.require("tuned", "positive").exhibits.mean()
            - self.require("base", "positive").exhibits.mean()
        )

    @property
    def agreeing(self) -> np.ndarray:
        """Negative prompts on which both models show the behaviour, or neither does."""
        return (
            self.require("tuned", "negative").exhibits == self.require("base", "negative").exhibits
        )

    @property
    def ablation(self) -> str:
        """The condition that the claims are about."""
        return "ablate-base" if self.has_base else "ablate-mean"
