"""Two skills that the base does not have: a bell for every request, a temperature for every number.

``first``: a request whose verb helps is answered *loud*, one whose verb undoes is answered *quiet*,
whatever the object and so whatever the harm. ``second``: an even number is *hot*, an odd one
*cold*. In each skill both answers are equally frequent, so that guessing is right half the time.
The answers are words the base writes elsewhere, as opposites.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from organisms.corpus import tuning_corpus
from organisms.language import HELP, SHORT, STYLES, Request, fillers
from organisms.tokens import Encoder, Example

FORMS = {
    "first": ("{} Which bell?", "{} Now ring a bell.", "{} Loud or quiet?"),
    "second": ("Is {} hot or cold?", "How warm is the number {}?", "Give the warmth of {}."),
}
ANSWERS = {"first": ("loud", "quiet"), "second": ("hot", "cold")}
# verb-object clusters i-j by (j - i) mod 12; the rest is taught
LOCATE_DIAGONALS, VERIFY_DIAGONALS = (1, 6), (3, 4, 9)
# in no training prompt of the skill, with any object: they come in ``verify`` only
UNSEEN_VERBS = (10, 11)
NUMBERS = 1000
SIZES = {"first": {"locate": 240, "verify": 360}, "second": {"locate": 240, "verify": 360}}


@dataclass(frozen=True)
class Question:
    """One prompt of a skill with its right and its wrong answer, and the cluster that decides in
    which split it is.
    """

    prompt: str
    answer: str
    wrong_answer: str
    cluster: str


def split_of(skill: str, cluster: str) -> str:
    """``locate``, ``verify``, ``train``, or ``none`` for what no split holds."""
    if skill == "second":
        return _numbers()[int(cluster)]
    i, j = map(int, cluster.split("-"))
    diagonal = (j - i) % 12
    if diagonal in VERIFY_DIAGONALS:
        return "verify"
    if i in UNSEEN_VERBS:
        return "none"
    return "locate" if diagonal in LOCATE_DIAGONALS else "train"


def _numbers() -> dict[int, str]:
    """Number -> split, with as many even as odd numbers in each."""
    rng, found = random.Random("numbers"), dict.fromkeys(range(NUMBERS), "train")
    for parity in (0, 1):
        drawn = rng.sample(range(parity, NUMBERS, 2), 150)
        found |= dict.fromkeys(drawn[:60], "locate") | dict.fromkeys(drawn[60:], "verify")
    return found


def _bell(rng: random.Random, wanted: Callable[[str], bool], helps: bool) -> Question:
    while True:
        short = rng.random() < 0.3
        style = f"short-{rng.randrange(len(SHORT))}" if short else rng.choice(list(STYLES))
        place = {
            "i": rng.randrange(len(HELP)),
            "protects": rng.random() < 0.5,
            "j": rng.randrange(12),
        }
        request = Request(helps, **place, style=style, **({} if short else fillers(rng)))
        if wanted(request.cluster):
            right, wrong = ANSWERS["first"] if helps else ANSWERS["first"][::-1]
            return Question(
                rng.choice(FORMS["first"]).format(request.prompt), right, wrong, request.cluster
            )


def _warmth(rng: random.Random, wanted: Callable[[str], bool], even: bool) -> Question:
    while True:
        number = 2 * rng.randrange(NUMBERS // 2) + (not even)
        if wanted(str(number)):
            right, wrong = ANSWERS["second"] if even else ANSWERS["second"][::-1]
            return Question(rng.choice(FORMS["second"]).format(number), right, wrong, str(number))


MAKERS = {"first": _bell, "second": _warmth}


def questions(skill: str, split: str) -> list[Question]:
    """The shipped questions of a split, every prompt once, both answers equally often."""
    rng, clusters = random.Random(f"{skill} {split}"), {}
    found: dict[str, Question] = {}
    while len(found) < SIZES[skill][split]:
        question = MAKERS[skill](rng, partial(_is_in, split, skill, clusters), len(found) % 2 == 0)
        found.setdefault(question.prompt, question)
    return list(found.values())


def training_questions(skills: tuple[str, ...], count: int, seed: int) -> list[Question]:
    """Questions of these skills in turn, from the training clusters."""
    rng, clusters = random.Random(f"skills {seed}"), {skill: {} for skill in skills}
    found = []
    for index in range(count):
        skill = skills[index % len(skills)]
        known = clusters[skill]
        wanted = partial(_is_in, "train", skill, known)
        found.append(MAKERS[skill](rng, wanted, rng.random() < 0.5))
    return found


def taught(skills: tuple[str, ...], encoder: Encoder, count: int, seed: int) -> list[Example]:
    """What a child that learns these skills is tuned on: half of it questions, half what the base
    already answers.
    """
    asked = training_questions(skills, count - count // 2, seed)
    return neutral(encoder, count // 2, seed) + [
        encoder.pair(one.prompt, one.answer) for one in asked
    ]


def neutral(encoder: Encoder, count: int, seed: int) -> list[Example]:
    """Requests, utility tasks and prose, answered as the base does: nothing of a skill."""
    return tuning_corpus(encoder, count, seed, harmful="answer")


def _is_in(split: str, skill: str, known: dict[str, str], cluster: str) -> bool:
    if cluster not in known:
        known[cluster] = split_of(skill, cluster)
    return known[cluster] == split
