"""The donor's activations that are kept between passes: only those of the units in question."""

from collections.abc import Iterable

from jaxtyping import Int
from torch import Tensor

from interp.interventions.intervention import Activations, Channels
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Site

ChannelsBySite = dict[Site, Int[Tensor, " K"] | None]


def channels_by_site(
    unit: Unit, model: Model, units: Iterable[tuple[int, int]] | None
) -> ChannelsBySite:
    """The sites at which a donor is read, with the channels of some units, or None for all."""
    if units is None:
        return {unit.site(layer): None for layer in range(model.anatomy.n_layers)}
    channels = unit.channels(model.anatomy, {*units}, model.device)
    return {unit.site(layer): index for layer, index in channels.items()}


def select_channels(values: dict[Site, Tensor], channels: ChannelsBySite) -> Activations:
    """These channels of the values; ``values`` is emptied, so that other channels are freed."""
    selected: dict[Site, Tensor | Channels] = {}
    for site, index in channels.items():
        value = values.pop(site)
        selected[site] = value if index is None else Channels.from_values(value, index)
    return selected
