"""Interventions: named changes of a set of units, which become the edits of each pass.

The edits of an ``Intervention`` are either fixed (zero, mean) or computed at every step from a
donor's activations on the same tokens (the base model, or the tuned model on a prompt's twin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Edit
from interp.errors import OptionError, required
from interp.interventions.edits import Ablate, Add, Replace, ReplaceByRow, WriteKept, ZeroAndKeep
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.units import NEURON, Unit
from interp.sites import Site

Units = Mapping[int, Int[Tensor, " K"]]
Kind = Literal["zero", "mean", "donor", "activation", "weights", "edits"]


@dataclass(frozen=True)
class Channels:
    """Values of some channels of a site, and the indices of these channels, ascending.

    Sets of units need few of a donor's activations; the others are not kept between passes.
    """

    values: Float[Tensor, "B T K"]
    index: Int[Tensor, " K"]

    @classmethod
    def from_values(cls, values: Float[Tensor, "B T N"], index: Int[Tensor, " K"]) -> Channels:
        """A copy of these channels of the values of all."""
        return cls(values[..., index.to(values.device)], index.to(values.device))

    def at(self, index: Int[Tensor, " J"]) -> Float[Tensor, "B T J"]:
        """The values of some channels; OptionError for one that was not kept."""
        index = index.to(self.index.device)
        place = torch.searchsorted(self.index, index).clamp(max=max(len(self.index) - 1, 0))
        if not len(self.index) or not to_host((self.index[place] == index).all()):
            raise OptionError(
                "a set has units whose activations were not kept; name all units where they are"
                " read"
            )
        return self.values[..., place]


Activations = Mapping[Site, Tensor | Channels]
"""A donor's activations by site, of all channels or of some."""


def channels_at(value: Tensor | Channels, index: Int[Tensor, " K"]) -> Float[Tensor, "B T K"]:
    """Some channels of a donor's activations at one site."""
    return value.at(index) if isinstance(value, Channels) else value[..., index]


def last_columns(value: Tensor | Channels, rows: Sequence[int], width: int) -> Tensor | Channels:
    """A donor's activations at the last columns of some rows."""
    if isinstance(value, Channels):
        return replace(value, values=value.values[list(rows)][:, -width:])
    return value[list(rows)][:, -width:]


def patch_contributions(
    units: Units,
    activations: Activations,
    write_weights: Mapping[int, Float[Tensor, "D N"]],
    mask: Bool[Tensor, "B T"] | None = None,
    unit: Unit = NEURON,
) -> list[Edit]:
    """Replace contributions of channels, ``h_j W[:, j]``, by the donor's, both factors.

    The receiver's activation is set to zero at the input of the output matrix (a neuron's down
    projection), and the donor's contribution is added to the output; biases stay the receiver's.
    Where ``mask`` is false the receiver keeps its own contribution.
    """
    edits: list[Edit] = []
    for layer, index in units.items():
        write = write_weights[layer][:, index].T.to(index.device)
        donated = channels_at(activations[unit.site(layer)], index).to(write) @ write
        if mask is None:
            edits += [Ablate(unit.site(layer), index), Add(unit.contribution(layer), donated)]
            continue
        nothing = torch.zeros(len(index), dtype=donated.dtype, device=donated.device)
        donated = donated.masked_fill(~mask[..., None], 0.0)
        edits += [
            Replace(unit.site(layer), nothing, index, mask),
            Add(unit.contribution(layer), donated),
        ]
    return edits


def patch_output_weights(
    units: Units, write_weights: Mapping[int, Float[Tensor, "D N"]], unit: Unit = NEURON
) -> list[Edit]:
    """Edits that write the receiver's own activation ``h_j`` through another model's columns of W.

    Equal to a receiver whose matrix has these columns from the other model; no weight is changed.
    """
    edits: list[Edit] = []
    for layer, index in units.items():
        stored: list[Tensor] = []
        columns = write_weights[layer][:, index]
        edits += [
            ZeroAndKeep(unit.site(layer), index, stored),
            WriteKept(unit.contribution(layer), columns, stored),
        ]
    return edits


