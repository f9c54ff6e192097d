"""Topics: tokens that rise at the same positions, by non-negative matrix factorisation."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from interp.maths.host import to_host
from interp.prompts.tokens import Tokenizer
from interp.rows import key, measure, rows_table, text
from interp.table import Table

MOST_POSITIONS = 5000
TOKENS_SHOWN = 12
ITERATIONS = 200


class TopicRow:
    """A row per topic, largest first."""

    topic: int = key("number of the topic, from 1")
    mass: float = measure("share of all rises that it explains")
    prevalence: float = measure("share of positions, or texts, in which it is the largest")
    concentration: float = measure("1 - entropy of its tokens over the log of their number")
    tokens: str = text("its tokens, largest weight first, each in quotes")


class PositionSample:
    """The largest rises at some positions, or summed over every text.

    ``by`` "positions": a random sample of ``MOST_POSITIONS`` (a position's key is a hash of its
    number, so that batches do not matter): memory does not grow with the text. ``by`` "texts": one
    row per text, at most k times its positions entries each.
    """

    def __init__(self, by: str) -> None:
        self.by = by
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(
        self,
        values: Float[Tensor, "P k"],
        tokens: Int[Tensor, "P k"],
        numbers: Int[Tensor, " P"],
        texts: Int[Tensor, " P"],
    ) -> None:
        """Add positions with their k largest rises; ``texts``: the text of every position."""
        owners = numbers if self.by == "positions" else texts
        self._parts.append((to_host(owners), to_host(values), to_host(tokens).astype(np.int32)))
        if self.by == "positions":
            self._thin()

    def _thin(self) -> None:
        """Keep the positions with the smallest hashes."""
        owners, values, tokens = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        keep = np.argsort(_hashes(owners), kind="stable")[:MOST_POSITIONS]
        self._parts = [(owners[keep], values[keep], tokens[keep])]

    def matrix(self) -> tuple[csr_matrix, np.ndarray]:
        """Rises [rows, U] and the ids [U] of the tokens that ever rose most."""
        if not self._parts:
            return csr_matrix((0, 0)), np.zeros(0, np.int64)
        owners, values, tokens = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        # in the order of the text, so that batches do not matter
        order = np.argsort(owners, kind="stable")
        owners, values, tokens = owners[order], values[order], tokens[order]
        rows = np.repeat(np.unique(owners, return_inverse=True)[1], values.shape[1])
        ids, columns = np.unique(tokens.ravel(), return_inverse=True)
        matrix = csr_matrix((values.ravel().astype(np.float64), (rows, columns)))
        matrix.eliminate_zeros()
        return matrix, ids


def _hashes(numbers: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random order of whole numbers (the finaliser of splitmix64)."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def topics_table(sample: PositionSample, n_topics: int, tokenizer: Tokenizer, seed: int) -> Table:
    """Topics of the rises: X ~ H W with non-negative factors and Frobenius loss (beta 2) as in the
    reference, X rows by tokens; no rows where nothing rose. By coordinate descent: multiplicative
    updates from the same start stop far from the minimum, even where X is of that rank.
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    matrix, ids = sample.matrix()
    found = []
    n_rows = 0 if matrix.shape is None else matrix.shape[0]
    if matrix.nnz and n_rows >= n_topics and len(ids) >= n_topics:
        # of an exact factorisation the loss is 0 but for rounding, and its root is taken
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # close enough to list tokens
            make: Any = NMF  # its annotations name the words allowed for n_components only
            model = make(n_topics, init="nndsvda", max_iter=ITERATIONS, random_state=seed)
            weights = model.fit_transform(matrix)
        found = _topics(weights, model.components_)
    found.sort(key=lambda topic: -topic["mass"])
    columns = {name: [topic[name] for topic in found] for name in ("mass", "prevalence")}
    quoted = [
        " ".join(repr(tokenizer.decode([int(ids[at])])) for at in topic["order"]) for topic in found
    ]
    return rows_table(
        TopicRow,
        "diff-mining-topics",
        {
            "topic": np.arange(1, len(found) + 1),
            **{name: np.array(values, np.float64) for name, values in columns.items()},
            "concentration": np.array([topic["concentration"] for topic in found], np.float64),
            "tokens": quoted,
        },
    )


def _topics(weights: np.ndarray, components: np.ndarray) -> list[dict]:
    mass = weights.sum(0) * components.sum(1)
    rising = weights[weights.any(1)]  # a row in which nothing rose has no topic
    dominant = np.bincount(rising.argmax(1), minlength=len(components)) / len(weights)
    found = []
    for topic, row in enumerate(components):
        shares = row / max(row.sum(), 1e-300)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum()
        found.append(
            {
                "mass": mass[topic] / max(mass.sum(), 1e-300),
                "prevalence": dominant[topic],
                "concentration": 1 - entropy / np.log(max(len(row), 2)),
                "order": np.argsort(-row, kind="stable")[:TOKENS_SHOWN],
            }
        )
    return found
