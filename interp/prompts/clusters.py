"""Clusters: prompts that share a cluster, a twin or a text are one unit of evidence, also through
other prompts.
"""

import unicodedata
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Name = TypeVar("Name", bound=Hashable)


def text_key(text: str, messages: Sequence[tuple[str, str]] | None = None) -> Hashable:
    """Key that is equal for prompts of equal text: Unicode NFC without surrounding white space.

    The key of a conversation is the roles and texts of its ``messages``; plain text is one user
    message.
    """
    conversation = (("user", text),) if messages is None else messages
    return tuple(
        (role, unicodedata.normalize("NFC", words).strip()) for role, words in conversation
    )


def merge_clusters(clusters: Sequence[Name], *keys: Sequence[Hashable | None]) -> list[Name]:
    """The cluster of every row, merged for rows that share a cluster or a value of ``keys``,
    directly or through other rows.

    Each of ``keys`` has a value per row; None connects nothing. A merged cluster has the name of
    its first row.
    """
    values = [
        (kind, row, value)
        for kind, column in enumerate((clusters, *keys))
        for row, value in enumerate(column)
    ]
    node_numbers: dict[tuple[int, Hashable], int] = {}
    edges = [
        (row, len(clusters) + node_numbers.setdefault((kind, value), len(node_numbers)))
        for kind, row, value in values
        if value is not None
    ]
    if not edges:
        return []
    size = len(clusters) + len(node_numbers)
    graph = coo_array((np.ones(len(edges), bool), np.array(edges).T), shape=(size, size))
    components = connected_components(graph, directed=False)[1][: len(clusters)]
    first_names: dict[int, Name] = {}
    return [
        first_names.setdefault(component, name)
        for component, name in zip(components.tolist(), clusters, strict=True)
    ]


def positions_within_clusters(clusters: Sequence[Hashable]) -> list[int]:
    """For every row, the number of earlier rows in the same cluster."""
    seen: Counter[Hashable] = Counter()
    positions = []
    for cluster in clusters:
        positions.append(seen[cluster])
        seen[cluster] += 1
    return positions


def first_and_repeated(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Rows with the first occurrence of every text, and rows that repeat a text, by their
    ``text_key``.
    """
    seen: set[Hashable] = set()
    first, repeats = [], []
    for row, key in enumerate(keys):
        (repeats if key in seen else first).append(row)
        seen.add(key)
    return first, repeats


def balanced_half(names: list[str], *sizes: Counter[str]) -> set[str]:
    """Half of the names, chosen in order so that both halves hold about equally many prompts of
    each class.
    """
    first: set[str] = set()
    balance = [0] * len(sizes)
    for name in names:
        weights = [size[name] for size in sizes]
        imbalance_if_added = sum(abs(b + w) for b, w in zip(balance, weights, strict=True))
        imbalance_if_not = sum(abs(b - w) for b, w in zip(balance, weights, strict=True))
        sign = 1 if imbalance_if_added <= imbalance_if_not else -1
        if sign == 1:
            first.add(name)
        balance = [b + sign * w for b, w in zip(balance, weights, strict=True)]
    return first


def count_text(counts: Mapping[str, int]) -> str:
    """Text such as ``1 prompt, 2 clusters`` from the number of each."""
    return ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in counts.items())
