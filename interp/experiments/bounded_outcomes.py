"""What a set of units does at most: judged on as many prompts as show that it does less than
another set.

A random set is there to be compared with the located one. Of n prompts the located set leaves s
that show the behaviour; as soon as s + 1 show it under a random set, that set does less, whatever
the others show.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from interp.experiments.ablated_metric import Numbers
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcome, Outcomes, Set
from interp.study import Study

SPARE = 2  # prompts beyond those needed, as some may show what the located set makes of them


class Bounded:
    """Of sets, the most that they can do to the behaviour in one direction, and their exact
    numbers.

    ``outcomes`` and ``numbers``: of all prompts; ``rate``: of the set that they are compared with,
    on these; ``units``: all that sets are of.
    """

    def __init__(
        self,
        study: Study,
        donors: PatchSource,
        direction: str,
        outcomes: Outcomes,
        numbers: Numbers,
        rate: float,
        units: Iterable[tuple[int, int]],
    ) -> None:
        self._outcomes, self._numbers = outcomes, numbers
        # what the receiver shows as it is, on prompts that a set can change
        self._telling = direction == "necessity"
        count = len(outcomes.rows)
        left = round(rate * count)
        self._needed = (left if self._telling else count - left) + 1
        telling = np.flatnonzero(outcomes.receiver.exhibits == self._telling).tolist()
        # those that are decided first take the fewest tokens
        chosen = sorted(telling, key=lambda at: (outcomes.lengths[at], at))[: self._needed + SPARE]
        self.judged, self._some = len(chosen), None
        rows = sorted(outcomes.rows[at] for at in chosen)
        self._fewer = self._needed <= len(chosen) < count
        self._read = partial(Outcomes, study, donors, direction, rows, units=[*units])

    def of_each(self, sets: Sequence[Set]) -> list[dict[str, float] | None]:
        """Effects as ``Outcomes.effects`` has them, of a behaviour that is as far from the
        receiver's as can be.

        ``rate`` is NaN. None for a set that must be judged on all prompts.
        """
        if not self._fewer:
            return [None] * len(sets)
        self._some = self._some or self._read()
        found: list[dict[str, float] | None] = []
        for chosen, part in zip(sets, self._some.of_each(sets), strict=True):
            known = int((part.exhibits == self._telling).sum())
            if known < self._needed:
                found.append(None)
                continue
            shown = np.full(len(self._outcomes.rows), not self._telling)
            shown[:known] = self._telling
            effects = self._outcomes.effects(Outcome(self._numbers.of(chosen), shown))
            found.append({**effects, "rate": float("nan"), "judged": self.judged})
        return found
