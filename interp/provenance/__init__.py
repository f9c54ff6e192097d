"""Provenance: the inputs of a result, and the key that identifies it.

The key is a hash of everything that determines the numbers (``inputs``, the analyzer, its version
and options, the parent run). The rest (device, batch size, library versions, time) is stored as
``context``.
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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import platformdirs

from interp.errors import OptionError, StoreError
from interp.provenance.request import current_request

JSON = Any
"""A JSON value: None, bool, int, float, str, list, and dict with text keys."""

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


def replace_surrogates(text: str) -> str:
    """``text`` with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_json_value(value: Any, path: str = "value", finite: bool = True) -> JSON:
    """Copy of ``value`` as JSON values: tuples as lists, numpy scalars and arrays as Python's.

    NaN and infinity raise ``OptionError``, or become None if ``finite`` is False.
    """
    if isinstance(value, Mapping):
        if bad := [name for name in value if not isinstance(name, str)]:
            raise OptionError(f"{path} has the key {bad[0]!r}: keys must be text")
        return {name: to_json_value(value[name], f"{path}.{name}", finite) for name in value}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item, f"{path}[{i}]", finite) for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return replace_surrogates(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if finite:
            raise OptionError(f"{path} is {value}: only finite numbers can be stored")
        return None
    if type(value).__module__ == "numpy":
        return to_json_value(value.tolist(), path, finite)
    raise OptionError(
        f"{path} is of type {type(value).__name__}: only text, numbers, lists and mappings can be"
        " stored"
    )


def digest(value: JSON) -> str:
    """sha256, in hexadecimal, of the canonical JSON of ``value``."""
    text = json.dumps(
        to_json_value(value),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@runtime_checkable
class HasOptions(Protocol):
    """The attributes of an analyzer that provenance records."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def parent(self) -> str | None:
        """Key of the run on which the analyzer builds."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the numbers."""
        ...


@dataclass(frozen=True)
class Provenance:
    """The origin of a table. All mappings are copied and must contain JSON values.

    ``options``: options of the analyzer; ``parent``: key of the run on which this one builds;
    ``inputs``: everything else that determines the numbers (digests of weights, tokenizer and
    prompts, the metric, seed, dtype, attention kernel); ``context``: everything that does not. Two
    records with the same ``key`` describe the same numbers, also if their contexts differ.
    """

    analyzer: str
    version: int
    options: Mapping[str, JSON] = field(default_factory=dict)
    parent: str | None = None
    inputs: Mapping[str, JSON] = field(default_factory=dict)
    context: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("options", "inputs", "context"):
            object.__setattr__(self, name, to_json_value(getattr(self, name), name))

    @property
    def key(self) -> str:
        """The first 20 hexadecimal digits of the digest of all fields except ``context``."""
        determining = ("analyzer", "version", "options", "parent", "inputs")
        return digest({name: getattr(self, name) for name in determining})[:KEY_LENGTH]

    def __hash__(self) -> int:
        return hash(self.key)

    def to_json(self) -> dict[str, JSON]:
        """The fields as one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: JSON) -> Provenance:
        """Inverse of ``to_json``; ``StoreError`` if fields are missing, unknown or of another
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
                    f"provenance.{name} is {value[name]!r}: interp did not write this record"
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
    """sha256 of a file, in hexadecimal, always computed."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """sha256 of a file, in hexadecimal; ``OptionError`` if it cannot be read.

    It is cached in the user's cache directory (or that of ``INTERP_CACHE``) as long as size,
    modification time, change time and inode stay the same. The cache is an SQLite file, which
    several processes can share. Without a writable cache the file is read again.
    """
    try:
        real = os.path.realpath(path)
        state = os.stat(real)
        file_state = (
            f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {state.st_dev}"
        )
        if cached := _cached_digest(real, file_state):
            return cached
        sha256 = sha256_of(real)
    except OSError as error:
        raise OptionError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error
    # A file that changes twice within a tick of the clock keeps its times, so digests of recent
    # files are not cached.
    if time.time() - max(state.st_mtime, state.st_ctime) > 2:
        _cache_digest(real, file_state, sha256)
    return sha256


def _cached_digest(file: str, state: str) -> str | None:
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


def _cache_digest(file: str, state: str, sha256: str) -> None:
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
    """Digest of names and contents of the files directly in ``directory`` that match ``patterns``.

    It does not depend on the path of the directory or on times. ``OptionError`` if no file matches.
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


def environment() -> dict[str, JSON]:
    """Versions of Python, platform and libraries, commit of a checkout, and the request."""
    versions: dict[str, JSON] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    versions["executable"] = sys.implementation.name
    versions |= _versions(("interp", *LIBRARIES))
    if commit := _commit(Path(__file__).resolve().parents[2]):
        versions["commit"] = commit
    if request := current_request():
        versions["request"] = request.to_json()
    return versions


def software() -> dict[str, JSON]:
    """Versions of Python and of all libraries, and a digest of the source of this package."""
    package = Path(__file__).resolve().parents[1]
    suffixes = (".py", ".js", ".css", ".html")
    files = sorted(path for path in package.rglob("*") if path.suffix in suffixes)
    source = digest({path.relative_to(package).as_posix(): sha256_of(path) for path in files})
    return {"python": sys.version, "interp": source, **_versions((*LIBRARIES, *OTHER_LIBRARIES))}


@cache
def _versions(libraries: tuple[str, ...]) -> Mapping[str, str]:
    versions = {}
    for library in libraries:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


@cache
def _commit(root: Path) -> str:
    """The commit of a checkout at the first call, since imported modules do not change later."""
    if not (root / ".git").exists() or not (commit := _git(root, "rev-parse", "HEAD")):
        return ""
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--", "interp") else "")


def _git(root: Path, *words: str) -> str:
    try:
        completed = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return completed.stdout.strip()
