"""The prompts of a study: one class, or a contrast of two, split by cluster."""

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, replace

from interp.errors import PromptError
from interp.prompts.clusters import balanced_half, count_text, positions_within_clusters
from interp.prompts.sets import PromptSet, merge_prompt_clusters

_MAX_DRAWS = 64

NO_PROMPTS = PromptSet((), "")
"""The negative class of a task without a contrast."""


@dataclass(frozen=True)
class OneClass:
    """Prompts of one class, called ``positive``, for analyzers that need no contrast."""

    positive: PromptSet

    def __post_init__(self) -> None:
        if not len(self.positive):
            raise PromptError(f"there are no prompts ({self.positive.source}); give at least one")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return ("positive",)

    @property
    def counts(self) -> str:
        """Numbers of prompts, distinct texts and clusters, as text."""
        return f"{self.positive.source}: {self.positive.counts}"

    @property
    def negative(self) -> PromptSet:
        """Always raises PromptError: there is no other class."""
        raise PromptError(
            f"only one class of prompts was given ({self.positive.source}) and two are needed; give"
            " both"
        )

    @property
    def digest(self) -> str:
        """Content fingerprint; it differs from that of any contrast."""
        return hashlib.sha256(f"one class {self.positive.digest}".encode()).hexdigest()

    def limit(self, count: int | None) -> "OneClass":
        """At most ``count`` prompts, in file order, from as many clusters as possible."""
        return self if count is None else OneClass(self.positive.spread(count))


@dataclass(frozen=True)
class Contrast:
    """Two classes of prompts: ``positive`` should exhibit the behaviour, ``negative`` should not,
    or is ``NOTHING``.

    Clusters of both classes that share a name, a twin or a text are merged.
    """

    positive: PromptSet
    negative: PromptSet

    def __post_init__(self) -> None:
        for name, prompts in (("positive", self.positive), ("negative", self.negative)):
            if not len(prompts) and not (name == "negative" and prompts == NO_PROMPTS):
                raise PromptError(
                    f"the {name} class has no prompts ({prompts.source}); give at least one"
                )
        if set(self.positive.keys) == set(self.negative.keys):
            raise PromptError(
                f"both classes hold the same prompts ({self.positive.source},"
                f" {self.negative.source}); give two different files"
            )
        prompts, count = merge_prompt_clusters((*self.positive, *self.negative)), len(self.positive)
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
        """Selection split and held-out split; they share no cluster, twin or text."""
        names = sorted(set(self.clusters))
        generator = random.Random(seed)
        for _ in range(_MAX_DRAWS):  # with few clusters, a draw can leave a half without one class
            generator.shuffle(names)
            first = balanced_half(
                names, Counter(self.positive.clusters), Counter(self.negative.clusters)
            )
            if min(_smaller_class_size(self, first), _smaller_class_size(self, set(names) - first)):
                return self._keep_clusters(first), self._keep_clusters(set(names) - first)
        raise PromptError(
            f"{len(self.positive)} positive and {len(self.negative)} negative prompts in"
            f" {len(names)} clusters cannot be divided into a selection and a held-out split with"
            " both classes; give more prompts (or, to a command that takes --verify-positive and"
            " --verify-negative, held-out files of their own)"
        )

    @property
    def counts(self) -> str:
        """Numbers of prompts, distinct texts and clusters of each class, and of clusters in both,
        as text.
        """
        parts = (("positive", self.positive), ("negative", self.negative))
        lines = [f"{name} {part.source}: {part.counts}" for name, part in parts if len(part)]
        if n_shared := len(set(self.positive.clusters) & set(self.negative.clusters)):
            lines.append(
                f"{count_text({'cluster': n_shared})} hold{'s' * (n_shared == 1)} prompts of both"
            )
        return "; ".join(lines)

    @property
    def n_clusters(self) -> int:
        """Number of clusters of the class that has fewer."""
        return min(part.n_clusters for part in (self.positive, self.negative) if len(part))

    def limit(self, count: int | None) -> "Contrast":
        """At most ``count`` prompts of each class, in file order, from as many clusters as
        possible.

        If every positive prompt names its twin, twins stay together.
        """
        if count is None:
            return self
        pairs = self.pairs()
        if pairs is not None:
            twin = {
                prompt: self.negative.prompts[row]
                for prompt, row in zip(self.positive, pairs, strict=True)
            }
            positive = self.positive.spread(count)
            chosen = {twin[prompt] for prompt in positive}
            return Contrast(
                positive,
                self.negative.keep([row for row, p in enumerate(self.negative) if p in chosen]),
            )
        return Contrast(*(part.spread(count) for part in (self.positive, self.negative)))

    def require_disjoint(self, other: "Contrast") -> None:
        """Raise PromptError for prompts in both splits: a verification on the prompts used to
        locate is not evidence.
        """
        parts = self.positive, self.negative
        shared = [
            text
            for part in parts
            for prompts in (other.positive, other.negative)
            for text in prompts.shared(part)
        ]
        if shared:
            raise PromptError(
                f"{len(shared)} held-out prompts are also in the selection split, first"
                f" {shared[0][:40]!r}; use disjoint prompts"
            )

    def twins(self) -> list[int]:
        """For every positive prompt, the row of its negative twin: by name, else the nearest in
        length.
        """
        named = {
            prompt.twin: row for row, prompt in enumerate(self.negative) if prompt.twin is not None
        }
        lengths = [len(text) for text in self.negative.texts]
        return [
            (
                named[prompt.twin]
                if prompt.twin in named
                else min(range(len(lengths)), key=lambda row: abs(lengths[row] - len(prompt.text)))
            )
            for prompt in self.positive
        ]

    def pairs(self) -> list[int] | None:
        """For every positive prompt, the row of the negative prompt named as its twin; None unless
        all have one.

        If None, tests treat the classes as independent samples, although ``twins`` still finds each
        a counterpart.
        """
        if any(prompt.twin is None for prompt in self.positive):
            return None
        # if several pairs have the same name, they are matched in order
        names = [[prompt.twin for prompt in part] for part in (self.positive, self.negative)]
        positive_keys, negative_keys = (
            zip(part, positions_within_clusters(part), strict=True) for part in names
        )
        rows = {pair: row for row, pair in enumerate(negative_keys)}
        matched = [rows.get(pair, -1) for pair in positive_keys]
        return None if -1 in matched else matched

    def _keep_clusters(self, clusters: set[str]) -> "Contrast":
        parts = (self.positive, self.negative)
        return Contrast(
            *(
                part.keep([row for row, c in enumerate(part.clusters) if c in clusters])
                for part in parts
            )
        )


def _smaller_class_size(contrast: Contrast, clusters: set[str]) -> int:
    parts = [part for part in (contrast.positive, contrast.negative) if len(part)]
    return min(sum(prompt.cluster in clusters for prompt in part) for part in parts)
