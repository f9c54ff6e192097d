"""Edits as data: they change activations during one pass and never a weight, so that they are
undone exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.maths.precision import widen
from interp.sites import Site

Cells = Callable[[Tensor], Tensor]
Same = TypeVar("Same")


class _SameOnAllCells:
    """An edit that holds no values of single cells is the same on any part of a batch."""

    def select_cells(self: Same, cells: Cells) -> Same:
        """The edit itself."""
        return self


def _set_site_and_units(
    edit: object, site: Site | str, units: Int[Tensor, " K"] | Sequence[int]
) -> None:
    """Set the fields of a frozen edit, from a site's name and a list of units too."""
    object.__setattr__(edit, "site", Site.parse(site) if isinstance(site, str) else site)
    index = units if isinstance(units, Tensor) else torch.tensor(list(units), dtype=torch.int64)
    object.__setattr__(edit, "units", index)


@dataclass(frozen=True, init=False)
class Ablate(_SameOnAllCells):
    """Set units of a site to zero: ``Ablate("blocks.5.mlp.hook_post", [3])``."""

    site: Site
    units: Int[Tensor, " K"]

    def __init__(self, site: Site | str, units: Int[Tensor, " K"] | Sequence[int]) -> None:
        _set_site_and_units(self, site, units)

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        return value.index_fill(-1, self.units.to(value.device), 0.0)


@dataclass(frozen=True, init=False)
class Scale(_SameOnAllCells):
    """Multiply units of a site by a factor; factor 1 leaves the value unchanged, bit for bit."""

    site: Site
    units: Int[Tensor, " K"]
    factor: float

    def __init__(
        self, site: Site | str, units: Int[Tensor, " K"] | Sequence[int], factor: float
    ) -> None:
        _set_site_and_units(self, site, units)
        object.__setattr__(self, "factor", factor)

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units scaled."""
        units = self.units.to(value.device)
        return value.index_copy(-1, units, value[..., units] * self.factor)


@dataclass(frozen=True)
class Replace:
    """Replace units of a site (all of them when ``units`` is None) by given values, where ``mask``
    is true.
    """

    site: Site
    values: Float[Tensor, "*batch_time K"]
    units: Int[Tensor, " K"] | None = None
    mask: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units replaced."""
        new = self.values.to(value)
        if self.units is not None:
            new = value.index_copy(-1, self.units, new.expand(*value.shape[:-1], -1))
        return (
            new.expand_as(value)
            if self.mask is None
            else torch.where(self.mask[..., None], new, value)
        )

    def select_cells(self, cells: Cells) -> Replace:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        values = self.values if self.values.ndim == 1 else cells(_with_batch_axis(self.values))
        return replace(self, values=values, mask=None if self.mask is None else cells(self.mask))


