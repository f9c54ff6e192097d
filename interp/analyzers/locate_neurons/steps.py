"""Number of steps of an integral: nested rules, refined until two of them agree about the
scores.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interp.analyzers.locate_neurons.selection import Top, select
from interp.errors import OptionError
from interp.experiments.ranking_sets import spearman
from interp.maths.quadrature import STEPS, Rule, nested_rules

AUTO = "auto"
MIN_JACCARD, MIN_SPEARMAN = 0.95, 0.99
_N_COMPARED = 2  # rules that are always compared


class Agreement(NamedTuple):
    """Agreement of the scores by two rules: Jaccard index of the selected units, Spearman
    correlation of all scores.
    """

    jaccard: float
    spearman: float

    @property
    def is_sufficient(self) -> bool:
        """Whether the finer of the two rules is fine enough."""
        return self.jaccard >= MIN_JACCARD and self.spearman >= MIN_SPEARMAN


def require(steps: int | str) -> None:
    """Raise OptionError unless ``steps`` is ``auto`` or the number of a rule's nodes."""
    if steps != AUTO and steps not in STEPS:
        raise OptionError(
            f"--steps {steps} has no nested rule; use {AUTO}, {', '.join(map(str, STEPS))}"
        )


def rules(steps: int | str) -> tuple[Rule, ...]:
    """The rules to run, the coarsest first; for a fixed number of steps that rule and the next
    coarser, to compare.
    """
    require(steps)
    return nested_rules(STEPS[-1]) if steps == AUTO else nested_rules(int(steps))[-2:]


def sweeps(steps: int | str, all_rules: Sequence[Rule]) -> list[tuple[Rule, tuple[float, ...]]]:
    """The passes to run: for each rule, its nodes that no coarser rule has."""
    first_rule = all_rules[_N_COMPARED - 1] if steps == AUTO else all_rules[-1]
    passes, used_nodes = [], set()
    for rule in all_rules[all_rules.index(first_rule) :]:
        passes.append((rule, tuple(node for node in rule.nodes if node not in used_nodes)))
        used_nodes.update(rule.nodes)
    return passes


def agreement(
    coarse: tuple[np.ndarray, np.ndarray], fine: tuple[np.ndarray, np.ndarray], top: Top
) -> Agreement:
    """Agreement of (score, rounding error) by two rules; scores within rounding error count as
    zero.
    """
    coarse_scores, fine_scores = (
        np.where(np.abs(score) > floor, score, 0.0) for score, floor in (coarse, fine)
    )
    coarse_set, fine_set = select(*coarse, top), select(*fine, top)
    union = int((coarse_set | fine_set).sum())
    jaccard = int((coarse_set & fine_set).sum()) / union if union else 1.0
    # ranks of a constant have no correlation
    if np.ptp(coarse_scores) == 0 or np.ptp(fine_scores) == 0:
        return Agreement(jaccard, float(np.array_equal(coarse_scores, fine_scores)))
    return Agreement(jaccard, spearman(coarse_scores.ravel(), fine_scores.ravel()))
