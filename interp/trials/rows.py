"""Which prompts a trial is made on."""

from collections.abc import Iterable

import numpy as np

from interp.prompts import PromptSet, repeats_last, turns
from interp.study import Study


def changed(study: Study) -> list[int]:
    """Rows of the positive prompts to which base and tuned model give different answers."""
    base, tuned = study.answers("base", "positive"), study.answers("tuned", "positive")
    return [row for row, (one, other) in enumerate(zip(base, tuned, strict=True)) if one != other]


def some(prompts: PromptSet, rows: Iterable[int], count: int, seed: int) -> list[int]:
    """At most ``count`` of the rows of these prompts, drawn at random, in ascending order.

    One of every cluster comes before a second of any, and rows that repeat a text come last, so that copies of a
    prompt leave no other out and change nothing in what is drawn.
    """
    listed = list(rows)
    first, again = ([listed[at] for at in part] for part in repeats_last([prompts.keys[row] for row in listed]))
    drawn = np.random.default_rng(seed).permutation(np.array(first, np.int64))
    turn = turns([prompts.prompts[row].cluster for row in drawn])
    return sorted([*drawn[np.argsort(turn, kind="stable")].tolist(), *again][:count])
