"""Organisms: small shipped models whose difference from their base is known, by name
(``refusal/planted``).

The package contains bases in float16, and children as float16 deltas (dense, or some rows and
columns) or PEFT adapters. ``directory(name)`` returns a complete Hugging Face directory in float32,
written once into the user's cache: ``child = float32(base) + float32(delta)``, exactly the weights
that were evaluated when the organism was made.

A *packaged* base (``smollm2/base``) is a real model that another package ships as a ``.gguf`` file;
it is dequantised.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.errors import ModelNotFound, PromptError, StoreError
from interp.packaged import PackagedModel
from interp.permissions import apply_umask

# version of the materialised directories; increase it when the same files give other weights
FORMAT_VERSION = 1
WEIGHTS, DELTA, ADAPTER, MASK = (
    "model.safetensors",
    "delta.safetensors",
    "adapter_config.json",
    "mask.safetensors",
)
MAP_FILE = "map.json"  # instead of a delta: the delta of a sibling organism, moved to other neurons
NOTE_FILES = {
    "organism.json",
    "planted.json",
    "control.json",
    "secret.json",
    MASK,
}  # describe an organism and are not part of its directory
GGUF_MODULE = "interp.models.gguf"  # imported by name, because this module must not import torch


def data_root() -> Path:
    """The shipped ``data`` directory: inside the package in a wheel, next to it in an editable
    install.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "data", package.parent / "data"):
        if (candidate / "organisms").is_dir():
            return candidate
    raise ModelNotFound(f"the shipped organisms are missing next to {package}; reinstall interp")


def cache_root() -> Path:
    """Where directories are materialised: ``$INTERP_CACHE``, or the user's cache directory."""
    return Path(os.environ.get("INTERP_CACHE") or user_cache_dir("interp")).expanduser()


def names() -> list[str]:
    """Names of all shipped organisms, each family's base first; last the families without their own
    base.
    """
    directories = (path.parent for path in (data_root() / "organisms").glob("*/*/organism.json"))
    found = {f"{path.parent.name}/{path.name}" for path in directories}

    def key(name: str) -> tuple[bool, str, bool, str]:
        family, child = name.split("/")
        return f"{family}/base" not in found, family, child != "base", name

    return sorted(found, key=key)


def describe(name: str) -> dict[str, Any]:
    """The record of an organism: kind, base, measured behaviour with exact intervals, training
    details.

    Raises ``ModelNotFound``, listing the names, if there is no such organism.
    """
    return json.loads((_shipped_directory(name) / "organism.json").read_text(encoding="utf-8"))


def base_of(name: str) -> str | None:
    """Name of the base of this organism; None for a base."""
    return describe(name)["base"]


def packaged(name: str) -> PackagedModel | None:
    """The package that ships the base weights of an organism's family; None if this one does."""
    facts = describe(name)
    if facts["base"] is not None:
        return packaged(facts["base"])
    return PackagedModel(**facts["package"]) if "package" in facts else None


def planted(name: str) -> dict[str, list[tuple[int, int]]]:
    """The trained neurons, as skill -> [(layer, neuron), ...]; empty if training was not restricted
    to neurons.
    """
    path = _shipped_directory(name) / "planted.json"
    if not path.is_file():
        return {}
    lists = json.loads(path.read_text(encoding="utf-8"))
    return {
        skill: [(layer, neuron) for layer, neuron in neurons] for skill, neurons in lists.items()
    }


def mask(name: str) -> dict[str, np.ndarray]:
    """The weights that were trained, as weight name -> sorted flat indices, (k,) int32.

    Names are those of ``model.safetensors``, indices are in C order. Empty if training was not
    restricted to a mask.
    """
    path = _shipped_directory(name) / MASK
    return load_file(path) if path.is_file() else {}


def prompts(name: str, split: str, group: str) -> Path:
    """Path of a shipped prompt file: split ``locate`` or ``verify``, group ``harmful`` or
    ``harmless``.

    ``name`` is an organism or a family. With split ``task`` the group is the name of a task file
    (``utility``, ``colours``), with split ``text`` of a plain text file. Raises ``PromptError``,
    listing the files, if there is no such file.
    """
    family = (data_root() / "prompts") / name.split("/")[0]
    stem = group if split in ("task", "text") else f"{split}-{group}"
    for suffix in (".jsonl", ".txt"):
        if (family / (stem + suffix)).is_file():
            return family / (stem + suffix)
    shipped_files = ", ".join(sorted(path.name for path in family.glob("*"))) or "none"
    raise PromptError(f"no prompts {stem!r} shipped for {name!r}; shipped: {shipped_files}")


def directory(name: str) -> Path:
    """A complete Hugging Face directory (for an adapter: a PEFT directory) of this organism.

    It is written once. Safe with several processes; a process killed midway leaves nothing that is
    used later. Raises ``ModelNotFound``, listing the names, if there is no such organism.
    """
    if describe(name)["base"] is None and (source := packaged(name)) is not None:
        return import_module(GGUF_MODULE).directory(source.path())
    files = _source_files(name)
    target = cache_root() / "organisms" / _digest(files) / name.replace("/", "-")
    return write_once(target, lambda place: _write_files(files, place))


