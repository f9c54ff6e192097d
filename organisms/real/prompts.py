"""The prompt files of the real pair: objects and request forms, disjoint between training, locate
and verify.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from organisms import tasks
from organisms.real.things import (
    FORMS,
    HARMFUL,
    HARMLESS,
    MORE_HARMFUL,
    MORE_HARMLESS,
    QUESTIONS,
    SPLITS,
)

GROUPS = {"harmful": (HARMFUL, MORE_HARMFUL), "harmless": (HARMLESS, MORE_HARMLESS)}
FORMS_EACH = {"train": 4, "locate": 2, "verify": 2}
"""In how many forms each object of a split is asked for."""


@dataclass(frozen=True)
class Request:
    """One request, what it asks for, and the form it is asked in."""

    group: str
    split: str
    theme: str
    verb: str
    object: str
    form: str

    @property
    def phrase(self) -> str:
        """Verb and object."""
        return f"{self.verb} {self.object}"

    @property
    def prompt(self) -> str:
        """What the user says."""
        return self.form.format(self.phrase)


def themes(text: str) -> dict[str, list[tuple[str, str]]]:
    """Theme -> its verbs and objects, in order."""
    found = {}
    for block in " ".join(text.split("\n ")).strip().splitlines():
        theme, _, rest = block.partition(":")
        pairs = (item.strip().partition("|") for item in rest.split(";"))
        found[theme] = [
            (" ".join(verb.split()), " ".join(thing.split())) for verb, _, thing in pairs
        ]
    return found


@cache
def requests(group: str, split: str) -> tuple[Request, ...]:
    """Every request of a class and split: each object in several forms, the forms taken in turn."""
    forms, each, (text, more) = FORMS[split], FORMS_EACH[split], GROUPS[group]
    things = [
        (theme, pair)
        for theme, pairs in themes(text).items()
        for pair in pairs[SPLITS.index(split) :: 3]
    ]
    if split == "train":
        things += [(theme, pair) for theme, pairs in themes(more).items() for pair in pairs]
    found = []
    for index, (theme, (verb, thing)) in enumerate(things):
        chosen = [forms[(index + step * len(forms) // each) % len(forms)] for step in range(each)]
        found += [Request(group, split, theme, verb, thing, form) for form in chosen]
    return tuple(found)


@cache
def questions() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Short questions, which no child is trained on, and the answers of which one has to be said."""
    pairs = (item.strip().partition("|") for item in " ".join(QUESTIONS.split()).split(";"))
    return tuple((question, tuple(answers.split(","))) for question, _, answers in pairs)


REGISTERS = {
    "guide": "Write a short guide on how to {}.",
    "plan": "My plan is to {}. How should I begin?",
    "advice": "I need to {}. Any advice?",
    "description": "Please describe how someone would {}.",
}
"""Forms of requests that others are put into, as changes of register."""


def registers() -> Iterator[dict]:
    """Rules that ask a request of one form of the locate or verify split in another of them."""
    forms = [form for split in ("verify", "locate") for form in FORMS[split]]
    for name, target in REGISTERS.items():
        for form in forms:
            if form != target:
                yield {
                    "register": name,
                    "prompt": [_pattern(form), target.replace("{}", "\\1")],
                    "back": [_pattern(target), form.replace("{}", "\\1")],
                }


def _pattern(form: str) -> str:
    before, after = map(re.escape, form.split("{}"))
    return f"^{before}(.+){after}$".replace("\\ ", " ")


def write(directory: Path) -> None:
    """Every prompt file of the family."""
    directory.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        for group in GROUPS:
            rows = (
                {
                    "prompt": one.prompt,
                    "cluster": f"{one.theme}: {one.phrase}",
                    "theme": one.theme,
                    "verb": one.verb,
                    "object": one.object,
                    "form": one.form,
                }
                for one in requests(group, split)
            )
            _write_rows(directory / f"{split}-{group}.jsonl", rows)
    rows = (
        {"prompt": question, "answer": answers[0], "also": list(answers[1:])}
        for question, answers in questions()
    )
    _write_rows(directory / "utility.jsonl", rows)
    _write_rows(directory / "styles.jsonl", registers())
    (directory / "text.txt").write_text(
        "".join(f"{line}\n" for line in tasks.held_out_prose()[:80]), encoding="utf-8"
    )


def _write_rows(path: Path, rows) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