@dataclass(frozen=True, eq=False)
class Intervention:
    """A named change of a model's neurons, or of the channels of another kind of ``unit``.

    ``kind``: ``zero`` and ``mean`` are fixed values, ``edits`` are those in ``edits``. Of a unit's
    contribution ``h W``, ``donor`` takes both factors from ``donor``; ``activation`` takes only the
    activation h, written through the receiver's own weights (activation patching, Chen et al. 2024,
    arXiv 2406.14144); ``weights`` writes the receiver's own activation through ``write_weights``.
    They act at every position and step. The donor reads the receiver's text, or (``twin``) the twin
    prompt followed by the same answer. Both texts end at the same column; where a shorter twin has
    no token, the receiver keeps its own activation.

    ``row_masks``: which units of a layer are changed in each row of a batch, None for all in every
    row. It lets many sets share a batch, see ``per_row``.
    """

    name: str
    units: Units
    kind: Kind = "zero"
    means: Mapping[int, Float[Tensor, " N"]] = field(default_factory=dict)
    donor: Model | None = None
    twin: bool = False
    write_weights: Mapping[int, Float[Tensor, "D N"]] = field(default_factory=dict)
    unit: Unit = NEURON
    edits: Sequence[Edit] = ()
    row_masks: Mapping[int, Bool[Tensor, "B K"]] | None = None

    @classmethod
    def per_row(
        cls, interventions: Sequence[Intervention | None], indices: Sequence[int]
    ) -> Intervention:
        """One intervention for a batch whose row ``i`` is under ``each[of[i]]``; they may differ
        only in their units.
        """
        by_index = {at: required(interventions[at], "an intervention") for at in {*indices}}
        first = by_index[indices[0]]
        if len(by_index) == 1:
            return first
        units, among = {}, {}
        for layer in sorted({layer for one in by_index.values() for layer in one.units}):
            sets = {at: one.units[layer] for at, one in by_index.items() if layer in one.units}
            units[layer] = index = torch.cat(list(sets.values())).unique()
            none = torch.zeros(len(index), dtype=torch.bool, device=index.device)
            masks = {at: torch.isin(index, sets[at]) if at in sets else none for at in by_index}
            among[layer] = torch.stack([masks[at] for at in indices])
        return replace(first, units=units, row_masks=among)

    def on_rows(self, rows: Int[Tensor, " K"]) -> Intervention:
        """The same intervention on some rows of the batch."""
        if self.row_masks is None:
            return self
        return replace(
            self,
            row_masks={
                layer: which[rows.to(which.device)] for layer, which in self.row_masks.items()
            },
        )

    @property
    def reads(self) -> Sequence[Site]:
        """The sites at which the donor is read; empty where no donor is."""
        return (
            [self.unit.site(layer) for layer in self.units]
            if self.kind in ("donor", "activation")
            else []
        )

    def bind(self, activations: Activations, real: Bool[Tensor, "B T"] | None = None) -> list[Edit]:
        """The edits of one pass, given the donor's activations at ``reads`` on the same columns.

        ``real``: which of these cells are tokens of the donor's text; None where it reads the
        receiver's text.
        """
        site = self.unit.site
        if self.row_masks is not None:
            return self._bind_by_row(activations)
        if self.kind == "edits":
            return list(self.edits)
        if self.kind == "zero":
            return [Ablate(site(layer), index) for layer, index in self.units.items()]
        if self.kind == "mean":
            return [
                Replace(site(layer), self.means[layer][index], index)
                for layer, index in self.units.items()
            ]
        if self.kind == "weights":
            return patch_output_weights(self.units, self.write_weights, self.unit)
        if self.kind == "activation":
            return [
                Replace(site(layer), channels_at(activations[site(layer)], index), index, real)
                for layer, index in self.units.items()
            ]
        return patch_contributions(self.units, activations, self.write_weights, real, self.unit)

    def _bind_by_row(self, activations: Activations) -> list[Edit]:
        if self.kind not in ("donor", "activation") or self.twin or self.row_masks is None:
            raise OptionError(
                f"sets of units cannot be read together under {self.name}; read them one by one"
            )
        edits: list[Edit] = []
        for layer, index in self.units.items():
            site, row_mask = self.unit.site(layer), self.row_masks[layer][:, None]
            donated = channels_at(activations[site], index)
            if self.kind == "activation":
                edits.append(ReplaceByRow(site, donated, index, row_mask))
                continue
            write = self.write_weights[layer][:, index].T.to(index.device)
            nothing = torch.zeros(len(index), dtype=donated.dtype, device=donated.device)
            donated = donated.to(write).masked_fill(~row_mask, 0.0)
            edits += [
                ReplaceByRow(site, nothing, index, row_mask),
                Add(self.unit.contribution(layer), donated @ write),
            ]
        return edits
