"""Which prompts a trial is made on."""

from collections.abc import Iterable

import numpy as np

from interp.study import Study


def changed(study: Study) -> list[int]:
    """Rows of the positive prompts to which base and tuned model give different answers."""
    base, tuned = study.answers("base", "positive"), study.answers("tuned", "positive")
    return [row for row, (one, other) in enumerate(zip(base, tuned, strict=True)) if one != other]


def some(rows: Iterable[int], count: int, seed: int) -> list[int]:
    """At most ``count`` of the rows, drawn at random, in ascending order."""
    return sorted(np.random.default_rng(seed).permutation(list(rows))[:count].tolist())
