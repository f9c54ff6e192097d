"""Reading prompt files.

A file is ``.txt`` (one prompt per line), ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` with a
column ``prompt`` of text, or of lists of text parts as in chat formats. Optional columns:
``cluster`` (prompts that are variants of one another: they are never separated by a split, and are
one unit of evidence), ``twin`` (the same value in both classes pairs a harmful prompt with its
harmless twin), ``split`` (``locate`` or ``verify``, see ``PromptSet.halves``). A task file has a
column ``answer`` and optionally ``wrong_answer``.
"""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from interp.errors import PromptError
from interp.prompts.clusters import text_key
from interp.prompts.rows import FILE_TYPES, file_type, joined_parts, read_rows
from interp.prompts.sets import Prompt, PromptSet


def read_prompts(
    path: str | Path, column: str = "prompt", name: str = "", template: str | None = None
) -> PromptSet:
    """Read a prompt file; raises PromptError if it is not a valid list of prompts.

    ``name`` is a prefix for the clusters of rows without one; ``template`` is a column that names
    templates.
    """
    return _read_file(Path(path), column, name, template, task=False)


def read_task(
    path: str | Path, column: str = "prompt", name: str = "", template: str | None = None
) -> PromptSet:
    """Read a task file: all prompts need an ``answer``, and all or none a ``wrong_answer``; else
    PromptError.
    """
    return _read_file(Path(path), column, name, template, task=True)


def read_chats(
    path: str | Path, column: str = "prompt", name: str = "", template: str | None = None
) -> PromptSet:
    """Read prompts or whole conversations: a column of text, or of lists of ``{"role",
    "content"}``; else PromptError.

    Conversations become prompts with ``messages``. ``template``: as in ``read_prompts``.
    """
    return _read_file(Path(path), column, name, template, task=False, chats=True)


def _read_file(
    path: Path, column: str, name: str, template: str | None, task: bool, chats: bool = False
) -> PromptSet:
    if not path.exists():
        raise PromptError(f"no prompt file at {path}; check the path")
    if file_type(path) not in FILE_TYPES or not path.is_file():
        raise PromptError(
            f"{path} is not a prompt file; use {', '.join(FILE_TYPES[:-1])} or {FILE_TYPES[-1]}"
        )
    rows = read_rows(path, column)
    prompts: list[Prompt] = []
    texts: dict[Hashable, int] = {}
    clusters_given = False
    for index, row in enumerate(rows):
        if column not in row:
            # a column name can contain line breaks
            names = " ".join(", ".join(sorted(row)).split())
            raise PromptError(
                f"{path} has no column {column!r}; it has {names or 'none'}; use --column"
            )
        text, messages = joined_parts(row[column], f"{path}, row {index}: {column}"), None
        if chats and not isinstance(text, str):
            text, messages = _conversation(path, index, column, text)
        elif _is_conversation(text):
            raise PromptError(
                f"{path}, row {index}: {column} is a conversation of {len(text)} messages"
                f" ({_roles(text)}), and a prompt is only the user's text; use a column of text"
            )
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"{path}, row {index}: {column} is {text!r}; every prompt needs text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PromptError(
                f"{path}, row {index}: {text[:40]!r} holds half a surrogate pair; write it as UTF-8"
                " text"
            )
        twin, cluster, split = (
            _name_cell(path, index, key, row.get(key)) for key in ("twin", "cluster", "split")
        )
        clusters_given = clusters_given or cluster is not None or twin is not None
        answers = _answers(path, index, row) if task else (None, None)
        template_name = None
        if template is not None:
            if template not in row:
                raise PromptError(
                    f"{path}, row {index} has no column {template!r} to name its template"
                )
            template_name = _name_cell(path, index, template, row[template])
        # without a name every text is a cluster; its number does not depend on repetitions of other
        # texts
        number = texts.setdefault(text_key(text, messages), len(texts))
        cluster_name = cluster or twin or f"{name or path.stem}:{number}"
        named = cluster is not None or twin is not None
        prompts.append(
            Prompt(
                index,
                text,
                cluster_name,
                twin,
                *answers,
                template_name,
                split,
                messages,
                has_given_name=named,
            )
        )
    if not prompts:
        raise PromptError(f"{path} has no prompts; write one per line or row")
    if task:
        _require_one_answer(path, prompts)
    incomplete = [prompt.id for prompt in prompts if prompt.wrong_answer is None]
    if task and 0 < len(incomplete) < len(prompts):
        raise PromptError(
            f"{path}, row {incomplete[0]} has no wrong_answer but other rows have; give it to all"
            " or none"
        )
    return PromptSet(tuple(prompts), path.name, clusters_given)


