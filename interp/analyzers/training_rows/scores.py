"""Scores by which training rows are told from rows never trained on, and how well they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.maths.intervals import (
    Interval,
    cluster_interval,
    effective_clusters,
    exact_interval,
)

MIN_LOSS = 1e-6
"""Losses are taken as at least this many nats, so that a row learnt by heart has a finite ratio."""
FALSE_POSITIVES = 0.01
MIN_OTHERS = 300
"""Rows never trained on that a rate at 1 % false positives needs: with 299, the largest of them is
above the threshold of 1 % with a probability of 95 %.
"""
NAN = float("nan")


def log_ratio(
    base: Float[np.ndarray, " rows"], tuned: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """Log of the base's loss over the fine-tuned model's; 0 where both are equal."""
    return np.log(np.maximum(base, MIN_LOSS)) - np.log(np.maximum(tuned, MIN_LOSS))


SCORES = {
    "ratio": (log_ratio, "log of the base's loss over the fine-tuned model's"),
    "gap": (lambda base, tuned: base - tuned, "the base's loss minus the fine-tuned model's"),
    "perplexity difference": (
        lambda base, tuned: np.exp(base) - np.exp(tuned),
        "the base's perplexity minus the fine-tuned model's",
    ),
    "tuned loss": (lambda base, tuned: -tuned, "minus the fine-tuned model's loss"),
    "base loss": (
        lambda base, tuned: -base,
        "minus the base's loss, which cannot know: 0.5 where both sets are of one distribution",
    ),
}
"""Scores by name, larger for training rows, with what they are."""


def true_positive_rate(
    members: Float[np.ndarray, " n"],
    others: Float[np.ndarray, " m"],
    member_clusters: Sequence[str],
    other_clusters: Sequence[str],
    level: float = 0.95,
) -> Interval:
    """Share of the members that score above the threshold which 1 % of other rows exceed.

    Both ends allow for the threshold, which is estimated too: they are exact intervals of the share
    of members above the order statistics of the others between which the threshold lies (Clopper
    and Pearson 1934 for both, Bonferroni's correction for the four errors), with clusters as
    trials. The value is NaN with fewer than ``MIN_OTHERS`` effective clusters of other rows; the
    lower end is 0 with fewer than 436, whose largest score need not be beyond the threshold.
    """
    descending = np.sort(np.asarray(others, np.float64))[::-1]
    n, n_clusters = len(descending), effective_clusters(other_clusters)
    part = 1 - (1 - level) / 2

    def false_positives(count: int) -> tuple[float, float]:
        """The interval of the share of other rows above a threshold that ``count`` exceed."""
        return exact_interval(count * n_clusters / n, n_clusters, part)

    def share(above: np.ndarray) -> Interval:
        return cluster_interval(above, member_clusters, level=part)

    # the small addend keeps 0.01 * 2900 from falling below 29
    allowed = int(FALSE_POSITIVES * n + 1e-9)
    value = NAN
    if n_clusters >= MIN_OTHERS:
        value = float((members > descending[allowed]).mean())
    strict = [count for count in range(allowed + 1) if false_positives(count)[1] <= FALSE_POSITIVES]
    low = share(members > descending[strict[-1]]).low if strict else 0.0
    lenient = next(
        (count for count in range(1, n + 1) if false_positives(count)[0] >= FALSE_POSITIVES), None
    )
    high = 1.0 if lenient is None else share(members >= descending[lenient - 1]).high
    return Interval(value, low, high)
