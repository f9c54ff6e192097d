"""Where rows of activations come from: anything that gives chunks of rows from any place on, the
same every time.

A cursor is what a source needs to go on behind a chunk, as JSON; None is the beginning. Rows hold
several segments side by side (sites, or a base's and its tune's values), so that whatever mixes
rows keeps them together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import DictionaryError
from interp.maths.host import in_host_memory, to_host
from interp.permissions import as_umask
from interp.provenance import digest, directory_digest

INDEX = "index.json"


@runtime_checkable
class Source(Protocol):
    """Rows [n, width] in chunks, each with the cursor behind it; an iteration is one pass over the
    data.
    """

    @property
    def width(self) -> int:
        """Columns of a row."""
        ...

    @property
    def segments(self) -> Mapping[str, tuple[int, int]]:
        """Name -> first column and the one behind the last."""
        ...

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Rows from the cursor on, and the cursor behind them."""
        ...

    def described(self) -> dict[str, Any]:
        """What determines the rows: a run goes on only with the same."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in memory, in chunks of ``step``."""

    rows: Float[Tensor, "n W"]
    step: int = 4096
    name: str = "rows"

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self.rows.shape[1]

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """All columns are one segment."""
        return {self.name: (0, self.width)}

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Rows in order."""
        for start in range(cursor or 0, len(self.rows), self.step):
            yield self.rows[start : start + self.step], start + self.step

    def described(self) -> dict[str, Any]:
        """Their shape and sum."""
        return {"rows": list(self.rows.shape), "sum": float(to_host(self.rows.double().sum()))}


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """Rows that a function makes of a chunk's number, without end; it must give the same for the
    same number.
    """

    make: Callable[[int], Tensor]
    width: int
    name: str = "made"

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """All columns are one segment."""
        return {self.name: (0, self.width)}

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Chunk after chunk."""
        number = cursor or 0
        while True:
            yield self.make(number), number + 1
            number += 1

    def described(self) -> dict[str, Any]:
        """Their name and width."""
        return {"made": self.name, "width": self.width}


@dataclass(frozen=True, eq=False)
class Shards:
    """A folder of safetensors files that hold one matrix of rows each, in the order of their names.

    What ``write_shards`` made says its segments in ``index.json``; other folders are one segment.
    ``rank`` of ``world`` reads every ``world``-th file. Raises DictionaryError for what is no such
    folder.
    """

    folder: Path
    step: int = 4096
    rank: int = 0
    world: int = 1
    _found: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        files = sorted(self.folder.glob("*.safetensors"))[self.rank :: self.world]
        if not files:
            raise DictionaryError(
                f"{self.folder} holds too few safetensors files for part {self.rank + 1} of its"
                " rows"
            )
        shapes = {file: self._shape(file) for file in files}
        widths = {shape[1] for shape in shapes.values()}
        if len(widths) > 1:
            raise DictionaryError(f"{self.folder} holds rows of unlike widths: {sorted(widths)}")
        try:
            said = (
                json.loads((self.folder / INDEX).read_text("utf-8"))
                if (self.folder / INDEX).exists()
                else {}
            )
            segments = {name: (int(a), int(b)) for name, (a, b) in said.get("segments", {}).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DictionaryError(f"{self.folder / INDEX} cannot be read: {error}") from error
        self._found.update(
            files=files, width=widths.pop(), segments=segments, about=said.get("about", {})
        )

    def _shape(self, file: Path) -> tuple[int, int]:
        try:
            with safe_open(file, "pt") as held:
                names = list(held.keys())
                shape = held.get_slice(names[0]).get_shape() if len(names) == 1 else []
        except (SafetensorError, OSError) as error:
            raise DictionaryError(f"{file} is no whole safetensors file ({error})") from error
        if len(shape) != 2:
            raise DictionaryError(
                f"{file} does not hold one matrix of rows; it has"
                f" {', '.join(names[:4]) or 'nothing'}"
            )
        return tuple(shape)

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self._found["width"]

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """As its index says."""
        return self._found["segments"] or {"rows": (0, self.width)}

    @property
    def about(self) -> dict[str, Any]:
        """What the index says the rows are of."""
        return self._found["about"]

    def chunks(self, cursor: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Rows in order, file after file."""
        at, start = cursor or (0, 0)
        for number, file in list(enumerate(self._found["files"]))[at:]:
            with safe_open(file, "pt") as held:
                part = held.get_slice(next(iter(held.keys())))
                size = part.get_shape()[0]
                for first in range(start if number == at else 0, size, self.step):
                    last = min(first + self.step, size)
                    yield part[first:last], [number, last] if last < size else [number + 1, 0]

    def described(self) -> dict[str, Any]:
        """The digest of all files."""
        return {
            "shards": directory_digest(self.folder, ("*.safetensors",)),
            "part": [self.rank, self.world],
        }


def write_shards(
    source: Source,
    folder: str | os.PathLike,
    count: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard: int = 2**18,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Write the first ``count`` rows of a source as shards of ``shard`` rows and return how many
    there were.

    Takes ``2 * width`` bytes a row in bfloat16. The index is written last: a folder without one is
    not whole. Raises DictionaryError where something stands there already.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DictionaryError(f"cannot write {folder}: {error.strerror or error}") from error
    waiting, held, number, done = [], 0, 0, 0

    def flush() -> None:
        nonlocal waiting, held, number
        if waiting:
            path = folder / f"rows-{number:05}.safetensors"
            save_file({"rows": torch.cat(waiting).contiguous()}, path)
            as_umask(path)
        waiting, held, number = [], 0, number + 1

    for rows, _ in source.chunks():
        part = in_host_memory(rows[: count - done].to(dtype))
        done += len(part)
        while len(part):
            room = shard - held
            waiting.append(part[:room])
            held += len(waiting[-1])
            part = part[room:]
            if held == shard:
                flush()
        if done >= count:
            break
    flush()
    said = {
        "segments": source.segments,
        "rows": done,
        "about": {**dict(about or {}), "of": digest(source.described())},
    }
    (folder / INDEX).write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    return done
