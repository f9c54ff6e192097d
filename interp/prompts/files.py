"""Prompt files, read at the door.

A file is ``.txt`` (a prompt a line), ``.jsonl``, ``.csv`` or ``.parquet`` with a column ``prompt``. Optional columns:
``cluster`` (prompts that are variants of one: never parted, and one piece of evidence), ``twin`` (the same value in
both classes names a harmful prompt and its harmless twin), ``split`` (``locate`` or ``verify``, see
``PromptSet.halves``). A task file has a column ``answer`` and perhaps ``wrong_answer``.
"""

import csv
import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from interp.errors import PromptError
from interp.prompts.clusters import text_key
from interp.prompts.sets import Prompt, PromptSet


def read_prompts(path: str | Path, column: str = "prompt", name: str = "", template: str | None = None) -> PromptSet:
    """Read a prompt file; raises PromptError for anything that is not a list of prompts.

    ``name`` distinguishes clusters of files whose rows name none; ``template`` is a column that names templates.
    """
    return _read(Path(path), column, name, template, task=False)


def read_task(path: str | Path, column: str = "prompt", name: str = "", template: str | None = None) -> PromptSet:
    """Read a task file: prompts that all have an ``answer``, and all or none a ``wrong_answer``; else PromptError."""
    return _read(Path(path), column, name, template, task=True)


def read_chats(path: str | Path, column: str = "prompt", name: str = "") -> PromptSet:
    """Read prompts or whole conversations: a column of text, or of lists of ``{"role", "content"}``; else PromptError.

    Conversations become prompts with ``messages``.
    """
    return _read(Path(path), column, name, None, task=False, chats=True)


def _read(path: Path, column: str, name: str, template: str | None, task: bool, chats: bool = False) -> PromptSet:
    if not path.exists():
        raise PromptError(f"no prompt file at {path}; check the path")
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers or not path.is_file():
        raise PromptError(f"{path} is no prompt file; use .txt, .jsonl, .csv or .parquet")
    try:
        rows = readers[path.suffix](path, column)
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    prompts: list[Prompt] = []
    texts: dict[Hashable, int] = {}
    given = False
    for index, row in enumerate(rows):
        if column not in row:
            # a name can hold line ends
            names = " ".join(", ".join(sorted(row)).split())
            raise PromptError(f"{path} has no column {column!r}; it has {names or 'none'}; use --column")
        text, messages = row[column], None
        if chats and not isinstance(text, str):
            text, messages = _conversation(path, index, column, text)
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"{path}, row {index}: {column} is {text!r}; every prompt needs text")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise PromptError(f"{path}, row {index}: {text[:40]!r} holds half a surrogate pair; write it as UTF-8 text")
        twin, cluster, split = (_name(path, index, key, row.get(key)) for key in ("twin", "cluster", "split"))
        given = given or cluster is not None or twin is not None
        answers = _answers(path, index, row) if task else (None, None)
        form = None
        if template is not None:
            if template not in row:
                raise PromptError(f"{path}, row {index} has no column {template!r} to name its template")
            form = _name(path, index, template, row[template])
        # without a name, every text is a cluster: its number does not depend on how often another one is repeated
        number = texts.setdefault(text_key(text, messages), len(texts))
        own = cluster or twin or f"{name or path.stem}:{number}"
        named = cluster is not None or twin is not None
        prompts.append(Prompt(index, text, own, twin, *answers, form, split, messages, named=named))
    if not prompts:
        raise PromptError(f"{path} holds no prompts; write one per line or row")
    if task:
        _require_one_answer(path, prompts)
    without = [prompt.id for prompt in prompts if prompt.wrong_answer is None]
    if task and 0 < len(without) < len(prompts):
        raise PromptError(f"{path}, row {without[0]} has no wrong_answer, other rows have; give it to all or none")
    return PromptSet(tuple(prompts), path.name, given)


def _name(path: Path, index: int, column: str, value: Any) -> str | None:
    """A cell that names something as text; None where it is empty, blank or not a number (a gap of a number column)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps is read as floats
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise PromptError(f"{path}, row {index}: {column} is {str(value)[:40]!r}; give a name or a number")
    return str(value).strip() or None


def _conversation(path: Path, index: int, column: str, value: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    said = value if isinstance(value, list) else []
    turns: list[tuple[Any, Any]] = [(turn.get("role"), turn.get("content")) for turn in said if isinstance(turn, dict)]
    if not turns or len(turns) < len(value) or not all(isinstance(part, str) for turn in turns for part in turn):
        raise PromptError(
            f"{path}, row {index}: {column} is neither text nor a list of messages with role and content, but "
            f"{str(value)[:40]!r}"
        )
    return "\n".join(said for _, said in turns), tuple(turns)


def _require_one_answer(path: Path, prompts: list[Prompt]) -> None:
    seen: dict[Hashable, Prompt] = {}
    for prompt in prompts:
        first = seen.setdefault(text_key(prompt.text, prompt.messages), prompt)
        for name in ("answer", "wrong_answer"):
            one, other = getattr(first, name), getattr(prompt, name)
            if one != other:
                what = f"the {name.replace('_', ' ')} {other!r} and not {one!r}"
                raise PromptError(
                    f"{path}, row {prompt.id}: the prompt of row {first.id} again, with {what}; a task has one of each"
                )


def _answers(path: Path, index: int, row: dict[str, Any]) -> tuple[str, str | None]:
    if path.suffix == ".txt":
        raise PromptError(f"{path} has no columns, and a task needs answers; use .jsonl, .csv or .parquet")
    if "answer" not in row:
        raise PromptError(f"{path}, row {index} has no column answer; a task says what is right for every prompt")
    right, wrong = row["answer"], None if row.get("wrong_answer") == "" else row.get("wrong_answer")
    for name, value in (("answer", right), ("wrong_answer", wrong)):
        if (name == "answer" or value is not None) and (not isinstance(value, str) or not value.strip()):
            raise PromptError(f"{path}, row {index}: {name} is {value!r}; a task needs text for every prompt's {name}")
    if wrong is not None and wrong.strip().casefold() == right.strip().casefold():
        raise PromptError(
            f"{path}, row {index}: answer and wrong_answer are both {right!r} but for case and spaces; they must differ"
        )
    return right, wrong


def _lines(path: Path) -> list[str]:
    # not splitlines(): it also parts a line at U+2028, form feeds and other signs that a prompt may hold
    return path.read_text(encoding="utf-8-sig").split("\n")


def _read_text(path: Path, column: str) -> list[dict[str, Any]]:
    return [{column: line} for line in _lines(path) if line.strip()]


def _read_jsonl(path: Path, column: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{path}, line {number} is not JSON ({error}); write one object per line") from error
        if not isinstance(row, dict):
            raise PromptError(f"{path}, line {number} is no JSON object but {str(row)[:40]!r}; write one per line")
        rows.append(row)
    return rows


def _read_csv(path: Path, column: str) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(csv.DictReader(file))
        except csv.Error as error:
            raise PromptError(f"{path} is not readable CSV ({error}); quote its fields") from error
    if longer := [number for number, row in enumerate(rows) if None in row]:
        raise PromptError(f"{path}, row {longer[0]} has more fields than the header; quote fields that hold commas")
    return rows


def _read_parquet(path: Path, column: str) -> list[dict[str, Any]]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        # pyarrow also says OSError of content, but then without the system's number
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise PromptError(f"{path} is not readable Parquet ({reason}); write it again") from error
