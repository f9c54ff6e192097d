"""Places of a stored run: an amount per part of a block, out of the possible amount."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from interp.sites import MATRICES, Site
from interp.table import Table

SUBLAYERS = {"attn": "attention", "mlp": "mlp"}
BLOCK = "block"
LEVELS = ("matrix", "sublayer", "block")


class Place(NamedTuple):
    """One part of one block: the measured ``amount``, and the possible ``size``."""

    layer: int
    part: str
    amount: float
    size: float


def _neurons(run: Table) -> list[Place]:
    unit = "mlp" if run.summary.get("unit", "neuron") == "neuron" else "attention"
    scores = np.abs(run["score"])
    at = [(int(layer), run["layer"] == layer) for layer in np.unique(run["layer"])]
    return [
        Place(layer, unit, float(scores[in_layer].sum()), float(in_layer.sum()))
        for layer, in_layer in at
    ]


def _intruders(run: Table) -> list[Place]:
    return _by_part(run, run["is_intruder"].astype(float), np.ones(len(run)))


def _graft(run: Table) -> list[Place]:
    layers = run.tables["layers"]
    return _by_part(layers.select(layers["kind"] == "learned"), "kept", "size")


def _tuco(run: Table) -> list[Place]:
    layers = run.tables["layers"]
    at = [(int(layer), layers["layer"] == layer) for layer in np.unique(layers["layer"])]
    return [
        Place(
            layer,
            BLOCK,
            float(layers["tuned_size"][in_layer].mean()),
            float(layers["base_size"][in_layer].mean()),
        )
        for layer, in_layer in at
    ]


def _movement(run: Table) -> list[Place]:
    # squared norms are additive over matrices, norms are not
    weights = run.tables["weights"]
    return _by_part(weights, weights["change"] ** 2, weights["norm"] ** 2)


def _by_part(part: Table, amount: np.ndarray | str, size: np.ndarray | str) -> list[Place]:
    amount, size = (
        part[values] if isinstance(values, str) else values for values in (amount, size)
    )
    known = [
        name for name in dict.fromkeys(part["part"].tolist()) if name.split(",")[0] in MATRICES
    ]
    return [
        Place(int(layer), name, float(amount[mine].sum()), float(size[mine].sum()))
        for name in known
        for layer in np.unique(part["layer"][part["part"] == name])
        if (mine := (part["part"] == name) & (part["layer"] == layer)).any() and layer >= 0
    ]


CHANGED = ("tuned-only", "base-only", "rotated", "rescaled")
_SITES = {"mlp": "mlp", "attn": "attention"}


def _features(run: Table) -> list[Place]:
    """For one dictionary: the share of live latents that fine-tuning changed, at its site."""
    site = Site.parse(run.summary["site"])
    part = next((part for name, part in _SITES.items() if name in site.hook), BLOCK)
    changed = run["claimed"] & np.isin(run["class"], CHANGED)
    return [Place(site.layer, part, float(changed.sum()), float(run.summary["live"]))]


METHODS: dict[str, tuple[str, Callable[[Table], list[Place]]]] = {
    "locate-neurons": ("neurons", _neurons),
    "intruders": ("intruders", _intruders),
    "graft": ("graft", _graft),
    "tuco": ("tuco", _tuco),
    "compare": ("movement", _movement),
    "sae-diff": ("features", _features),
}
"""Kind of run -> name of the method here, and the function that reads its places."""

POOLED = ("features",)
"""Methods whose runs cover only one place, so that all runs of one pair are pooled."""


def level_of(places: Sequence[Place]) -> str:
    """The finest level that a method distinguishes."""
    parts = {place.part for place in places}
    if BLOCK in parts:
        return "block"
    return "matrix" if parts and parts <= MATRICES.keys() else "sublayer"


def intensities(places: Sequence[Place], level: str) -> dict[tuple[int, str], float]:
    """Amount divided by size, summed over the parts of each place at this level."""
    sums: dict[tuple[int, str], np.ndarray] = {}
    for place in places:
        part = {
            "matrix": place.part,
            "sublayer": SUBLAYERS.get(place.part.split(".")[0], place.part),
            "block": BLOCK,
        }[level]
        sums[place.layer, part] = sums.get((place.layer, part), 0) + np.array(
            [place.amount, place.size]
        )
    return {place: float(amount / size) if size else 0.0 for place, (amount, size) in sums.items()}
