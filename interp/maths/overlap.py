"""Overlap of two sets, compared with its expectation for random sets of the same sizes."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import hypergeom


class Overlap(NamedTuple):
    """Members that two sets share, their share of the first and of the second set, the Jaccard
    index, and the chance level.

    By the hypergeometric distribution, random sets of these sizes share ``expected`` members, and
    share at least as many with probability ``p_at_least``.
    """

    shared: int
    of_first: float
    of_second: float
    jaccard: float
    expected: float
    p_at_least: float


def overlap(shared: int, n_first: int, n_second: int, universe: int) -> Overlap:
    """Overlap of sets of ``n_first`` and ``n_second`` members out of ``universe``, of which
    ``shared`` are in both.

    The asymmetric shares are those of Panigrahi et al. (2023, arXiv 2302.06600). A share is NaN if
    its denominator is 0; raises ValueError for impossible sizes.
    """
    if (
        not max(0, n_first + n_second - universe)
        <= shared
        <= min(n_first, n_second)
        <= max(n_first, n_second)
        <= universe
    ):
        raise ValueError(f"sets of {n_first} and {n_second} of {universe} cannot share {shared}")
    union = n_first + n_second - shared
    # undefined for empty sets
    of_first, of_second, jaccard = (
        shared / size if size else float("nan") for size in (n_first, n_second, union)
    )
    expected = n_first * n_second / universe if universe else float("nan")
    p_at_least = (
        float(hypergeom.sf(shared - 1, universe, n_first, n_second)) if universe else float("nan")
    )
    return Overlap(shared, of_first, of_second, jaccard, expected, p_at_least)
