"""Repeated commands: answered from the store, before torch is imported, where nothing changed.

A request is described by everything that can change what a command prints: its options, contents of
its prompt and marker files, of all files of its models, the software, and what ``auto`` finds of a
device. What cannot be described (a branch on the Hub, a remote engine, a chat template that reads
the clock, a file that is not there) is not recalled, and the command runs as ever.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from glob import glob
from pathlib import Path
from typing import Any

from interp.cli.common import Common, RuntimeOptions
from interp.errors import InterpError, required
from interp.models.sources import file_digests, find, template_reads_clock
from interp.provenance import JSON, sha256_of, software, to_json_value
from interp.store import requests

BEHAVIOURS = ("behaviour", "other_behaviour")
_ELSEWHERE = re.compile(r"\b(file|model|labelled|entry_point)\W*:")
_VISIBLE = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
)
_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Request:
    """A command and the options it was given: ``files`` it reads, ``models`` (tuned, base) by name,
    and the others.
    """

    command: str
    models: Mapping[str, str | None]
    files: Mapping[str, Path | None]
    options: Mapping[str, Any]
    common: RuntimeOptions

    @classmethod
    def of(cls, command: str, arguments: Mapping[str, Any]) -> "Request":
        """The request of a command's arguments by name: none can be forgotten, and every path is a
        file it reads.

        ``source``, ``source_base`` and ``control`` are models too, where a command has them;
        ``tuned`` and ``control`` can be several.
        """
        arguments = dict(arguments)
        common = arguments.pop("common")
        shared = {field.name for field in fields(Common)}
        arguments |= {
            field.name: getattr(common, field.name)
            for field in fields(common)
            if field.name not in shared
        }
        tuned = arguments.pop("tuned")
        first, *further = [tuned] if isinstance(tuned, str) else tuned
        models = {"tuned": first, "base": arguments.pop("base")} | {
            f"tuned {at}": m for at, m in enumerate(further, 2)
        }
        for role in {"source", "source_base", "control"} & set(arguments):
            named = arguments.pop(role)
            several = isinstance(named, list)
            models |= (
                {f"{role} {at}": m for at, m in enumerate(named, 1)} if several else {role: named}
            )
        for name in [name for name in BEHAVIOURS if arguments.get(name) not in (None, "refusal")]:
            arguments[name] = Path(arguments[name])
        for name in [name for name, value in arguments.items() if _are_paths(value)]:
            arguments |= {f"{name} {at}": path for at, path in enumerate(arguments.pop(name), 1)}
        files = {name: value for name, value in arguments.items() if isinstance(value, Path)}
        options = {name: value for name, value in arguments.items() if name not in files}
        return cls(command, models, files, options, common)

    @property
    def store(self) -> Path:
        """The store of the request."""
        return self.common.store.absolute()

    def recall(self) -> requests.RequestAnswer | None:
        """What it gave before, if nothing that determines it has changed and its runs are whole."""
        if not requests.has_requests(self.store):
            return None
        described = self.describe()
        return None if described is None else requests.recall(self.store, described)

    def remember(self, before: JSON, keys: Sequence[str], notes: Sequence[str], page: Path) -> None:
        """Keep what it gave, unless something changed since it was described as ``before``."""
        if before is not None and before == self.describe():
            requests.remember(self.store, before, keys, notes, sha256_of(page))

    def describe(self) -> JSON:
        """The record whose digest is the fingerprint; None where it cannot be determined."""
        if self.common.remote:
            return None
        try:
            for name in BEHAVIOURS:
                _require_alone(self.files.get(name))
            return to_json_value(
                {
                    "command": self.command,
                    "options": {name: self.options[name] for name in sorted(self.options)},
                    "files": {
                        name: path and [path.name, sha256_of(path)]
                        for name, path in self.files.items()
                    },
                    "models": {
                        role: [name, _contents(self.models, role)]
                        for role, name in self.models.items()
                    },
                    "software": software(),
                    "devices": _devices(),
                }
            )
        except (InterpError, OSError, ValueError):
            return None


def _require_alone(behaviour: Path | None) -> None:
    """Raise OSError or ValueError for a behaviour that is not a file, or whose file names other
    files or a package.
    """
    if behaviour is not None and _ELSEWHERE.search(behaviour.read_text(encoding="utf-8")):
        raise ValueError(f"{behaviour} names what its own contents do not tell")


def _are_paths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Path) for one in value)


def _contents(models: Mapping[str, str | None], role: str) -> Mapping[str, str] | None:
    """Digests of a model's files; an adapter names its base where no other was given."""
    name = models[role]
    if name is None and role.endswith("base"):
        name = find(
            required(models["tuned" if role == "base" else "source"], "a tuned model"),
            ask_hub=False,
        ).base_name
    if name is None:
        return None
    source = find(name, ask_hub=False)
    if template_reads_clock(source):
        raise ValueError(f"{name}: what a prompt becomes depends on the clock")
    return file_digests(source)


def _devices() -> JSON:
    """What decides on ``--device auto``, and with it on the dtype, as far as it shows without
    torch.
    """
    seen = {path: _first_line(path) for pattern in _DEVICES for path in sorted(glob(pattern))}
    return {"seen": seen, "visible": {name: os.environ.get(name) for name in _VISIBLE}}


def _first_line(path: str) -> str:
    if path.startswith("/dev/"):
        return ""
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.readline()
