"""The donor's activations that are kept between passes: only those of the units in question."""

from collections.abc import Iterable

from jaxtyping import Int
from torch import Tensor

from interp.interventions.intervention import Activations, Channels
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Site

Wanted = dict[Site, Int[Tensor, " K"] | None]


def wanted_of(unit: Unit, model: Model, units: Iterable[tuple[int, int]] | None) -> Wanted:
    """The sites at which a donor is read, with the channels of some units, or None for all."""
    if units is None:
        return {unit.site(layer): None for layer in range(model.anatomy.n_layers)}
    channels = unit.channels(model.anatomy, {*units}, model.device)
    return {unit.site(layer): index for layer, index in channels.items()}


def only(values: dict[Site, Tensor], wanted: Wanted) -> Activations:
    """These channels of the values; ``values`` is emptied, so that other channels are freed."""
    found: dict[Site, Tensor | Channels] = {}
    for site, index in wanted.items():
        value = values.pop(site)
        found[site] = value if index is None else Channels.from_values(value, index)
    return found
