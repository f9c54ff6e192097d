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
from interp.packaged import Packaged
from interp.permissions import as_umask

# version of the materialised directories; increase it when the same files give other weights
FORMAT = 1
WEIGHTS, DELTA, ADAPTER, MASK = (
    "model.safetensors",
    "delta.safetensors",
    "adapter_config.json",
    "mask.safetensors",
)
MAP = "map.json"  # instead of a delta: the delta of a sibling organism, moved to other neurons
NOTES = {
    "organism.json",
    "planted.json",
    "control.json",
    MASK,
}  # describe an organism and are not part of its directory
DEQUANTISE = "interp.models.gguf"  # imported by name, because this module must not import torch


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
    """Names of all shipped organisms, each family's base first."""
    found = (path.parent for path in (data_root() / "organisms").glob("*/*/organism.json"))
    return sorted(
        (f"{path.parent.name}/{path.name}" for path in found), key=lambda name: (*_rank(name), name)
    )


def _rank(name: str) -> tuple[str, bool]:
    family, child = name.split("/")
    return family, child != "base"


def describe(name: str) -> dict[str, Any]:
    """The record of an organism: kind, base, measured behaviour with exact intervals, training
    details.

    Raises ``ModelNotFound``, listing the names, if there is no such organism.
    """
    return json.loads((_shipped(name) / "organism.json").read_text(encoding="utf-8"))


def base_of(name: str) -> str | None:
    """Name of the base of this organism; None for a base."""
    return describe(name)["base"]


def packaged(name: str) -> Packaged | None:
    """The package that ships the base weights of an organism's family; None if this one does."""
    facts = describe(name)
    if facts["base"] is not None:
        return packaged(facts["base"])
    return Packaged(**facts["package"]) if "package" in facts else None


def planted(name: str) -> dict[str, list[tuple[int, int]]]:
    """The trained neurons, as skill -> [(layer, neuron), ...]; empty if training was not restricted
    to neurons.
    """
    path = _shipped(name) / "planted.json"
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
    path = _shipped(name) / MASK
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
    there = ", ".join(sorted(path.name for path in family.glob("*"))) or "none"
    raise PromptError(f"no prompts {stem!r} shipped for {name!r}; shipped: {there}")


def directory(name: str) -> Path:
    """A complete Hugging Face directory (for an adapter: a PEFT directory) of this organism.

    It is written once. Safe with several processes; a process killed midway leaves nothing that is
    used later. Raises ``ModelNotFound``, listing the names, if there is no such organism.
    """
    if describe(name)["base"] is None and (source := packaged(name)) is not None:
        return import_module(DEQUANTISE).directory(source.path())
    parts = _parts(name)
    target = cache_root() / "organisms" / _digest(parts) / name.replace("/", "-")
    return written_once(target, lambda place: _write(parts, place))


def written_once(target: Path, write: Callable[[Path], None]) -> Path:
    """``target``, filled by ``write`` if it does not exist yet.

    ``target`` is two levels below the folder that is swept for left-overs. Safe with several
    processes; a process killed midway leaves nothing that is used later.
    """
    if target.is_dir():
        return target
    try:
        return _written(target, write)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(
            f"cannot write to {target.parent}, where shipped models are unpacked ({reason}); set"
            " INTERP_CACHE to a folder that can be written and has room"
        ) from error


def _written(target: Path, write: Callable[[Path], None]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        write(temporary)
        as_umask(temporary)
        for path in temporary.iterdir():
            _flush(path)
        _flush(temporary)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # not a race won by another process
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def sweep(root: Path, older_than: float = 3600.0) -> None:
    """Delete directories under ``root`` that killed processes left unfinished and that have not
    changed for ``older_than`` seconds.
    """
    for path in root.glob("*/.writing-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= older_than:
                shutil.rmtree(path, ignore_errors=True)


def _shipped(name: str) -> Path:
    known = names()
    if name not in known:
        raise ModelNotFound(f"no organism {name!r}; shipped: {', '.join(known)}")
    return data_root() / "organisms" / name


def _parts(name: str) -> dict[str, Path]:
    """File name -> source file for everything in the directory.

    The prefix ``base:`` marks weights to which a delta is added, ``of:`` the delta that a map
    moves.
    """
    here = _shipped(name)
    parts = {
        path.name: path
        for path in sorted(here.iterdir())
        if path.is_file() and path.name not in NOTES
    }
    base = describe(name)["base"]
    if base is None:
        return parts
    # a base without shipped weights of its own (packaged, or itself a child) is read as materialised
    whole = describe(base)["base"] is None and packaged(base) is None
    root = _shipped(base) if whole else directory(base)
    shared = {
        path.name: path
        for path in sorted(root.iterdir())
        if path.is_file() and path.name not in NOTES
    }
    weights = shared.pop(WEIGHTS)
    if ADAPTER in parts:
        return {
            file: path for file, path in shared.items() if "config" not in file or "token" in file
        } | parts
    if MAP in parts:
        parts[f"of:{DELTA}"] = _shipped(_read_map(parts[MAP])["of"]) / DELTA
    return shared | {f"base:{WEIGHTS}": weights} | parts


def _digest(parts: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    cached = cache_root()
    for file in sorted(parts):
        if parts[file].is_relative_to(
            cached
        ):  # the name of its directory already contains a digest
            digest.update(f"\n{file} {parts[file].relative_to(cached).parts[1]}\n".encode())
            continue
        content = parts[file].read_bytes()
        digest.update(f"\n{file} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:20]


def _write(parts: Mapping[str, Path], target: Path) -> None:
    for file, path in parts.items():
        if file == WEIGHTS:
            save_file(_widened(path), target / WEIGHTS, metadata={"format": "pt"})
        elif file in (DELTA, MAP):
            delta = (
                load_file(path)
                if file == DELTA
                else moved(load_file(parts[f"of:{DELTA}"]), _read_map(path))
            )
            weights = apply_delta(_widened(parts[f"base:{WEIGHTS}"]), delta)
            save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
        elif ":" not in file:
            shutil.copyfile(path, target / file)


def _read_map(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def moved(delta: Mapping[str, np.ndarray], places: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A delta of neurons, moved to other neurons of the same blocks with its values unchanged.

    ``places["neurons"]`` maps a block's number, as text, to ``[[from, to], ...]``.
    """
    result = dict(delta)
    for key, value in delta.items():
        name, _, where = key.partition("@")
        if where in ("rows", "columns"):
            there = dict(places["neurons"][name.split(".layers.")[1].split(".")[0]])
            result[key] = np.array([there[int(index)] for index in value], np.int32)
    return result


def _widened(path: Path) -> dict[str, np.ndarray]:
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
        name, _, where = key.partition("@")
        if where == "":
            result[name] += value.astype(np.float32)
        elif where == "rows.delta":
            result[name][delta[f"{name}@rows"]] += value.astype(np.float32)
        elif where == "columns.delta":
            result[name][:, delta[f"{name}@columns"]] += value.astype(np.float32)
    return result


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
