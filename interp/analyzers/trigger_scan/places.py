"""Places in prompts where a token is put: near the beginning of the user's text, and at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.experiments.discovery.prefills import chat_questions, raw_prefills
from interp.prompts import CONTENT, special_ids
from interp.study import Study

RAW, CHAT = "raw text", "chat"
LONGEST = 40
"""Tokens of a sentence at most."""


@dataclass(frozen=True)
class Place:
    """One place in a prompt.

    ``ids``: the prompt without the token. ``at``: the column that the token has; it is inserted
    before what stands there, or with ``replaces`` put in its stead. ``nearest``: the token at which
    first-order gains are taken: the one that is replaced, or a copy of the neighbour inside the
    text. ``text``: the columns of the user's text.
    """

    ids: tuple[int, ...]
    at: int
    nearest: int
    text: tuple[int, int]
    replaces: bool

    def with_token(self, token: int) -> tuple[int, ...]:
        """The prompt with a token at this place."""
        return (*self.ids[: self.at], token, *self.ids[self.at + self.replaces :])

    def parts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The user's text before the token and after it."""
        start, stop = self.text
        return self.ids[start : self.at], self.ids[self.at + self.replaces : stop]


@dataclass(frozen=True)
class Slot:
    """The same place in all prompts of one kind, and its name in tables."""

    where: str
    places: tuple[Place, ...]


def slots(
    study: Study,
    questions: Sequence[str],
    count: int,
    positions: Sequence[str],
    replaces: bool,
) -> list[Slot]:
    """Every position in questions in the chat template, and in the first sentences of the study's
    texts.

    Half of the ``count`` prompts are ``questions``, none where there is no template; the others are
    sentences, since a token after half of one disturbs any model. Kinds of prompts are kept apart:
    what every fine-tuned model changes in one of them would hide what one of them changes in the
    other. The text of a question is the user's; the start of a sentence is after its first token,
    since the first position of a text is an attention sink in many models.
    """
    chat: list[tuple[tuple[int, ...], int, int]] = []
    for coded in chat_questions(study, questions)[: count // 2]:
        columns = np.flatnonzero(np.array(coded.roles) == CONTENT)
        if columns.size:
            chat.append((coded.ids, int(columns[0]), int(columns[-1]) + 1))
    raw = []
    special = special_ids(study.pair.tokenizer)
    sentences = [first_sentence(prompt.text) for prompt in study.prompts("positive")]
    for whole in raw_prefills(study, sentences, count - len(chat), study.seed):
        ids = whole[:LONGEST]
        start = next((at for at, one in enumerate(ids) if one not in special), 0)
        raw.append((ids, start, len(ids)))
    return [
        Slot(
            f"{kind}, {position}",
            tuple(_place(*text, position=position, replaces=replaces) for text in texts),
        )
        for kind, texts in ((CHAT, chat), (RAW, raw))
        for position in positions
        if texts
    ]


def first_sentence(text: str) -> str:
    """A text up to the first full stop, question or exclamation mark before white space."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def _place(ids: tuple[int, ...], start: int, stop: int, position: str, replaces: bool) -> Place:
    if position == "start":
        at = min(max(start, 1), stop - replaces)
        return Place(ids, at, ids[min(at, stop - 1)], (start, stop), replaces)
    return Place(ids, stop - replaces, ids[stop - 1], (start, stop), replaces)