def _name_cell(path: Path, index: int, column: str, value: Any) -> str | None:
    """A cell that names something, as text; None if it is empty, blank or NaN (a gap in a numeric
    column).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with gaps is read as floats
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise PromptError(
            f"{path}, row {index}: {column} is {str(value)[:40]!r}; give a name or a number"
        )
    return str(value).strip() or None


def _conversation(
    path: Path, index: int, column: str, value: Any
) -> tuple[str, tuple[tuple[str, str], ...]]:
    messages = value if isinstance(value, list) else []
    where = f"{path}, row {index}: {column}"
    conversation: list[tuple[Any, Any]] = [
        (turn.get("role"), joined_parts(turn.get("content"), where))
        for turn in messages
        if isinstance(turn, dict)
    ]
    if (
        not conversation
        or len(conversation) < len(value)
        or not all(isinstance(part, str) for turn in conversation for part in turn)
    ):
        raise PromptError(
            f"{where} is neither text nor a list of messages with role and content, but"
            f" {str(value)[:40]!r}"
        )
    return "\n".join(content for _, content in conversation), tuple(conversation)


def _is_conversation(value: Any) -> bool:
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn for turn in turns)


def _roles(turns: Any) -> str:
    """The roles of a conversation's first messages, as text."""
    return ", ".join(str(turn["role"])[:20] for turn in turns[:4]) + (
        ", ..." if len(turns) > 4 else ""
    )


def _require_one_answer(path: Path, prompts: list[Prompt]) -> None:
    seen: dict[Hashable, Prompt] = {}
    for prompt in prompts:
        first = seen.setdefault(text_key(prompt.text, prompt.messages), prompt)
        for name in ("answer", "wrong_answer"):
            first_answer, other_answer = getattr(first, name), getattr(prompt, name)
            if first_answer != other_answer:
                difference = (
                    f"the {name.replace('_', ' ')} {other_answer!r} and not {first_answer!r}"
                )
                raise PromptError(
                    f"{path}, row {prompt.id}: repeats the prompt of row {first.id} with"
                    f" {difference}; a task has one of each per prompt"
                )


def _answers(path: Path, index: int, row: dict[str, Any]) -> tuple[str, str | None]:
    if file_type(path) == ".txt":
        raise PromptError(
            f"{path} has no columns, but a task needs answers; use .jsonl, .csv, .tsv or .parquet"
        )
    if "answer" not in row:
        raise PromptError(
            f"{path}, row {index} has no column answer; a task needs the right answer to every"
            " prompt"
        )
    right, wrong = row["answer"], None if row.get("wrong_answer") == "" else row.get("wrong_answer")
    for name, value in (("answer", right), ("wrong_answer", wrong)):
        if (name == "answer" or value is not None) and (
            not isinstance(value, str) or not value.strip()
        ):
            raise PromptError(
                f"{path}, row {index}: {name} is {value!r}; a task needs text for every prompt's"
                f" {name}"
            )
    if wrong is not None and wrong.strip().casefold() == right.strip().casefold():
        raise PromptError(
            f"{path}, row {index}: answer and wrong_answer are both {right!r} except for case and"
            " spaces; they must differ"
        )
    return right, wrong
