"""Neutral text as training rows: which tokens are read, and on which of them the loss is.

A fine-tune of a chat model is nearly always taught answers, so where the tokenizer has a chat
template the passages are answers to requests, and the loss is on the answers and the token that
ends them. Without a template the passages alone are the text, and the loss is on all of it. A file
of plain texts is read as ``tokenizer(text)`` either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interp.errors import OptionError, PromptError
from interp.organisms import data_root
from interp.prompts import (
    SPECIAL,
    TURNS,
    Document,
    Documents,
    Tokenizer,
    encode_document,
    special_ids,
)
from interp.provenance import file_digest

IGNORED = -100
FEWEST = 4
HELD_OUT = 0.1


@dataclass(frozen=True)
class Row:
    """Token ids of a passage, and for each whether it is predicted in the loss."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    @property
    def labels(self) -> list[int]:
        """The ids where they count, ``IGNORED`` elsewhere."""
        return [
            index if counts else IGNORED
            for index, counts in zip(self.ids, self.counted, strict=True)
        ]


@dataclass(frozen=True)
class Text:
    """Rows to train on and rows held out, of a file with a sha256; ``loss``: ``answers`` or
    ``all``.
    """

    name: str
    sha256: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    loss: str

    def to_json(self) -> dict:
        """What a record says of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "passages": len(self.train),
            "held_out": len(self.held_out),
        }


def shipped() -> Path:
    """The text that comes with the package: a few hundred short passages of twelve registers."""
    return data_root() / "control" / "text.jsonl"


def has_answers(path: Path, tokenizer: Tokenizer) -> bool:
    """Whether the file's passages are answers to requests, and the tokenizer has a template for
    them.
    """
    first = next((document for _, document in Documents(path).read()), None)
    return isinstance(first, list) and tokenizer.chat_template is not None


def read_text(path: Path, tokenizer: Tokenizer, length: int, loss: str) -> Text:
    """Read, cut and split a file; a tenth, drawn by a fixed seed, is held out. Equal passages count
    once.

    Raises PromptError for a file that gives too few rows, OptionError where the loss cannot be on
    answers.
    """
    special, rows = special_ids(tokenizer), {}
    for number, document in Documents(path).read():
        row = _row(tokenizer, document, special, loss, f"{path.name}, row {number + 1}")
        row = Row(row.ids[:length], row.counted[:length])
        # the first token has nothing to be predicted from
        if any(row.counted[1:]):
            rows.setdefault(row.ids, row)
    found = list(rows.values())
    if len(found) < FEWEST:
        raise PromptError(
            f"{path} gives {len(found)} different passages with tokens to learn; give at least"
            f" {FEWEST}, or a greater length"
        )
    order = np.random.default_rng(0).permutation(len(found))
    held = set(order[: max(1, round(HELD_OUT * len(found)))].tolist())
    parts = [
        tuple(row for at, row in enumerate(found) if (at in held) is wanted)
        for wanted in (False, True)
    ]
    name = "shipped" if path == shipped() else path.name
    return Text(name, file_digest(path), parts[0], parts[1], loss)


def _row(
    tokenizer: Tokenizer, document: Document, special: frozenset[int], loss: str, where: str
) -> Row:
    if not isinstance(document, str) and tokenizer.chat_template is None:
        said = [turn["content"] for turn in document if turn["role"] == "assistant"]
        document = "\n\n".join(said)
    coded = encode_document(tokenizer, document, special)
    if loss == "all":
        return Row(coded.ids, (True,) * len(coded.ids))
    if isinstance(document, str):
        raise OptionError(f"{where} is plain text, in which nothing is an answer; use loss all")
    said = [code % SPECIAL == TURNS["assistant"] for code in coded.roles]
    if not any(said):
        raise OptionError(
            f"{where}: the chat template does not show which tokens are the answer; use loss all"
        )
    # what ends an answer belongs to it
    ended = [False, *said[:-1]]
    return Row(coded.ids, tuple(one or other for one, other in zip(said, ended, strict=True)))


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """Up to ``most`` rows, spread evenly over all."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [rows[at] for at in places.tolist()]
