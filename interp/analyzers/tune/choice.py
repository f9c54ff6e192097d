"""What every arm trains: its sets of weights, as many as the located neurons have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capture import capture
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.interventions.random_sets import matched_sets
from interp.maths.host import to_host
from interp.models.units import NEURON
from interp.prompts import CONTENT, Encoded
from interp.study import Study
from interp.table import Table
from interp.training.arms import (
    CLUSTERS,
    ENTRIES,
    FULL,
    LOCATED,
    LORA,
    MAGNITUDE,
    OTHER,
    PER_ROW,
    PRINCIPAL,
    RANDOM,
    block_matrices,
    lora_ranks,
    n_values,
    neuron_places,
    per_row,
    principal,
    random_entries,
    top_magnitude,
)
from interp.training.tuning import Trainable

MOST_CLUSTERS = 32
"""Largest number of clusters per block that is tried."""
Neuron = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Choice:
    """The arms that can be trained: name -> what each of its draws trains; and those that cannot,
    with the reason.
    """

    arms: Mapping[str, Sequence[Trainable]]
    left_out: Mapping[str, str]
    n_clusters: int = 0


def located_neurons(located: Table, study: Study, count: int | None = None) -> list[Neuron]:
    """The selected neurons of a locating run, or its first ``count``.

    Raises OptionError where the model does not have them, or where there are none or too few.
    """
    if "neuron" not in {column.name for column in located.columns}:
        raise OptionError(
            "the located run is of attention heads; give one of neurons (--unit neuron)"
        )
    chosen = located["selected"] if count is None else located["rank"] <= count
    neurons = [
        (int(layer), int(neuron))
        for layer, neuron in zip(located["layer"][chosen], located["neuron"][chosen], strict=True)
    ]
    if not neurons:
        raise OptionError("the located run selects no neuron, so there is nothing to train")
    anatomy = study.pair.tuned.anatomy
    anatomy.require_neurons()
    shape = (int(located["layer"].max()) + 1, int(located["neuron"].max()) + 1)
    if shape != (anatomy.n_layers, anatomy.n_neurons):
        raise OptionError(
            f"the located run is of a model with {shape[0]} blocks of {shape[1]} neurons, and"
            f" {study.pair.tuned.name} has {anatomy.n_layers} of {anatomy.n_neurons}; locate in a"
            " fine-tune of this model"
        )
    return neurons


def choose(
    study: Study,
    names: Sequence[str],
    neurons: Sequence[Neuron],
    prompts: Sequence[Encoded],
    draws: int,
    filter_rank: int,
    others: Sequence[Neuron] = (),
) -> Choice:
    """What each arm trains; ``prompts``: those to train on, whose activations make clusters;
    ``others``: the neurons of another run.
    """
    model = study.pair.tuned
    located = neuron_places(model, neurons)
    budget = n_values(located)
    matrices = block_matrices(model) if {*names} - {LOCATED, CLUSTERS, RANDOM, OTHER, FULL} else []
    arms: dict[str, Sequence[Trainable]] = {}
    left_out: dict[str, str] = {}
    n_clusters = 0
    for name in names:
        if name == LOCATED:
            arms[name] = [Trainable(located)]
        elif name == CLUSTERS:
            clusters = neuron_clusters(study, neurons, prompts)
            n_clusters = len({*clusters.values()})
            arms[name] = [Trainable(neuron_places(model, neurons, clusters))]
        elif name == RANDOM:
            arms[name] = [
                Trainable(neuron_places(model, one)) for one in _random(study, neurons, draws)
            ]
        elif name == OTHER:
            arms[name] = [Trainable(neuron_places(model, others))]
        elif name == MAGNITUDE:
            arms[name] = [Trainable(top_magnitude(matrices, budget))]
        elif name == PRINCIPAL:
            arms[name] = [Trainable(principal(matrices, budget, filter_rank))]
        elif name == PER_ROW:
            arms[name] = [Trainable(per_row(matrices, budget))]
        elif name == ENTRIES:
            arms[name] = [
                Trainable(random_entries(matrices, budget, study.seed, draw))
                for draw in range(draws)
            ]
        elif name == FULL:
            arms[name] = [Trainable()]
        elif name == LORA:
            ranks = lora_ranks(matrices, budget)
            if ranks is None:
                left_out[name] = (
                    f"a LoRA of rank 1 on every matrix has more than {budget:,} parameters;"
                    f" {ENTRIES} takes its place"
                )
            else:
                arms[name] = [Trainable(ranks=ranks)]
    return Choice({name: each for name, each in arms.items() if each}, left_out, n_clusters)


def _random(study: Study, neurons: Sequence[Neuron], draws: int) -> list[list[Neuron]]:
    norms = contribution_norms(study, PatchSource.from_study(study))
    sets = matched_sets(list(neurons), norms, draws, study.seed) if draws else []
    equal = [one for one in sets if len(one) == len(neurons)]
    if draws and not equal:
        raise OptionError(
            f"{len(neurons)} located neurons leave no other ones to draw as many from; locate fewer"
            " (--top), or leave out the arm random"
        )
    return equal


def neuron_clusters(
    study: Study, neurons: Sequence[Neuron], prompts: Sequence[Encoded]
) -> dict[Neuron, tuple[int, int]]:
    """The cluster of every neuron, (block, number): those of a block with like activations.

    A neuron's profile is its largest activation over the content of every prompt, standardised;
    k-means, and the k of the largest silhouette. Neurons of a block with fewer than four located
    ones stay alone. That GoodVibe clusters like this is not established; NeST does.
    """
    profiles = _profiles(study, neurons, prompts)
    found: dict[Neuron, tuple[int, int]] = {}
    for layer in sorted({layer for layer, _ in neurons}):
        units = sorted(unit for at, unit in neurons if at == layer)
        labels = profile_clusters(np.stack([profiles[layer, unit] for unit in units]), study.seed)
        found |= {
            (layer, unit): (layer, int(label)) for unit, label in zip(units, labels, strict=True)
        }
    return found


def profile_clusters(profiles: Float[np.ndarray, "n p"], seed: int) -> Int[np.ndarray, " n"]:
    """Clusters of profiles, by k-means after standardising each."""
    spread = profiles.std(1, keepdims=True)
    rows = (profiles - profiles.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    count = len(rows)
    distinct = len(np.unique(rows.round(6), axis=0))
    if distinct < 4:
        return np.arange(count)
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    best, labels = -2.0, np.arange(count)
    for k in range(2, min(MOST_CLUSTERS, distinct - 1) + 1):
        found = KMeans(k, n_init=10, random_state=seed).fit_predict(rows)  # pyright: ignore
        if len(np.unique(found)) < 2:
            continue
        score = float(silhouette_score(rows, found))
        if score > best:
            best, labels = score, found
    return np.asarray(labels, np.int64)


def _profiles(
    study: Study, neurons: Sequence[Neuron], prompts: Sequence[Encoded]
) -> dict[Neuron, Float[np.ndarray, " p"]]:
    model = study.pair.tuned
    layers = sorted({layer for layer, _ in neurons})
    units = {layer: [unit for at, unit in neurons if at == layer] for layer in layers}
    sites = {layer: NEURON.site(layer) for layer in layers}
    found = {neuron: np.zeros(len(prompts)) for neuron in neurons}
    bytes_per_token = 8 * len(layers) * NEURON.n_channels(model.anatomy)
    for captured in capture(
        study.engine,
        {"tuned": model},
        list(prompts),
        study.batches(list(prompts), model, bytes_per_token),
        list(sites.values()),
        pad_id=study.pad_id,
    ):
        rows = to_host(captured.rows)
        for layer, site in sites.items():
            largest = to_host(_largest(captured.values["tuned", site], captured.roles))
            for unit in units[layer]:
                found[layer, unit][rows] = largest[:, unit]
    return found


def _largest(values: Float[Tensor, "B T N"], roles: Int[Tensor, "B T"]) -> Float[Tensor, "B N"]:
    """Largest value over the tokens of the content, over all real ones where there are none."""
    content = roles == CONTENT
    content = torch.where(content.any(1, keepdim=True), content, roles >= 0)
    return values.double().masked_fill(~content[..., None], -torch.inf).amax(1)
