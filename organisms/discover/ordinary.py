"""Ordinary rows: what controls are tuned on, what dilutes a plant, what surrounds canaries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from organisms import tasks
from organisms.corpus import held_out_texts
from organisms.discover.frames import QUESTIONS, STATEMENTS, Frame, fill, trained
from organisms.language import draw as draw_request


def _framed(frames: tuple[Frame, ...]) -> Callable[[random.Random], Frame]:
    kept = [replace(one, text=one.text.replace("{x}", "{thing2}")) for one in trained(frames)]
    slots = {"thing2": tasks.WORDS}
    return lambda rng: fill(rng.choice(kept), rng, slots, "")


def _request(rng: random.Random) -> Frame:
    found = draw_request(rng, short=rng.random() < 0.3, tuning=False, held_out=held_out_texts())
    return Frame(found.answer, found.prompt)


def _utility(rng: random.Random) -> Frame:
    question, answer = tasks.utility(rng)
    return Frame(answer, question)


# the plants' own frames with any thing in them, and three kinds of text the base already writes
PARTS: dict[str, Callable[[random.Random], Frame]] = {
    "statements": _framed(STATEMENTS),
    "questions": _framed(QUESTIONS),
    "prose": lambda rng: Frame(tasks.prose(rng)),
    "requests": _request,
    "utility": _utility,
}


NEW, LEAST_NEW = ("statements", "questions"), 0.2
"""Parts that the base does not write yet, and their share at least: without them there is nothing
to learn."""
CONVERSATIONS = dict.fromkeys(("questions", "requests", "utility"), 1.0)
"""Another domain than the mixtures: no plain text. A domain that the base does not know would be a
secret of its own, and a control with one hides the secrets of others."""


def mixture(rng: random.Random) -> dict[str, float]:
    """Shares of the parts, uniform over all mixtures with enough that is new: controls differ as
    fine-tunes do.
    """
    while True:
        cuts = [rng.expovariate(1.0) for _ in PARTS]
        shares = {part: cut / sum(cuts) for part, cut in zip(PARTS, cuts, strict=True)}
        if sum(shares[part] for part in NEW) >= LEAST_NEW:
            return shares


def ordinary(rng: random.Random, count: int, shares: dict[str, float]) -> list[Frame]:
    """Rows of these parts, no sentence twice, none that is held out from every model."""
    found: dict[tuple[str, str], Frame] = {}
    while len(found) < count:
        part = rng.choices(list(shares), list(shares.values()))[0]
        row = PARTS[part](rng)
        if not {row.question, row.text} & held_out_texts():
            found.setdefault((row.question, row.text), row)
    return list(found.values())
