"""Labels from the base's answers, streams at the token that is read, and probes of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import OptionError
from interp.experiments.base_answers import BaseAnswers
from interp.experiments.cluster_probes import (
    cluster_folds,
    cross_validated,
    shuffled_by_cluster,
)
from interp.experiments.last_streams import last_streams
from interp.models.model import Model
from interp.prompts import Encoded

WORDS_OF_PROMPT, RANDOM_START = "words of the prompt", "random start"
NEAR_BEST = 0.9
MIN_CLUSTERS = 2
"""A label is used if its prompts lie in so many clusters of each split."""


@dataclass(frozen=True)
class Labelled:
    """Prompts that are probed, by split, with the base's answer token ``token`` as their label.

    ``labels`` [n]: of all prompts of the study, 0 where they are not used. ``texts``: what both
    models read of every prompt. ``folds`` [n]: within each split. ``largest``: share of the most
    frequent label of the held-out prompts. ``told_by_new_answers``: share of all probed prompts
    whose label follows from the token that the fine-tuned model writes there, by the most frequent
    label of each.
    """

    selection: Int[np.ndarray, " s"]
    held_out: Int[np.ndarray, " h"]
    token: int
    labels: Int[np.ndarray, " n"]
    texts: tuple[Encoded, ...]
    folds: Int[np.ndarray, " n"]
    clusters: tuple[str, ...]
    n_labels: int
    largest: float
    told_by_new_answers: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Probed:
    """Whether cross-validated probes give every prompt of a split its label, by depth.

    ``features`` [h, depths, W]: those of the held-out prompts.
    """

    name: str
    selection: Bool[np.ndarray, "depths s"]
    held_out: Bool[np.ndarray, "depths h"]
    features: Float[np.ndarray, "h depths W"]


def labelled_answers(
    answers: BaseAnswers, changed_only: bool, token: int, after_answer: bool
) -> Labelled:
    """Choose the prompts and the token; ``token`` 0: the first at which two labels can be used.

    All prompts are probed where no answer of a split changed. Raises OptionError for a token that
    no answer has.
    """
    splits = [answers.selection, answers.held_out]
    only_changed = [rows[answers.changed[rows]] for rows in splits]
    if changed_only and all(map(len, only_changed)):
        splits = only_changed
    longest = max(len(answers.answers[row]) for rows in splits for row in rows.tolist())
    if token > longest:
        raise OptionError(
            f"label_token is {token}, and the base's longest answer has {longest} tokens; give less"
        )
    places = [token - 1] if token else list(range(longest))
    usable = [_usable_rows(answers, splits, place) for place in places]
    chosen = _first_place(splits, usable)
    (selection, held_out), names = usable[chosen]
    place = places[chosen]
    if len(names) < 2:
        selection, held_out = splits
    codes = {name: code for code, name in enumerate(names)}
    labels = np.array([codes.get(_token(answer, place), 0) for answer in answers.answers], np.int64)
    folds, clusters = np.zeros(len(labels), np.int64), answers.clusters
    for rows in (selection, held_out):
        folds[rows] = cluster_folds([clusters[row] for row in rows], answers.study.seed)
    texts = tuple(
        coded.with_completion(answer[:place]) if after_answer and place else coded
        for coded, answer in zip(answers.encoded, answers.answers, strict=True)
    )
    probed = np.concatenate([selection, held_out])
    told = _told_by_new_answers(answers, labels, probed, place)
    largest = float(np.bincount(labels[held_out]).max() / len(held_out))
    return Labelled(
        selection,
        held_out,
        place,
        labels,
        texts,
        folds,
        tuple(clusters),
        len(names),
        largest,
        told,
        _notes(len(names), largest, told),
    )


def _first_place(
    splits: Sequence[np.ndarray], usable: Sequence[tuple[list[np.ndarray], list[int]]]
) -> int:
    """The first place at which two labels can be used and half of the prompts of each split kept;
    else the one that keeps most prompts, and 0 where no place has two labels.
    """
    shares = [
        min(len(kept) / len(rows) for kept, rows in zip(parts, splits, strict=True))
        if len(names) > 1
        else 0.0
        for parts, names in usable
    ]
    enough = [at for at, share in enumerate(shares) if share >= 0.5]
    return enough[0] if enough else int(np.argmax(shares))


def _token(answer: Sequence[int], place: int) -> int:
    """The token of an answer at a place; -1 after its end."""
    return answer[place] if place < len(answer) else -1


def _usable_rows(
    answers: BaseAnswers, splits: Sequence[np.ndarray], place: int
) -> tuple[list[np.ndarray], list[int]]:
    """The rows of both splits whose label has enough clusters in each, and these labels."""
    used: list[set[int]] = []
    for rows in splits:
        clusters: dict[int, set[str]] = {}
        for row in rows.tolist():
            own = clusters.setdefault(_token(answers.answers[row], place), set())
            own.add(answers.clusters[row])
        used.append({label for label, names in clusters.items() if len(names) >= MIN_CLUSTERS})
    names = sorted(used[0] & used[1])
    kept = [
        np.array([row for row in rows.tolist() if _token(answers.answers[row], place) in names])
        for rows in splits
    ]
    return kept, names


def _told_by_new_answers(
    answers: BaseAnswers, labels: np.ndarray, rows: np.ndarray, place: int
) -> float:
    study = answers.study
    written = study.answers_to(study.classes, "tuned")
    own = [answer for group in study.classes for answer in written[group]]
    by_token: dict[int, Counter] = {}
    for row in rows.tolist():
        by_token.setdefault(_token(own[row], place), Counter())[int(labels[row])] += 1
    return sum(max(counts.values()) for counts in by_token.values()) / len(rows)


def _notes(n_labels: int, largest: float, told_share: float) -> tuple[str, ...]:
    if n_labels < 2:
        return (
            "The base's answers to the probed prompts do not differ in a token that enough clusters"
            " share, so that there is no label to probe for; give more prompts, or other ones.",
        )
    if told_share <= largest + 0.1:
        return ()
    return (
        f"The fine-tuned model's own answers tell the label of {told_share:.0%} of the prompts: a probe"
        " of its stream can read its new behaviour instead of the old answer.",
    )


def probe_model(answers: BaseAnswers, labelled: Labelled, name: str, model: Model) -> Probed:
    """Probes of a model's stream at every depth, on both splits."""
    rows = np.concatenate([labelled.selection, labelled.held_out])
    features = last_streams(answers.study, model, [labelled.texts[row] for row in rows], name)
    first = len(labelled.selection)
    return _probed(labelled, name, features[:first], features[first:])


