"""Edits as data, exactly undone: they live for one run, on activations, and never touch a weight.

An ``Intervention`` is a named change a model undergoes while it reads or writes text. Its edits are either fixed
(zero, mean) or bound, at every step, to what a donor computes on the same tokens (the base model, or the tuned model
on the harmless twin of a prompt).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Edit
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.units import NEURON, Unit
from interp.sites import Site

Units = Mapping[int, Int[Tensor, " K"]]
Kind = Literal["zero", "mean", "donor", "activation", "weights", "edits"]


@dataclass(frozen=True)
class Ablate:
    """Set units of a site to zero."""

    site: Site
    units: Int[Tensor, " K"]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        return value.index_fill(-1, self.units, 0.0)


@dataclass(frozen=True)
class Scale:
    """Multiply units of a site by a factor; factor 1 leaves the value bit for bit."""

    site: Site
    units: Int[Tensor, " K"]
    factor: float

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units scaled."""
        return value.index_copy(-1, self.units, value[..., self.units] * self.factor)


@dataclass(frozen=True)
class Replace:
    """Put given values in place of units of a site (of all of them when ``units`` is None), where ``at`` is true."""

    site: Site
    values: Float[Tensor, "*batch_time K"]
    units: Int[Tensor, " K"] | None = None
    at: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units replaced."""
        new = self.values.to(value)
        if self.units is not None:
            new = value.index_copy(-1, self.units, new.expand(*value.shape[:-1], -1))
        return new.expand_as(value) if self.at is None else torch.where(self.at[..., None], new, value)


@dataclass(frozen=True)
class Blend:
    """Go a share of the way from another value to the site's own, live: ``other + share * (value - other)``."""

    site: Site
    other: Float[Tensor, "B T W"]
    share: float

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value between the two; gradients flow through the live part."""
        return self.other + self.share * (value - self.other)


@dataclass(frozen=True)
class Project:
    """Take a share of a site's component along a direction of length 1 away: ``x - share * (x . r) r``."""

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


@dataclass(frozen=True)
class Watch:
    """Hand a site's value to a function as the pass goes by, before any later edit; the value itself goes on.

    What is watched need not be kept until the pass ends. The function runs where the pass runs: not remotely.
    """

    site: Site
    see: Callable[[Tensor], None]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The same value."""
        self.see(value)
        return value


@dataclass(frozen=True, eq=False)
class Through:
    """Put what a function makes of a site's own rows in their place, where ``at`` is true; the rest stays bit for bit.

    The function is given rows of every position at once, in at least float32, and runs where the pass runs: not
    remotely.
    """

    site: Site
    make: Callable[[Float[Tensor, "rows W"]], Float[Tensor, "rows W"]]
    at: Bool[Tensor, "B T"] | None = None

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with those rows as the function makes them."""
        at = torch.ones(value.shape[:-1], dtype=torch.bool, device=value.device) if self.at is None else self.at
        at = at.to(value.device)
        new = value.clone()
        new[at] = self.make(widen(value[at])).to(value.dtype)
        return new


@dataclass(frozen=True)
class Last:
    """Let only the last column go on, so that what reads the site works on one position of every prompt.

    What is added to a stream of all positions is then right in its last column only: a pass under this edit is for
    streams that are replaced at the next block, or for the last block.
    """

    site: Site

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B one W"]:
        """The last column."""
        return value[:, -1:].contiguous()


