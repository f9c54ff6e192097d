"""Overlap of the masks of several tasks, pair by pair, compared with chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from interp.maths.overlap import overlap
from interp.table import Table, table

Indices = Mapping[str, np.ndarray]


def overlaps_table(masks: Mapping[str, Mapping[str, Indices]], universe: int) -> Table:
    """A table of kind ``overlaps``, one row per ordered pair of masks.

    Masks are given by kind and name, as flat indices per parameter, out of ``universe`` weights.
    ``share`` of one mask that is in another is not symmetric (Panigrahi et al. 2023); its null, for
    a random mask of the other's size, is the other mask's share of all weights.
    """
    rows = []
    for kind, by_name in masks.items():
        sizes = {name: sum(map(len, mask.values())) for name, mask in by_name.items()}
        for name, mask in by_name.items():
            for other, other_mask in by_name.items():
                if name != other and sizes[name] and sizes[other]:
                    shared = sum(
                        len(np.intersect1d(where, other_mask.get(part, [])))
                        for part, where in mask.items()
                    )
                    result = overlap(shared, sizes[name], sizes[other], universe)
                    chance = sizes[other] / universe
                    rows.append(
                        (
                            kind,
                            name,
                            other,
                            shared,
                            result.of_first,
                            chance,
                            result.jaccard,
                            result.expected,
                            result.p_at_least,
                        )
                    )
    kinds, names, others, shared, share, chance, jaccard, expected, p_values = (
        zip(*rows, strict=True) if rows else [()] * 9
    )
    return table(
        "overlaps",
        {
            "kind": (list(kinds), "key", "kind of the masks"),
            "mask": (list(names), "key", "name of the mask"),
            "other": (list(others), "key", "name of the other mask"),
            "shared": (np.array(shared, np.int64), "measure", "weights in both", "weights"),
            "share": (np.array(share, float), "measure", "share of the mask that is in the other"),
            "chance": (
                np.array(chance, float),
                "measure",
                "expected share in a random mask of the other's size",
            ),
            "jaccard": (
                np.array(jaccard, float),
                "measure",
                "shared weights over weights in either",
            ),
            "expected": (
                np.array(expected, float),
                "measure",
                "expected number shared by random masks of these sizes",
                "weights",
            ),
            "p": (
                np.array(p_values, float),
                "measure",
                "p that random masks share as many or more (hypergeometric)",
            ),
        },
    )
