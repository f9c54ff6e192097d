"""Whether a dictionary recovered the true features of synthetic data, which reconstruction does not
measure.

Directions: a one-to-one matching of latents to true directions by absolute cosine (mean correlation
coefficient, MCC). Firing: precision, recall and F1 of each latent against the most similar true
feature. Hierarchies: how often a parent's latent is silent when its child's fires (absorption,
Chanin et al. 2024, arXiv 2409.14507).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.sae.core.sparse_products import Codes

MAX_DENSE_PAIRS = 2**24
"""Largest number of pairs for which the matching considers all of them."""

FOUND_COSINE = 0.7
"""Absolute cosine from which a true feature counts as found, for absorption."""


class Matching(NamedTuple):
    """A one-to-one matching: min(F, G) pairs, ordered by latent."""

    latents: NDArray[np.int64]
    truths: NDArray[np.int64]
    cosines: NDArray[np.float64]

    @property
    def mcc(self) -> float:
        """Mean absolute cosine of the pairs."""
        return float(self.cosines.mean())


def cosines(rows: Float[Tensor, "F D"], truth: Float[Tensor, "G D"]) -> Float[Tensor, "F G"]:
    """Absolute cosines; 0 for rows of zeros."""
    tiny = torch.finfo(torch.float64).tiny
    unit = [
        m.detach().double() / m.detach().double().norm(dim=1, keepdim=True).clamp_min(tiny)
        for m in (rows, truth)
    ]
    return (unit[0] @ unit[1].T).abs()


def match(
    rows: Float[Tensor, "F D"], truth: Float[Tensor, "G D"], candidates: int | None = None
) -> Matching:
    """The one-to-one matching with the largest sum of absolute cosines.

    ``candidates``: consider only this many best partners of each row and each true direction (64 by
    default if there are too many pairs): exact among these, hence a lower bound.
    """
    if rows.shape[1] != truth.shape[1]:
        raise OptionError(
            f"latents of width {rows.shape[1]} cannot be matched with directions of width"
            f" {truth.shape[1]}"
        )
    if candidates is None and len(rows) * len(truth) <= MAX_DENSE_PAIRS:
        value = to_host(cosines(rows, truth))
        latents, truths = linear_sum_assignment(value, maximize=True)
        return Matching(latents, truths, value[latents, truths])
    return _match_candidates(rows, truth, candidates or 64)


def _match_candidates(rows: Tensor, truth: Tensor, candidates: int) -> Matching:
    more_rows = len(rows) >= len(truth)
    smaller, larger = (truth, rows) if more_rows else (rows, truth)
    depth = min(candidates, len(larger))
    while True:
        edges = [
            _nearest_rows(smaller, larger, depth),
            _nearest_rows(larger, smaller, min(depth, len(smaller))),
        ]
        endpoints = (
            np.concatenate([edges[0][0], edges[1][1]]),
            np.concatenate([edges[0][1], edges[1][0]]),
        )
        pairs, first = np.unique(endpoints[0] * len(larger) + endpoints[1], return_index=True)
        value = np.concatenate([edges[0][2], edges[1][2]])[first]
        indices = pairs // len(larger), pairs % len(larger)
        # weights must not be zero: in a sparse matrix that is no edge
        graph = sparse.csr_array((2.0 - value, indices), shape=(len(smaller), len(larger)))
        try:
            chosen = min_weight_full_bipartite_matching(graph)
        except ValueError:  # no full matching among these candidates
            if depth == len(larger):
                raise
            depth = min(2 * depth, len(larger))
            continue
        smaller_index, larger_index = (np.asarray(part, np.int64) for part in chosen)
        latents, truths = (
            (larger_index, smaller_index) if more_rows else (smaller_index, larger_index)
        )
        order = np.argsort(latents)
        return Matching(
            latents[order], truths[order], 2.0 - graph[smaller_index, larger_index][order]
        )


def _nearest_rows(
    left: Tensor, right: Tensor, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``depth`` nearest rows of ``right`` for each row of ``left``: rows, partners and cosines,
    flattened.
    """
    blocks = []
    for start in range(0, len(left), 1024):
        value, where = cosines(left[start : start + 1024], right).topk(depth, dim=1)
        from_row = np.repeat(np.arange(start, start + len(value)), depth)
        blocks.append((from_row, to_host(where).ravel(), to_host(value).ravel()))
    rows, partners, values = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return rows, partners, values


def nearest(
    rows: Float[Tensor, "F D"], truth: Float[Tensor, "G D"]
) -> tuple[Int[Tensor, " F"], Float[Tensor, " F"]]:
    """The most similar true direction of each latent, and the absolute cosine."""
    best = [
        cosines(rows[start : start + 1024], truth).max(1) for start in range(0, len(rows), 1024)
    ]
    return torch.cat([part.indices for part in best]), torch.cat([part.values for part in best])


