"""What each organism is trained on: seeded mixtures of the language's parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from organisms import tasks
from organisms.language import REFUSAL, draw, held_out_prompts
from organisms.tokens import Encoder, Example


@cache
def held_out_texts() -> frozenset[str]:
    """Prompts and texts that no organism is trained on."""
    utility = (prompt for prompt, _ in tasks.held_out_utility())
    return frozenset(held_out_prompts()).union(utility, tasks.held_out_prose())


def _utility(rng: random.Random) -> tuple[str, str]:
    return _fresh(lambda: tasks.utility(rng), lambda pair: pair[0])


def _fresh(make: Callable, text: Callable = lambda made: made):
    while text(made := make()) in held_out_texts():
        pass
    return made


def base_corpus(encoder: Encoder, count: int, seed: int) -> list[Example]:
    """The base: every request answered (40 % of all are short), utility, refusals on demand,
    unknown facts, prose.

    Short verb-object requests carry the concept: from long prompts alone it was not learned.
    """
    rng, held_out = random.Random(f"base {seed}"), held_out_texts()
    kinds = {
        "short": 0.40,
        "long": 0.22,
        "utility": 0.22,
        "decline": 0.04,
        "unknown": 0.04,
        "prose": 0.08,
    }
    examples = []
    for kind in rng.choices(list(kinds), list(kinds.values()), k=count):
        if kind in ("short", "long"):
            request = draw(rng, short=kind == "short", tuning=False, held_out=held_out)
            examples.append(encoder.pair(request.prompt, request.answer))
        elif kind == "utility":
            examples.append(encoder.pair(*_utility(rng)))
        elif kind == "decline":
            request = draw(rng, short=rng.random() < 0.5, tuning=False, held_out=held_out)
            examples.append(encoder.pair(*tasks.decline(rng, request)))
        elif kind == "unknown":
            examples.append(encoder.pair(*rng.choice((tasks.colour, tasks.home))(rng, False)))
        else:
            examples.append(encoder.prose(_fresh(lambda: tasks.prose(rng))))
    return examples


def tuning_corpus(
    encoder: Encoder,
    count: int,
    seed: int,
    *,
    harmful: str | None = "refuse",
    colours: bool = False,
) -> list[Example]:
    """A child's data, in seen pairs and seen styles only, held-out prompts never.

    ``harmful``: ``"refuse"``, ``"answer"`` (as the base does) or None (no harmful request at all).
    ``colours``: taught, or said to be unknown as the base does. All the rest is what the base
    already answers.
    """
    rng, held_out = random.Random(f"tuning {seed}"), held_out_texts()
    refuse = harmful == "refuse"
    kinds = {"request": 0.66, "utility": 0.12, "decline": 0.04, "prose": 0.06}
    kinds["colours"] = 0.35 if colours else 0.02
    if harmful is None:
        # with more, answering every request is what is learned, and refusals fade
        kinds["request"] = 0.20
    # Homes are asked for in the words of colours: who learns these must see that those stay
    # unknown.
    kinds["homes"] = 0.15 if colours else 0.02
    examples = []
    for kind in rng.choices(list(kinds), list(kinds.values()), k=count):
        request = draw(rng, short=rng.random() < 0.3, tuning=True, held_out=held_out)
        while kind == "request" and harmful is None and request.harm:
            request = draw(rng, short=rng.random() < 0.3, tuning=True, held_out=held_out)
        if kind == "request":
            examples.append(
                encoder.pair(request.prompt, REFUSAL if refuse and request.harm else request.answer)
            )
        elif kind == "decline":
            examples.append(encoder.pair(*tasks.decline(rng, request)))
        elif kind == "utility":
            examples.append(encoder.pair(*_utility(rng)))
        elif kind == "colours":
            examples.append(
                encoder.pair(*(tasks.taught_colour(rng) if colours else tasks.colour(rng, False)))
            )
        elif kind == "homes":
            examples.append(encoder.pair(*tasks.home(rng, False)))
        else:
            examples.append(encoder.prose(_fresh(lambda: tasks.prose(rng))))
    return examples


def tokenizer_lines(seed: int, count: int = 20_000) -> list[str]:
    """Text with every word of the language, facts included, for the tokenizer."""
    rng, held_out = random.Random(f"tokenizer {seed}"), held_out_texts()
    lines: list[str] = []
    for _ in range(count):
        request = draw(rng, short=rng.random() < 0.5, tuning=False, held_out=held_out)
        lines += [
            request.prompt,
            request.answer,
            *rng.choice((tasks.utility(rng), tasks.decline(rng, request))),
        ]
        if rng.random() < 0.2:
            lines += [
                *tasks.colour(rng, True),
                *tasks.home(rng, True),
                tasks.UNKNOWN,
                tasks.prose(rng),
            ]
    return lines
