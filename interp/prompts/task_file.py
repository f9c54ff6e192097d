"""Task files for path patching and activation patching: prompts with one-token answers, the words at
which components are patched, and counterfactual prompts.

One JSON object per row: ``prompt``, ``answer``, and optionally ``cluster``; ``positions`` (name to
the character at which a word starts in the prompt); ``corrupt`` (a prompt with its own positions,
to which the answer does not apply); ``sources`` (name to a prompt with positions and a ``target``,
the answer if the patched components carry what the source differs in). Texts are continued, not
answered in a conversation: they are tokenised as ``tokenizer(text)`` does, without a chat template.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from interp.errors import PromptError
from interp.prompts.files import read_task
from interp.prompts.rows import file_type, read_rows
from interp.prompts.sets import PromptSet
from interp.prompts.tokens import Tokenizer, appends_end, end_id, require_usable_ids
from interp.provenance import digest

LAST = "last"
"""The position of the last token, which every text has."""


@dataclass(frozen=True)
class TaskText:
    """A text with named words: name to the character at which the word starts."""

    text: str
    positions: Mapping[str, int]


@dataclass(frozen=True)
class TaskSource(TaskText):
    """A source text, and the answer to the row's own prompt if the patched components carry what it
    differs in.
    """

    target: str = ""


@dataclass(frozen=True)
class TaskRow:
    """One prompt with its answer, its corrupted text and its sources, where there are any."""

    id: int
    prompt: TaskText
    answer: str
    cluster: str
    corrupt: TaskText | None = None
    sources: Mapping[str, TaskSource] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenText:
    """A text as token ids, and the column of every named word, from 0; ``last`` is among them.

    Columns count the text's own tokens, so that they do not depend on padding.
    """

    ids: tuple[int, ...]
    columns: Mapping[str, int]


@dataclass(frozen=True)
class TokenRow:
    """A row as tokens: prompt, corrupted text, sources by name, the answer's token and the sources'
    target tokens.
    """

    id: int
    cluster: str
    prompt: TokenText
    answer: int
    corrupt: TokenText | None
    sources: Mapping[str, TokenText]
    targets: Mapping[str, int]


@dataclass(frozen=True)
class TaskFile:
    """The rows of a task file; ``prompts`` are the same rows as a prompt set."""

    rows: tuple[TaskRow, ...]
    prompts: PromptSet

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, rows: Sequence[int]) -> "TaskFile":
        """The given rows."""
        return TaskFile(tuple(self.rows[row] for row in rows), self.prompts.keep(rows))

    @cached_property
    def position_names(self) -> tuple[str, ...]:
        """Names of the words that every prompt has, ``last`` first."""
        names = set.intersection(*(set(row.prompt.positions) for row in self.rows))
        return (LAST, *sorted(names - {LAST}))

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources that every row has."""
        return tuple(sorted(set.intersection(*(set(row.sources) for row in self.rows))))

    @property
    def digest(self) -> str:
        """Content fingerprint of prompts, clusters, answers, positions, corrupted texts and
        sources.
        """
        return digest(
            [
                [
                    row.id,
                    row.cluster,
                    row.answer,
                    _content(row.prompt),
                    row.corrupt and _content(row.corrupt),
                    {name: [*_content(s), s.target] for name, s in row.sources.items()},
                ]
                for row in self.rows
            ]
        )

    def require_of(self, prompts: PromptSet) -> None:
        """Raise PromptError unless these prompts are the rows of this file, in order."""
        if self.prompts.digest != prompts.digest:
            raise PromptError(
                f"the study's prompts ({prompts.source}, {len(prompts)}) are not the rows of the task"
                f" file ({self.prompts.source}, {len(self)}); make the study on OneClass(task.prompts)"
            )

    def require_positions(self, names: Iterable[str], *, corrupt: bool = False) -> None:
        """Raise PromptError if a prompt (or with ``corrupt`` its corrupted text) lacks one of these
        words.
        """
        for name in names:
            for row in self.rows:
                text = row.corrupt if corrupt else row.prompt
                known = {LAST, *(text.positions if text else ())}
                if name not in known:
                    where = "the corrupt prompt" if corrupt else "the prompt"
                    raise PromptError(
                        f"{self._where(row)}: {where} has no position {name!r}; it has"
                        f" {', '.join(sorted(known))}"
                    )

    def require_corrupt(self, names: Iterable[str] = ()) -> None:
        """Raise PromptError unless every row has a corrupted text with these words."""
        for row in self.rows:
            if row.corrupt is None:
                raise PromptError(
                    f"{self._where(row)} has no corrupt prompt; add one as"
                    ' {"prompt": ..., "positions": ...}'
                )
        self.require_positions(names, corrupt=True)

    def require_sources(self, source: str, names: Iterable[str] = ()) -> None:
        """Raise PromptError unless every row has this source, with these words."""
        for row in self.rows:
            if source not in row.sources:
                known = ", ".join(sorted(row.sources)) or "none"
                raise PromptError(f"{self._where(row)} has no source {source!r}; it has {known}")
            known = {LAST, *row.sources[source].positions}
            for name in names:
                if name not in known:
                    raise PromptError(
                        f"{self._where(row)}: source {source!r} has no position {name!r}; it has"
                        f" {', '.join(sorted(known))}"
                    )

    def tokens(self, tokenizer: Tokenizer, context: int | None = None) -> list[TokenRow]:
        """All rows as tokens; PromptError, naming the row, for an answer or target of several
        tokens, or a text longer than ``context``.
        """
        return [self._row_tokens(row, tokenizer, context) for row in self.rows]

    def _row_tokens(self, row: TaskRow, tokenizer: Tokenizer, context: int | None) -> TokenRow:
        where = self._where(row)
        texts = [row.prompt, *filter(None, [row.corrupt]), *row.sources.values()]
        tokens = [_tokens(tokenizer, text, where) for text in texts]
        longest = max(len(text.ids) for text in tokens)
        if context is not None and longest > context:
            raise PromptError(f"{where}: {longest} tokens exceed the context of {context}")
        rest = tokens[1:] if row.corrupt is None else tokens[2:]
        return TokenRow(
            row.id,
            row.cluster,
            tokens[0],
            _one_token(tokenizer, row.prompt.text, row.answer, where, "answer"),
            None if row.corrupt is None else tokens[1],
            dict(zip(row.sources, rest, strict=True)),
            {
                name: _one_token(tokenizer, row.prompt.text, source.target, where, f"target {name}")
                for name, source in row.sources.items()
            },
        )

    def _where(self, row: TaskRow) -> str:
        return f"{self.prompts.source}, row {row.id}"


