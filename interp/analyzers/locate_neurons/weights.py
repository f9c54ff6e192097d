"""``weight``, the simplest baseline: the norm of the change of a unit's own weights, without
prompts.
"""

import numpy as np

from interp.analyzers.locate_neurons.scores import MethodOptions, Scores
from interp.models.changes import weight_change
from interp.study import Study


def weight(study: Study, options: MethodOptions) -> Scores:
    """Norm of the change of a unit's own weights; needs a base."""
    score = weight_change(study.pair, options.unit)
    return Scores(
        score, np.zeros_like(score), f"norm of the change of the {options.unit.name}'s own weights"
    )
