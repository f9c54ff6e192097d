"""Upper bounds of a random set's effect, measured on only as many prompts as the comparison needs.

If s of n prompts still show the behaviour under the located set, a random set has less effect as
soon as s + 1 prompts show it, whatever the others do.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from interp.experiments.ablated_metric import Numbers
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcome, Outcomes, Set
from interp.study import Study

SPARE = 2  # prompts beyond those needed, since a random set may change some of them


class Bounded:
    """The largest effect that sets can have on the behaviour's rate, and their exact metric values.

    ``outcomes`` and ``numbers``: of all prompts. ``rate``: of the set that they are compared with.
    ``units``: all units that the sets are drawn from.
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
        # whether the unedited receiver shows the behaviour on the prompts that a set can change
        self._telling = direction == "necessity"
        count = len(outcomes.rows)
        left = round(rate * count)
        self._needed = (left if self._telling else count - left) + 1
        telling = np.flatnonzero(outcomes.receiver.exhibits == self._telling).tolist()
        # shortest first: fewest tokens to read
        chosen = sorted(telling, key=lambda at: (outcomes.lengths[at], at))[: self._needed + SPARE]
        self.judged, self._some = len(chosen), None
        rows = sorted(outcomes.rows[at] for at in chosen)
        self._fewer = self._needed <= len(chosen) < count
        self._read = partial(Outcomes, study, donors, direction, rows, units=[*units])

    def of_each(self, sets: Sequence[Set]) -> list[dict[str, float] | None]:
        """Effects as in ``Outcomes.effects``, with the largest behaviour effect still possible.

        ``rate`` is NaN. None for a set that has to be measured on all prompts.
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