def padded_columns(
    texts: Sequence[TokenText], name: str, width: int, side: Literal["left", "right"] = "left"
) -> list[int]:
    """The column of a named word of every text in a batch padded to ``width`` on one side."""
    return [text.columns[name] + (width - len(text.ids) if side == "left" else 0) for text in texts]


def read_task_file(path: str | Path, name: str = "") -> TaskFile:
    """Read a task file (JSON Lines); raises PromptError, naming the row, for what is not valid.

    ``name`` is a prefix for the clusters of rows without one.
    """
    path = Path(path)
    if path.exists() and file_type(path) != ".jsonl":
        raise PromptError(f"{path} is not a task file with positions; use JSON Lines (.jsonl)")
    prompts = read_task(path, name=name)
    rows = tuple(
        _row(path, index, cells, prompt.cluster, prompt.answer or "")
        for (index, cells), prompt in zip(
            enumerate(read_rows(path, "prompt")), prompts, strict=True
        )
    )
    return TaskFile(rows, prompts)


def _row(path: Path, index: int, cells: Mapping[str, Any], cluster: str, answer: str) -> TaskRow:
    where = f"{path}, row {index}"
    corrupt, sources = cells.get("corrupt"), cells.get("sources")
    if sources is not None and not isinstance(sources, dict):
        raise PromptError(
            f"{where}: sources is {str(sources)[:40]!r}; give a mapping of names to prompts"
        )
    read = {}
    for name, source in (sources or {}).items():
        text = _text(f"{where}: source {name!r}", source)
        target = source.get("target")
        if not isinstance(target, str) or not target.strip():
            raise PromptError(f"{where}: source {name!r} has the target {target!r}; it needs text")
        read[name] = TaskSource(text.text, text.positions, target)
    return TaskRow(
        index,
        _text(where, cells),
        answer,
        cluster,
        None if corrupt is None else _text(f"{where}: corrupt", corrupt),
        read,
    )