def uniqueness(rows: Float[Tensor, "F D"], truth: Float[Tensor, "G D"]) -> float:
    """Number of distinct true directions nearest to some latent, divided by the number of
    latents.
    """
    return len(nearest(rows, truth)[0].unique()) / len(rows)


@dataclass(eq=False)
class Recovery:
    """Accumulates codes and true codes; ``matching`` depends on directions only.

    Each latent is compared with its ``nearest`` true feature. A latent that never fires has
    precision, recall and F1 of 0.
    """

    directions: Float[Tensor, "F D"]
    truth: Float[Tensor, "G D"]
    parents: Int[Tensor, " G"] | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        self.matching = match(self.directions, self.truth, self.candidates)
        self.best, self.cosine = nearest(self.directions, self.truth)
        features, width = len(self.truth), len(self.directions)
        self._both = torch.zeros(width, dtype=torch.float64)
        self._fired, self._true = (
            torch.zeros_like(self._both),
            torch.zeros(features, dtype=torch.float64),
        )
        self.count = 0
        # the matched latent of each feature, and whether the feature counts as found
        self._latent = torch.full((features,), -1)
        self._latent[torch.from_numpy(self.matching.truths)] = torch.from_numpy(
            self.matching.latents
        )
        known = torch.zeros(features, dtype=torch.bool)
        known[torch.from_numpy(self.matching.truths)] = torch.from_numpy(
            self.matching.cosines >= FOUND_COSINE
        )
        self._absorbed = torch.zeros(4, features, dtype=torch.float64)
        self._edges = torch.zeros(0, dtype=torch.int64)
        if self.parents is not None:
            child = (self.parents >= 0).nonzero().flatten()
            self._edges = child[known[child] & known[self.parents[child]]]

    def update(self, codes: Codes | Float[Tensor, "N F"], truth: Float[Tensor, "N G"]) -> Recovery:
        """Add codes and the true codes of the same inputs; returns itself."""
        dense = codes.dense() if isinstance(codes, Codes) else codes
        fires, is_true = dense.detach() != 0, truth > 0
        self.count += len(is_true)
        self._fired += fires.sum(0)
        self._true += is_true.sum(0)
        self._both += (fires & is_true[:, self.best]).sum(0)
        if self.parents is not None and len(self._edges):
            child, parent = self._edges, self.parents[self._edges]
            child_fires, parent_fires = (
                fires[:, self._latent[child]],
                fires[:, self._latent[parent]],
            )
            child_found = is_true[:, child] & child_fires
            self._absorbed[0, child] += child_found.sum(0)
            self._absorbed[1, child] += (child_found & ~parent_fires).sum(0)
            parent_only = is_true[:, parent] & ~is_true[:, child]
            self._absorbed[2, child] += parent_only.sum(0)
            self._absorbed[3, child] += (parent_only & ~parent_fires).sum(0)
        return self

    @property
    def latents(self) -> dict[str, NDArray[np.float64]]:
        """Per latent: precision, recall, F1 and accuracy against the nearest true feature, and the
        cosine with it.
        """
        n_both, fired, true = self._both, self._fired, self._true[self.best]
        share = [
            torch.nan_to_num(part, nan=0.0)
            for part in (n_both / fired, n_both / true, 2 * n_both / (fired + true))
        ]
        accuracy = 1 - (fired + true - 2 * n_both) / max(self.count, 1)
        names = ("precision", "recall", "f1", "accuracy", "cosine")
        return dict(zip(names, map(to_host, (*share, accuracy, self.cosine)), strict=True))

    @property
    def absorption(self) -> dict[str, float]:
        """How often a parent's latent is silent when the parent is active: with its child's latent
        active too, and with the child absent.

        Means over ``pairs`` of parent and child that were both found (matched cosine of at least
        ``FOUND_COSINE``) and occurred; NaN if there are none.
        """
        n_child, n_absorbed, n_parent_only, n_missed = self._absorbed
        counted = (n_child > 0) & (n_parent_only > 0)
        if not bool(to_host(counted.any())):
            return {"absorbed": float("nan"), "missed_alone": float("nan"), "pairs": 0}
        return {
            "absorbed": float(to_host((n_absorbed[counted] / n_child[counted]).mean())),
            "missed_alone": float(to_host((n_missed[counted] / n_parent_only[counted]).mean())),
            "pairs": int(to_host(counted.sum())),
        }

    def summary(self) -> dict[str, Any]:
        """MCC, uniqueness, mean precision, recall, F1 and accuracy over latents, and absorption."""
        by_latent = self.latents
        return {
            "mcc": self.matching.mcc,
            "found": float((self.matching.cosines >= FOUND_COSINE).sum() / len(self.truth)),
            "uniqueness": len(self.best.unique()) / len(self.best),
            **{
                name: float(by_latent[name].mean())
                for name in ("precision", "recall", "f1", "accuracy")
            },
            **self.absorption,
        }
