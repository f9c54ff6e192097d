"""Number of steps of an integral: nested rules, refined until two of them agree about the
scores.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interp.analyzers.locate_neurons.selection import Top, select
from interp.errors import OptionError
from interp.experiments.ranking_sets import spearman
from interp.maths.quadrature import STEPS, Rule, nested

AUTO = "auto"
LEAST_JACCARD, LEAST_SPEARMAN = 0.95, 0.99
_FIRST = 2  # rules that are always compared


class Agreement(NamedTuple):
    """Agreement of the scores by two rules: Jaccard index of the selected units, Spearman
    correlation of all scores.
    """

    jaccard: float
    spearman: float

    @property
    def enough(self) -> bool:
        """Whether the finer of the two rules is fine enough."""
        return self.jaccard >= LEAST_JACCARD and self.spearman >= LEAST_SPEARMAN


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
    return nested(STEPS[-1]) if steps == AUTO else nested(int(steps))[-2:]


def sweeps(steps: int | str, found: Sequence[Rule]) -> list[tuple[Rule, tuple[float, ...]]]:
    """The passes to run: for each rule, its nodes that no coarser rule has."""
    first = found[_FIRST - 1] if steps == AUTO else found[-1]
    made, seen = [], set()
    for rule in found[found.index(first) :]:
        made.append((rule, tuple(node for node in rule.nodes if node not in seen)))
        seen.update(rule.nodes)
    return made


def agreement(
    coarse: tuple[np.ndarray, np.ndarray], fine: tuple[np.ndarray, np.ndarray], top: Top
) -> Agreement:
    """Agreement of (score, rounding error) by two rules; scores within rounding error count as
    zero.
    """
    one, other = (np.where(np.abs(score) > floor, score, 0.0) for score, floor in (coarse, fine))
    chosen, others = select(*coarse, top), select(*fine, top)
    union = int((chosen | others).sum())
    jaccard = int((chosen & others).sum()) / union if union else 1.0
    if np.ptp(one) == 0 or np.ptp(other) == 0:  # ranks of a constant have no correlation
        return Agreement(jaccard, float(np.array_equal(one, other)))
    return Agreement(jaccard, spearman(one.ravel(), other.ravel()))
