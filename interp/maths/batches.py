"""Batches of texts of similar length, with little padding."""

from collections.abc import Sequence

BATCH_COST_ON_CPU, BATCH_COST_ON_GPU = 48, 4096
"""Fixed cost of one more batch (reading weights, a shared prefix, kernel launches), in tokens."""


def batch_by_length(lengths: Sequence[int], max_rows: int, fixed: int) -> list[list[int]]:
    """Row numbers of texts in batches of at most ``max_rows`` rows, so that the total cost of the
    passes is smallest.

    A batch costs ``fixed`` tokens plus its number of texts times the longest of them.
    """
    order = sorted(range(len(lengths)), key=lambda at: lengths[at])
    cheapest, starts = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [
            (cheapest[start] + (end - start) * longest, -start)
            for start in range(max(0, end - max_rows), end)
        ]
        cost, start = min(costs)
        cheapest.append(cost + fixed)
        starts.append(-start)
    batches, end = [], len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]