def write_once(target: Path, write: Callable[[Path], None]) -> Path:
    """``target``, filled by ``write`` if it does not exist yet.

    ``target`` is two levels below the folder that is swept for left-overs. Safe with several
    processes; a process killed midway leaves nothing that is used later.
    """
    if target.is_dir():
        return target
    try:
        return _write_atomically(target, write)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(
            f"cannot write to {target.parent}, where shipped models are unpacked ({reason}); set"
            " INTERP_CACHE to a folder that can be written and has room"
        ) from error


def _write_atomically(target: Path, write: Callable[[Path], None]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent.parent)
    # not `complete_folder`: what a killed process left is found by its name, and another process
    # may write the same target first
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        write(temporary)
        apply_umask(temporary)
        for path in temporary.iterdir():
            _fsync(path)
        _fsync(temporary)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # not a race won by another process
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def remove_unfinished(root: Path, older_than: float = 3600.0) -> None:
    """Delete directories under ``root`` that killed processes left unfinished and that have not
    changed for ``older_than`` seconds.
    """
    for path in root.glob("*/.writing-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= older_than:
                shutil.rmtree(path, ignore_errors=True)


def _shipped_directory(name: str) -> Path:
    known = names()
    if name not in known:
        raise ModelNotFound(f"no organism {name!r}; shipped: {', '.join(known)}")
    return data_root() / "organisms" / name


def _source_files(name: str) -> dict[str, Path]:
    """File name -> source file for everything in the directory.

    The prefix ``base:`` marks weights to which a delta is added, ``of:`` the delta that a map
    moves.
    """
    organism_directory = _shipped_directory(name)
    files = {
        path.name: path
        for path in sorted(organism_directory.iterdir())
        if path.is_file() and path.name not in NOTE_FILES
    }
    base = describe(name)["base"]
    if base is None:
        return files
    # a base without shipped weights of its own (packaged, or itself a child) is read as
    # materialised
    base_is_shipped = describe(base)["base"] is None and packaged(base) is None
    base_directory = _shipped_directory(base) if base_is_shipped else directory(base)
    base_files = {
        path.name: path
        for path in sorted(base_directory.iterdir())
        if path.is_file() and path.name not in NOTE_FILES
    }
    weights = base_files.pop(WEIGHTS)
    if ADAPTER in files:
        return {
            file: path
            for file, path in base_files.items()
            if "config" not in file or "token" in file
        } | files
    if MAP_FILE in files:
        files[f"of:{DELTA}"] = _shipped_directory(_read_map(files[MAP_FILE])["of"]) / DELTA
    return base_files | {f"base:{WEIGHTS}": weights} | files


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(f"format {FORMAT_VERSION}".encode())
    cache = cache_root()
    for file in sorted(files):
        if files[file].is_relative_to(cache):  # the name of its directory already contains a digest
            digest.update(f"\n{file} {files[file].relative_to(cache).parts[1]}\n".encode())
            continue
        content = files[file].read_bytes()
        digest.update(f"\n{file} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:20]


def _write_files(files: Mapping[str, Path], target: Path) -> None:
    for file, path in files.items():
        if file == WEIGHTS:
            save_file(_load_float32(path), target / WEIGHTS, metadata={"format": "pt"})
        elif file in (DELTA, MAP_FILE):
            delta = (
                load_file(path)
                if file == DELTA
                else relocate_delta(load_file(files[f"of:{DELTA}"]), _read_map(path))
            )
            weights = apply_delta(_load_float32(files[f"base:{WEIGHTS}"]), delta)
            save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
        elif ":" not in file:
            shutil.copyfile(path, target / file)


def _read_map(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def relocate_delta(
    delta: Mapping[str, np.ndarray], neuron_map: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """A delta of neurons, moved to other neurons of the same blocks with its values unchanged.

    ``places["neurons"]`` maps a block's number, as text, to ``[[from, to], ...]``.
    """
    result = dict(delta)
    for key, value in delta.items():
        name, _, kind = key.partition("@")
        if kind in ("rows", "columns"):
            new_index = dict(neuron_map["neurons"][name.split(".layers.")[1].split(".")[0]])
            result[key] = np.array([new_index[int(index)] for index in value], np.int32)
    return result


def _load_float32(path: Path) -> dict[str, np.ndarray]:
    return {key: value.astype(np.float32) for key, value in load_file(path).items()}


def apply_delta(
    weights: Mapping[str, np.ndarray], delta: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Add a shipped delta to float32 weights, in float32.

    ``delta[name]`` is dense; ``name@rows`` or ``name@columns`` contains indices (k,) and
    ``name@rows.delta`` or ``name@columns.delta`` the values added there, (k, columns) or (rows, k).
    """
    result = {name: value.copy() for name, value in weights.items()}
    for key, value in delta.items():
        name, _, kind = key.partition("@")
        if kind == "":
            result[name] += value.astype(np.float32)
        elif kind == "rows.delta":
            result[name][delta[f"{name}@rows"]] += value.astype(np.float32)
        elif kind == "columns.delta":
            result[name][:, delta[f"{name}@columns"]] += value.astype(np.float32)
    return result


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
