"""Places of a stored run: an amount per part of a block, out of the possible amount."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from interp.rows import LayerRow, key, measure
from interp.sites import MATRICES, Site
from interp.table import Table

SUBLAYERS = {"attn": "attention", "mlp": "mlp"}
BLOCK = "block"
HEAD = "head"


class Place(NamedTuple):
    """One part of one block: the measured ``amount``, and the possible ``size``."""

    layer: int
    part: str
    amount: float
    size: float


class PlaceRow:
    """A row per method, block and part."""

    made_by: str = key("key of the run, or keys of all pooled runs")
    method: str = key("method")
    layer: int = LayerRow.layer
    part: str = key("attention head, matrix, attention, mlp, or the whole block")
    amount: float = measure(
        "sum of |scores|, first-order effect, intruders, grafted weights, norm of the fine-tuned"
        " contribution, or squared weight change"
    )
    size: float = measure(
        "number of units, vectors or weights, norm of the base contribution, or squared weight norm"
    )
    intensity: float = measure("amount divided by size")
    share: float = measure("share of the method's total amount")


def _located_places(run: Table) -> list[Place]:
    heads = run.summary.get("unit", "neuron") == HEAD
    return _head_places(run, np.abs(run["score"])) if heads else _neuron_places(run)


def _neuron_places(units: Table) -> list[Place]:
    """The MLPs, by the mean size of their neurons' scores."""
    scores = np.abs(units["score"])
    return [
        Place(layer, "mlp", float(scores[in_layer].sum()), float(in_layer.sum()))
        for layer, in_layer in _layer_masks(units)
    ]


def _head_places(heads: Table, amounts: np.ndarray) -> list[Place]:
    """Every attention head, by an amount of its own."""
    rows = zip(heads["layer"].tolist(), heads["head"].tolist(), amounts.tolist(), strict=True)
    return [Place(layer, f"{HEAD} {head}", float(amount), 1.0) for layer, head, amount in rows]


def _circuit_places(run: Table) -> list[Place]:
    """Heads by the largest effect of a path from them in the fine-tuned model, over the groups."""
    sizes = np.nan_to_num(np.abs(run["score_tuned"]))
    largest: dict[tuple[int, int], float] = {}
    rows = zip(run["layer"].tolist(), run["head"].tolist(), sizes.tolist(), strict=True)
    for layer, head, size in rows:
        largest[layer, head] = max(size, largest.get((layer, head), 0.0))
    return [Place(layer, f"{HEAD} {head}", size, 1.0) for (layer, head), size in largest.items()]


def _patched_places(run: Table) -> list[Place]:
    """Single heads by the first-order effect of exchanging them between the models."""
    heads = run.select(run["kind"] == HEAD)
    effects = np.abs(heads["base_first_order"] + heads["tuned_first_order"]) / 2
    return _head_places(heads, effects)


def _masked_places(run: Table) -> list[Place]:
    """Heads of the fine-tuned model's mask, by how much of the source's output they take."""
    heads = run.select(run["found"] == "tuned")
    return _head_places(heads, 1.0 - heads["mask"])


def _weight_places(run: Table) -> list[Place]:
    """Matrices, by the size of the first-order effect of their change per weight."""
    modules = run.select(run["part"] != "rest")
    effects = np.abs(modules["base_first_order"] + modules["tuned_first_order"]) / 2
    return _places_by_part(modules, effects, modules["size"].astype(float))


def _intruder_places(run: Table) -> list[Place]:
    return _places_by_part(run, run["is_intruder"].astype(float), np.ones(len(run)))


def _graft_places(run: Table) -> list[Place]:
    layers = run.tables["layers"].select(run.tables["layers"]["kind"] == "learned")
    return _places_by_part(layers, layers["kept"], layers["size"])


def _tuco_places(run: Table) -> list[Place]:
    layers = run.tables["layers"]
    return [
        Place(
            layer,
            BLOCK,
            float(layers["tuned_size"][in_layer].mean()),
            float(layers["base_size"][in_layer].mean()),
        )
        for layer, in_layer in _layer_masks(layers)
    ]