@dataclass(frozen=True)
class ReplaceByRow:
    """Replace, at every position, those units of a site by given values that ``rows`` marks in each
    row of the batch.
    """

    site: Site
    values: Float[Tensor, "*batch_time K"]
    units: Int[Tensor, " K"]
    rows: Bool[Tensor, "B T K"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units replaced; one position of ``rows`` stands for all."""
        new = torch.where(self.rows.to(value.device), self.values.to(value), value[..., self.units])
        return value.index_copy(-1, self.units, new)

    def select_cells(self, cells: Cells) -> ReplaceByRow:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        values = self.values if self.values.ndim == 1 else cells(_with_batch_axis(self.values))
        return replace(self, values=values, rows=cells(self.rows))


@dataclass(frozen=True)
class StartFromStream(Replace):
    """Start a pass at a block, from the stream that entered it in an earlier pass on the same
    tokens: the blocks below need not run.
    """

    begins: ClassVar[bool] = True


@dataclass(frozen=True)
class Blend:
    """Interpolate between another value and the site's own: ``other + share * (value - other)``."""

    site: Site
    other: Float[Tensor, "B T W"]
    share: float

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The interpolated value; gradients flow through the site's own part."""
        return self.other + self.share * (value - self.other)

    def select_cells(self, cells: Cells) -> Blend:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        return replace(self, other=cells(self.other))


@dataclass(frozen=True)
class BlendUnits:
    """Interpolate units of a site between its own values and others where ``mask`` is true:
    ``share * value + (1 - share) * other``, with a share for each unit.

    At share 1 the value is its own and at share 0 the other, bit for bit. All units of the site have
    a share; rows of ``other`` are of the batch, or one for all positions of a row.
    """

    site: Site
    other: Float[Tensor, "B _ W"]
    share: Float[Tensor, " W"]
    mask: Bool[Tensor, "B T"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The interpolated value."""
        share = self.share.to(value)
        blend = share * value + (1 - share) * self.other.to(value)
        return torch.where(self.mask.to(value.device)[..., None], blend, value)

    def select_cells(self, cells: Cells) -> BlendUnits:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        other = self.other.expand(*self.mask.shape, -1)
        return replace(self, other=cells(other), mask=cells(self.mask))


@dataclass(frozen=True)
class Project(_SameOnAllCells):
    """Remove a share of a site's component along a unit vector r: ``x - share * (x . r) r``."""

    site: Site
    direction: Float[Tensor, " W"]
    share: float = 1.0

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with less (at share 1, nothing) along the direction."""
        # half precision would leave about 0.5 % of the component
        wide = widen(value)
        direction = self.direction.to(wide)
        return (wide - self.share * (wide @ direction)[..., None] * direction).to(value.dtype)


@dataclass(frozen=True, init=False)
class Add:
    """Add values to a site, at every position: a vector of its width, or one per cell."""

    site: Site
    values: Float[Tensor, "*batch_time W"]

    def __init__(self, site: Site | str, values: Float[Tensor, "*batch_time W"]) -> None:
        object.__setattr__(self, "site", Site.parse(site) if isinstance(site, str) else site)
        object.__setattr__(self, "values", values)

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the values added."""
        return value + self.values.to(value)

    def select_cells(self, cells: Cells) -> Add:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        return (
            self
            if self.values.ndim == 1
            else replace(self, values=cells(_with_batch_axis(self.values)))
        )


@dataclass(frozen=True)
class Observe:
    """Call a function with a site's value during the pass, before any later edit; the value stays.

    An observed value need not be kept until the pass ends. The function runs in this process, so
    not on a remote engine.
    """

    site: Site
    callback: Callable[[Tensor], None]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The same value."""
        self.callback(value)
        return value


@dataclass(frozen=True, eq=False)
class Transform:
    """Replace a site's vectors by a function of them, where ``mask`` is true; the others stay bit
    for bit.

    The function gets the vectors of all positions at once, in at least float32. It runs in this
    process, so not on a remote engine.
    """

    site: Site
    function: Callable[[Float[Tensor, "rows W"]], Float[Tensor, "rows W"]]
    mask: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with those vectors transformed."""
        mask = (
            torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device)
            if self.mask is None
            else self.mask
        )
        mask = mask.to(value.device)
        new = value.clone()
        new[mask] = self.function(widen(value[mask])).to(value.dtype)
        return new

    def select_cells(self, cells: Cells) -> Transform:
        """The edit on a part of the batch's cells; see ``interp.engines.shared_prefix``."""
        return self if self.mask is None else replace(self, mask=cells(self.mask))


@dataclass(frozen=True)
class KeepLastPosition:
    """Pass on only the last column, so that whatever reads the site computes one position per
    prompt.

    What is then added to a stream of all positions is right in its last column only. Use it where
    the stream is replaced at the next block, or in the last block.
    """

    site: Site

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B one W"]:
        """The last column."""
        return value[:, -1:].contiguous()


@dataclass(frozen=True, eq=False)
class ZeroAndKeep(_SameOnAllCells):
    """Set units of a site to zero and keep their values for a later ``Write`` of the same pass."""

    site: Site
    units: Int[Tensor, " K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        self.kept[:] = [value[..., self.units]]
        return value.index_fill(-1, self.units, 0.0)


@dataclass(frozen=True, eq=False)
class WriteKept(_SameOnAllCells):
    """Add to a site what the units kept by ``Take`` write through the matrix ``columns``."""

    site: Site
    columns: Float[Tensor, "W K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with ``h columns`` added."""
        return value + (self.kept[0].to(self.columns) @ self.columns.T).to(value)


def _with_batch_axis(values: Tensor) -> Float[Tensor, "B T W"]:
    return values[None] if values.ndim == 2 else values
