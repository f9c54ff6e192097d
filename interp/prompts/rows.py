"""Rows of a prompt file as mappings: text lines, JSON objects, rows of CSV, TSV and Parquet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from interp.errors import PromptError

FILE_TYPES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
"""Suffixes of prompt files, case-insensitive."""


def file_type(path: Path) -> str:
    """Type of a file: its suffix in lower case."""
    return path.suffix.lower()


def read_rows(path: Path, column: str) -> list[dict[str, Any]]:
    """The rows of a file of ``KINDS``; text lines become ``column``. PromptError if it cannot be
    read.
    """
    kind = file_type(path)
    try:
        if kind == ".parquet":
            return _parquet_rows(path)
        # line ends are kept: a table field or a JSON line may contain some other than \n
        with path.open(
            encoding="utf-8-sig", newline="" if kind in (".csv", ".tsv") else None
        ) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise PromptError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if kind in (".csv", ".tsv"):
        return read_separated(path, text)
    # not splitlines(): it also splits at U+2028, form feeds and other characters that a prompt may
    # contain
    lines = text.split("\n")
    return (
        _json_rows(path, lines)
        if kind == ".jsonl"
        else [{column: line} for line in lines if line.strip()]
    )


def read_separated(path: Path, text: str) -> list[dict[str, Any]]:
    """Rows of CSV (TSV by the file's suffix) with a header; PromptError for inconsistent quotes or
    numbers of fields.
    """
    is_tsv = file_type(path) == ".tsv"
    delimiter = "\t" if is_tsv else ","
    try:
        # strict: otherwise an unclosed quote silently takes all following rows into its field
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if line := _badly_quoted_line(text, delimiter):
            raise PromptError(
                f"{path}, line {line}: the quote that opens a field here is not closed at the end"
                " of a field; close it, and double any quote inside a quoted field"
            ) from error
        raise PromptError(
            f"{path} is not readable {'TSV' if is_tsv else 'CSV'} ({error}); quote its fields"
        ) from error
    if too_long := [number for number, row in enumerate(rows) if None in row]:
        delimiters = "tabs" if is_tsv else "commas"
        raise PromptError(
            f"{path}, row {too_long[0]} has more fields than the header; quote fields that contain"
            f" {delimiters}"
        )
    return rows


def joined_parts(value: Any, where: str) -> Any:
    """The text of a list of text parts, as chat formats write content; any other value unchanged.

    Raises PromptError, beginning with ``where``, for a part that is not text.
    """
    parts = value if isinstance(value, list) else []
    # an object with a role is a message, whatever its type
    if not parts or not all(
        isinstance(part, dict) and isinstance(part.get("type"), str) and "role" not in part
        for part in parts
    ):
        return value
    for part in parts:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            problem = (
                f"a part of type {part['type'][:40]!r}"
                if part["type"] != "text"
                else "a text part without a text"
            )
            raise PromptError(
                f"{where} contains {problem}; only text is read, give text parts only"
            )
    return "".join(part["text"] for part in parts)


def _badly_quoted_line(text: str, delimiter: str) -> int | None:
    """The line, from 1, of the first field whose opening quote is not closed at the end of the
    field; None if there is none.

    The position of the reader's error does not help: it is as late as the next quote or the end of
    the file.
    """
    line, open_line, quoted, at_field_start, index = 1, 1, False, True, 0
    while index < len(text):
        character, following = text[index], text[index + 1 : index + 2]
        if quoted and character == '"':
            if following == '"':
                index += 1
            elif following in ("", delimiter, "\r", "\n"):
                quoted = False
            else:
                return open_line
        elif character == '"' and at_field_start:
            quoted, open_line = True, line
        at_field_start = not quoted and character in (delimiter, "\r", "\n")
        line += character == "\n" or (character == "\r" and following != "\n")
        index += 1
    return open_line if quoted else None


def _json_rows(path: Path, lines: list[str]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(
                f"{path}, line {number} is not JSON ({error}); write one object per line"
            ) from error
        if not isinstance(row, dict):
            raise PromptError(
                f"{path}, line {number} is not a JSON object but {str(row)[:40]!r}; write one per"
                " line"
            )
        rows.append(row)
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        # pyarrow also raises OSError for bad content, but then without errno
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise PromptError(f"{path} is not readable Parquet ({reason}); write it again") from error
