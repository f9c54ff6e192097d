"""What a result was made from, and the key that names it.

The key hashes what determines the numbers (``inputs``, the analyzer, its version and options, the
parent run) and nothing else; what does not (device, batch size, library versions, time) is kept
beside it as ``context``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import platformdirs

from interp.errors import OptionError, StoreError

JSON = Any
"""A value that JSON can hold: None, bool, int, float, str, list, and dict with text keys."""

KEY_LENGTH = 20
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "numpy",
    "scipy",
    "duckdb",
    "pyarrow",
)
OTHER_LIBRARIES = (
    "accelerate",
    "huggingface-hub",
    "jinja2",
    "nnsight",
    "plotly",
    "scikit-learn",
    "transformer-lens",
)


def whole_text(text: str) -> str:
    """``text`` with lone surrogates, which have no UTF-8 form (broken JSON holds them), replaced by
    U+FFFD.
    """
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(value: Any, where: str = "value", finite: bool = True) -> JSON:
    """Copy of ``value`` as JSON values: tuples as lists, numpy scalars and arrays as Python's.

    A number that is NaN or infinite raises ``OptionError``, or becomes None when ``finite`` is
    False.
    """
    if isinstance(value, Mapping):
        if bad := [name for name in value if not isinstance(name, str)]:
            raise OptionError(f"{where} has the key {bad[0]!r}: keys must be text")
        return {name: plain(value[name], f"{where}.{name}", finite) for name in value}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]", finite) for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return whole_text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if finite:
            raise OptionError(f"{where} is {value}: only finite numbers can be kept")
        return None
    if type(value).__module__ == "numpy":
        return plain(value.tolist(), where, finite)
    raise OptionError(
        f"{where} is of type {type(value).__name__}: only text, numbers, lists and mappings can be"
        " kept"
    )


def digest(value: JSON) -> str:
    """sha256, in hexadecimal, of the canonical JSON of ``value``: the same value gives the same
    text anywhere.
    """
    text = json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@runtime_checkable
class HasOptions(Protocol):
    """What provenance needs to know of an analyzer."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def parent(self) -> str | None:
        """Key of the run that it builds on."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine its numbers."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where a table comes from. All mappings are copied and must hold JSON values.

    ``options``: the analyzer's options; ``parent``: key of the run this one builds on; ``inputs``:
    what else determines the numbers (digests of weights, tokenizer and prompts, the metric, seed,
    dtype, attention kernel); ``context``: what does not. Two records with the same ``key`` describe
    the same numbers, whatever their contexts.
    """

    analyzer: str
    version: int
    options: Mapping[str, JSON] = field(default_factory=dict)
    parent: str | None = None
    inputs: Mapping[str, JSON] = field(default_factory=dict)
    context: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("options", "inputs", "context"):
            object.__setattr__(self, name, plain(getattr(self, name), name))

    @property
    def key(self) -> str:
        """The run's name: the first 20 hexadecimal digits of the digest of all fields but
        ``context``.
        """
        determining = ("analyzer", "version", "options", "parent", "inputs")
        return digest({name: getattr(self, name) for name in determining})[:KEY_LENGTH]

    def __hash__(self) -> int:
        return hash(self.key)

    def to_json(self) -> dict[str, JSON]:
        """The fields as one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: JSON) -> Provenance:
        """Inverse of ``to_json``; ``StoreError`` when fields are missing, unknown or of another
        type.
        """
        kinds = {
            "analyzer": str,
            "version": int,
            "options": dict,
            "parent": (str, type(None)),
            "inputs": dict,
            "context": dict,
        }
        if not isinstance(value, Mapping) or set(value) != set(kinds):
            seen = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise StoreError(f"provenance has the fields {seen}: expected {sorted(kinds)}")
        for name, kind in kinds.items():
            if not isinstance(value[name], kind):
                raise StoreError(
                    f"provenance.{name} is {value[name]!r}: the record was not written by interp"
                )
        return cls(**value)


def _cache() -> sqlite3.Connection:
    home = os.environ.get("INTERP_CACHE") or platformdirs.user_cache_dir("interp", appauthor=False)
    home = os.path.expanduser(home)
    os.makedirs(home, exist_ok=True)
    connection = sqlite3.connect(
        os.path.join(home, "digests.sqlite"), timeout=5, isolation_level=None
    )
    connection.execute(
        "create table if not exists digests (file text primary key, state text, sha256 text)"
    )
    return connection


def sha256_of(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes as they are now, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """sha256 of a file, in hexadecimal; ``OptionError`` when it cannot be read.

    Remembered under the user's cache directory (``INTERP_CACHE`` names another) for as long as
    size, modification time, change time and inode stay the same; SQLite lets several processes
    share it. Without a writable cache the file is simply read again.
    """
    try:
        real = os.path.realpath(path)
        state = os.stat(real)
        known = (
            f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {state.st_dev}"
        )
        if remembered := _remembered(real, known):
            return remembered
        sha256 = sha256_of(real)
    except OSError as error:
        raise OptionError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error
    # A file changed twice within a tick of the clock keeps its times, so a fresh one is not
    # remembered yet.
    if time.time() - max(state.st_mtime, state.st_ctime) > 2:
        _remember(real, known, sha256)
    return sha256


def _remembered(file: str, state: str) -> str | None:
    try:
        connection = _cache()
        try:
            query = "select sha256 from digests where file = ? and state = ?"
            row = connection.execute(query, (file, state)).fetchone()
        finally:
            connection.close()
    except (OSError, sqlite3.Error, UnicodeError):
        return None
    return row[0] if row else None


def _remember(file: str, state: str, sha256: str) -> None:
    try:
        connection = _cache()
        try:
            connection.execute(
                "insert or replace into digests values (?, ?, ?)", (file, state, sha256)
            )
        finally:
            connection.close()
    except (OSError, sqlite3.Error, UnicodeError):
        return


def directory_digest(directory: str | os.PathLike, patterns: Iterable[str] = ("*",)) -> str:
    """Digest of the files directly in ``directory`` whose names match one of ``patterns``: of names
    and contents.

    Where the directory lies and when its files were written do not count. ``OptionError`` when
    nothing matches.
    """
    patterns = list(patterns)
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    except OSError as error:
        raise OptionError(
            f"cannot read {os.fspath(directory)}: {error.strerror or error}"
        ) from error
    names = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        raise OptionError(f"no file matching {', '.join(patterns)} in {os.fspath(directory)}")
    return digest({name: file_digest(os.path.join(directory, name)) for name in names})


_COMMAND: list[str] = []
_NOT_THE_RESULT = {"--store": 2, "--json": 1, "--quiet": 1, "--debug": 1}
"""Options that decide where and how a command answers, not what: with their values, how many words.
"""


def record_command(words: Sequence[str]) -> None:
    """Keep the words of the command that this process runs, without where it stores and how it
    prints: see below.
    """
    kept, words = [], list(words)
    while words:
        taken = _NOT_THE_RESULT.get(words[0]) or int(words[0].startswith("--store="))
        if not taken:
            kept.append(words[0])
        words = words[taken or 1 :]
    _COMMAND[:] = kept


@contextmanager
def as_command(words: Sequence[str]) -> Iterator[None]:
    """Let runs that are made meanwhile say that these words make them: part of what a larger
    command does.
    """
    before = list(_COMMAND)
    record_command(words)
    try:
        yield
    finally:
        _COMMAND[:] = before


def environment() -> dict[str, JSON]:
    """Versions of Python, the platform and the libraries, the commit of a checkout, the command:
    for ``context``.
    """
    found: dict[str, JSON] = {"python": platform.python_version(), "platform": platform.platform()}
    found["executable"] = sys.implementation.name
    found |= _versions(("interp", *LIBRARIES))
    if commit := _commit(Path(__file__).resolve().parent.parent):
        found["commit"] = commit
    if _COMMAND:
        found["command"] = list(_COMMAND)
    return found


def software() -> dict[str, JSON]:
    """What would compute now: versions of Python and of all libraries, and a digest of this
    package's own source.

    Any change of this package changes it, so whoever compares it need not know which file holds
    what matters.
    """
    package = Path(__file__).resolve().parent
    suffixes = (".py", ".js", ".css", ".html")
    files = sorted(path for path in package.rglob("*") if path.suffix in suffixes)
    source = digest({path.relative_to(package).as_posix(): sha256_of(path) for path in files})
    return {"python": sys.version, "interp": source, **_versions((*LIBRARIES, *OTHER_LIBRARIES))}


@cache
def _versions(libraries: tuple[str, ...]) -> Mapping[str, str]:
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit(root: Path) -> str:
    """The commit of a checkout when this process first asked: what it imported is from then."""
    if not (root / ".git").exists() or not (commit := _git(root, "rev-parse", "HEAD")):
        return ""
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--", "interp") else "")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
