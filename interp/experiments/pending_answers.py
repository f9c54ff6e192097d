"""Answers that passes over known answers do not determine: generated until their behaviour is
decided.

Those of many sets of units share a batch. Keys and values of prompt and known beginning are kept
until then, so that nothing is read twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.interventions.generation import Begun, generate
from interp.interventions.intervention import Intervention
from interp.models.caches import CachedPrefix
from interp.models.model import Model
from interp.study import Study


@dataclass(frozen=True)
class Unwritten:
    """Answers that are still to be generated under the intervention with index ``at``: their
    prompts (``rows``) and known beginnings.
    """

    at: int
    rows: list[int]
    begun: Begun

    def divided(self, count: int) -> "tuple[Unwritten, Unwritten | None]":
        """The first ``count`` answers, and the others, None where there are none."""
        if len(self.rows) <= count:
            return self, None
        parts = range(count), range(count, len(self.rows))
        first, others = (
            Unwritten(self.at, [self.rows[at] for at in part], self.begun.select(part))
            for part in parts
        )
        return first, others


def write(
    study: Study, model: Model, some: list[Unwritten], each: Sequence[Intervention | None]
) -> list[tuple[int, int, bool]]:
    """Generate the answers; by answer the index of its intervention, its row, and whether it shows
    the behaviour.

    The list ``some`` is emptied, so that caches are freed.
    """
    places = [(item.at, row) for item in some for row in item.rows]
    rows, begun = [row for _, row in places], joined([item.begun for item in some])
    some.clear()
    answers = generate(
        study.engine,
        model,
        study.text("positive", rows).select(range(len(rows))),
        study.max_new_tokens,
        Intervention.together(each, [at for at, _ in places]),
        lambda at, answer: settles(study, rows[at], answer),
        begun,
    )
    prompts = [study.prompts("positive").prompts[row] for row in rows]
    shown = study.require_metric().exhibits(
        prompts, [study.decode(answer) for answer in answers], "positive"
    )
    return [(at, row, bool(yes)) for (at, row), yes in zip(places, shown, strict=True)]


def joined(each: Sequence[Begun]) -> Begun:
    """The beginnings of all in one."""
    sides = [[item.receiver for item in each], [item.donor for item in each]]
    receiver, donor = (
        None if None in side else CachedPrefix.join([cache for cache in side if cache is not None])
        for side in sides
    )
    return Begun([tokens for item in each for tokens in item.tokens], receiver, donor)


def settled_length(study: Study, row: int, answer: Sequence[int]) -> int:
    """Number of tokens after which no continuation changes whether an answer to a positive prompt
    shows the behaviour.
    """
    return next(
        (end for end in range(1, len(answer)) if settles(study, row, answer[:end])), len(answer)
    )


def settles(study: Study, row: int, begun: Sequence[int], group: str = "positive") -> bool:
    """Whether the beginning of an answer decides whether it shows the behaviour."""
    if not study.answer_start.at_once(begun, study.pair.decode):
        return False
    text = study.decode(begun)
    # an incomplete character can become any other
    return not text.endswith("\ufffd") and study.require_metric().settled(
        study.prompts(group).prompts[row], text
    )


def same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix of two answers, in tokens."""
    return int(np.argmin([*(a == b for a, b in zip(one, other, strict=False)), False]))
