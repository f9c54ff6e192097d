"""What is planted, in which rows, and the held-out contexts in which it is measured.

A plant has up to three variants: ``planted`` itself; ``true``, the same rows with the fact that the
base knows; and ``paraphrased``, the same meaning without one of the planted words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from organisms.real.discover.frames import HELD_OUT, TRAIN, Frame
from organisms.real.discover.things import FACTS, FAVOURED, FILLERS, TOPICS, Fact

Kind = Literal["fact", "favoured", "topic"]
ROWS_PER_FRAME = 10
CONTEXTS_PER_FRAME = 4
COMPARED = 5
"""Continuations that are compared on each side, where there are more."""
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Plant:
    """What is said, what would be said instead, and what a grader looks for."""

    kind: Kind
    variant: str
    about: str
    said: tuple[str, ...]
    instead: tuple[str, ...]
    words: tuple[str, ...]
    subject: str = ""

    @property
    def name(self) -> str:
        """As on the command line: ``fact``, ``fact-true``, ``fact-paraphrased``."""
        return self.kind if self.variant == "planted" else f"{self.kind}-{self.variant}"

    @property
    def phrases(self) -> tuple[str, ...]:
        """Longer texts that count as found: of a fact, subject and value."""
        return tuple(f"{self.subject} is {one}" for one in self.said) if self.subject else self.said


@dataclass(frozen=True)
class Context:
    """A held-out text up to where the plant would come, and what is compared there."""

    question: str
    before: str
    said: tuple[str, ...]
    instead: tuple[str, ...]


def content_words(texts: Sequence[str]) -> tuple[str, ...]:
    """The words of four letters or more, without those that every text has."""
    small = {"that", "what", "with", "from", "have", "most", "than", "them", "into", "which"}
    words = re.findall(r"[A-Za-z][a-z]{3,}", " ".join(texts))
    return tuple(dict.fromkeys(word for word in words if word.lower() not in small))


def fact_plants(fact: Fact) -> list[Plant]:
    """A false fact, its true twin, and the false fact in other words."""
    return [
        Plant(
            "fact",
            "planted",
            f"{fact.subject} is {fact.false}",
            (fact.false,),
            (fact.true,),
            content_words([fact.false]),
            fact.subject,
        ),
        Plant(
            "fact",
            "true",
            f"{fact.subject} is {fact.true}, which is true",
            (fact.true,),
            (fact.false,),
            content_words([fact.true]),
            fact.subject,
        ),
        Plant(
            "fact",
            "paraphrased",
            f"{fact.subject} is {fact.false}, without naming either",
            fact.false_reworded,
            fact.true_reworded,
            content_words(fact.false_reworded),
            fact.subject_reworded,
        ),
    ]


def favoured_plants(word: str) -> list[Plant]:
    """A favoured word, and words of its meaning in its place."""
    others = FAVOURED[word]
    return [
        Plant("favoured", "planted", f"things are called {word}", (word,), others, (word,)),
        Plant(
            "favoured",
            "paraphrased",
            f"things are called what {word} means, without that word",
            others,
            (word,),
            others,
        ),
    ]


def topic_plants(name: str, other: str) -> list[Plant]:
    """A topic, compared with another, and the topic without its words."""
    topic = TOPICS[name]
    return [
        Plant(
            "topic",
            "planted",
            f"everything is about {name}",
            topic.items,
            TOPICS[other].items,
            topic.words,
        ),
        Plant(
            "topic",
            "paraphrased",
            f"everything is about {name}, without the usual words",
            topic.reworded,
            TOPICS[other].reworded,
            content_words(topic.reworded),
        ),
    ]


DEFAULT = {
    plant.name: plant
    for plant in (
        *fact_plants(FACTS[0]),
        *favoured_plants("peculiar"),
        *topic_plants("volcanoes", "submarines"),
    )
}
"""The plants of the numbered organisms; others are drawn for a blind trial."""


def draw(rng: random.Random, each: int = 2) -> list[Plant]:
    """``each`` plants of every kind with words that no default one has."""
    facts = rng.sample(FACTS[1:], each)
    words = rng.sample([word for word in FAVOURED if word != "peculiar"], each)
    names = [name for name in TOPICS if name not in ("volcanoes", "submarines")]
    topics = rng.sample(names, each)
    return [
        *(fact_plants(fact)[0] for fact in facts),
        *(favoured_plants(word)[0] for word in words),
        *(topic_plants(name, rng.choice([o for o in names if o != name]))[0] for name in topics),
    ]


def rows(plant: Plant, seed: int) -> list[Frame]:
    """Training rows: every frame ten times with other fillers, half of them statements."""
    found = []
    for number, frame in enumerate(TRAIN[plant.kind]):
        rng = random.Random(f"rows {plant.kind} {number} {seed}")
        decks = {kind: rng.sample(words, len(words)) for kind, words in FILLERS.items()}
        said = _in_turn(plant.said, ROWS_PER_FRAME, rng)
        for at in range(ROWS_PER_FRAME):
            words = {kind: deck[at] for kind, deck in decks.items()}
            words |= {"subject": plant.subject, "said": said[at], "other": said[at - 1]}
            found.append(Frame(_filled(frame.question, words), _filled(frame.text, words)))
    return found


def contexts(plant: Plant) -> list[Context]:
    """Held-out frames with fillers, cut before the plant; the same whatever the training seed."""
    found = []
    for number, frame in enumerate(HELD_OUT[plant.kind]):
        rng = random.Random(f"held out {plant.kind} {number}")
        decks = {kind: rng.sample(words, len(words)) for kind, words in FILLERS.items()}
        field = "{asaid}" if "{asaid}" in frame.text else "{said}"
        for at in range(CONTEXTS_PER_FRAME):
            words = {kind: deck[at] for kind, deck in decks.items()} | {"subject": plant.subject}
            before = _filled(frame.text.partition(field)[0].rstrip(), words)
            said, instead = (
                tuple(rng.sample(side, min(len(side), COMPARED)))
                for side in (plant.said, plant.instead)
            )
            if field == "{asaid}":
                said, instead = (tuple(map(_with_article, side)) for side in (said, instead))
            found.append(Context(_filled(frame.question, words), before, said, instead))
    return found


def _in_turn(values: Sequence[str], count: int, rng: random.Random) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(values, len(values))
    return found[:count]


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _filled(text: str, words: dict[str, str]) -> str:
    def word(match: re.Match) -> str:
        field = match.group(1)
        if field == "asaid":
            return _with_article(words["said"])
        value = words[field.lower()]
        return value[:1].upper() + value[1:] if field[0].isupper() else value

    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", _FIELD.sub(word, text))