def _movement_places(run: Table) -> list[Place]:
    # squared norms are additive over matrices, norms are not
    weights = run.tables["weights"]
    return _places_by_part(weights, weights["change"] ** 2, weights["norm"] ** 2)


def _layer_masks(rows: Table) -> Iterator[tuple[int, np.ndarray]]:
    """Every block, and which rows are of it."""
    for layer in np.unique(rows["layer"]):
        yield int(layer), rows["layer"] == layer


def _places_by_part(weights: Table, amount: np.ndarray, size: np.ndarray) -> list[Place]:
    names = [
        name for name in dict.fromkeys(weights["part"].tolist()) if name.split(",")[0] in MATRICES
    ]
    return [
        Place(layer, name, float(amount[selected].sum()), float(size[selected].sum()))
        for name in names
        for layer, in_layer in _layer_masks(weights)
        if layer >= 0 and (selected := in_layer & (weights["part"] == name)).any()
    ]


CHANGED_CLASSES = ("tuned-only", "base-only", "rotated", "rescaled")


def _feature_places(run: Table) -> list[Place]:
    """For one dictionary: the share of live latents that fine-tuning changed, at its site."""
    site = Site.parse(run.summary["site"])
    part = next((part for name, part in SUBLAYERS.items() if name in site.hook), BLOCK)
    changed = run["claimed"] & np.isin(run["class"], CHANGED_CLASSES)
    return [Place(site.layer, part, float(changed.sum()), float(run.summary["live"]))]


METHODS: dict[str, tuple[str, Callable[[Table], list[Place]]]] = {
    "locate-neurons": ("neurons", _located_places),
    "intruders": ("intruders", _intruder_places),
    "graft": ("graft", _graft_places),
    "tuco": ("tuco", _tuco_places),
    "compare": ("movement", _movement_places),
    "sae-diff": ("features", _feature_places),
    "patch-weights": ("weights", _weight_places),
    "circuit": ("circuit", _circuit_places),
    "patch-heads": ("patched heads", _patched_places),
    "component-masking": ("masks", _masked_places),
    "lofit": ("scales", lambda run: _head_places(run, run["score"])),
    "wrapped-pruning": ("pruning", lambda run: _neuron_places(run.tables["units"])),
    "sae-circuit": ("head codes", lambda run: _head_places(run, run["moderated"].clip(0))),
}
"""Kind of run -> name of the method here, and the function that reads its places."""


def method_name(run: Table) -> str:
    """The name of a run's method here: heads and neurons are located by one command."""
    heads = run.kind == "locate-neurons" and run.summary.get("unit") == HEAD
    return "located heads" if heads else METHODS[run.kind][0]


POOLED_METHODS = ("features",)
"""Methods whose runs cover only one place, so that all runs of one pair are pooled."""


def level_of(places: Sequence[Place]) -> str:
    """The finest level that a method distinguishes."""
    parts = {place.part for place in places}
    if BLOCK in parts:
        return "block"
    if parts and all(part.startswith(f"{HEAD} ") for part in parts):
        return HEAD
    return "matrix" if parts and parts <= MATRICES.keys() else "sublayer"


def common_level(first: str, second: str) -> str:
    """The finest level to which both can be reduced: a head is no part of one matrix."""
    if first == second:
        return first
    return "block" if "block" in (first, second) else "sublayer"


def intensities(places: Sequence[Place], level: str) -> dict[tuple[int, str], float]:
    """Amount divided by size, summed over the parts of each place at this level."""
    sums: dict[tuple[int, str], np.ndarray] = {}
    for place in places:
        key = place.layer, _part_at(place.part, level)
        sums[key] = sums.get(key, 0) + np.array([place.amount, place.size])
    return {place: float(amount / size) if size else 0.0 for place, (amount, size) in sums.items()}


def _part_at(part: str, level: str) -> str:
    if level == "block":
        return BLOCK
    if level != "sublayer":
        return part
    name = part.split(".")[0].split(" ")[0]
    return "attention" if name == HEAD else SUBLAYERS.get(name, part)
