"""Rows of a file of prompts, as mappings: lines of text, objects of JSON, rows of CSV, TSV and
Parquet.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from interp.errors import PromptError

KINDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
"""What a file of prompts may end with, in either case."""


def kind_of(path: Path) -> str:
    """What a file's name says that it holds: its suffix in lower case."""
    return path.suffix.lower()


def read_rows(path: Path, column: str) -> list[dict[str, Any]]:
    """The rows of a file of ``KINDS``; lines of text are the ``column``. PromptError where it is
    not readable.
    """
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            return _parquet(path)
        # line ends as they are written: a field of a table, and a line of JSON, may hold some that
        # are not \n
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
        return separated(path, text)
    # not splitlines(): it also parts a line at U+2028, form feeds and other signs that a prompt may
    # hold
    lines = text.split("\n")
    return (
        _objects(path, lines)
        if kind == ".jsonl"
        else [{column: line} for line in lines if line.strip()]
    )


def separated(path: Path, text: str) -> list[dict[str, Any]]:
    """Rows of CSV, or of TSV by the file's name, under its header; PromptError where quotes or
    fields do not add up.
    """
    tabs = kind_of(path) == ".tsv"
    delimiter = "\t" if tabs else ","
    try:
        # strict: else a quote that nothing closes takes all the following rows into its field, and
        # one is not told
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if line := _badly_quoted(text, delimiter):
            raise PromptError(
                f"{path}, line {line}: the quote that opens a field here is not closed at the end"
                " of a field; close it, and write a quote inside of a quoted field twice"
            ) from error
        raise PromptError(
            f"{path} is not readable {'TSV' if tabs else 'CSV'} ({error}); quote its fields"
        ) from error
    if longer := [number for number, row in enumerate(rows) if None in row]:
        what = "tabs" if tabs else "commas"
        raise PromptError(
            f"{path}, row {longer[0]} has more fields than the header; quote fields that hold"
            f" {what}"
        )
    return rows


def joined_parts(value: Any, where: str) -> Any:
    """The text of a list of text parts, as chat formats write content; whatever is no list of parts
    as it is.

    Raises PromptError, which begins with ``where``, for a part that is not text.
    """
    parts = value if isinstance(value, list) else []
    # what has a role is a message, whatever its type
    if not parts or not all(
        isinstance(part, dict) and isinstance(part.get("type"), str) and "role" not in part
        for part in parts
    ):
        return value
    for part in parts:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            what = (
                f"a part of type {part['type'][:40]!r}"
                if part["type"] != "text"
                else "a text part without a text"
            )
            raise PromptError(f"{where} holds {what}; only text is read, give parts of text alone")
    return "".join(part["text"] for part in parts)


def _badly_quoted(text: str, delimiter: str) -> int | None:
    """The line, from 1, of the first field whose opening quote is closed within the field or never;
    None without one.

    Where the reader fails is no help: it is as far on as the next quote, or the end of the file.
    """
    line, opened, quoted, begins, at = 1, 1, False, True, 0
    while at < len(text):
        sign, following = text[at], text[at + 1 : at + 2]
        if quoted and sign == '"':
            if following == '"':
                at += 1
            elif following in ("", delimiter, "\r", "\n"):
                quoted = False
            else:
                return opened
        elif sign == '"' and begins:
            quoted, opened = True, line
        begins = not quoted and sign in (delimiter, "\r", "\n")
        line += sign == "\n" or (sign == "\r" and following != "\n")
        at += 1
    return opened if quoted else None


def _objects(path: Path, lines: list[str]) -> list[dict[str, Any]]:
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
                f"{path}, line {number} is no JSON object but {str(row)[:40]!r}; write one per line"
            )
        rows.append(row)
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        # pyarrow also says OSError of content, but then without the system's number
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise PromptError(f"{path} is not readable Parquet ({reason}); write it again") from error
