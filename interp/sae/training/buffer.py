"""A shuffle buffer: filled, shuffled, half of it served, the served half refilled, shuffled again.

Every permutation is drawn from a counter, and the buffer's contents are saved with a checkpoint, so
a resumed run serves exactly the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import DictionaryError, OptionError
from interp.sae.training.sources import Source

ROWS, BYTES = 2**18, 2**30
_SERVED_SHARE = 0.5


class Moments(NamedTuple):
    """Number of rows, and the mean and standard deviation of every column."""

    count: int
    mean: Float[Tensor, " W"]
    deviation: Float[Tensor, " W"]


@dataclass
class _BufferPosition:
    """State of a buffer: ``fills`` permutations drawn, ``served`` rows of the current one, in pass
    ``epoch`` over the source.

    ``rows_in_first_pass``: rows of the source read in its first pass; that is all of them once the
    pass has ``ended``.
    """

    fills: int = 0
    served: int = 0
    held: int = 0
    epoch: int = 0
    cursor: Any = None
    holds_source: bool = False
    rows_in_first_pass: int = 0
    ended: bool = False


class Buffer:
    """Rows of a source in shuffled order, without end: a source that ends is restarted.

    ``capacity`` rows, by default 262,144 or 1 GiB, whichever is less. A source that fits into the
    buffer is read once. ``dtype`` may be bfloat16, for half the memory; rows are served in float32.
    """

    def __init__(
        self,
        source: Source,
        capacity: int | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.seed = source, seed
        size = capacity or max(1, min(ROWS, BYTES // (source.width * dtype.itemsize)))
        if size < 2:
            raise OptionError(f"a buffer of {size} rows cannot shuffle; give 2 or more")
        self.rows = torch.zeros(size, source.width, dtype=dtype, device=device)
        self._order: Int[Tensor, " n"] = torch.zeros(0, dtype=torch.int64)
        self._leftover = torch.zeros(0, source.width, dtype=dtype, device=device)
        self._position = _BufferPosition()
        self._reading: Iterator[tuple[Tensor, Any]] | None = None

    @property
    def epoch(self) -> int:
        """Number of complete passes over the source."""
        return self._position.epoch

    def passes_over(self, rows: int) -> float:
        """Number of passes over the source that so many served rows amount to; at most 1 if it has
        not ended.
        """
        return (
            rows / self._position.rows_in_first_pass
            if self._position.ended and self._position.rows_in_first_pass
            else float(min(rows, 1))
        )

    def batch(self, count: int) -> Float[Tensor, "n W"]:
        """The next ``count`` rows."""
        parts = []
        while count:
            if self._position.served >= self._servable:
                self._fill()
            first = self._position.served
            part = self._order[first : min(first + count, self._servable)]
            self._position.served += len(part)
            count -= len(part)
            parts.append(self.rows[part.to(self.rows.device)].float())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def _servable(self) -> int:
        """Rows that are served before the next refill: all if the buffer holds the entire
        source.
        """
        return (
            len(self._order)
            if self._position.holds_source
            else math.ceil(len(self._order) * _SERVED_SHARE)
        )

    def _fill(self) -> None:
        position = self._position
        if position.holds_source:
            position.epoch += 1
        else:
            free = (
                self._order[: position.served] if position.fills else torch.arange(len(self.rows))
            )
            written = self._overwrite(free.to(self.rows.device))
            if not position.fills:
                position.held = written
        position.fills, position.served = position.fills + 1, 0
        self._order = self._draw_order()

    def _draw_order(self) -> Int[Tensor, " n"]:
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + self._position.fills) % 2**63
        )
        return torch.randperm(self._position.held, generator=generator)

    def _overwrite(self, free: Int[Tensor, " n"]) -> int:
        """Write the next rows into free slots; returns fewer if the source ends during the first
        fill.
        """
        position, done, n_empty = self._position, 0, 0
        while done < len(free):
            if not len(self._leftover):
                if self._reading is None:
                    self._reading = iter(self.source.chunks(position.cursor))
                chunk_and_cursor = next(self._reading, None)
                if chunk_and_cursor is None:
                    position.ended = True
                    self._reading, position.cursor, position.epoch, n_empty = (
                        None,
                        None,
                        position.epoch + 1,
                        n_empty + 1,
                    )
                    if not position.fills and done:
                        position.holds_source, position.epoch = True, 0
                        return done
                    if n_empty > 1:
                        raise DictionaryError(
                            "the source yields no rows; check its masks and its norm limit"
                        )
                    continue
                chunk, position.cursor = chunk_and_cursor
                position.rows_in_first_pass += 0 if position.ended else len(chunk)
                self._leftover = chunk.detach().to(self.rows.device, self.rows.dtype)
                n_empty = 0 if len(chunk) else n_empty
            part = self._leftover[: len(free) - done]
            self.rows[free[done : done + len(part)]] = part
            self._leftover = self._leftover[len(part) :]
            done += len(part)
        return done

    # ------------------------------------------------------------------ statistics

    def moments(self, min_rows: int) -> Moments:
        """Mean and deviation of the first rows: those in the buffer, or more from the source if
        these are too few.
        """
        if not self._position.fills:
            self._fill()
        enough = self._position.holds_source or self._position.held >= min_rows
        parts = [(self.rows[: self._position.held], None)] if enough else self.source.chunks()
        count = 0
        total = torch.zeros(2, self.source.width, dtype=torch.float64, device=self.rows.device)
        for part, _ in parts:
            for piece in part.split(65536):
                rows = piece.to(total)
                total[0] += rows.sum(0)
                total[1] += rows.square().sum(0)
                count += len(piece)
            if count >= min_rows and not enough:
                # restart the source: its state must not remember this extra pass
                self._reading = (
                    None
                    if self._reading is None
                    else iter(self.source.chunks(self._position.cursor))
                )
                break
        mean = total[0] / count
        return Moments(count, mean, (total[1] / count - mean.square()).clamp_min(0).sqrt())

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON from which a buffer is restored: the rows still to be served and its
        position.
        """
        remaining = self._remaining()
        return (
            {
                "buffer.rows": self.rows[remaining.to(self.rows.device)].contiguous(),
                "buffer.left": self._leftover.contiguous(),
            },
            {**vars(self._position), "seed": self.seed, "capacity": len(self.rows)},
        )

    def restore(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        """Continue from ``state``; raises DictionaryError if the buffer has another size or
        seed.
        """
        for name, current in (("seed", self.seed), ("capacity", len(self.rows))):
            if position[name] != current:
                raise DictionaryError(
                    f"the buffer had {name} {position[name]}, now {current}; resume with the same"
                    " value"
                )
        self._position = _BufferPosition(
            **{name: position[name] for name in vars(_BufferPosition())}
        )
        self._reading, self._leftover = None, tensors["buffer.left"].to(self.rows)
        if not self._position.fills:
            return
        self._order = self._draw_order()
        self.rows[self._remaining().to(self.rows.device)] = tensors["buffer.rows"].to(self.rows)

    def _remaining(self) -> Int[Tensor, " n"]:
        return self._order if self._position.holds_source else self._order[self._position.served :]

    def described(self) -> dict[str, Any]:
        """Everything that determines the rows that are served."""
        return {"source": self.source.described(), "seed": self.seed, "capacity": len(self.rows)}
