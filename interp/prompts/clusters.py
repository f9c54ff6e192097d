"""Which prompts are one piece of evidence: those that share a cluster, a twin or a text, and
whatever these tie.
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
    """What two prompts have in common that say the same: text in Unicode NFC without surrounding
    white space.

    A conversation is the roles and words of its ``messages``; plain text is one message of a user.
    """
    turns = (("user", text),) if messages is None else messages
    return tuple((role, unicodedata.normalize("NFC", words).strip()) for role, words in turns)


def tied(clusters: Sequence[Name], *ties: Sequence[Hashable | None]) -> list[Name]:
    """The cluster of every row, one for all rows that share a cluster or a value of ``ties``,
    directly or by others.

    ``ties`` have a value per row, of which None ties nothing. A cluster made of several has the
    name of its first row.
    """
    values = [
        (kind, row, value)
        for kind, column in enumerate((clusters, *ties))
        for row, value in enumerate(column)
    ]
    number: dict[tuple[int, Hashable], int] = {}
    edges = [
        (row, len(clusters) + number.setdefault((kind, value), len(number)))
        for kind, row, value in values
        if value is not None
    ]
    if not edges:
        return []
    size = len(clusters) + len(number)
    graph = coo_array((np.ones(len(edges), bool), np.array(edges).T), shape=(size, size))
    part = connected_components(graph, directed=False)[1][: len(clusters)]
    first: dict[int, Name] = {}
    return [first.setdefault(one, name) for one, name in zip(part.tolist(), clusters, strict=True)]


def turns(clusters: Sequence[Hashable]) -> list[int]:
    """For every row how many rows of the same cluster come before it."""
    seen: Counter[Hashable] = Counter()
    found = []
    for cluster in clusters:
        found.append(seen[cluster])
        seen[cluster] += 1
    return found


def repeats_last(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Rows of the first prompt of every text, and rows of those that repeat one, by their
    ``text_key``.
    """
    seen: set[Hashable] = set()
    first, again = [], []
    for row, key in enumerate(keys):
        (again if key in seen else first).append(row)
        seen.add(key)
    return first, again


def halve(names: list[str], *sizes: Counter[str]) -> set[str]:
    """Half of the names, taken in their order so that both halves hold about as many prompts of
    each class.
    """
    first: set[str] = set()
    balance = [0] * len(sizes)
    for name in names:
        weights = [size[name] for size in sizes]
        lead = sum(abs(b + w) for b, w in zip(balance, weights, strict=True))
        lag = sum(abs(b - w) for b, w in zip(balance, weights, strict=True))
        sign = 1 if lead <= lag else -1
        if sign == 1:
            first.add(name)
        balance = [b + sign * w for b, w in zip(balance, weights, strict=True)]
    return first


def counted(numbers: Mapping[str, int]) -> str:
    """``1 prompt, 2 clusters`` of the numbers of each."""
    return ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in numbers.items())
