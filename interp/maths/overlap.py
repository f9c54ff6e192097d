"""Overlap of two sets, compared with its expectation for random sets of the same sizes."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import hypergeom


class Overlap(NamedTuple):
    """Members that two sets share, their share of the first and of the second set, the Jaccard
    index, and the chance level.

    By the hypergeometric distribution, random sets of these sizes share ``expected`` members, and
    share at least as many with probability ``above``.
    """

    shared: int
    of_first: float
    of_second: float
    jaccard: float
    expected: float
    above: float


def overlap(shared: int, first: int, second: int, universe: int) -> Overlap:
    """Overlap of sets of ``first`` and ``second`` members out of ``universe``, of which ``shared``
    are in both.

    The asymmetric shares are those of Panigrahi et al. (2023, arXiv 2302.06600). A share is NaN if
    its denominator is 0; raises ValueError for impossible sizes.
    """
    if (
        not max(0, first + second - universe)
        <= shared
        <= min(first, second)
        <= max(first, second)
        <= universe
    ):
        raise ValueError(f"sets of {first} and {second} of {universe} cannot share {shared}")
    union = first + second - shared
    # undefined for empty sets
    of_first, of_second, jaccard = (
        shared / size if size else float("nan") for size in (first, second, union)
    )
    expected = first * second / universe if universe else float("nan")
    above = float(hypergeom.sf(shared - 1, universe, first, second)) if universe else float("nan")
    return Overlap(shared, of_first, of_second, jaccard, expected, above)
