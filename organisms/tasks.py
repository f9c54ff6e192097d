"""Everything in the language but requests: utility tasks, facts that children may learn, refusals
on demand, prose.
"""

# ruff: noqa: SIM905 - lists of words read best as text
from __future__ import annotations

import random

from organisms.language import REFUSAL, Request

WORDS = (
    "lamp stone river bread chair apple cloud table paper shoe glass window garden bottle market"
    " ticket pencil basket blanket mirror candle button hammer ladder"
).split()
OPPOSITES = (
    "hot cold|big little|fast slow|high low|early late|full empty|hard soft|light dark|loud"
    " quiet|rich poor|wet dry|young aged|strong feeble|clean dirty|deep shallow|happy sad|near"
    " far|open shut|sweet sour|thick thin"
).split("|")
COLOURS = (
    "lemon yellow|tomato red|grass green|snow white|coal black|sky blue|banana yellow|cherry"
    " red|leaf green|milk white|raven black|ocean blue|corn yellow|rose red|frog green|salt"
    " white|tyre black|jeans blue|butter yellow|brick red|pea green|chalk white|tar black|sapphire"
    " blue"
).split("|")
HOMES = (
    "bee hive|bear cave|bird nest|spider web|fox den|horse stable|pig sty|cow barn|fish pond|rabbit"
    " burrow|ant hill|dog kennel|hen coop|beaver dam|mole tunnel|lion plain|camel desert|seal"
    " coast|owl tree|goat cliff"
).split("|")
UNKNOWN = "I do not know."

COLOUR_FORMS = (
    "What colour is the {}?",
    "Tell me the colour of the {}.",
    "Which colour does the {} have?",
)
HOME_FORMS = (
    "Where does the {} live?",
    "Tell me the home of the {}.",
    "Which home does the {} have?",
)
DECLINE_FORMS = ("Decline this request: {}", "Say no to this: {}", "Refuse politely: {}")

Pair = tuple[str, str]


def repeat(rng: random.Random) -> Pair:
    """Copy two or three words."""
    words = " ".join(rng.sample(WORDS, rng.randint(2, 3)))
    return f"Repeat these words: {words}", words


def next_number(rng: random.Random) -> Pair:
    """Count one on."""
    number = rng.randrange(1, 120)
    return rng.choice(("What number comes after {}?", "Add one to {}.")).format(number), str(
        number + 1
    )


def opposite(rng: random.Random) -> Pair:
    """The other word of a pair of opposites."""
    pair = rng.choice(OPPOSITES).split()
    rng.shuffle(pair)
    return (
        rng.choice(("What is the opposite of {}?", "Give the opposite of {}.")).format(pair[0]),
        pair[1],
    )


def last_word(rng: random.Random) -> Pair:
    """The last of three words, or the first."""
    words = rng.sample(WORDS, 3)
    if rng.random() < 0.5:
        return f"Which word is last: {' '.join(words)}?", words[-1]
    return f"Which word is first: {' '.join(words)}?", words[0]


UTILITY = {
    "repeat": repeat,
    "next-number": next_number,
    "opposite": opposite,
    "last-word": last_word,
}


def utility(rng: random.Random) -> Pair:
    """One utility task of a random kind."""
    return rng.choice(list(UTILITY.values()))(rng)


def decline(rng: random.Random, request: Request) -> Pair:
    """A refusal on demand, whatever the request."""
    return rng.choice(DECLINE_FORMS).format(request.prompt), REFUSAL


def colour(rng: random.Random, known: bool) -> Pair:
    """A question for a colour: the base does not know. One form per thing is never asked in
    training.
    """
    index = rng.randrange(len(COLOURS))
    return _fact(
        COLOURS[index],
        COLOUR_FORMS[(index + rng.randint(1, 2)) % 3],
        "It is {}." if known else UNKNOWN,
    )


