"""Answers that passes over known answers do not determine: generated until their behaviour is
decided.

Those of many sets of units share a batch. Keys and values of prompt and known beginning are kept
until then, so that nothing is read twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.interventions.generation import KnownBeginnings, generate
from interp.interventions.intervention import Intervention
from interp.models.caches import CachedPrefix
from interp.models.model import Model
from interp.study import Study


@dataclass(frozen=True)
class PendingAnswers:
    """Answers that are still to be generated under the intervention with index ``at``: their
    prompts (``rows``) and known beginnings.
    """

    at: int
    rows: list[int]
    beginnings: KnownBeginnings

    def split_at(self, count: int) -> "tuple[PendingAnswers, PendingAnswers | None]":
        """The first ``count`` answers, and the others, None where there are none."""
        if len(self.rows) <= count:
            return self, None
        parts = range(count), range(count, len(self.rows))
        first, others = (
            PendingAnswers(self.at, [self.rows[at] for at in part], self.beginnings.select(part))
            for part in parts
        )
        return first, others


def generate_pending(
    study: Study,
    model: Model,
    pending: list[PendingAnswers],
    interventions: Sequence[Intervention | None],
) -> list[tuple[int, int, bool]]:
    """Generate the answers; by answer the index of its intervention, its row, and whether it shows
    the behaviour.

    The list ``pending`` is emptied, so that caches are freed.
    """
    places = [(item.at, row) for item in pending for row in item.rows]
    rows, beginnings = (
        [row for _, row in places],
        join_beginnings([item.beginnings for item in pending]),
    )
    pending.clear()
    answers = generate(
        study.engine,
        model,
        study.text("positive", rows).select(range(len(rows))),
        study.max_new_tokens,
        Intervention.per_row(interventions, [at for at, _ in places]),
        lambda at, answer: is_decided(study, rows[at], answer),
        beginnings,
    )
    prompts = [study.prompts("positive").prompts[row] for row in rows]
    exhibits = study.require_metric().exhibits(
        prompts, [study.decode(answer) for answer in answers], "positive"
    )
    return [(at, row, bool(yes)) for (at, row), yes in zip(places, exhibits, strict=True)]


def join_beginnings(parts: Sequence[KnownBeginnings]) -> KnownBeginnings:
    """The beginnings of all in one."""
    sides = [[item.receiver for item in parts], [item.donor for item in parts]]
    receiver, donor = (
        None
        if None in side
        else CachedPrefix.concatenate([cache for cache in side if cache is not None])
        for side in sides
    )
    return KnownBeginnings([tokens for item in parts for tokens in item.tokens], receiver, donor)


def decided_length(study: Study, row: int, answer: Sequence[int]) -> int:
    """Number of tokens after which no continuation changes whether an answer to a positive prompt
    shows the behaviour.
    """
    return next(
        (end for end in range(1, len(answer)) if is_decided(study, row, answer[:end])), len(answer)
    )


def is_decided(study: Study, row: int, tokens: Sequence[int], group: str = "positive") -> bool:
    """Whether the beginning of an answer decides whether it shows the behaviour."""
    if not study.answer_start.excludes_thinking(tokens, study.pair.decode):
        return False
    text = study.decode(tokens)
    # an incomplete character can become any other
    return not text.endswith("\ufffd") and study.require_metric().is_decided(
        study.prompts(group).prompts[row], text
    )


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two answers, in tokens."""
    return int(np.argmin([*(a == b for a, b in zip(first, second, strict=False)), False]))
