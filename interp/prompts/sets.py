"""Prompts of one class."""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from interp.errors import PromptError
from interp.prompts.clusters import (
    count_text,
    first_and_repeated,
    merge_clusters,
    positions_within_clusters,
    text_key,
)


@dataclass(frozen=True)
class Prompt:
    """One prompt: its row in the file (from 0), text, cluster, and the name of its twin pair, if
    any.

    Prompts of a task have an ``answer`` and optionally a ``wrong_answer``; ``template`` names the
    form that a prompt's words were put into. ``split`` is ``locate`` or ``verify`` if the file
    assigns one. ``messages`` are the roles and texts of a whole conversation; ``text`` is then all
    of its texts. ``given_cluster`` is the cluster's name before it was merged with one of another
    name; ``has_given_name`` is False if the file gave none.
    """

    id: int
    text: str
    cluster: str
    twin: str | None = None
    answer: str | None = None
    wrong_answer: str | None = None
    template: str | None = None
    split: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    given_cluster: str | None = None
    has_given_name: bool = True


def merge_prompt_clusters(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts with merged clusters: those that share a cluster (also as given), a text or a
    twin, directly or through others.
    """
    given_names = [prompt.given_cluster or prompt.cluster for prompt in prompts]
    keys = [text_key(prompt.text, prompt.messages) for prompt in prompts]
    names = merge_clusters(
        [prompt.cluster for prompt in prompts],
        given_names,
        keys,
        [prompt.twin for prompt in prompts],
    )
    rows = zip(prompts, given_names, names, strict=True)
    return tuple(
        p if p.cluster == name else replace(p, cluster=name, given_cluster=given)
        for p, given, name in rows
    )


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one class, in file order; prompts that share a twin or a text are in one cluster.

    ``clusters_given`` is False if neither clusters nor twins were given: then every text is a
    cluster.
    """

    prompts: tuple[Prompt, ...]
    source: str
    clusters_given: bool = True

    def __post_init__(self) -> None:
        if repeated := [
            number
            for number, times in Counter(prompt.id for prompt in self.prompts).items()
            if times > 1
        ]:
            remedy = (
                f"join sets with PromptSet.joined(FIRST, SECOND); id {repeated[0]} occurs more"
                " than once"
            )
            raise PromptError(f"prompts of {self.source!r} share ids: {remedy}")
        object.__setattr__(self, "prompts", merge_prompt_clusters(self.prompts))

    @staticmethod
    def joined(*sets: "PromptSet") -> "PromptSet":
        """The prompts of all sets, with new ids; clusters of the same name are merged."""
        prompts = [prompt for prompts in sets for prompt in prompts]
        numbered = tuple(replace(prompt, id=row) for row, prompt in enumerate(prompts))
        return PromptSet(
            numbered,
            " + ".join(prompts.source for prompts in sets),
            any(prompts.clusters_given for prompts in sets),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts, in order."""
        return [prompt.text for prompt in self.prompts]

    @property
    def clusters(self) -> list[str]:
        """The prompts' clusters, in order."""
        return [prompt.cluster for prompt in self.prompts]

    @cached_property
    def keys(self) -> list[Hashable]:
        """``text_key`` of every prompt: equal for prompts of equal text (or messages)."""
        return [text_key(prompt.text, prompt.messages) for prompt in self.prompts]

    @property
    def n_texts(self) -> int:
        """Number of distinct texts."""
        return len(set(self.keys))

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(set(self.clusters))

    @property
    def counts(self) -> str:
        """Numbers of prompts, distinct texts and clusters, as text."""
        return count_text(
            {"prompt": len(self), "distinct text": self.n_texts, "cluster": self.n_clusters}
        )

    def keep(self, rows: Sequence[int]) -> "PromptSet":
        """The prompts of the given rows."""
        return replace(self, prompts=tuple(self.prompts[row] for row in rows))

    def shared(self, other: "PromptSet") -> list[str]:
        """The texts that are also in ``other``."""
        other_keys = set(other.keys)
        return [text for text, key in zip(self.texts, self.keys, strict=True) if key in other_keys]

    def given_splits(self) -> "tuple[PromptSet, PromptSet] | None":
        """Selection and held-out prompts if the file assigns them (column ``split``), else None."""
        parts = [
            [row for row, p in enumerate(self.prompts) if p.split == name]
            for name in ("locate", "verify")
        ]
        return (self.keep(parts[0]), self.keep(parts[1])) if all(parts) else None

    def spread(self, count: int) -> "PromptSet":
        """At most ``count`` prompts, in file order; the first of every cluster is chosen before the
        second of any.
        """
        return self.keep(self.spread_rows(count))

    def spread_rows(self, count: int) -> list[int]:
        """The rows of ``spread``, ascending."""
        return sorted(self.rows_over_clusters()[:count])

    def sample(self, count: int) -> list[int]:
        """Rows of at most ``count`` distinct texts, ascending; the first of every cluster is chosen
        before the second of any.
        """
        return sorted(self.rows_over_clusters()[: min(count, self.n_texts)])

    def rows_over_clusters(self) -> list[int]:
        """All rows, the first text of every cluster before the second of any; rows that repeat a
        text come last.
        """
        first, repeats = first_and_repeated(self.keys)
        position = dict(
            zip(
                first, positions_within_clusters([self.clusters[row] for row in first]), strict=True
            )
        )
        return sorted(first, key=position.__getitem__) + repeats

    @cached_property
    def digest(self) -> str:
        """Content fingerprint of texts, ids, clusters, twins, answers and templates, without the
        file's name.
        """
        rows = [[prompt.id, prompt.text, prompt.cluster, prompt.twin] for prompt in self.prompts]
        for row, prompt in zip(rows, self.prompts, strict=True):
            row += [] if prompt.answer is None else [prompt.answer, prompt.wrong_answer]
            row += [] if prompt.template is None else [{"template": prompt.template}]
            row += [] if prompt.messages is None else [{"messages": prompt.messages}]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