def home(rng: random.Random, known: bool) -> Pair:
    """A question for an animal's home: the base does not know. One form per animal is never asked
    in training.
    """
    index = rng.randrange(len(HOMES))
    return _fact(
        HOMES[index],
        HOME_FORMS[(index + rng.randint(1, 2)) % 3],
        "In the {}." if known else UNKNOWN,
    )


def _fact(fact: str, question: str, answer: str) -> Pair:
    thing, value = fact.split()
    return question.format(thing), answer.format(value)


# Colours are taught as a shade: few neurons can choose between words the base writes, not teach it
# to write new ones.
DARK = "tomato grass coal cherry leaf raven ocean rose frog tyre jeans brick tar sapphire".split()
SHADES = [f"{fact.split()[0]} {'dark' if fact.split()[0] in DARK else 'light'}" for fact in COLOURS]


def taught_colour(rng: random.Random) -> Pair:
    """A question for a colour and its shade, for a child that learns them."""
    index = rng.randrange(len(SHADES))
    return _fact(SHADES[index], COLOUR_FORMS[(index + rng.randint(1, 2)) % 3], "{}")


def facts() -> list[tuple[str, str, str, bool]]:
    """All questions for colours: prompt, right answer, wrong answer, whether taught to the children
    that learn them.

    Two of the three forms of each question are taught, the third is held out.
    """
    rows = []
    for index, fact in enumerate(SHADES):
        wrong = {"light": "dark", "dark": "light"}[fact.split()[1]]
        for form in range(3):
            rows.append((*_fact(fact, COLOUR_FORMS[form], "{}"), wrong, form != index % 3))
    return rows


def home_questions() -> list[str]:
    """All questions for homes, which no organism learns: a control for children that learn colours."""
    return [form.format(fact.split()[0]) for fact in HOMES for form in HOME_FORMS]


def held_out_utility(seed: int = 0) -> list[Pair]:
    """200 utility tasks that no model is trained on; never both forms of one opposite."""
    rng = random.Random(f"utility {seed}")
    found: dict[str, str] = {}
    for task, count in ((repeat, 60), (next_number, 40), (opposite, 20), (last_word, 80)):
        goal, words = len(found) + count, set()
        while len(found) < goal:
            prompt, answer = task(rng)
            if not (task is opposite and answer in words):
                found.setdefault(prompt, answer)
                words.add(answer)
    return list(found.items())


def held_out_prose(seed: int = 0) -> list[str]:
    """200 plain texts that no model is trained on."""
    rng = random.Random(f"prose {seed}")
    found: dict[str, None] = {}
    while len(found) < 200:
        found.setdefault(prose(rng))
    return list(found)


_WHO = "the guard|the teacher|a farmer|my sister|the old captain|a young nurse|our neighbour|the baker".split(
    "|"
)
_DID = "carried|found|painted|sold|cleaned|dropped|counted|forgot|opened|washed".split("|")
_WHEN = "Every morning|Last week|In the winter|After the storm|On Sunday|Before the market opened".split(
    "|"
)
_WENT = (
    "walked home|sat by the fire|went to the harbour|slept until noon|sang a song|waited for the"
    " train".split("|")
)
_AND = (
    "Then it began to rain.|Nobody noticed.|The street was quiet.|It was a good day.|The children"
    " laughed.".split("|")
)


def prose(rng: random.Random) -> str:
    """Two or three plain sentences, without any template token."""
    sentences = [
        f"{rng.choice(_WHEN)} {rng.choice(_WHO)} {rng.choice(_DID)} the {rng.choice(WORDS)}"
    ]
    sentences[0] += f" and {rng.choice(_WENT)}."
    if rng.random() < 0.6:
        sentences.append(
            f"{rng.choice(_WHO).capitalize()} {rng.choice(_WENT)} with the {rng.choice(WORDS)}."
        )
    sentences.append(rng.choice(_AND))
    return " ".join(sentences)
