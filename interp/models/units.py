"""Units that are scored, ablated and patched: MLP neurons or attention heads.

A unit owns channels of one site and writes them through columns of one matrix: a neuron has one
channel of the down projection's input, a head has ``head_width`` channels of the attention output
projection's input.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import OptionError, UnsupportedModel
from interp.models.anatomy import UNITS_REMEDY, Anatomy
from interp.models.model import Model
from interp.sites import Site, Weight


@dataclass(frozen=True)
class Unit:
    """A kind of unit: its name, its part of a block, the site of its activations and the site it
    writes to.
    """

    name: str
    plural: str
    part: str
    hook: str
    output: str
    matrix: str

    def site(self, layer: int) -> Site:
        """The site of its activations: the input of its output matrix."""
        return Site(layer, self.hook)

    def contribution(self, layer: int) -> Site:
        """The site it writes to: the output of that matrix."""
        return Site(layer, self.output)

    def require(self, anatomy: Anatomy) -> None:
        """Raise UnsupportedModel if a family has no exact module for it."""
        if self is NEURON:
            anatomy.require_neurons()
        elif not anatomy.has_heads:
            instead = (
                "use --unit neuron" if anatomy.n_neurons and anatomy.has_parts else UNITS_REMEDY
            )
            raise UnsupportedModel(
                f"{anatomy.architecture} has no exact module for its {self.plural}; {instead}"
            )
        if not anatomy.has_parts:
            raise UnsupportedModel(
                f"{anatomy.architecture} has no exact module for the parts of its blocks, so "
                f"{self.plural} cannot be read exactly; {UNITS_REMEDY}"
            )

    def count(self, anatomy: Anatomy) -> int:
        """Units per block."""
        return anatomy.n_neurons if self is NEURON else anatomy.n_heads

    def width(self, anatomy: Anatomy) -> int:
        """Channels per unit."""
        return 1 if self is NEURON else anatomy.head_width

    def n_channels(self, anatomy: Anatomy) -> int:
        """Channels per block."""
        return self.count(anatomy) * self.width(anatomy)

    def write_weights(self, model: Model, layer: int) -> Float[Tensor, "D C"]:
        """The output weights of a block's units, as columns, with the adapter applied."""
        return model.weight(Weight(layer, self.matrix))

    def channels(
        self, anatomy: Anatomy, units: Iterable[tuple[int, int]], device: torch.device | str = "cpu"
    ) -> dict[int, Int[Tensor, " K"]]:
        """The channels of (layer, unit) pairs, sorted, by layer."""
        width = self.width(anatomy)
        grouped: dict[int, list[int]] = {}
        for layer, unit in units:
            grouped.setdefault(int(layer), []).extend(
                range(int(unit) * width, (int(unit) + 1) * width)
            )
        return {
            layer: torch.tensor(sorted(indices), device=device)
            for layer, indices in sorted(grouped.items())
        }

    def gather(
        self,
        anatomy: Anatomy,
        values: Float[Tensor, "*any C"],
        reduction: Literal["sum", "norm"] = "sum",
    ) -> Float[Tensor, "*any U"]:
        """One number per unit from one per channel: the sum, or the Euclidean norm (for one
        channel, the value itself).
        """
        width = self.width(anatomy)
        if width == 1:
            return values
        by_unit = values.unflatten(-1, (-1, width))
        return by_unit.sum(-1) if reduction == "sum" else by_unit.norm(dim=-1)


NEURON = Unit("neuron", "MLP neurons", "mlp", "mlp.hook_post", "mlp.out.hook_out", "mlp.out")
HEAD = Unit("head", "attention heads", "attention", "attn.hook_z", "attn.o.hook_out", "attn.o")
UNITS = {unit.name: unit for unit in (NEURON, HEAD)}


def unit_named(name: str) -> Unit:
    """The unit of this name; raises OptionError for an unknown one."""
    if name not in UNITS:
        raise OptionError(f"unknown unit {name!r}; use {' or '.join(UNITS)}")
    return UNITS[name]
