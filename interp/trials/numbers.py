"""The metric's number of positive prompts in the tuned model while a set of units does as the base does."""

from collections.abc import Sequence

import numpy as np

from interp.capture import make_batch
from interp.maths.host import to_host
from interp.study import Study
from interp.trials.conditions import Donors

Set = Sequence[tuple[int, int]]


class Numbers:
    """Numbers of some positive prompts (``rows``) under ``ablate-base`` of any set; the base is read once."""

    def __init__(self, study: Study, donors: Donors, rows: Sequence[int]) -> None:
        self._study, self._donors = study, donors
        self._model, base = study.pair.tuned, study.pair.require_base("ablation to the base's contributions")
        sites = [donors.unit.site(layer) for layer in range(self._model.anatomy.n_layers)]
        posed = study.posed("positive")
        size = study.at_a_time(max(1, min(len(rows), 96)))
        by_length = sorted(rows, key=lambda row: len(posed[row].ids))
        self._order, self._chunks = by_length, []
        for start in range(0, len(by_length), size):
            part = by_length[start : start + size]
            batch, _ = make_batch(posed, part, study.pad_id, self._model.device)
            read = study.engine.run(base, batch, reads=sites, keep=0).values
            self._chunks.append((batch, read, study.objective("positive", part)))

    def of(self, chosen: Set) -> np.ndarray:
        """The number of every prompt, rows ascending, with these units given their base contributions."""
        intervention = self._donors.condition("ablate-base", chosen).intervention if chosen else None
        parts = []
        for batch, read, aim in self._chunks:
            edits = intervention.bind(read) if intervention else ()
            run = self._study.engine.run(self._model, batch, edits=edits, keep=aim.keep)
            parts.append(to_host(aim.of(run.logits)))
        found = np.concatenate(parts).astype(np.float64)
        return found[np.argsort(self._order, kind="stable")]
