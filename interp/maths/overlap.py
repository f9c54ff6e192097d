"""Overlap of sets of equal universe beside what chance gives: numpy and scipy in, plain numbers
out.
"""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import hypergeom


class Overlap(NamedTuple):
    """Of two sets: members shared, their share of the first and of the second, Jaccard's index, and
    chance.

    ``expected`` members are shared by random sets of these sizes, ``above`` is the probability that
    they share at least as many, both of the hypergeometric distribution.
    """

    shared: int
    of_first: float
    of_second: float
    jaccard: float
    expected: float
    above: float


def overlap(shared: int, first: int, second: int, universe: int) -> Overlap:
    """The overlap of sets of ``first`` and ``second`` members that share ``shared``, of
    ``universe`` members in all.

    The asymmetric shares are Panigrahi et al.'s (2023, arXiv 2302.06600). NaN where nothing could
    have been shared; raises ValueError for sets that cannot exist.
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
    # without members there is nothing that could have been shared
    of_first, of_second, jaccard = (
        shared / size if size else float("nan") for size in (first, second, union)
    )
    expected = first * second / universe if universe else float("nan")
    above = float(hypergeom.sf(shared - 1, universe, first, second)) if universe else float("nan")
    return Overlap(shared, of_first, of_second, jaccard, expected, above)
