"""Overlap of the masks of several tasks, pair by pair, compared with chance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np

from interp.maths.overlap import overlap
from interp.rows import columns_of, key, measure, rows_table
from interp.table import Table

Indices = Mapping[str, np.ndarray]


class OverlapRow:
    """A row per ordered pair of masks of one kind."""

    kind: str = key("kind of the masks")
    mask: str = key("name of the mask")
    other: str = key("name of the other mask")
    shared: int = measure("weights in both", "weights")
    share: float = measure("share of the mask that is in the other")
    chance: float = measure("expected share in a random mask of the other's size")
    jaccard: float = measure("shared weights over weights in either")
    expected: float = measure("expected number shared by random masks of these sizes", "weights")
    p: float = measure("p that random masks share as many or more (hypergeometric)")


def overlaps_table(masks: Mapping[str, Mapping[str, Indices]], universe: int) -> Table:
    """A table of kind ``overlaps``, one row per ordered pair of masks that are not empty.

    Masks are given by kind and name, as flat indices per parameter, out of ``universe`` weights.
    ``share`` of one mask that is in another is not symmetric (Panigrahi et al. 2023); its null, for
    a random mask of the other's size, is the other mask's share of all weights.
    """
    rows = []
    for kind, by_name in masks.items():
        sizes = {name: sum(map(len, mask.values())) for name, mask in by_name.items()}
        for name, other in permutations([name for name in by_name if sizes[name]], 2):
            shared = sum(
                len(np.intersect1d(where, by_name[other].get(part, [])))
                for part, where in by_name[name].items()
            )
            result = overlap(shared, sizes[name], sizes[other], universe)
            chance = sizes[other] / universe
            numbers = (result.of_first, chance, result.jaccard, result.expected, result.p_at_least)
            rows.append((kind, name, other, shared, *numbers))
    names = columns_of(OverlapRow)
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    data = dict(zip(names, columns, strict=True))
    # without rows the type of a column of whole numbers cannot be inferred
    return rows_table(OverlapRow, "overlaps", data | {"shared": np.array(data["shared"], np.int64)})
