"""Tokens of other prompts: the same cells, read for a pair of tokens that was not chosen here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from interp.experiments.first_divergence import Divergence
from interp.study import Study

DRAWS = 19
NONE = -1


def other_prompts(
    study: Study, divergences: Sequence[Divergence], draws: int
) -> Int[np.ndarray, "E D"]:
    """For every divergence the numbers of random others, of another cluster and with another pair
    of tokens; -1 where there is none.
    """
    clusters = [study.prompts(one.group).prompts[one.row].cluster for one in divergences]
    pairs = [(one.base_token, one.tuned_token) for one in divergences]
    rng = np.random.default_rng([study.seed, len(divergences)])
    chosen = np.full((len(divergences), draws), NONE)
    for at, (cluster, pair) in enumerate(zip(clusters, pairs, strict=True)):
        others = [
            number
            for number in range(len(pairs))
            if clusters[number] != cluster and pairs[number] != pair
        ]
        if others:
            chosen[at] = rng.choice(others, draws)
    return chosen
