"""Texts of different lengths in batches that hold little padding."""

from collections.abc import Sequence

EACH_ON_CPU, EACH_ON_GPU = 48, 4096
"""Tokens that take as long to read as a further batch takes beside its own: weights, a shared
beginning, launches.
"""


def least_padded(lengths: Sequence[int], most: int, fixed: int) -> list[list[int]]:
    """Numbers of texts in batches of at most ``most``, of like length, such that a pass over each
    costs least in all.

    A batch costs its texts times the longest of them, padding and all, and ``fixed`` beside, in
    tokens.
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
