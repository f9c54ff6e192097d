"""What was measured: probes, and interventions on sets of latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.sae_probe.compute import ABLATE, FiringSums
from interp.claims import ALPHA
from interp.experiments.conditions import ConditionResult
from interp.sae.analysis.probe import ProbeResult
from interp.study import Study

PROBED, GIVEN = "probed", "given"
DICTIONARY, BASE = "dictionary", "base"


@dataclass
class Probes:
    """Probe results by source and k; codes [N, F] of the dictionary for all prompts, with labels
    and split [N]. ``l0``: codes per token of the baselines.
    """

    results: dict[tuple[str, int], ProbeResult]
    codes: NDArray[np.float64]
    labels: NDArray[np.bool_]
    training: NDArray[np.bool_]
    l0: int

    @property
    def largest(self) -> ProbeResult:
        """The dictionary's probe with the most latents."""
        return self.results[DICTIONARY, max(k for name, k in self.results if name == DICTIONARY)]

    def difference(self, latents: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean code on positive minus negative prompts of the selection split."""
        codes = self.codes[:, latents]
        return codes[self.training & self.labels].mean(0) - codes[
            self.training & ~self.labels
        ].mean(0)

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The latents selected at the largest k that have larger codes on positive prompts."""
        latents = self.largest.latents
        return latents[self.difference(latents) > 0]


@dataclass(frozen=True)
class InterventionResult:
    """One edit of one set of latents on some prompts (``rows`` of its class), and the same edit of
    its random sets.

    ``unedited`` and ``effect`` [rows]: the metric, and its decrease under ablation or increase
    under steering. ``matches_base`` [rows]: whether the answer equals the base's. ``null`` and
    ``null_matches_base``: means of both for each random set; the latter NaN where answers were not
    compared. ``amount``: added to each latent, in units of codes. ``size_ratio``: mean contribution
    of random sets divided by that of the set.
    """

    name: str
    change: str
    rows: list[int]
    latents: int
    amount: float
    size_ratio: float
    revert: bool
    unedited: NDArray[np.float64]
    effect: NDArray[np.float64]
    null: list[float]
    matches_base: NDArray[np.bool_]
    null_matches_base: list[float]

    @property
    def after(self) -> NDArray[np.float64]:
        """The metric under the edit."""
        return self.unedited + (-self.effect if self.change == ABLATE else self.effect)


@dataclass(frozen=True)
class Evidence:
    """Everything that claims are based on; ``held`` is the held-out split.

    ``untested``: sets that could not be tested causally, with the reason. ``ablated``: answers to
    both classes under ablation of each set; ``unedited``: the models' own to positive prompts, by
    role.
    """

    held: Study
    k: tuple[int, ...]
    probes: Probes
    firing: FiringSums
    sets: dict[str, list[int]]
    untested: dict[str, str]
    interventions: list[InterventionResult]
    ablated: list[ConditionResult]
    unedited: dict[str, ConditionResult]

    @property
    def level(self) -> float:
        """Significance level of one probe, corrected for their number."""
        return ALPHA / len(self.k)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Positive prompts whose answer shows the behaviour and differs from the base's."""
        tuned = self.unedited["tuned"]
        return tuned.exhibits & ~tuned.matches_base
