"""Selection of the prompts on which an experiment runs."""

from collections.abc import Iterable

import numpy as np

from interp.prompts import PromptSet, first_and_repeated, positions_within_clusters
from interp.study import Study


def changed_rows(study: Study) -> list[int]:
    """Rows of the positive prompts on which exactly one of base and tuned model shows the
    behaviour.
    """
    prompts, metric = study.prompts("positive").prompts, study.require_metric()
    base, tuned = (
        metric.exhibits(
            prompts,
            [study.decode(answer) for answer in study.answers(role, "positive")],
            "positive",
        )
        for role in ("base", "tuned")
    )
    return np.flatnonzero(base != tuned).tolist()


def sample_rows(prompts: PromptSet, rows: Iterable[int], count: int, seed: int) -> list[int]:
    """At most ``count`` of these rows, drawn at random, in ascending order.

    One row of every cluster is drawn before a second of any, and rows that repeat a text come last,
    so that copies of a prompt do not change the draw of the others.
    """
    all_rows = list(rows)
    first, repeats = (
        [all_rows[at] for at in part]
        for part in first_and_repeated([prompts.keys[row] for row in all_rows])
    )
    drawn = np.random.default_rng(seed).permutation(np.array(first, np.int64))
    turn_order = positions_within_clusters([prompts.prompts[row].cluster for row in drawn])
    return sorted([*drawn[np.argsort(turn_order, kind="stable")].tolist(), *repeats][:count])
