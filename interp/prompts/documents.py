"""Documents for passes over large text files: plain texts and conversations, streamed from any row.

A file is ``.txt`` (one document per line), ``.jsonl`` or ``.parquet`` with a column of text, or
with a column ``messages`` of conversations (a list of ``{"role", "content"}``). Only the current
row is in memory.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from interp.errors import PromptError
from interp.prompts.rows import file_type, joined_parts
from interp.prompts.template import render_conversation
from interp.prompts.tokens import Encoded, Tokenizer, require_usable_ids

TEXT, SYSTEM, USER, ASSISTANT, TEMPLATE = range(5)
TOKEN_SOURCES = {
    "text": TEXT,
    "system": SYSTEM,
    "user": USER,
    "assistant": ASSISTANT,
    "template": TEMPLATE,
}
"""Source of a token: plain text, the text of a role, or the chat template."""
SPECIAL_TOKEN = 8
"""Added to the code of a special token."""

Document = str | list[dict[str, str]]


@dataclass(frozen=True)
class Documents:
    """A file of documents; if ``column`` is None, the first of ``messages``, ``text`` and
    ``prompt`` in the file.
    """

    path: Path
    column: str | None = None

    def __post_init__(self) -> None:
        if file_type(self.path) not in (".txt", ".jsonl", ".parquet"):
            raise PromptError(f"{self.path} is not a document file; use .txt, .jsonl or .parquet")
        if not self.path.is_file():
            raise PromptError(f"no document file at {self.path}; check the path")

    def read(self, start: int = 0) -> Iterator[tuple[int, Document]]:
        """Row numbers and documents from row ``start`` on, without blank ones; PromptError for an
        invalid row.
        """
        try:
            rows = (
                self._lines(start) if file_type(self.path) != ".parquet" else self._batches(start)
            )
            for number, row in rows:
                document = row if isinstance(row, str) else self._document(number, row)
                if document:
                    yield number, document
        except UnicodeDecodeError as error:
            raise PromptError(
                f"{self.path} is not UTF-8 ({error.reason}); save it as UTF-8"
            ) from error
        except (ArrowException, OSError) as error:
            raise PromptError(
                f"{self.path} cannot be read ({' '.join(str(error).split())[:200]})"
            ) from error

    def _lines(self, start: int) -> Iterator[tuple[int, Any]]:
        with self.path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file):
                if number < start or not line.strip():
                    continue
                if file_type(self.path) == ".txt":
                    yield number, line.rstrip("\r\n")
                    continue
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise PromptError(
                        f"{self.path}, line {number + 1} is not JSON ({error})"
                    ) from error

    def _batches(self, start: int) -> Iterator[tuple[int, Any]]:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            number = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if number + size <= start:
                    number += size
                    continue
                for batch in file.iter_batches(256, row_groups=[group]):
                    for row in batch.to_pylist():
                        if number >= start:
                            yield number, row
                        number += 1

    def _document(self, number: int, row: Any) -> Document:
        if not isinstance(row, dict):
            raise PromptError(f"{self.path}, row {number} is not an object but {str(row)[:40]!r}")
        names = (self.column,) if self.column else ("messages", "text", "prompt")
        name = next((name for name in names if name in row), None)
        if name is None:
            raise PromptError(
                f"{self.path}, row {number} has no column {' or '.join(names)}; it has "
                f"{' '.join(', '.join(sorted(map(str, row))).split()) or 'none'}; use --column"
            )
        where = f"{self.path}, row {number}: {name}"
        value = joined_parts(row[name], where)
        if value is None or isinstance(value, str):
            self._require_text(number, value or "")
            return value if value and value.strip() else ""
        messages = value if isinstance(value, list) else [None]
        conversation = [
            {"role": turn.get("role"), "content": joined_parts(turn.get("content"), where)}
            for turn in messages
            if isinstance(turn, dict)
        ]
        if len(conversation) < len(messages) or not all(
            isinstance(part, str) for turn in conversation for part in turn.values()
        ):
            raise PromptError(
                f"{where} is neither text nor a list of messages with role and content"
            )
        for turn in conversation:
            self._require_text(number, turn["content"])
        return conversation

    def _require_text(self, number: int, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"{self.path}, row {number}: {text[:40]!r} holds half a surrogate pair; write it as"
                " UTF-8 text"
            ) from error


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """All special token ids, including those that templates use and ``all_special_ids`` omits."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def encode_document(
    tokenizer: Tokenizer,
    document: Document,
    special: frozenset[int],
    *,
    add_special_tokens: bool = True,
) -> Encoded:
    """Token ids of a document, each with its code of ``TURNS`` (plus ``SPECIAL``).

    Text is tokenised exactly as by ``tokenizer(text)``, or without special tokens if
    ``add_special_tokens`` is false; a conversation through the chat template. Raises PromptError if
    the template is missing or fails.
    """
    if isinstance(document, str):
        ids = tokenizer(document, add_special_tokens=add_special_tokens)["input_ids"]
        codes = [TEXT] * len(ids)
    else:
        ids, codes = _encode_conversation(tokenizer, document)
    require_usable_ids(tokenizer, ids, document if isinstance(document, str) else str(document))
    codes = [
        code + SPECIAL_TOKEN * (index in special) for index, code in zip(ids, codes, strict=True)
    ]
    return Encoded(tuple(ids), tuple(codes))


