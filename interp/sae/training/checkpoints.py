"""Checkpoints of a training run: one folder each, written atomically, also with several
processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.atomic import flush
from interp.errors import DictionaryError
from interp.maths.host import in_host_memory
from interp.permissions import apply_umask
from interp.sae.training import distributed
from interp.sae.training.learner import Learner

STATE = "state.json"
_NAME = re.compile(r"step-(\d{9})")


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder, or None."""
    checkpoints = [
        path
        for path in folder.glob("step-*")
        if _NAME.fullmatch(path.name) and (path / STATE).exists()
    ]
    return max(checkpoints, key=lambda path: path.name, default=None)


def save_checkpoint(
    folder: Path,
    step: int,
    learners: Sequence[Learner],
    stream: tuple[dict[str, Tensor], Any],
    description: Mapping[str, Any],
) -> None:
    """Write a checkpoint and remove earlier ones. All processes call this; each writes its part of
    the stream.
    """
    draft, final, rank = folder / f".step-{step:09}", folder / f"step-{step:09}", distributed.rank()
    if rank == 0:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    distributed.wait()
    tensors, position = stream
    _write(draft / f"stream-{rank}.safetensors", tensors)
    (draft / f"stream-{rank}.json").write_text(json.dumps(position), "utf-8")
    if rank == 0:
        for number, learner in enumerate(learners):
            _write(draft / f"learner-{number}.safetensors", learner.tensors())
        (draft / STATE).write_text(json.dumps({**description, "step": step}, indent=1), "utf-8")
    distributed.wait()
    if rank == 0:
        # not `complete_folder`: all processes write to this draft, whose name they know, and it
        # replaces a checkpoint of the same step
        apply_umask(draft)
        for path in draft.iterdir():
            flush(path)  # in case of a power failure
        if final.exists():
            shutil.rmtree(final)
        os.rename(draft, final)
        for path in folder.glob("*step-*"):
            if path != final:
                shutil.rmtree(path, ignore_errors=True)
    distributed.wait()


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: in_host_memory(value) for name, value in tensors.items()}, path)


def resume(
    path: Path, learners: Sequence[Learner], stream: Any, description: Mapping[str, Any]
) -> int:
    """Restore a checkpoint and return its step; raises DictionaryError if it belongs to another
    run.
    """
    rank = distributed.rank()
    try:
        recorded = json.loads((path / STATE).read_text("utf-8"))
        require_same(recorded, description, path)
        for number, learner in enumerate(learners):
            learner.restore(load_file(path / f"learner-{number}.safetensors"))
        position = json.loads((path / f"stream-{rank}.json").read_text("utf-8"))
        stream.restore(load_file(path / f"stream-{rank}.safetensors"), position)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DictionaryError(
            f"the checkpoint {path} cannot be read ({error}); remove it to start again"
        ) from error
    return int(recorded["step"])


def require_same(recorded: Mapping[str, Any], description: Mapping[str, Any], path: Path) -> None:
    """Raise DictionaryError if a checkpoint's description differs, naming the first difference."""
    description = json.loads(json.dumps(description))
    for name, before, now in _differences(recorded, description, ""):
        raise DictionaryError(
            f"{path.parent} belongs to another run: its {name} is {before}, here it is {now};"
            " give the same options to resume it, another --out, or remove it"
        )


def _differences(recorded: Any, current: Any, where: str) -> list[tuple[str, Any, Any]]:
    if isinstance(recorded, dict) and isinstance(current, dict):
        return [
            found
            for name, value in current.items()
            for found in _differences(
                recorded.get(name), value, f"{where}.{name}" if where else name
            )
        ]
    return [] if recorded == current else [(where, recorded, current)]
