"""Models with the first neurons of an order set to zero, and with random sets set to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.analyzers.wrapped_pruning.order import pruning_order, sizes_within
from interp.analyzers.wrapped_pruning.scores import first_order_scores
from interp.experiments.base_answers import BaseAnswers, Reading, read_answers
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_sizes
from interp.interventions.intervention import Intervention
from interp.interventions.random_sets import equally_large, matched_sets
from interp.models.model import Model
from interp.models.units import NEURON
from interp.study import Study

Units = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class PrunedModel:
    """A model pruned at several sizes.

    ``scores``: of its neurons. ``order``: in which they are pruned. ``readings``: of the base's
    answers to all prompts, by size (0: the model as it is). ``size``: the one chosen on the
    selection split, where most of the base's answers are written, and among equals at the least
    loss.
    """

    model: Model
    scores: Float[np.ndarray, "L N"]
    order: Units
    readings: dict[int, Reading]
    size: int

    @property
    def units(self) -> Units:
        """The neurons of the chosen size."""
        return self.order[: self.size]


def prune_model(
    answers: BaseAnswers,
    model: Model,
    name: str,
    weights: str,
    signed: bool,
    sizes: Sequence[int],
    max_share: float,
) -> PrunedModel:
    """Order a model's neurons on the selection split, and read all answers at every size; sizes of
    at most ``max_share`` of the neurons are chosen from.
    """
    scores = first_order_scores(answers, model, answers.selection, weights)
    order = pruning_order(scores, signed)
    # a pass for each size
    grid = [size for size in sizes_within(sizes, len(order)) if size]
    readings = {0: answers.read(model)}
    for size in answers.study.progress(grid, f"pruning, {name}"):
        readings[size] = answers.read(model, None, _zero(model, order[:size]))
    few = {size: reading for size, reading in readings.items() if size <= max_share * scores.size}
    return PrunedModel(model, scores, order, readings, choose_size(answers, few))


def choose_size(answers: BaseAnswers, readings: dict[int, Reading]) -> int:
    """The size above 0 at which most answers of the selection split are written, among equals the
    one with the least loss; 0 where no other was read.
    """
    selection = {size: reading[answers.selection] for size, reading in readings.items() if size}
    if not selection:
        return 0
    return max(
        selection,
        key=lambda size: (int(selection[size].writes.sum()), -float(selection[size].loss.mean())),
    )


def _zero(model: Model, units: Units) -> Intervention:
    channels = NEURON.channels(model.anatomy, units, model.device)
    return Intervention("pruned", channels, unit=NEURON)


def random_prunings(
    study: Study, answers: BaseAnswers, tuned: PrunedModel, draws: int
) -> list[Reading]:
    """The held-out answers under random sets with the chosen set's neurons per block, matched on
    the size of contributions and of their change (``interp.interventions.random_sets``).
    """
    if not tuned.size:
        return []
    norms, changes = contribution_sizes(study, PatchSource.from_study(study))
    drawn = matched_sets(tuned.units, norms, draws, study.seed, changes=changes)
    return [
        answers.read(tuned.model, answers.held_out, _zero(tuned.model, units))
        for units in study.progress(equally_large(drawn, tuned.units), "random sets")
    ]


@dataclass(frozen=True)
class OwnAnswers:
    """Whether the pruned fine-tuned model still writes its own answers to held-out prompts, by
    size.
    """

    writes: dict[int, np.ndarray]


def read_own_answers(study: Study, answers: BaseAnswers, tuned: PrunedModel) -> OwnAnswers:
    """The fine-tuned model's own greedy answers, read at every size."""
    written = study.answers_to(study.classes, "tuned")
    own = [one for group in study.classes for one in written[group]]
    rows = answers.held_out.tolist()
    encoded, kept = [answers.encoded[row] for row in rows], [own[row] for row in rows]
    return OwnAnswers(
        {
            size: read_answers(
                study,
                tuned.model,
                encoded,
                kept,
                _zero(tuned.model, tuned.order[:size]) if size else None,
            ).writes
            for size in tuned.readings
        }
    )
