"""A permutation test with exchanged models: could differences this large arise if the labels base
and tuned were arbitrary?
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

DRAWS = 999
_CELLS = 4_000_000


def model_swap_p(
    differences: Float[NDArray[np.float64], "K F"], draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """Two-sided p per column for sums of tuned minus base in K folds of documents, corrected for
    all columns.

    Each draw exchanges the models in random folds, in all columns alike, and keeps the largest
    standardised sum over columns (Westfall and Young, 1993). p is 1 in columns without any
    difference, and at least ``1 / (1 + draws)``.
    """
    folds = len(differences)
    size = np.sqrt(folds * np.square(differences).sum(0))
    has_difference = size > 0
    p = np.ones(differences.shape[1])
    if not has_difference.any():
        return p
    scaled = differences[:, has_difference] / size[has_difference]
    observed = np.abs(scaled.sum(0))
    generator = np.random.default_rng(seed)
    largest = np.zeros(draws)
    chunk = max(1, _CELLS // scaled.shape[1])
    for start in range(0, draws, chunk):
        part = largest[start : start + chunk]
        signs = generator.choice((-1.0, 1.0), size=(part.size, folds))
        part[:] = np.abs(signs @ scaled).max(1)
    # a tolerance, so that an equal sum in another order does not count as smaller
    n_reached = (largest[:, None] >= observed * (1 - 1e-12)).sum(0)
    p[has_difference] = (1 + n_reached) / (1 + draws)
    return p