def _encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[dict[str, str]]
) -> tuple[list[int], list[int]]:
    if tokenizer.chat_template is None:
        raise PromptError(
            "the tokenizer has no chat template for conversations; use a column of text"
        )
    text = _render_messages(tokenizer, messages)
    coded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    ids = list(coded["input_ids"])
    codes = [TEMPLATE] * len(ids)
    if tokenizer.is_fast:
        spans = _message_spans(tokenizer, messages, text)
        span_index = 0
        for token_index, (begin, stop) in enumerate(coded["offset_mapping"]):
            while span_index < len(spans) and spans[span_index][1] <= begin:
                span_index += 1
            if span_index < len(spans) and begin < stop and stop > spans[span_index][0]:
                codes[token_index] = spans[span_index][2]
    return ids, codes


def _message_spans(
    tokenizer: Tokenizer, messages: Sequence[dict[str, str]], text: str
) -> list[tuple[int, int, int]]:
    """Spans of each message's text in a rendered conversation; empty unless they reproduce it
    exactly.
    """
    placeholders = [f"qzx{number}PLACEHOLDERxzq" for number in range(len(messages))]
    pattern = _render_messages(
        tokenizer, [{**m, "content": p} for m, p in zip(messages, placeholders, strict=True)]
    )
    spans, reconstructed = [], ""
    for message, placeholder in zip(messages, placeholders, strict=True):
        before, separator, pattern = pattern.partition(placeholder)
        if not separator:
            continue  # some templates omit turns
        reconstructed += before
        content = next(
            (
                s
                for s in (message["content"], message["content"].strip())
                if text.startswith(s, len(reconstructed))
            ),
            None,
        )
        if content is None:
            return []
        code = TOKEN_SOURCES.get(message["role"], TEMPLATE)
        if content:
            spans.append((len(reconstructed), len(reconstructed) + len(content), code))
        reconstructed += content
    return spans if reconstructed + pattern == text else []


def _render_messages(tokenizer: Tokenizer, messages: Sequence[dict[str, str]]) -> str:
    try:
        return render_conversation(tokenizer, messages)
    # a template is foreign code and can raise anything
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise PromptError(f"the chat template fails for a conversation ({reason})") from error


def pack_documents(
    encoded: Sequence[Encoded], length: int, separator: int | None, block_start: int | None
) -> list[Encoded]:
    """Documents concatenated and cut into blocks of ``length`` tokens, as most trainers do; the
    last may be shorter.

    ``separator`` is a token that separates documents, ``block_start`` one that begins every block;
    None omits them.
    """
    separator_tokens = () if separator is None else ((separator, TEXT + SPECIAL_TOKEN),)
    start_tokens = () if block_start is None else ((block_start, TEXT + SPECIAL_TOKEN),)
    tokens = [
        token
        for document in encoded
        for token in (*zip(document.ids, document.roles, strict=True), *separator_tokens)
    ]
    step = length - len(start_tokens)
    blocks = [
        (*start_tokens, *tokens[start : start + step]) for start in range(0, len(tokens), step)
    ]
    return [Encoded(*(tuple(part) for part in zip(*block, strict=True))) for block in blocks]
