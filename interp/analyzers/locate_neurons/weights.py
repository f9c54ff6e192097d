"""The humble baseline, ``weight``: how far tuning moved a neuron's own weights. No prompt is read."""

import numpy as np

from interp.analyzers.locate_neurons.scores import Scores
from interp.models.changes import weight_change
from interp.study import Study


def weight(study: Study, positions: str, steps: int) -> Scores:
    """Norm of the change of a neuron's rows and column; needs a base."""
    score = weight_change(study.pair)
    return Scores(score, np.zeros_like(score), "norm of the change of the neuron's own weights")
