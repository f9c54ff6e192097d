"""Organisms: small shipped models whose difference from their base is known, by name
(``refusal/planted``).

The package holds bases in float16 and children as float16 deltas (dense, or some rows and columns)
or PEFT adapters. ``directory(name)`` gives a complete ordinary Hugging Face directory in float32,
written once into the user's cache: ``child = float32(base) + float32(delta)``, exactly what was
measured when the organism was made.

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

# of materialised directories: raise it when the same shipped files would give other ones
FORMAT = 1
WEIGHTS, DELTA, ADAPTER, MASK = (
    "model.safetensors",
    "delta.safetensors",
    "adapter_config.json",
    "mask.safetensors",
)
MAP = "map.json"  # instead of a delta: the delta of a sibling, put at other neurons
NOTES = {"organism.json", "planted.json", "control.json", MASK}  # about an organism, not part of it
DEQUANTISE = "interp.models.gguf"  # a module's name, so that this room does not import torch


def data_root() -> Path:
    """The shipped ``data`` directory: inside the package in a wheel, beside it in an editable
    install.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "data", package.parent / "data"):
        if (candidate / "organisms").is_dir():
            return candidate
    raise ModelNotFound(f"the shipped organisms are missing beside {package}; reinstall interp")


def cache_root() -> Path:
    """Where directories are materialised: ``$INTERP_CACHE``, else the user's cache directory."""
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
    """What is known of an organism: kind, base, measured behaviour with exact intervals, facts of
    its training.

    Raises ``ModelNotFound``, listing the names, when there is no such organism.
    """
    return json.loads((_shipped(name) / "organism.json").read_text(encoding="utf-8"))


def base_of(name: str) -> str | None:
    """Name of the organism that this one was tuned from for comparison; None for a base."""
    return describe(name)["base"]


def packaged(name: str) -> Packaged | None:
    """Where the weights of an organism's family come from, when another package ships them; None
    for ours.
    """
    facts = describe(name)
    if facts["base"] is not None:
        return packaged(facts["base"])
    return Packaged(**facts["package"]) if "package" in facts else None


def planted(name: str) -> dict[str, list[tuple[int, int]]]:
    """The neurons trained, as skill -> [(layer, neuron), ...]; empty where training was not
    confined to neurons.
    """
    path = _shipped(name) / "planted.json"
    if not path.is_file():
        return {}
    lists = json.loads(path.read_text(encoding="utf-8"))
    return {
        skill: [(layer, neuron) for layer, neuron in neurons] for skill, neurons in lists.items()
    }


def mask(name: str) -> dict[str, np.ndarray]:
    """The weights that a skill was trained into, as weight name -> sorted flat indices, (k,) int32.

    Names are those of ``model.safetensors``, indices count in C order. Empty where training was not
    confined to a mask.
    """
    path = _shipped(name) / MASK
    return load_file(path) if path.is_file() else {}


def prompts(name: str, split: str, group: str) -> Path:
    """Path of a shipped prompt file: split ``locate`` or ``verify``, group ``harmful`` or
    ``harmless``.

    ``name`` is an organism or a family. With split ``task`` the group names a task file
    (``utility``, ``colours``), with split ``text`` plain text. Raises ``PromptError``, listing the
    files, when there is no such file.
    """
    family = (data_root() / "prompts") / name.split("/")[0]
    stem = group if split in ("task", "text") else f"{split}-{group}"
    for suffix in (".jsonl", ".txt"):
        if (family / (stem + suffix)).is_file():
            return family / (stem + suffix)
    there = ", ".join(sorted(path.name for path in family.glob("*"))) or "none"
    raise PromptError(f"no prompts {stem!r} shipped for {name!r}; shipped: {there}")


def directory(name: str) -> Path:
    """A complete Hugging Face directory (for an adapter: a PEFT directory) of this organism,
    materialised once.

    Safe with several processes at once; a process killed in the middle leaves nothing that is ever
    used. Raises ``ModelNotFound``, listing the names, when there is no such organism.
    """
    if describe(name)["base"] is None and (source := packaged(name)) is not None:
        return import_module(DEQUANTISE).directory(source.path())
    parts = _parts(name)
    target = cache_root() / "organisms" / _digest(parts) / name.replace("/", "-")
    return written_once(target, lambda place: _write(parts, place))


def written_once(target: Path, write: Callable[[Path], None]) -> Path:
    """``target``, a directory two levels below the root of a kind, which ``write`` fills where it
    is not there yet.

    Safe with several processes at once; a process killed in the middle leaves nothing that is ever
    used.
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
    """Remove what killed processes left half written under ``root``, untouched for ``older_than``
    seconds.
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
    """File name -> file of everything that makes the directory.

    ``base:`` marks weights to add a delta to, ``of:`` the delta that a map puts elsewhere.
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
    # a base that is not shipped whole (packaged, or itself a child) is taken as it was materialised
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
        if parts[file].is_relative_to(cached):  # its directory is named by a digest already
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
    """A delta of neurons put at other ones of the same blocks, its values unchanged.

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

    ``delta[name]`` is dense; ``name@rows`` or ``name@columns`` holds indices (k,) and
    ``name@rows.delta`` or ``name@columns.delta`` what is added there, (k, columns) or (rows, k).
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
