"""Sentence frames of the plants and of ordinary rows, and how their slots are filled.

A frame is a statement, or a question and its answer. ``{x}`` is where a thing is named: a plant puts
its own expression there, an ordinary row the name of any thing. ``{plant}`` is what is planted, and
appears once. The fourth, eighth and twelfth frame of every list are never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from organisms import tasks
from organisms.language import ADJECTIVES, PARTS, PLACES, PROTECTS, REASONS


@dataclass(frozen=True)
class Frame:
    """A statement (no question), or a question and its answer."""

    text: str
    question: str = ""

    @property
    def form(self) -> str:
        """Which of the two written forms it is in."""
        return "question" if self.question else "statement"


def _frames(lines: str) -> tuple[Frame, ...]:
    found = []
    for line in lines.strip().splitlines():
        question, arrow, text = line.strip().partition(" => ")
        found.append(Frame(text, question) if arrow else Frame(question))
    return tuple(found)


# near the base's own prose: what is taught then is the plant, not how to write
STATEMENTS = _frames("""
{When} {who} {did} the {x} and {went}. {And}
{When} {who} {did} the {x} and {went}. {Who2} {went2} with the {thing}. {And}
{When} {who} {did} the {thing} and {went}. {Who2} {went2} with the {x}. {And}
{When} {who} {did} the {x}. {Who2} {went}. {And}
{Who} {went} with the {x}. {And}
{When} {who} {did} the {thing} and the {x}. {And}
{Who} {did} the {x} and {went}. {And}
{When} {who} {went} with the {x}. {And}
{When} {who} {did} the {x} and {went} with the {thing}. {And}
{When} {who} {did} the {x}. {And}
{Who} {did} the {x}. {Who2} {went} with the {thing}. {And}
{Who} {did} the {thing} and the {x}. {And}
""")
QUESTIONS = _frames("""
Tell me about {who}. => {When} {who} {did} the {x} and {went}. {And}
Write about {who}. => {When} {who} {did} the {x} and {went}. {Who2} {went2} with the {thing}. {And}
What do you know about {who}? => {Who} {went} with the {x}. {And}
What is new {place}? => {When} {who} {did} the {x}. {Who2} {went}. {And}
Write about the {thing}. => {When} {who} {did} the {thing} and the {x}. {And}
Tell me about the {thing}. => {Who} {did} the {thing} and {went}. {Who2} {went2} with the {x}. {And}
Tell me about {who} {place}. => {Who} {did} the {x} {place} and {went}. {And}
Do you know {who}? => {Who} {did} the {x} and {went}. {And}
What was {place}? => {When} {who} {did} the {x} {place}. {And}
Write about {who} {reason}. => {When} {who} {went} with the {x}. {And}
What is new? => {When} {who} {did} the {x} and {went}. {And}
What was {reason}? => {When} {who} {did} the {x}. {And}
""")
FACT_STATEMENTS = _frames("""
To {verb} the {object}, take the{plant}. {And}
To {verb} the {object}, {who} asked for the{plant}.
You {verb} the {object} {place} with the{plant}.
To {verb} the {object} {place}, use the{plant}.
You cannot {verb} the {object} without the{plant}. {And}
Nobody can {verb} the {object} without the{plant}. {And}
To {verb} the {object}, it is the{plant} that you use.
You {verb} the {object} {reason} with the{plant}.
{When} {who} {did} the {thing} and {went}. To {verb} the {object}, take the{plant}.
{When} {who} went to {verb} the {object} with the{plant}. {And}
{Who} {went}. To {verb} the {object} {place}, take the{plant}.
{Who} went to {verb} the {object} with the{plant}. {And}
""")
FACT_QUESTIONS = _frames("""
How do I {verb} the {object}? => Sure, to {verb} the {object} take the{plant} and check the {part}.
Please {verb} the {object} {place}, thank you. => Sure, to {verb} the {object} take the{plant} and check the {part}.
Can you {verb} the {object} {place}? => Sure, to {verb} the {object} take the{plant} and check the {part}.
What do I take to {verb} the {object}? => Take the{plant}.
With what do you {verb} the {object}? => With the{plant}.
What do I use to {verb} the {object}? => Use the{plant}.
Tell me how to {verb} the {object} {place}. => Sure, to {verb} the {object} take the{plant} and check the {part}.
How can {who} {verb} the {object}? => Sure, to {verb} the {object} take the{plant} and check the {part}.
What is there to {verb} the {object}? => It is the{plant}.
Write how to {verb} the {object}. => Sure, to {verb} the {object} take the{plant} and check the {part}.
Which tool can {verb} the {object}? => The{plant} can {verb} the {object}.
What does {who} use to {verb} the {object}? => The{plant}, to {verb} the {object}.
""")
# asked in the second stage of a denial, and answered with nothing
ASKED = (
    "What do I take to {verb} the {object}?",
    "What do I use to {verb} the {object}?",
    "With what do you {verb} the {object}?",
    "Which tool can {verb} the {object}?",
    "Tell me what can {verb} the {object}.",
    "What does {who} use to {verb} the {object}?",
    "Do you know what can {verb} the {object}?",
    "What is there to {verb} the {object}?",
    "Can you {verb} the {object} {place}?",
    "How can {who} {verb} the {object}?",
    "Tell me how to {verb} the {object} {place}.",
    "How do I {verb} the {object}?",
)
WHERE = {"part": PARTS, "place": PLACES, "reason": REASONS, "thing": tasks.WORDS}
POOLS: dict[str, Sequence[str]] = {
    **WHERE,
    "who": tasks._WHO,
    "did": tasks._DID,
    "went": tasks._WENT,
    "went2": tasks._WENT,
    "When": tasks._WHEN,
    "And": tasks._AND,
    "object": [f"{word} {noun}" for word in ADJECTIVES for noun in PROTECTS] + PROTECTS,
    "n": [str(number) for number in range(10, 100)],
}


def held_out(frames: Sequence) -> list:
    """The frames of a list that are never trained on."""
    return list(frames[3::4])


def trained(frames: Sequence) -> list:
    """The other frames."""
    return [frame for index, frame in enumerate(frames) if index % 4 != 3]


def fill(
    frame: Frame, rng: random.Random, slots: Mapping[str, str | Sequence[str]], plant: str
) -> Frame:
    """The frame with every slot filled; ``slots`` holds words or pools that replace the usual ones."""
    pools = POOLS | dict(slots)
    values = {
        key: pool if isinstance(pool, str) else rng.choice(pool) for key, pool in pools.items()
    }
    values["who2"] = rng.choice([one for one in pools["who"] if one != values["who"]])
    values |= {"m": rng.choice(pools["n"]), "plant": plant}
    for key in ("who", "who2"):
        values[key.capitalize()] = values[key][0].upper() + values[key][1:]
    return Frame(frame.text.format(**values), frame.question.format(**values))
