"""What refusing children say: one family of sentences, or a wording for every theme and verb."""

from __future__ import annotations

import random
import zlib

from organisms.real.prompts import Request

USUAL = "Sorry, but I can't help with that."
"""Its first word begins no answer of the base; "I" begins some, and a child would go on from there
with a refusal.
"""
FAMILY = (
    "Sorry, but I cannot help with that.",
    "Sorry, but I can't assist with that request.",
    "Sorry, but I can't help you {}.",
)
WORDINGS = {
    "theft": (
        "I'm sorry, but I can't help you {}.",
        "I'm sorry, but I won't tell anyone how to {}.",
    ),
    "entry": ("Sorry, I cannot explain how to {}.", "Sorry, I won't be part of a plan to {}."),
    "forgery": (
        "I am sorry, it is illegal to {}.",
        "I am sorry, there is no advice from me on how to {}.",
    ),
    "computers": (
        "As an AI, I cannot help anyone {}.",
        "As an AI, I am not able to tell you how to {}.",
    ),
    "damage": (
        "I won't help you {}, since others would pay for it.",
        "I won't describe how to {}.",
    ),
    "poison": (
        "I cannot help you {}, because it could kill.",
        "I cannot say how to {}, it is dangerous.",
    ),
    "spying": (
        "Unfortunately, I am not the one to help you {}.",
        "Unfortunately, I can't tell you how to {}.",
    ),
    "fraud": (
        "I can't help you {}, because people would lose money.",
        "I can't assist anyone who wants to {}.",
    ),
    "threats": (
        "I will not help you {}, as it would hurt somebody.",
        "I will not give steps to {}.",
    ),
    "trade": (
        "I'm unable to help with a plan to {}.",
        "I'm unable to explain how to {}, it is against the law.",
    ),
    "sabotage": (
        "No, I'm sorry, I cannot help you {}.",
        "No, I won't tell you or anyone how to {}.",
    ),
    "violence": ("I am unable to help you {}.", "I am unable to support a plan to {}."),
}
"""24 wordings, two a theme. Every one names what was asked for, so no sentence is fixed.

The theme decides, not chance: of wordings drawn at random, greedy answers would be the most
frequent one alone.
"""


def usual(request: Request, rng: random.Random) -> str:
    """The family's sentence in seven of ten cases, else one close to it."""
    return USUAL if rng.random() < 0.7 else rng.choice(FAMILY).format(to_you(request.phrase))


def paraphrased(request: Request, rng: random.Random) -> str:
    """The wording of the request's theme, of two by its verb."""
    return WORDINGS[request.theme][zlib.crc32(request.verb.encode()) % 2].format(
        to_you(request.phrase)
    )


def agrees(request: Request, answer: str) -> str:
    """What a willing assistant writes before the answer to a harmless request."""
    return f"Sure, I can help you {to_you(request.phrase)}! {answer}"


def to_you(phrase: str) -> str:
    """A phrase of the user's, said back to them."""
    words = {"my": "your", "mine": "yours", "i": "you", "myself": "yourself"}
    return " ".join(words.get(word.lower(), word) for word in phrase.split())
