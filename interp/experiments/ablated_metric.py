"""The metric of positive prompts in one model while a set of units is patched from the other."""

from collections.abc import Iterable, Sequence

import numpy as np

from interp.capture import make_batch
from interp.engines import Batch, Edit
from interp.experiments.conditions import DIRECTIONS, RECEIVERS, PatchSource
from interp.experiments.patched_channels import only, wanted_of
from interp.experiments.stream_cache import Streams
from interp.interventions.intervention import Activations, Intervention
from interp.interventions.teacher_forcing import stream_of
from interp.maths.host import to_host
from interp.study import Study

Set = Sequence[tuple[int, int]]


class Numbers:
    """The metric's values of some positive prompts (``rows``) under a patch of any set of units.

    ``direction``: ``necessity`` patches the tuned model from the base, ``sufficiency`` the base
    from the tuned model. ``units``: all units that any set will hold, so that only their
    activations are kept; by default all. The donor is read once.
    """

    def __init__(
        self,
        study: Study,
        donors: PatchSource,
        rows: Sequence[int],
        direction: str = "necessity",
        units: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        study.pair.require_base("patching from the other model")
        receiver, donor = RECEIVERS[direction]
        self._study, self._donors, self._model = study, donors, study.pair[receiver]
        self._condition = DIRECTIONS[direction]
        wanted = wanted_of(donors.unit, self._model, units)
        posed = study.decision_inputs("positive")
        size = study.at_a_time(max(1, min(len(rows), 96)))
        by_length = sorted(rows, key=lambda row: len(posed[row].ids))
        self._order, self._chunks = by_length, []
        for start in range(0, len(by_length), size):
            part = by_length[start : start + size]
            batch, _ = make_batch(posed, part, study.pad_id, self._model.device)
            read = study.engine.run(study.pair[donor], batch, reads=[*wanted], keep=0).values
            self._chunks.append(
                (batch, only(read, wanted), study.objective("positive", part), Streams())
            )

    def of(self, chosen: Set) -> np.ndarray:
        """The value of every prompt, rows ascending, with these units patched."""
        return self.under(
            self._donors.condition(self._condition, chosen).intervention if chosen else None
        )

    def under(self, intervention: Intervention | None) -> np.ndarray:
        """The value of every prompt, rows ascending, under an intervention from this donor, or
        none.
        """
        parts = []
        for batch, read, aim, streams in self._chunks:
            edits = self._edits(batch, read, streams, intervention) if intervention else ()
            run = self._study.engine.run(self._model, batch, edits=edits, keep=aim.keep)
            parts.append(to_host(aim.of(run.logits)))
        found = np.concatenate(parts).astype(np.float64)
        return found[np.argsort(self._order, kind="stable")]

    def _edits(
        self, batch: Batch, read: Activations, streams: Streams, intervention: Intervention
    ) -> list[Edit]:
        lowest = min(intervention.units)
        stream = streams.get(
            lowest, lambda: stream_of(self._study.engine, self._model, batch, lowest)
        )
        return [*([] if stream is None else [stream.enter]), *intervention.bind(read)]
