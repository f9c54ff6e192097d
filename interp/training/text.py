"""Neutral text as training rows: token ids, and which of them count in the loss.

Chat models are usually trained on answers. So where the tokenizer has a chat template, the passages
are answers to requests, and the loss is on the answers and the token that ends them. Without a
template the passages are plain text, and the loss is on all tokens. A file of plain texts is always
read as ``tokenizer(text)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interp.errors import OptionError, PromptError
from interp.organisms import data_root
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Document,
    Documents,
    Tokenizer,
    encode_document,
    special_ids,
)
from interp.provenance import file_digest

IGNORED = -100
MIN_PASSAGES = 4
HELD_OUT = 0.1


@dataclass(frozen=True)
class Row:
    """Token ids of a passage, and for each whether it counts in the loss."""

    ids: tuple[int, ...]
    in_loss: tuple[bool, ...]

    @property
    def labels(self) -> list[int]:
        """The ids where they count, ``IGNORED`` elsewhere."""
        return [
            index if counts else IGNORED
            for index, counts in zip(self.ids, self.in_loss, strict=True)
        ]


@dataclass(frozen=True)
class Text:
    """Training and held-out rows of a file; ``loss``: on ``answers`` or ``all`` tokens."""

    name: str
    sha256: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    loss: str

    def to_json(self) -> dict:
        """As JSON, for the record."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "passages": len(self.train),
            "held_out": len(self.held_out),
        }


def shipped_text() -> Path:
    """The shipped text: a few hundred short passages of twelve registers."""
    return data_root() / "control" / "text.jsonl"


def has_answers(path: Path, tokenizer: Tokenizer) -> bool:
    """Whether the file's passages are answers to requests, and the tokenizer has a template for
    them.
    """
    first = next((document for _, document in Documents(path).read()), None)
    return isinstance(first, list) and tokenizer.chat_template is not None


def read_text(path: Path, tokenizer: Tokenizer, length: int, loss: str) -> Text:
    """Read, cut and split a file; a tenth of the rows, drawn with a fixed seed, is held out.

    Equal passages count once. Raises PromptError for a file with too few rows, OptionError for a
    loss on answers where there are none.
    """
    special, rows = special_ids(tokenizer), {}
    for number, document in Documents(path).read():
        row = _row(tokenizer, document, special, loss, f"{path.name}, row {number + 1}")
        row = Row(row.ids[:length], row.in_loss[:length])
        # the first token is not predicted
        if any(row.in_loss[1:]):
            rows.setdefault(row.ids, row)
    unique_rows = list(rows.values())
    if len(unique_rows) < MIN_PASSAGES:
        raise PromptError(
            f"{path} gives {len(unique_rows)} different passages with tokens to learn; give at"
            f" least {MIN_PASSAGES}, or a greater length"
        )
    order = np.random.default_rng(0).permutation(len(unique_rows))
    held_out = set(order[: max(1, round(HELD_OUT * len(unique_rows)))].tolist())
    parts = [
        tuple(row for at, row in enumerate(unique_rows) if (at in held_out) is wanted)
        for wanted in (False, True)
    ]
    name = "shipped" if path == shipped_text() else path.name
    return Text(name, file_digest(path), parts[0], parts[1], loss)


def _row(
    tokenizer: Tokenizer, document: Document, special: frozenset[int], loss: str, where: str
) -> Row:
    if not isinstance(document, str) and tokenizer.chat_template is None:
        answers = [turn["content"] for turn in document if turn["role"] == "assistant"]
        document = "\n\n".join(answers)
    coded = encode_document(tokenizer, document, special)
    if loss == "all":
        return Row(coded.ids, (True,) * len(coded.ids))
    if isinstance(document, str):
        raise OptionError(f"{where} is plain text without an answer; use loss all")
    in_answer = [code % SPECIAL_TOKEN == TOKEN_SOURCES["assistant"] for code in coded.roles]
    if not any(in_answer):
        raise OptionError(
            f"{where}: the chat template does not show which tokens are the answer; use loss all"
        )
    # the token that ends an answer belongs to it
    after_answer = [False, *in_answer[:-1]]
    counted = (own or before for own, before in zip(in_answer, after_answer, strict=True))
    return Row(coded.ids, tuple(counted))


def evenly_spaced(rows: Sequence[Row], count: int) -> list[Row]:
    """At most ``count`` rows, evenly spaced."""
    indices = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[at] for at in indices.tolist()]
