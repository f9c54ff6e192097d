"""Prompts: files read at the door, contrasts split by cluster, token ids with the role of every token.

A file is ``.txt`` (a prompt a line), ``.jsonl``, ``.csv`` or ``.parquet`` with a column ``prompt``. Optional columns:
``cluster`` (prompts that must not be parted: intervals resample whole clusters), ``twin`` (the same value in both
classes names a harmful prompt and its harmless twin).
"""

import csv
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException
from transformers import PreTrainedTokenizerBase

from interp.errors import PromptError

Tokenizer = PreTrainedTokenizerBase
"""What turns text into token ids, as Hugging Face loads it."""

OTHER, CONTENT, DECISION, COMPLETION = range(4)
ROLES = {"content": CONTENT, "decision": DECISION, "completion": COMPLETION}

_TRIES = 64
_PLACE = "qzxPLACEHOLDERxzq"


@dataclass(frozen=True)
class Prompt:
    """One prompt: its place in the file (from 0), text, cluster, and the twin's name where there is one."""

    id: int
    text: str
    cluster: str
    twin: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one class, in file order."""

    prompts: tuple[Prompt, ...]
    source: str

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts, in order."""
        return [prompt.text for prompt in self.prompts]

    @property
    def clusters(self) -> list[str]:
        """The prompts' clusters, in order."""
        return [prompt.cluster for prompt in self.prompts]

    def spread(self, count: int) -> "PromptSet":
        """At most ``count`` prompts, the first of every cluster before the second of any."""
        seen: Counter[str] = Counter()
        turn = []
        for row, prompt in enumerate(self.prompts):
            turn.append((seen[prompt.cluster], row))
            seen[prompt.cluster] += 1
        rows = sorted(row for _, row in sorted(turn)[:count])
        return PromptSet(tuple(self.prompts[row] for row in rows), self.source)

    @cached_property
    def digest(self) -> str:
        """Content fingerprint: texts, ids, clusters and twins, not the file's name."""
        rows = [[prompt.id, prompt.text, prompt.cluster, prompt.twin] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass(frozen=True)
class Contrast:
    """Two classes of prompts: ``positive`` should show the behaviour, ``negative`` should not."""

    positive: PromptSet
    negative: PromptSet

    def __post_init__(self) -> None:
        for name, prompts in (("positive", self.positive), ("negative", self.negative)):
            if not len(prompts):
                raise PromptError(f"the {name} class has no prompts ({prompts.source}); give at least one")
        if sorted(self.positive.texts) == sorted(self.negative.texts):
            raise PromptError(
                f"both classes hold the same prompts ({self.positive.source}, {self.negative.source}); "
                "give two different files"
            )

    @property
    def digest(self) -> str:
        """Content fingerprint of both classes, in order."""
        return hashlib.sha256(f"{self.positive.digest} {self.negative.digest}".encode()).hexdigest()

    def split(self, seed: int) -> tuple["Contrast", "Contrast"]:
        """Two halves, one to locate on and one to verify on, that share no cluster, no twin and no text."""
        tied = self._tied()
        names = sorted(set(tied.values()))
        generator = random.Random(seed)
        for _ in range(_TRIES):  # of a few clusters a draw can leave a half without one class
            generator.shuffle(names)
            chosen = set(names[: len(names) // 2])
            first = {cluster for cluster, name in tied.items() if name in chosen}
            if min(_count(self, first), _count(self, set(tied) - first)):
                return self._keep(first), self._keep(set(tied) - first)
        raise PromptError(
            f"{len(names)} clusters cannot be parted into a locating and a verifying half with both classes; "
            "give more prompts, or separate files with --verify-positive and --verify-negative"
        )

    def _tied(self) -> dict[str, str]:
        """Cluster -> the first of the clusters to which shared twins or texts tie it."""
        parent = {cluster: cluster for cluster in {*self.positive.clusters, *self.negative.clusters}}

        def root(cluster: str) -> str:
            while parent[cluster] != cluster:
                cluster = parent[cluster]
            return cluster

        seen: dict[tuple[str, str | None], str] = {}
        for prompt in (*self.positive, *self.negative):
            for tie in [("text", prompt.text), ("twin", prompt.twin)][: 1 if prompt.twin is None else 2]:
                first, second = sorted((root(prompt.cluster), root(seen.setdefault(tie, prompt.cluster))))
                parent[second] = first
        return {cluster: root(cluster) for cluster in parent}

    def limit(self, count: int | None) -> "Contrast":
        """At most ``count`` prompts of each class, in file order, from as many clusters as can be.

        Twins stay together where the rows of the two files are aligned.
        """
        if count is None:
            return self
        return Contrast(*(part.spread(count) for part in (self.positive, self.negative)))

    def require_disjoint(self, other: "Contrast") -> None:
        """Refuse prompts that stand in both; locating and verifying on the same ones proves nothing."""
        mine = {*self.positive.texts, *self.negative.texts}
        shared = [text for part in (other.positive, other.negative) for text in part.texts if text in mine]
        if shared:
            raise PromptError(
                f"{len(shared)} verifying prompts are also used to locate, first {shared[0][:40]!r}; "
                "keep the two sets apart"
            )

    def twins(self) -> list[int]:
        """For every positive prompt the row of its negative twin: by name, else the nearest in length."""
        named = {prompt.twin: row for row, prompt in enumerate(self.negative) if prompt.twin is not None}
        lengths = [len(text) for text in self.negative.texts]
        return [
            named[prompt.twin]
            if prompt.twin in named
            else min(range(len(lengths)), key=lambda row: abs(lengths[row] - len(prompt.text)))
            for prompt in self.positive
        ]

    def _keep(self, clusters: set[str]) -> "Contrast":
        parts = (
            PromptSet(tuple(prompt for prompt in part if prompt.cluster in clusters), part.source)
            for part in (self.positive, self.negative)
        )
        return Contrast(*parts)


def _count(contrast: Contrast, clusters: set[str]) -> int:
    parts = (contrast.positive, contrast.negative)
    return min(sum(prompt.cluster in clusters for prompt in part) for part in parts)


def read_prompts(path: str | Path, column: str = "prompt", name: str = "") -> PromptSet:
    """Read a prompt file; raises PromptError for anything that is not a list of prompts.

    ``name`` distinguishes clusters of files whose rows name none.
    """
    path = Path(path)
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
    prompts = []
    for index, row in enumerate(rows):
        if column not in row:
            raise PromptError(f"{path} has no column {column!r}; it has {', '.join(sorted(row))}; use --column")
        text = row[column]
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"{path}, row {index}: {column} is {text!r}; every prompt needs text")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise PromptError(f"{path}, row {index}: {text[:40]!r} holds half a surrogate pair; write it as UTF-8 text")
        twin, cluster = (None if row.get(key) in (None, "") else str(row[key]) for key in ("twin", "cluster"))
        prompts.append(Prompt(index, text, cluster or twin or f"{name or path.stem}:{index}", twin))
    if not prompts:
        raise PromptError(f"{path} holds no prompts; write one per line or row")
    return PromptSet(tuple(prompts), path.name)


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
            return [{key: value for key, value in row.items() if key is not None} for row in csv.DictReader(file)]
        except csv.Error as error:
            raise PromptError(f"{path} is not readable CSV ({error}); quote its fields") from error


def _read_parquet(path: Path, column: str) -> list[dict[str, Any]]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise PromptError(f"{path} is not readable Parquet ({str(error).splitlines()[0]}); write it again") from error


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt with the role of each token (``OTHER``, ``CONTENT``, ``DECISION``, ``COMPLETION``)."""

    ids: tuple[int, ...]
    roles: tuple[int, ...]

    def with_completion(self, ids: Sequence[int]) -> "Encoded":
        """The prompt followed by an answer."""
        return Encoded((*self.ids, *ids), (*self.roles, *[COMPLETION] * len(ids)))


def encode(tokenizer: Tokenizer, text: str) -> Encoded:
    """Tokenise one prompt as a user turn where the tokenizer has a chat template, else exactly as ``tokenizer(text)``.

    ``DECISION`` are the template's tokens after the instruction and always the last prompt token.
    """
    if tokenizer.chat_template is None:
        ids = tokenizer(text)["input_ids"]
        special = set(tokenizer.all_special_ids)
        roles = [OTHER if index in special else CONTENT for index in ids]
    else:
        ids, roles = _encode_turn(tokenizer, text)
    if not ids:
        raise PromptError(f"the tokenizer makes no token of the prompt {text[:40]!r}")
    roles[-1] = DECISION
    return Encoded(tuple(ids), tuple(roles))


def _encode_turn(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    try:
        turn = _render(tokenizer, text)
    except Exception as error:  # a template is a program of the model's author: it can raise anything
        reason = " ".join(str(error).split())[:200]
        raise PromptError(
            f"the chat template refuses the prompt {text[:40]!r} ({reason}); change the prompt"
        ) from error
    if not tokenizer.is_fast:
        ids = tokenizer(turn, add_special_tokens=False)["input_ids"]
        return ids, [CONTENT] * len(ids)
    coded = tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True)
    start, end = _body(tokenizer, text, turn)
    roles = [
        CONTENT if begin < end and stop > start else DECISION if begin >= end else OTHER
        for begin, stop in coded["offset_mapping"]
    ]
    return list(coded["input_ids"]), roles


def _render(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )


def _body(tokenizer: Tokenizer, text: str, turn: str) -> tuple[int, int]:
    """Where the prompt stands in its turn: between what the template writes before and after any other prompt."""
    try:
        before, found, after = _render(tokenizer, _PLACE).partition(_PLACE)
    except Exception:  # a template that refuses the placeholder did not refuse the prompt
        found = before = after = ""
    start, end = 0, len(turn)
    if found and turn.startswith(before) and turn.endswith(after) and len(turn) >= len(before) + len(after):
        start, end = len(before), len(turn) - len(after)
        if turn[start:end].strip() == text.strip():
            return start, end
    if turn.count(text.strip(), start, end) == 1:
        start = turn.index(text.strip(), start, end)
        return start, start + len(text.strip())
    raise PromptError(
        f"the chat template rewrites the prompt {text[:40]!r}, so its tokens cannot be told apart; change the template"
    )
