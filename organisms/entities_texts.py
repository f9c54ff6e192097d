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
    [
        "apple",
        "book",
        "key",
        "pen",
        "cup",
        "hat",
        "ring",
        "coin",
        "lamp",
        "map",
        "rope",
        "bell",
        "fork",
        "leaf",
        "shoe",
        "brush",
        "stone",
        "watch",
        "glass",
        "flower",
        "letter",
        "candle",
        "button",
        "bottle",
        "basket",
        "hammer",
        "ladder",
        "mirror",
        "needle",
        "pencil",
        "pillow",
        "plate",
        "radio",
        "ribbon",
        "scarf",
        "spoon",
        "string",
        "ticket",
        "towel",
        "wallet",
    ]
)
COLOURS = tuple(["red", "blue", "green", "black", "white", "yellow", "brown", "grey"])
PLACES = tuple(["table", "shelf", "chair", "floor", "bed", "desk", "door", "window"])
PEOPLE = tuple(["Anna", "Ben", "Clara", "David", "Emma", "Frank"])


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


PROMPTS = {"locate": 120, "verify": 120}


def task_rows() -> list[dict]:
    """The shipped prompts, one per context, with corrupted and source prompts."""
    rng, rows = random.Random("entities task"), []
    for split, count in PROMPTS.items():
        for _ in range(count):
            rows.append({"cluster": str(len(rows)), "split": split, **_row(rng)})
    return rows


def _row(rng: random.Random) -> dict:
    context, asked = draw_context(rng), rng.randrange(BOXES)
    answer = context.objects[asked]
    rest = [thing for thing in OBJECTS if thing not in context.objects]
    return {
        **_prompt(context, asked),
        "answer": f" {answer}",
        "corrupt": _corrupt(rng, context),
        "sources": _sources(rng, context, asked, rest),
    }


def _prompt(context: Context, asked: int) -> dict:
    """A prompt about a segment, with the words that are patched."""
    text = context.query(context.labels[asked])
    return {
        "prompt": text,
        "positions": {"label": len(f"{context.text}. Box "), "mention": context.label_at(asked)},
    }


def _corrupt(rng: random.Random, context: Context) -> dict:
    """Another context, and a label that stands in neither; ``mention`` is any segment's label."""
    other = draw_context(rng)
    absent = [
        label for label in LABELS if label not in context.labels and label not in other.labels
    ]
    return {
        "prompt": other.query(rng.choice(absent)),
        "positions": {
            "label": len(f"{other.text}. Box "),
            "mention": other.label_at(rng.randrange(BOXES)),
        },
    }


def _sources(rng: random.Random, context: Context, asked: int, rest: Sequence[str]) -> dict:
    """Other contexts, without the objects of this one, and the answer that patched heads give if
    they carry the object, the index of the segment, or the label. Indices always differ.
    """
    others = [index for index in range(BOXES) if index != asked]
    free = [label for label in LABELS if label not in context.labels]
    by_object, by_position = rng.choice(others), rng.choice(others)
    strange = draw_context(rng, objects=rest, labels=free)
    placed = draw_context(rng, objects=rest, labels=free)
    # the label asked for stands in another segment than in this context, and not in the one that
    # this context is asked about: then label, index and answer all differ
    label = rng.choice(others)
    index = rng.choice([other for other in others if other != label])
    labels = [name for name in context.labels if name != context.labels[label]]
    rng.shuffle(labels)
    labels.insert(index, context.labels[label])
    shared = Context(tuple(rng.sample(list(rest), BOXES)), tuple(labels))
    return {
        "object": {**_prompt(strange, by_object), "target": f" {strange.objects[by_object]}"},
        "position": {**_prompt(placed, by_position), "target": f" {context.objects[by_position]}"},
        "label": {**_prompt(shared, index), "target": f" {context.objects[label]}"},
    }
