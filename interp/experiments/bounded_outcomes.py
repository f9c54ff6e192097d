"""Upper bounds of a random set's effect, measured on only as many prompts as the comparison needs.

If s of n prompts still show the behaviour under the located set, a random set has less effect as
soon as s + 1 prompts show it, whatever the others do.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcome, Outcomes, UnitSet
from interp.study import Study

SPARE = 2  # prompts beyond those needed, since a random set may change some of them


class BoundedEffects:
    """The largest effect that sets can have on the behaviour's rate, and their exact metric values.

    ``outcomes`` and ``ablated_metric``: of all prompts. ``rate``: of the set that they are compared
    with. ``units``: all units that the sets are drawn from.
    """

    def __init__(
        self,
        study: Study,
        patch_source: PatchSource,
        direction: str,
        outcomes: Outcomes,
        ablated_metric: AblatedMetric,
        rate: float,
        units: Iterable[tuple[int, int]],
    ) -> None:
        self._outcomes, self._ablated_metric = outcomes, ablated_metric
        # whether the unedited receiver shows the behaviour on the prompts that a set can change
        self._receiver_exhibits = direction == "necessity"
        count = len(outcomes.rows)
        n_showing = round(rate * count)
        self._needed = (n_showing if self._receiver_exhibits else count - n_showing) + 1
        informative = np.flatnonzero(outcomes.receiver.exhibits == self._receiver_exhibits).tolist()
        # shortest first: fewest tokens to read
        chosen = sorted(informative, key=lambda at: (outcomes.lengths[at], at))[
            : self._needed + SPARE
        ]
        self.judged, self._subset = len(chosen), None
        rows = sorted(outcomes.rows[at] for at in chosen)
        self._can_bound = self._needed <= len(chosen) < count
        self._make_subset = partial(Outcomes, study, patch_source, direction, rows, units=[*units])

    def of_each(self, sets: Sequence[UnitSet]) -> list[dict[str, float] | None]:
        """Effects as in ``Outcomes.effects``, with the largest behaviour effect still possible.

        ``rate`` is NaN. None for a set that has to be measured on all prompts.
        """
        if not self._can_bound:
            return [None] * len(sets)
        self._subset = self._subset or self._make_subset()
        bounds: list[dict[str, float] | None] = []
        for chosen, outcome in zip(sets, self._subset.of_each(sets), strict=True):
            n_known = int((outcome.exhibits == self._receiver_exhibits).sum())
            if n_known < self._needed:
                bounds.append(None)
                continue
            exhibits = np.full(len(self._outcomes.rows), not self._receiver_exhibits)
            exhibits[:n_known] = self._receiver_exhibits
            effects = self._outcomes.effects(Outcome(self._ablated_metric.of(chosen), exhibits))
            bounds.append({**effects, "rate": float("nan"), "judged": self.judged})
        return bounds
