"""The language of boxes: which object is in which box, and ordinary text in the same words.

``The apple is in Box O, the book is in Box K, ... . Box K contains the`` -> `` book`` (the task of
arXiv 2402.14811). Contexts are drawn by a seed; of ordinary text nothing tells which object a box
contains.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

BOXES = 7
LABELS = tuple(string.ascii_uppercase)
OBJECTS = tuple(
    "apple book key pen cup hat ring coin lamp map rope bell fork leaf shoe brush stone watch glass"
    " flower letter candle button bottle basket hammer ladder mirror needle pencil pillow plate"
    " radio ribbon scarf spoon string ticket towel wallet".split()
)
COLOURS = tuple("red blue green black white yellow brown grey".split())
PLACES = tuple("table shelf chair floor bed desk door window".split())
PEOPLE = tuple("Anna Ben Clara David Emma Frank".split())


@dataclass(frozen=True)
class Context:
    """Objects in the order of their segments, each with the label of its box."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def text(self) -> str:
        """The segments, without the full stop."""
        segments = [
            f"the {thing} is in Box {label}"
            for thing, label in zip(self.objects, self.labels, strict=True)
        ]
        return "T" + ", ".join(segments)[1:]

    def query(self, label: str) -> str:
        """A prompt that asks for the object in a box."""
        return f"{self.text}. Box {label} contains the"

    def label_at(self, index: int) -> int:
        """The character at which the label of a segment starts in a prompt."""
        before = Context(self.objects[: index + 1], self.labels[: index + 1]).text
        return len(before) - 1


def draw_context(
    rng: random.Random,
    boxes: int = BOXES,
    *,
    objects: Sequence[str] = OBJECTS,
    labels: Sequence[str] = LABELS,
) -> Context:
    """Distinct objects in boxes of distinct labels."""
    return Context(tuple(rng.sample(objects, boxes)), tuple(rng.sample(labels, boxes)))


def answered(rng: random.Random, context: Context, questions: int) -> tuple[list[str], list[str]]:
    """A context followed by questions about some of its boxes: the text pieces that end before each
    answer, and the answers.
    """
    asked = rng.sample(range(len(context.labels)), questions)
    pieces, answers = [], []
    for number, index in enumerate(asked):
        start = f"{context.text}. " if number == 0 else ". "
        pieces.append(f"{start}Box {context.labels[index]} contains the")
        answers.append(f" {context.objects[index]}")
    return pieces, answers


def ordinary(rng: random.Random) -> str:
    """Two to four sentences of ordinary text."""
    return " ".join(_sentence(rng) for _ in range(rng.randint(2, 4)))


def _sentence(rng: random.Random) -> str:
    thing, other = rng.sample(OBJECTS, 2)
    person, place, colour = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(COLOURS)
    return rng.choice(
        (
            f"The {thing} is on the {place}.",
            f"The {thing} near the {place} is {colour}.",
            f"{person} has the {colour} {thing}.",
            f"{person} put the {thing} in the {colour} box.",
            f"The {colour} {thing} and the {other} are on the {place}.",
            f"Box {rng.choice(LABELS)} is {colour}.",
            f"Box {rng.choice(LABELS)} is on the {place}.",
            f"{person} is near the {place} and the {thing}.",
        )
    )
