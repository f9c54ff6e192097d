"""Which prompts are one piece of evidence: those that share a cluster, a twin or a text, and whatever these tie."""

import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Name = TypeVar("Name", bound=Hashable)


def text_key(text: str, messages: Sequence[tuple[str, str]] | None = None) -> Hashable:
    """What two prompts have in common that say the same: text in Unicode NFC without surrounding white space.

    A conversation is the roles and words of its ``messages``; plain text is one message of a user.
    """
    turns = (("user", text),) if messages is None else messages
    return tuple((role, unicodedata.normalize("NFC", words).strip()) for role, words in turns)


def tied(clusters: Sequence[Name], *ties: Sequence[Hashable | None]) -> list[Name]:
    """The cluster of every row, one for all rows that share a cluster or a value of ``ties``, directly or by others.

    ``ties`` have a value per row, of which None ties nothing. A cluster made of several has the name of its first row.
    """
    values = [(kind, row, value) for kind, column in enumerate((clusters, *ties)) for row, value in enumerate(column)]
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