@dataclass(frozen=True, eq=False)
class Take:
    """Set units of a site to zero and keep what they were for a later edit of the same pass, ``Write``."""

    site: Site
    units: Int[Tensor, " K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with the units at zero."""
        self.kept[:] = [value[..., self.units]]
        return value.index_fill(-1, self.units, 0.0)


@dataclass(frozen=True, eq=False)
class Write:
    """Add to a site what the units that ``Take`` kept earlier in the pass write through ``columns``."""

    site: Site
    columns: Float[Tensor, "W K"]
    kept: list[Tensor]

    def apply(self, value: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The value with ``h columns`` added."""
        return value + (self.kept[0].to(self.columns) @ self.columns.T).to(value)


def by_layer(pairs: Iterable[tuple[int, int]], device: torch.device | str = "cpu") -> dict[int, Int[Tensor, " K"]]:
    """Group (layer, neuron) pairs into sorted index tensors per layer."""
    grouped: dict[int, list[int]] = {}
    for layer, neuron in pairs:
        grouped.setdefault(int(layer), []).append(int(neuron))
    return {layer: torch.tensor(sorted(found), device=device) for layer, found in sorted(grouped.items())}


def graft(
    units: Units,
    activations: Mapping[Site, Float[Tensor, "B T N"]],
    write_weights: Mapping[int, Float[Tensor, "D N"]],
    at: Bool[Tensor, "B T"] | None = None,
    unit: Unit = NEURON,
) -> list[Edit]:
    """Give channels another model's contributions, ``h_j W[:, j]`` with both factors the donor's.

    The receiver's own activation is set to zero at the input of the matrix that a unit writes through (a neuron's down
    projection) and the donor's contribution is added to its output; biases stay the receiver's. Where ``at`` is false
    the receiver keeps its own.
    """
    edits: list[Edit] = []
    for layer, index in units.items():
        write = write_weights[layer][:, index].T.to(index.device)
        donated = activations[unit.site(layer)][..., index].to(write) @ write
        if at is None:
            edits += [Ablate(unit.site(layer), index), Add(unit.contribution(layer), donated)]
            continue
        nothing = torch.zeros(len(index), dtype=donated.dtype, device=donated.device)
        donated = donated.masked_fill(~at[..., None], 0.0)
        edits += [Replace(unit.site(layer), nothing, index, at), Add(unit.contribution(layer), donated)]
    return edits


def rewire(units: Units, write_weights: Mapping[int, Float[Tensor, "D N"]], unit: Unit = NEURON) -> list[Edit]:
    """Let channels write their own live activation through another model's columns: the receiver's ``h_j``, its ``W``.

    The same as a receiver whose matrix has these columns from the other model; no weight is touched.
    """
    edits: list[Edit] = []
    for layer, index in units.items():
        kept: list[Tensor] = []
        columns = write_weights[layer][:, index]
        edits += [Take(unit.site(layer), index, kept), Write(unit.contribution(layer), columns, kept)]
    return edits


@dataclass(frozen=True, eq=False)
class Intervention:
    """A named change of a model's neurons, or of the channels of another kind of ``unit``.

    ``kind``: ``zero`` and ``mean`` are fixed, ``edits`` are those given in ``fixed``. Of a unit's contribution ``h W``,
    ``donor`` takes both factors from ``donor``, ``activation`` its activation h, written through the receiver's own
    weights (activation patching, Chen et al. 2024, arXiv 2406.14144), and ``weights`` writes the receiver's own
    activation through ``write_weights``. They hold at every position and step. The donor reads the same text as the
    receiver, or (``twin``) the twin prompt followed by the same answer. The two texts end together; where a shorter
    twin has no token, the receiver keeps its own activation.
    """

    name: str
    units: Units
    kind: Kind = "zero"
    means: Mapping[int, Float[Tensor, " N"]] = field(default_factory=dict)
    donor: Model | None = None
    twin: bool = False
    write_weights: Mapping[int, Float[Tensor, "D N"]] = field(default_factory=dict)
    unit: Unit = NEURON
    fixed: Sequence[Edit] = ()

    @property
    def reads(self) -> Sequence[Site]:
        """What the donor must be read at; empty where nothing of a donor's pass is taken."""
        return [self.unit.site(layer) for layer in self.units] if self.kind in ("donor", "activation") else []

    def bind(
        self, activations: Mapping[Site, Float[Tensor, "B T N"]], real: Bool[Tensor, "B T"] | None = None
    ) -> list[Edit]:
        """The edits of one pass, given the donor's activations at ``reads`` on the same columns.

        ``real``: which of these cells are tokens of the donor's text; None when it reads the receiver's own.
        """
        site = self.unit.site
        if self.kind == "edits":
            return list(self.fixed)
        if self.kind == "zero":
            return [Ablate(site(layer), index) for layer, index in self.units.items()]
        if self.kind == "mean":
            return [Replace(site(layer), self.means[layer][index], index) for layer, index in self.units.items()]
        if self.kind == "weights":
            return rewire(self.units, self.write_weights, self.unit)
        if self.kind == "activation":
            return [
                Replace(site(layer), activations[site(layer)][..., index], index, real)
                for layer, index in self.units.items()
            ]
        return graft(self.units, activations, self.write_weights, real, self.unit)
