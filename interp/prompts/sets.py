"""Prompts of one class, and contrasts of two, split by cluster."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from interp.errors import PromptError
from interp.prompts.clusters import counted, halve, repeats_last, text_key, tied, turns

_TRIES = 64


@dataclass(frozen=True)
class Prompt:
    """One prompt: its place in the file (from 0), text, cluster, and the twin's name where there is one.

    Prompts of a task have an ``answer`` and, where the file gives one, a ``wrong_answer``; ``template`` names the form
    that a prompt's words were put into. ``split`` is what a file says it is kept for: ``locate`` or ``verify``.
    ``messages`` are the roles and words of a whole conversation, whose words together are then the text.
    ``given_cluster`` is the name that its cluster had before another prompt tied it to one of another name;
    ``named`` is False where the file gave none.
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
    named: bool = True


def _tie(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts, in one cluster where they share a cluster (also as given), a text or a twin, or others tie them."""
    given = [prompt.given_cluster or prompt.cluster for prompt in prompts]
    keys = [text_key(prompt.text, prompt.messages) for prompt in prompts]
    names = tied([prompt.cluster for prompt in prompts], given, keys, [prompt.twin for prompt in prompts])
    rows = zip(prompts, given, names, strict=True)
    return tuple(p if p.cluster == name else replace(p, cluster=name, given_cluster=own) for p, own, name in rows)


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one class, in file order; those that share a twin or a text are one cluster, whatever was given.

    ``clusters_given`` is False where nobody said which prompts are variants of one: then every text is a cluster.
    """

    prompts: tuple[Prompt, ...]
    source: str
    clusters_given: bool = True

    def __post_init__(self) -> None:
        if repeated := [one for one, times in Counter(prompt.id for prompt in self.prompts).items() if times > 1]:
            how = f"join sets with PromptSet.joined(ONE, OTHER); id {repeated[0]} is there twice or more"
            raise PromptError(f"prompts of {self.source!r} share ids: {how}")
        object.__setattr__(self, "prompts", _tie(self.prompts))

    @staticmethod
    def joined(*sets: "PromptSet") -> "PromptSet":
        """The prompts of all sets, with new ids; clusters of one name are one cluster."""
        prompts = [prompt for each in sets for prompt in each]
        numbered = tuple(replace(prompt, id=row) for row, prompt in enumerate(prompts))
        return PromptSet(numbered, " + ".join(each.source for each in sets), any(each.clusters_given for each in sets))

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
        """For every prompt what it has in common with those of equal text (or messages); see ``text_key``."""
        return [text_key(prompt.text, prompt.messages) for prompt in self.prompts]

    @property
    def n_texts(self) -> int:
        """How many distinct texts there are."""
        return len(set(self.keys))

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return len(set(self.clusters))

    @property
    def counts(self) -> str:
        """How many prompts, distinct texts and clusters there are, in words."""
        return counted({"prompt": len(self), "distinct text": self.n_texts, "cluster": self.n_clusters})

    def keep(self, rows: Sequence[int]) -> "PromptSet":
        """The prompts of some rows."""
        return replace(self, prompts=tuple(self.prompts[row] for row in rows))

    def shared(self, other: "PromptSet") -> list[str]:
        """The texts that ``other`` holds too."""
        theirs = set(other.keys)
        return [text for text, key in zip(self.texts, self.keys, strict=True) if key in theirs]

    def halves(self) -> "tuple[PromptSet, PromptSet] | None":
        """The prompts kept to locate on and to verify on, where the file says which are which; else None."""
        parts = [[row for row, p in enumerate(self.prompts) if p.split == name] for name in ("locate", "verify")]
        return (self.keep(parts[0]), self.keep(parts[1])) if all(parts) else None

    def spread(self, count: int) -> "PromptSet":
        """At most ``count`` prompts, in file order, the first of every cluster before the second of any."""
        return self.keep(self.spread_rows(count))

    def spread_rows(self, count: int) -> list[int]:
        """The rows of ``spread``, ascending."""
        return sorted(self.over_clusters()[:count])

    def sample(self, count: int) -> list[int]:
        """Rows of at most ``count`` distinct texts, ascending: the first of every cluster before the second of any."""
        return sorted(self.over_clusters()[: min(count, self.n_texts)])

    def over_clusters(self) -> list[int]:
        """All rows, the first text of every cluster before the second of any; rows that repeat a text come last."""
        first, again = repeats_last(self.keys)
        turn = dict(zip(first, turns([self.clusters[row] for row in first]), strict=True))
        return sorted(first, key=turn.__getitem__) + again

    @cached_property
    def digest(self) -> str:
        """Content fingerprint: texts, ids, clusters, twins, answers and templates, not the file's name."""
        rows = [[prompt.id, prompt.text, prompt.cluster, prompt.twin] for prompt in self.prompts]
        for row, prompt in zip(rows, self.prompts, strict=True):
            row += [] if prompt.answer is None else [prompt.answer, prompt.wrong_answer]
            row += [] if prompt.template is None else [{"template": prompt.template}]
            row += [] if prompt.messages is None else [{"messages": prompt.messages}]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


NOTHING = PromptSet((), "")
"""The negative class of a task that is not contrasted with anything."""


@dataclass(frozen=True)
class OneClass:
    """Prompts of one class, called ``positive``, for analyzers that contrast nothing."""

    positive: PromptSet

    def __post_init__(self) -> None:
        if not len(self.positive):
            raise PromptError(f"there are no prompts ({self.positive.source}); give at least one")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return ("positive",)

    @property
    def negative(self) -> PromptSet:
        """Always PromptError: there is no other class."""
        raise PromptError(f"one class of prompts was given ({self.positive.source}) and two are needed; give both")

    @property
    def digest(self) -> str:
        """Content fingerprint, never that of a contrast."""
        return hashlib.sha256(f"one class {self.positive.digest}".encode()).hexdigest()

    def limit(self, count: int | None) -> "OneClass":
        """At most ``count`` prompts, in file order, from as many clusters as can be."""
        return self if count is None else OneClass(self.positive.spread(count))


@dataclass(frozen=True)
class Contrast:
    """Two classes of prompts: ``positive`` should show the behaviour, ``negative`` should not, or is ``NOTHING``.

    Clusters of the two that share a name, a twin or a text are one.
    """

    positive: PromptSet
    negative: PromptSet

    def __post_init__(self) -> None:
        for name, prompts in (("positive", self.positive), ("negative", self.negative)):
            if not len(prompts) and not (name == "negative" and prompts == NOTHING):
                raise PromptError(f"the {name} class has no prompts ({prompts.source}); give at least one")
        if set(self.positive.keys) == set(self.negative.keys):
            raise PromptError(
                f"both classes hold the same prompts ({self.positive.source}, {self.negative.source}); "
                "give two different files"
            )
        prompts, count = _tie((*self.positive, *self.negative)), len(self.positive)
        object.__setattr__(self, "positive", replace(self.positive, prompts=prompts[:count]))
        object.__setattr__(self, "negative", replace(self.negative, prompts=prompts[count:]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return ("positive", "negative")

    @property
    def digest(self) -> str:
        """Content fingerprint of both classes, in order."""
        return hashlib.sha256(f"{self.positive.digest} {self.negative.digest}".encode()).hexdigest()

    @property
    def clusters(self) -> list[str]:
        """The cluster of every positive, then every negative prompt."""
        return [*self.positive.clusters, *self.negative.clusters]

    def split(self, seed: int) -> tuple["Contrast", "Contrast"]:
        """Two halves, one to locate on and one to verify on, that share no cluster, no twin and no text."""
        names = sorted(set(self.clusters))
        generator = random.Random(seed)
        for _ in range(_TRIES):  # of a few clusters a draw can leave a half without one class
            generator.shuffle(names)
            first = halve(names, Counter(self.positive.clusters), Counter(self.negative.clusters))
            if min(_count(self, first), _count(self, set(names) - first)):
                return self._keep(first), self._keep(set(names) - first)
        raise PromptError(
            f"{len(self.positive)} positive and {len(self.negative)} negative prompts in {len(names)} clusters cannot "
            "be parted into a locating and a verifying half with both classes; "
            "give more prompts, or separate files with --verify-positive and --verify-negative"
        )

    @property
    def n_clusters(self) -> int:
        """Clusters of the class that has fewer."""
        return min(part.n_clusters for part in (self.positive, self.negative) if len(part))

    def limit(self, count: int | None) -> "Contrast":
        """At most ``count`` prompts of each class, in file order, from as many clusters as can be.

        Where every positive prompt names its twin, twins stay together.
        """
        if count is None:
            return self
        pairs = self.pairs()
        if pairs is not None:
            twin = {prompt: self.negative.prompts[row] for prompt, row in zip(self.positive, pairs, strict=True)}
            kept = self.positive.spread(count)
            chosen = {twin[prompt] for prompt in kept}
            return Contrast(kept, self.negative.keep([row for row, p in enumerate(self.negative) if p in chosen]))
        return Contrast(*(part.spread(count) for part in (self.positive, self.negative)))

    def require_disjoint(self, other: "Contrast") -> None:
        """Refuse prompts that stand in both; locating and verifying on the same ones proves nothing."""
        parts = self.positive, self.negative
        shared = [text for part in parts for theirs in (other.positive, other.negative) for text in theirs.shared(part)]
        if shared:
            raise PromptError(
                f"{len(shared)} verifying prompts are also used to locate, first {shared[0][:40]!r}; "
                "keep the two sets apart"
            )

    def twins(self) -> list[int]:
        """For every positive prompt the row of its negative twin: by name, else the nearest in length."""
        named = {prompt.twin: row for row, prompt in enumerate(self.negative) if prompt.twin is not None}
        lengths = [len(text) for text in self.negative.texts]
        return [
            named[prompt.twin]
            if prompt.twin in named
            else min(range(len(lengths)), key=lambda row: abs(lengths[row] - len(prompt.text)))
            for prompt in self.positive
        ]

    def pairs(self) -> list[int] | None:
        """For every positive prompt the row of the negative one named as its twin; None unless all are paired off.

        Where None, the classes are independent samples to a test, though ``twins`` still finds each a companion.
        """
        if any(prompt.twin is None for prompt in self.positive):
            return None
        # of several pairs of one name the first go together, the second, and so on
        names = [[prompt.twin for prompt in part] for part in (self.positive, self.negative)]
        mine, theirs = (zip(part, turns(part), strict=True) for part in names)
        rows = {pair: row for row, pair in enumerate(theirs)}
        found = [rows.get(pair, -1) for pair in mine]
        return None if -1 in found else found

    def _keep(self, clusters: set[str]) -> "Contrast":
        parts = (self.positive, self.negative)
        return Contrast(*(part.keep([row for row, c in enumerate(part.clusters) if c in clusters]) for part in parts))


def _count(contrast: Contrast, clusters: set[str]) -> int:
    parts = [part for part in (contrast.positive, contrast.negative) if len(part)]
    return min(sum(prompt.cluster in clusters for prompt in part) for part in parts)