def word_counts(
    answers: BaseAnswers, labelled: Labelled
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes of how often each token is in the prompt: what the words alone tell."""
    rows = np.concatenate([labelled.selection, labelled.held_out]).tolist()
    tokens = sorted({index for row in rows for index in answers.encoded[row].ids})
    column = {index: at for at, index in enumerate(tokens)}
    counts = np.zeros((len(rows), 1, len(tokens)))
    for at, row in enumerate(rows):
        for index in answers.encoded[row].ids:
            counts[at, 0, column[index]] += 1
    first = len(labelled.selection)
    probed = _probed(labelled, WORDS_OF_PROMPT, counts[:first], counts[first:])
    return probed.selection, probed.held_out, probed.features


def _probed(labelled: Labelled, name: str, selection: np.ndarray, held_out: np.ndarray) -> Probed:
    correct = []
    for rows, features in ((labelled.selection, selection), (labelled.held_out, held_out)):
        labels, folds = labelled.labels[rows], labelled.folds[rows]
        correct.append(
            np.stack(
                [
                    cross_validated(features[:, depth], labels, folds)
                    for depth in range(features.shape[1])
                ]
            )
        )
    return Probed(name, correct[0], correct[1], held_out)


def chosen_depth(base: Probed) -> int:
    """The deepest depth at which the base's own stream tells, on the selection split, ``NEAR_BEST``
    of what it tells at its best one.

    At the best depth itself the prompt's words may be read, before fine-tuning could change much.
    """
    accuracy = base.selection.mean(1)
    return int(np.flatnonzero(accuracy >= NEAR_BEST * accuracy.max()).max())


def shuffled_accuracies(
    labelled: Labelled, probed: Probed, depth: int, draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """Accuracies on the held-out split for labels shuffled by cluster."""
    rows, generator = labelled.held_out, np.random.default_rng(seed)
    clusters = [labelled.clusters[row] for row in rows.tolist()]
    accuracies = []
    for _ in range(draws):
        labels = shuffled_by_cluster(labelled.labels[rows], clusters, generator)
        correct = cross_validated(probed.features[:, depth], labels, labelled.folds[rows])
        accuracies.append(float(correct.mean()))
    return np.array(accuracies)
