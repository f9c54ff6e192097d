"""Batches of texts of similar length, with little padding."""

from collections.abc import Sequence

EACH_ON_CPU, EACH_ON_GPU = 48, 4096
"""Fixed cost of one more batch (reading weights, a shared prefix, kernel launches), in tokens."""


def least_padded(lengths: Sequence[int], most: int, fixed: int) -> list[list[int]]:
    """Row numbers of texts in batches of at most ``most`` rows, so that the total cost of the
    passes is smallest.

    A batch costs ``fixed`` tokens plus its number of texts times the longest of them.
    """
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    least, begins = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [
            (least[start] + (end - start) * longest, -start)
            for start in range(max(0, end - most), end)
        ]
        cost, start = min(costs)
        least.append(cost + fixed)
        begins.append(-start)
    found, end = [], len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found[::-1]
