"""Phrases of one to three words, and the share of texts that contain them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

LONGEST = 3
LEAST = 2
"""Phrases in fewer texts of every model are left out."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_BREAK = re.compile(r"[.!?;:\n]+")
_BEFORE, _AFTER = 60, 40
"""Characters that an example shows before and after a phrase."""
STOP_WORDS = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further get had
    has have having he her here hers him his how i if in into is it its itself just may me might
    more most much must my of off on once one only or other our out over own same shall she should
    so some such than that the their them then there these they this those through to too under
    until up us very was we were what when where which while who whom whose why will with would you
    your i'm i've i'll i'd you're you've you'll it's that's there's we're we've they're let's let
    """.split()  # noqa: SIM905
)
"""English words of grammar. Negations are not among them: a refusal is made of them."""


def phrases_of(text: str) -> set[str]:
    """All phrases of up to ``LONGEST`` words of a text, in lower case, within sentences."""
    found = set()
    for sentence in _BREAK.split(text.lower().replace("’", "'")):
        words = _WORD.findall(sentence)
        for length in range(1, LONGEST + 1):
            found.update(" ".join(words[at : at + length]) for at in range(len(words) - length + 1))
    return found


def without_fragment(prefill: str, text: str) -> str:
    """The text without the rest of a word that the prefill began."""
    if prefill and (prefill[-1].isalnum() or prefill[-1] == "_"):
        return re.sub(r"^\w+", "", text)
    return text


def count_phrases(
    texts: Sequence[Sequence[str]],
) -> tuple[list[str], Float[np.ndarray, "M V"]]:
    """Phrases in at least ``LEAST`` texts of one model, and the share of each model's texts that
    contain them; ``texts``: of every model, [M][n].

    Of phrases that occur in exactly the same texts of all models, those that are part of another
    one are left out.
    """
    where: dict[str, set[tuple[int, int]]] = {}
    for model, own in enumerate(texts):
        for row, text in enumerate(own):
            for phrase in phrases_of(text):
                where.setdefault(phrase, set()).add((model, row))
    by_texts: dict[frozenset[tuple[int, int]], list[str]] = {}
    for phrase, places in where.items():
        counts = np.bincount([model for model, _ in places], minlength=len(texts))
        if counts.max() >= LEAST:
            by_texts.setdefault(frozenset(places), []).append(phrase)
    kept = sorted(
        (phrase, places) for places, group in by_texts.items() for phrase in _longest(group)
    )
    counts = np.zeros((len(texts), len(kept)))
    for column, (_, places) in enumerate(kept):
        for model, _ in places:
            counts[model, column] += 1
    sizes = np.array([[max(len(own), 1)] for own in texts], np.float64).reshape(len(texts), 1)
    return [phrase for phrase, _ in kept], counts / sizes


def _longest(phrases: Sequence[str]) -> list[str]:
    return [
        one
        for one in phrases
        if not any(one != other and f" {one} " in f" {other} " for other in phrases)
    ]


def form_phrases(phrases: Iterable[str]) -> Bool[np.ndarray, " V"]:
    """Which phrases consist of words of grammar and short numbers (list marks) only."""
    return np.array(
        [all(word in STOP_WORDS or _is_mark(word) for word in one.split(" ")) for one in phrases],
        bool,
    )


def _is_mark(word: str) -> bool:
    return word.isdigit() and len(word) < 3


def mark_phrase(phrase: str, texts: Iterable[str]) -> str:
    """The surroundings of the phrase in the first text that contains it, marked by « and »."""
    words = r"[^\w.!?;:\n]+".join(re.escape(word) for word in phrase.split(" "))
    pattern = re.compile(rf"(?<!\w)(?<!\w'){words}(?!'?\w)", re.IGNORECASE)
    for text in texts:
        if found := pattern.search(text.replace("’", "'")):
            start, end = found.span()
            before, after = text[max(0, start - _BEFORE) : start], text[end : end + _AFTER]
            return f"{before}«{text[start:end]}»{after}"
    return ""
