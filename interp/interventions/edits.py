"""Edits as data, exactly undone: they live for one run, on activations, and never touch a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.maths.precision import widen
from interp.sites import Site

Cells = Callable[[Tensor], Tensor]
Same = TypeVar("Same")


class _AllCells:
    """An edit that holds nothing of single cells is the same on any part of them."""

    def on(self: Same, cells: Cells) -> Same:
        """The edit itself."""
        return self


@dataclass(frozen=True)
class Ablate(_AllCells):
    """Set units of a site to zero."""

    site: Site
    units: Int[Tensor, " K"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        return value.index_fill(-1, self.units, 0.0)


@dataclass(frozen=True)
class Scale(_AllCells):
    """Multiply units of a site by a factor; factor 1 leaves the value bit for bit."""

    site: Site
    units: Int[Tensor, " K"]
    factor: float

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units scaled."""
        return value.index_copy(-1, self.units, value[..., self.units] * self.factor)


@dataclass(frozen=True)
class Replace:
    """Put given values in place of units of a site (of all of them when ``units`` is None), where
    ``at`` is true.
    """

    site: Site
    values: Float[Tensor, "*batch_time K"]
    units: Int[Tensor, " K"] | None = None
    at: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units replaced."""
        new = self.values.to(value)
        if self.units is not None:
            new = value.index_copy(-1, self.units, new.expand(*value.shape[:-1], -1))
        return (
            new.expand_as(value) if self.at is None else torch.where(self.at[..., None], new, value)
        )

    def on(self, cells: Cells) -> Replace:
        """The edit on some cells: see ``interp.engines.shared_prefix``."""
        values = self.values if self.values.ndim == 1 else cells(_by_row(self.values))
        return replace(self, values=values, at=None if self.at is None else cells(self.at))


@dataclass(frozen=True)
class ReplaceByRow:
    """Put given values in place of units of a site, in each row of those that ``rows`` names, at
    every position.
    """

    site: Site
    values: Float[Tensor, "*batch_time K"]
    units: Int[Tensor, " K"]
    rows: Bool[Tensor, "B T K"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units replaced; ``rows`` is of all positions where it has one."""
        new = torch.where(self.rows.to(value.device), self.values.to(value), value[..., self.units])
        return value.index_copy(-1, self.units, new)

    def on(self, cells: Cells) -> ReplaceByRow:
        """The edit on some cells: see ``interp.engines.shared_prefix``."""
        values = self.values if self.values.ndim == 1 else cells(_by_row(self.values))
        return replace(self, values=values, rows=cells(self.rows))


@dataclass(frozen=True)
class Enter(Replace):
    """Put in the stream that a block was given in an earlier pass on the same tokens: blocks below
    need not run.
    """

    begins: ClassVar[bool] = True


@dataclass(frozen=True)
class Blend:
    """Go a share of the way from another value to the site's own, live: ``other + share * (value -
    other)``.
    """

    site: Site
    other: Float[Tensor, "B T W"]
    share: float

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value between the two; gradients flow through the live part."""
        return self.other + self.share * (value - self.other)

    def on(self, cells: Cells) -> Blend:
        """The edit on some cells: see ``interp.engines.shared_prefix``."""
        return replace(self, other=cells(self.other))


@dataclass(frozen=True)
class Project(_AllCells):
    """Take a share of a site's component along a direction of length 1 away: ``x - share * (x . r)
    r``.
    """

    site: Site
    direction: Float[Tensor, " W"]
    share: float = 1.0

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with less (at share 1, nothing) along the direction."""
        # half precision would leave a part in two hundred of it
        wide = widen(value)
        direction = self.direction.to(wide)
        return (wide - self.share * (wide @ direction)[..., None] * direction).to(value.dtype)


@dataclass(frozen=True)
class Add:
    """Add given values to a site."""

    site: Site
    values: Float[Tensor, "*batch_time W"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the values added."""
        return value + self.values.to(value)

    def on(self, cells: Cells) -> Add:
        """The edit on some cells: see ``interp.engines.shared_prefix``."""
        return self if self.values.ndim == 1 else replace(self, values=cells(_by_row(self.values)))


@dataclass(frozen=True)
class Observe:
    """Hand a site's value to a function as the pass goes by, before any later edit; the value
    itself goes on.

    What is watched need not be kept until the pass ends. The function runs where the pass runs: not
    remotely.
    """

    site: Site
    see: Callable[[Tensor], None]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The same value."""
        self.see(value)
        return value


@dataclass(frozen=True, eq=False)
class Transform:
    """Put what a function makes of a site's own rows in their place, where ``at`` is true; the rest
    stays bit for bit.

    The function is given rows of every position at once, in at least float32, and runs where the
    pass runs: not remotely.
    """

    site: Site
    make: Callable[[Float[Tensor, "rows W"]], Float[Tensor, "rows W"]]
    at: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with those rows as the function makes them."""
        at = (
            torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device)
            if self.at is None
            else self.at
        )
        at = at.to(value.device)
        new = value.clone()
        new[at] = self.make(widen(value[at])).to(value.dtype)
        return new

    def on(self, cells: Cells) -> Transform:
        """The edit on some cells: see ``interp.engines.shared_prefix``."""
        return self if self.at is None else replace(self, at=cells(self.at))


@dataclass(frozen=True)
class KeepLastPosition:
    """Let only the last column go on, so that what reads the site works on one position of every
    prompt.

    What is added to a stream of all positions is then right in its last column only: a pass under
    this edit is for streams that are replaced at the next block, or for the last block.
    """

    site: Site

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B one W"]:
        """The last column."""
        return value[:, -1:].contiguous()


@dataclass(frozen=True, eq=False)
class Take(_AllCells):
    """Set units of a site to zero and keep what they were for a later edit of the same pass,
    ``Write``.
    """

    site: Site
    units: Int[Tensor, " K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        self.kept[:] = [value[..., self.units]]
        return value.index_fill(-1, self.units, 0.0)


@dataclass(frozen=True, eq=False)
class Write(_AllCells):
    """Add to a site what the units that ``Take`` kept earlier in the pass write through
    ``columns``.
    """

    site: Site
    columns: Float[Tensor, "W K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with ``h columns`` added."""
        return value + (self.kept[0].to(self.columns) @ self.columns.T).to(value)


def _by_row(values: Tensor) -> Float[Tensor, "B T W"]:
    return values[None] if values.ndim == 2 else values
