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
_SERVED = 0.5


class Moments(NamedTuple):
    """Number of rows, and the mean and standard deviation of every column."""

    count: int
    mean: Float[Tensor, " W"]
    deviation: Float[Tensor, " W"]


@dataclass
class _Place:
    """State of a buffer: ``fills`` permutations drawn, ``served`` rows of the current one, in pass
    ``epoch`` over the source.

    ``once``: rows of the source read in its first pass; that is all of them once the pass has
    ``ended``.
    """

    fills: int = 0
    served: int = 0
    held: int = 0
    epoch: int = 0
    cursor: Any = None
    whole: bool = False
    once: int = 0
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
        self._left = torch.zeros(0, source.width, dtype=dtype, device=device)
        self._place = _Place()
        self._reading: Iterator[tuple[Tensor, Any]] | None = None

    @property
    def epoch(self) -> int:
        """Number of complete passes over the source."""
        return self._place.epoch

    def times_over(self, rows: int) -> float:
        """Number of passes over the source that so many served rows amount to; at most 1 if it has
        not ended.
        """
        return (
            rows / self._place.once
            if self._place.ended and self._place.once
            else float(min(rows, 1))
        )

    def batch(self, count: int) -> Float[Tensor, "n W"]:
        """The next ``count`` rows."""
        parts = []
        while count:
            if self._place.served >= self._servable:
                self._fill()
            first = self._place.served
            part = self._order[first : min(first + count, self._servable)]
            self._place.served += len(part)
            count -= len(part)
            parts.append(self.rows[part.to(self.rows.device)].float())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def _servable(self) -> int:
        """Rows that are served before the next refill: all if the buffer holds the entire
        source.
        """
        return len(self._order) if self._place.whole else math.ceil(len(self._order) * _SERVED)

    def _fill(self) -> None:
        place = self._place
        if place.whole:
            place.epoch += 1
        else:
            free = self._order[: place.served] if place.fills else torch.arange(len(self.rows))
            written = self._overwrite(free.to(self.rows.device))
            if not place.fills:
                place.held = written
        place.fills, place.served = place.fills + 1, 0
        self._order = self._drawn()

    def _drawn(self) -> Int[Tensor, " n"]:
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + self._place.fills) % 2**63
        )
        return torch.randperm(self._place.held, generator=generator)

    def _overwrite(self, free: Int[Tensor, " n"]) -> int:
        """Write the next rows into free slots; returns fewer if the source ends during the first
        fill.
        """
        place, done, empty = self._place, 0, 0
        while done < len(free):
            if not len(self._left):
                if self._reading is None:
                    self._reading = iter(self.source.chunks(place.cursor))
                found = next(self._reading, None)
                if found is None:
                    place.ended = True
                    self._reading, place.cursor, place.epoch, empty = (
                        None,
                        None,
                        place.epoch + 1,
                        empty + 1,
                    )
                    if not place.fills and done:
                        place.whole, place.epoch = True, 0
                        return done
                    if empty > 1:
                        raise DictionaryError(
                            "the source yields no rows; check its masks and its norm limit"
                        )
                    continue
                chunk, place.cursor = found
                place.once += 0 if place.ended else len(chunk)
                self._left = chunk.detach().to(self.rows.device, self.rows.dtype)
                empty = 0 if len(chunk) else empty
            part = self._left[: len(free) - done]
            self.rows[free[done : done + len(part)]] = part
            self._left = self._left[len(part) :]
            done += len(part)
        return done

    # ------------------------------------------------------------------ statistics

    def moments(self, at_least: int) -> Moments:
        """Mean and deviation of the first rows: those in the buffer, or more from the source if
        these are too few.
        """
        if not self._place.fills:
            self._fill()
        enough = self._place.whole or self._place.held >= at_least
        parts = [(self.rows[: self._place.held], None)] if enough else self.source.chunks()
        count = 0
        total = torch.zeros(2, self.source.width, dtype=torch.float64, device=self.rows.device)
        for part, _ in parts:
            for piece in part.split(65536):
                wide = piece.to(total)
                total[0] += wide.sum(0)
                total[1] += wide.square().sum(0)
                count += len(piece)
            if count >= at_least and not enough:
                # restart the source: its state must not remember this extra pass
                self._reading = (
                    None if self._reading is None else iter(self.source.chunks(self._place.cursor))
                )
                break
        mean = total[0] / count
        return Moments(count, mean, (total[1] / count - mean.square()).clamp_min(0).sqrt())

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON from which a buffer is restored: the rows still to be served and its
        position.
        """
        held = self._to_come()
        return (
            {
                "buffer.rows": self.rows[held.to(self.rows.device)].contiguous(),
                "buffer.left": self._left.contiguous(),
            },
            {**vars(self._place), "seed": self.seed, "capacity": len(self.rows)},
        )

    def restore(self, tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
        """Continue from ``state``; raises DictionaryError if the buffer has another size or
        seed.
        """
        for name, own in (("seed", self.seed), ("capacity", len(self.rows))):
            if said[name] != own:
                raise DictionaryError(
                    f"the buffer had {name} {said[name]}, now {own}; resume with the same value"
                )
        self._place = _Place(**{name: said[name] for name in vars(_Place())})
        self._reading, self._left = None, tensors["buffer.left"].to(self.rows)
        if not self._place.fills:
            return
        self._order = self._drawn()
        self.rows[self._to_come().to(self.rows.device)] = tensors["buffer.rows"].to(self.rows)

    def _to_come(self) -> Int[Tensor, " n"]:
        return self._order if self._place.whole else self._order[self._place.served :]

    def described(self) -> dict[str, Any]:
        """Everything that determines the rows that are served."""
        return {"source": self.source.described(), "seed": self.seed, "capacity": len(self.rows)}
