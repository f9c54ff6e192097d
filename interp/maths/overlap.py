"""Overlap of sets of equal universe beside what chance gives: numpy and scipy in, plain numbers out."""

from __future__ import annotations

from typing import NamedTuple

from scipy import special


class Overlap(NamedTuple):
    """Of two sets: members shared, their share of the first and of the second, Jaccard's index, and chance.

    ``expected`` members are shared by random sets of these sizes, ``above`` is the probability that they share at least
    as many, both of the hypergeometric distribution.
    """

    shared: int
    of_first: float
    of_second: float
    jaccard: float
    expected: float
    above: float


def overlap(shared: int, first: int, second: int, universe: int) -> Overlap:
    """The overlap of sets of ``first`` and ``second`` members that share ``shared``, of ``universe`` members in all."""
    if not max(0, first + second - universe) <= shared <= min(first, second) <= max(first, second) <= universe:
        raise ValueError(f"sets of {first} and {second} of {universe} cannot share {shared}")
    union = first + second - shared
    # without members there is nothing that could have been shared
    of_first, of_second, jaccard = (shared / size if size else float("nan") for size in (first, second, union))
    expected = first * second / universe if universe else float("nan")
    return Overlap(shared, of_first, of_second, jaccard, expected, _at_least(shared, first, second, universe))


def _at_least(shared: int, first: int, second: int, universe: int) -> float:
    """Hypergeometric upper tail, summed from its greatest member down until nothing more is added."""
    if shared <= max(0, first + second - universe):
        return 1.0

    def probability(count: int) -> float:
        def choose(n: int, k: int) -> float:
            return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)

        log = choose(first, count) + choose(universe - first, second - count) - choose(universe, second)
        return float(special.exp10(log / 2.302585092994046))

    total, mode = 0.0, (first + 1) * (second + 1) / (universe + 2)
    for count in range(shared, min(first, second) + 1):
        part = probability(count)
        total += part
        if count > mode and part <= total * 1e-17:
            break
    return min(1.0, total)
