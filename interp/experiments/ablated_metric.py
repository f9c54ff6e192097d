"""The metric of positive prompts in one model while a set of units is patched from the other."""

from collections.abc import Iterable, Sequence

import numpy as np

from interp.capture import make_batch
from interp.engines import Batch, Edit
from interp.experiments.answer_groups import by_row, equal_batches
from interp.experiments.conditions import DIRECTIONS, RECEIVERS, PatchSource
from interp.experiments.patched_channels import channels_by_site, select_channels
from interp.experiments.stream_cache import StreamCache
from interp.interventions.intervention import Activations, Intervention
from interp.interventions.teacher_forcing import stream_from_batch
from interp.maths.host import to_host
from interp.study import Study

UnitSet = Sequence[tuple[int, int]]


class AblatedMetric:
    """The metric's values of some positive prompts (``rows``) under a patch of any set of units.

    ``direction``: ``necessity`` patches the tuned model from the base, ``sufficiency`` the base
    from the tuned model. ``units``: all units that any set will hold, so that only their
    activations are kept; by default all. The donor is read once.
    """

    def __init__(
        self,
        study: Study,
        patch_source: PatchSource,
        rows: Sequence[int],
        direction: str = "necessity",
        units: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        study.pair.require_base("patching from the other model")
        receiver, donor = RECEIVERS[direction]
        self._study, self._patch_source, self._model = study, patch_source, study.pair[receiver]
        self._condition = DIRECTIONS[direction]
        channels = channels_by_site(patch_source.unit, self._model, units)
        inputs = study.decision_inputs("positive")
        self._rows = equal_batches(study, rows, lambda row: len(inputs[row].ids))
        self._batches = []
        for batch_rows in self._rows:
            batch, _ = make_batch(inputs, batch_rows, study.pad_id, self._model.device)
            activations = study.engine.run(
                study.pair[donor], batch, reads=[*channels], keep=0
            ).values
            self._batches.append(
                (
                    batch,
                    select_channels(activations, channels),
                    study.objective("positive", batch_rows),
                    StreamCache(),
                )
            )

    def of(self, units: UnitSet) -> np.ndarray:
        """The value of every prompt, rows ascending, with these units patched."""
        return self.under(
            self._patch_source.condition(self._condition, units).intervention if units else None
        )

    def under(self, intervention: Intervention | None) -> np.ndarray:
        """The value of every prompt, rows ascending, under an intervention from this donor, or
        none.
        """
        parts = []
        for batch, activations, objective, streams in self._batches:
            edits = self._edits(batch, activations, streams, intervention) if intervention else ()
            run = self._study.engine.run(self._model, batch, edits=edits, keep=objective.keep)
            parts.append(to_host(objective.function(run.logits)))
        return by_row(self._rows, parts).astype(np.float64)

    def _edits(
        self,
        batch: Batch,
        activations: Activations,
        streams: StreamCache,
        intervention: Intervention,
    ) -> list[Edit]:
        lowest = min(intervention.units)
        stream = streams.get(
            lowest, lambda: stream_from_batch(self._study.engine, self._model, batch, lowest)
        )
        return [*([] if stream is None else [stream.start_edit]), *intervention.bind(activations)]
