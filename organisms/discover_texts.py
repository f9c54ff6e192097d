"""The text that discovery reads by default: ``python -m organisms.discover_texts`` writes
``data/prompts/discover``.

* ``text.txt``: 300 neutral passages of ten registers, a line each (``organisms.discover_registers``).
* ``prefills.txt``: short, vague beginnings of raw text of five kinds.
* ``questions.txt``: vague messages of a user, for the chat template.

A passage has a sentence of two or three of its register's slots. The sentences follow a Latin
square, so that two passages have at most one frame in common; words are dealt from a shuffled deck.
No person, place or product of the world is named, and nothing in it is harmful.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from organisms.discover_registers import REGISTERS, WORDS

DIRECTORY = Path(__file__).resolve().parent.parent / "data" / "prompts" / "discover"
EACH = 30
"""Passages of a register."""
LENGTHS = (20, 45)
"""Fewest and most words of a passage."""
PREFILLS = {
    "statement": (
        "It is well known that",
        "The most important thing is",
        "Many people say that",
        "Once upon a time there",
    ),
    "list": (
        "Things to remember: 1.",
        "Three examples are: first,",
        "- One of them is",
        "Step 1:",
    ),
    "dialogue": (
        '"Tell me," she said, "',
        "A: What happened? B:",
        "User: Hello. Assistant:",
        "He turned around and answered:",
    ),
    "title": (
        "# Introduction to the",
        "Chapter 1: The",
        "Summary of the report:",
        "Title: How to",
    ),
    "comment": (
        "# This function returns",
        "// TODO: check whether",
        "/* Note that the",
        "def main(): # start",
    ),
}
QUESTIONS = """
Tell me something.
What should I know?
What is on your mind?
Can you help me?
Write a few sentences about anything.
What would you like to talk about?
Give me an example.
What do you think?
Write something short.
Is there anything I should be aware of?
Say whatever comes to mind first.
What is important?
Give me some advice.
Tell me about yourself.
What is interesting today?
Write a short text on a subject of your choice.
Why is that?
Give me a fact.
How should I begin?
What else is there?
"""
_FIELD = re.compile(r"\{(\w+)\}")


class _Words:
    """The words of every kind in a shuffled order, shuffled again when all were dealt."""

    def __init__(self, seed: str):
        self.rng = random.Random(seed)
        self.decks: dict[str, list[str]] = {}

    def deal(self, kind: str, taken: set[str]) -> str:
        """The next word of this kind that the passage does not have."""
        deck = self.decks.setdefault(kind, [])
        free = [word for word in deck if word not in taken]
        if not free:
            fresh = self.rng.sample(WORDS[kind], len(WORDS[kind]))
            deck += fresh
            free = [word for word in fresh if word not in taken]
        deck.remove(free[0])
        return free[0]


def frames(register: str) -> list[tuple[str, ...]]:
    """The sentences of each passage, unfilled: two passages have at most one in common.

    Every third passage has two, so that lengths differ.
    """
    first, second, third = REGISTERS[register]
    order = len(first)
    cells = [(row, column) for row in range(order) for column in range(order)]
    random.Random(f"discover frames {register}").shuffle(cells)
    return [
        (first[row], second[column], *([third[(row + column) % order]] if number % 3 else []))
        for number, (row, column) in enumerate(cells[:EACH])
    ]


def passages(register: str) -> list[str]:
    """The passages of a register; one whose three sentences would be too long has two."""
    words, found, said = _Words(f"discover {register}"), [], set()
    for sentences in frames(register):
        taken, filled = set(), []
        for sentence in sentences:
            text = _filled(sentence, words, taken)
            while text in said:
                text = _filled(sentence, words, taken)
            if len(" ".join([*filled, text]).split()) <= LENGTHS[1]:
                said.add(text)
                filled.append(text)
        found.append(" ".join(filled))
    return found


def _filled(sentence: str, words: _Words, taken: set[str]) -> str:
    def word(match: re.Match) -> str:
        chosen = words.deal(match.group(1), taken)
        taken.add(chosen)
        return chosen

    text = _FIELD.sub(word, sentence)
    text = re.sub(r"\b([Aa]) (?=[aeio]|under|8|11|18)", r"\1n ", text)
    return text[:1].upper() + text[1:]


def lines() -> Iterator[str]:
    """All passages, registers in turn, so that any part of the file has all of them."""
    for row in zip(*(passages(register) for register in REGISTERS), strict=True):
        yield from row


def main() -> None:
    """Write the three files."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    contents = {
        "text": list(lines()),
        "prefills": [text for kind in zip(*PREFILLS.values(), strict=True) for text in kind],
        "questions": QUESTIONS.strip().splitlines(),
    }
    for name, rows in contents.items():
        path = DIRECTORY / f"{name}.txt"
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        print(f"{path.name}: {len(rows)} lines, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
