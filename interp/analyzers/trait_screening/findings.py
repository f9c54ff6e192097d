"""Rows, null and claim of trait screening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.claims import Claim, Draws, mean
from interp.experiments.discovery.trait_directions import (
    CLASS,
    RANDOM,
    SHUFFLED,
    Directions,
)
from interp.prompts import PromptSet
from interp.rows import DrawRow, key, measure, rows_table, text
from interp.table import Table

UNIT = "distances between the classes"
EXCERPT = 160
"""Characters of an answer that a row shows."""


class ScreenedRow:
    """A row per row of the data, furthest along the trait first."""

    place: int = key("place in the ranking, from 1")
    prompt_id: int = key("position in the file of rows, from 0")
    cluster: str = key("rows that are not independent of each other share a cluster")
    domain: str = key("domain of the row, as its file names it")
    evidence: str = text("the row's answer, its beginning")
    own: str = text("what the base itself answers, its beginning")
    score: float = measure(
        "mean stream over the row's answer along the trait's direction, minus that over the base's"
        " own answer",
        UNIT,
    )
    same_length: float = measure(
        "the same without what a straight line on the log of the ratio of both lengths explains",
        UNIT,
    )
    p: float = measure(
        "(1 + permutations of the labels with which some row reaches as far) / (1 + permutations)"
    )
    tokens: int = measure("tokens of the row's answer")
    own_tokens: int = measure("tokens of the base's own answer")


class TotalRow(DrawRow):
    """A row per direction of a null."""

    kind: str = key("shuffled (labels permuted within twins) or random (of the class distance)")
    moved: float = measure("mean score of the rows along it", UNIT)
    largest: float = measure("largest score of a row along it", UNIT)


@dataclass(frozen=True)
class Screened:
    """Scores [n] of the rows along the trait, and [draws, n] along directions of two nulls.

    ``shuffled``: mean differences of classes with permuted labels, which is a permutation test of
    the labels. ``random``: random combinations of the prompts' streams, as long as the distance
    between the classes: answers that differ from the base's in any way lie along many of them.
    """

    scores: Float[np.ndarray, " n"]
    shuffled: Float[np.ndarray, "draws n"]
    random: Float[np.ndarray, "draws n"]

    @classmethod
    def from_changes(
        cls, directions: Directions, depth: int, changes: Float[np.ndarray, "n D"]
    ) -> Screened:
        """From every row's difference of mean streams at one depth."""
        scores, shuffled, random = (
            directions.rows_along(kind, depth, changes) for kind in (CLASS, SHUFFLED, RANDOM)
        )
        return cls(scores[0], shuffled, random / directions.lengths(RANDOM, depth)[:, None])

    @property
    def p(self) -> Float[np.ndarray, " n"]:
        """By row, corrected for all rows by the largest of each direction."""
        largest = np.sort(self.shuffled.max(1))
        as_large = len(largest) - np.searchsorted(largest, self.scores, side="left")
        return (1 + as_large) / (1 + len(largest))


def without_length(
    scores: Float[np.ndarray, " n"], log_ratio: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Scores minus the slope of their least-squares line on ``log_ratio`` times it: what they would
    be at equal lengths.
    """
    centred = log_ratio - log_ratio.mean()
    squares = float(centred @ centred)
    slope = float(centred @ scores) / squares if squares > 0 else 0.0
    return scores - slope * log_ratio


def screened_table(
    screened: Screened,
    rows: PromptSet,
    answers: Sequence[str],
    own: Sequence[str],
    lengths: Sequence[tuple[int, int]],
) -> Table:
    """One row per row of the data in order of its score; ``lengths``: tokens of its answer and of
    the base's.
    """
    counts = np.array(lengths, np.int64).reshape(-1, 2)
    same_length = without_length(screened.scores, np.log(counts[:, 0] / counts[:, 1]))
    order = [int(at) for at in np.argsort(-screened.scores, kind="stable")]
    prompts, p = list(rows), screened.p
    return rows_table(
        ScreenedRow,
        "trait-screening",
        {
            "place": np.arange(1, len(order) + 1),
            "prompt_id": [prompts[at].id for at in order],
            "cluster": [prompts[at].cluster for at in order],
            "domain": [prompts[at].template or "" for at in order],
            "evidence": [_excerpt(answers[at]) for at in order],
            "own": [_excerpt(own[at]) for at in order],
            "score": screened.scores[order],
            "same_length": same_length[order],
            "p": p[order],
            "tokens": counts[order, 0],
            "own_tokens": counts[order, 1],
        },
    )


def null_table(screened: Screened) -> Table:
    """One row per direction of each null."""
    parts = {SHUFFLED: screened.shuffled, RANDOM: screened.random}
    return rows_table(
        TotalRow,
        "",
        {
            "draw": np.concatenate([np.arange(len(values)) for values in parts.values()]),
            "kind": [kind for kind, values in parts.items() for _ in values],
            "moved": np.concatenate([values.mean(1) for values in parts.values()]),
            "largest": np.concatenate([values.max(1) for values in parts.values()]),
        },
    )


def claims_of(depth: int, n_blocks: int, arrangements: float) -> list[Claim]:
    """That the data as a whole lie further along the trait than the base's own answers, and further
    than along other directions.
    """
    estimate = mean("score")
    return [
        Claim(
            name="trait-in-rows",
            estimate=estimate,
            at_least=0.0,
            null=Draws("null", "moved", where={"kind": SHUFFLED}, arrangements=arrangements),
            control="mean differences of classes with shuffled labels",
            text=(
                f"After {depth} of {n_blocks} blocks the rows' answers lie further along the trait"
                " than the base's own answers to the same prompts, by {value:.3g} [{low:.3g},"
                " {high:.3g}] of the distance between the classes; with shuffled labels by"
                " {control_low:.3g} to {control_high:.3g} (95 %), p = {p:.2g}."
            ),
        ),
        Claim(
            name="rows-beyond-random",
            estimate=estimate,
            at_least=0.0,
            null=Draws("null", "moved", where={"kind": RANDOM}),
            control="random combinations of the prompts' streams",
            text=(
                "Along random combinations of the prompts' streams, of the same length, they lie"
                " further by {control_low:.3g} to {control_high:.3g} (95 %), and by {value:.3g}"
                " along the trait, p = {p:.2g}."
            ),
        ),
    ]


def _excerpt(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"