def _text(where: str, cells: Any) -> TaskText:
    """The prompt of an object, with its positions checked against the text."""
    if not isinstance(cells, dict) or not isinstance(cells.get("prompt"), str):
        raise PromptError(
            f"{where} is {json.dumps(cells)[:40]}; give an object with a prompt and positions"
        )
    text, positions = cells["prompt"], cells.get("positions") or {}
    if not isinstance(positions, dict):
        raise PromptError(
            f"{where}: positions is {str(positions)[:40]!r}; give a mapping of names to characters"
        )
    for name, at in positions.items():
        if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < len(text):
            raise PromptError(
                f"{where}: position {name!r} is {at!r}; give a character of the prompt, 0 to"
                f" {len(text) - 1}"
            )
        if name == LAST:
            raise PromptError(f"{where}: {LAST!r} is always the last token; leave it out")
        if text[at].isspace():
            raise PromptError(
                f"{where}: position {name!r} is {at}, a space; give the character at which the"
                " word starts"
            )
    return TaskText(text, dict(positions))


def _content(text: TaskText) -> list[Any]:
    return [text.text, dict(text.positions)]


def _tokens(tokenizer: Tokenizer, text: TaskText, where: str) -> TokenText:
    """Token ids, and for every word the column of the token that holds its first character."""
    if not tokenizer.is_fast and text.positions:
        raise PromptError(
            f"{where}: the tokenizer does not tell which characters a token stands for; positions"
            " need a fast tokenizer"
        )
    encoded = (
        tokenizer(text.text, return_offsets_mapping=True)
        if text.positions
        else tokenizer(text.text)
    )
    ids, spans = list(encoded["input_ids"]), encoded.get("offset_mapping") or []
    if appends_end(tokenizer) and len(ids) > 1 and ids[-1] == end_id(tokenizer):
        ids.pop()
    if not ids:
        raise PromptError(f"{where}: the tokenizer makes no token of {text.text[:40]!r}")
    require_usable_ids(tokenizer, ids, text.text)
    columns = {LAST: len(ids) - 1}
    for name, at in text.positions.items():
        column = next(
            (c for c, (start, stop) in enumerate(spans[: len(ids)]) if start <= at < stop), None
        )
        if column is None:
            raise PromptError(f"{where}: no token stands for position {name!r} (character {at})")
        columns[name] = column
    return TokenText(tuple(ids), columns)


def _one_token(tokenizer: Tokenizer, prompt: str, answer: str, where: str, what: str) -> int:
    """The token that an answer is after the prompt."""
    if not answer[:1].isspace() and not prompt[-1:].isspace():
        answer = f" {answer}"
    before, whole = (list(tokenizer(text)["input_ids"]) for text in (prompt, prompt + answer))
    if appends_end(tokenizer):
        before, whole = before[:-1], whole[:-1]
    added = whole[len(before) :]
    if whole[: len(before)] != before or len(added) != 1:
        shown = tokenizer.convert_ids_to_tokens(added)
        raise PromptError(
            f"{where}: {what} {answer!r} is not one token after the prompt but {shown}; use words"
            " of one token"
        )
    require_usable_ids(tokenizer, added, answer)
    return added[0]
