"""Outputs of attention heads of one model put into the other on the same prompts (cross-model
activation patching, CMAP; Prakash et al. 2024, arXiv 2402.14811).

``z`` puts the donor's head outputs, read in a pass of its own, in place of the receiver's: the
receiver's output projection applies. ``z+o`` puts what the heads write to the stream, the donor's
output projection applied. Everything else is computed anew. Modules run with their adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Edit
from interp.experiments.scored_prompts import ScoredBatch, ScoredPrompts
from interp.interventions.edits import Ablate, Add, Replace, StartFromStream
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.units import HEAD
from interp.sites import Site
from interp.study import Study

Head = tuple[int, int]
Role = Literal["base", "tuned"]
Donor = Literal["base", "tuned", "control", "without-control"]
ROLES: tuple[Role, Role] = ("base", "tuned")
WHATS = ("z", "z+o")
Values = Callable[[str, int, Tensor], Tensor]


@dataclass(frozen=True)
class HeadPatch:
    """Some heads of a donor put into a receiver.

    ``control`` donates a control fine-tune's values; ``without-control`` the fine-tuned model's
    minus what the control changed, ``tuned + base - control``.
    """

    receiver: Role
    donor: Donor
    heads: tuple[Head, ...]
    what: str = "z"


@dataclass(frozen=True)
class Scores:
    """Of every prompt the metric and whether the answer is right (NaN where unknown): ``ends`` of
    the unedited models, base first, and ``patched`` under every patch.
    """

    ends: Float[np.ndarray, "2 measure P"]
    patched: Float[np.ndarray, "S measure P"]


def head_patch_scores(
    study: Study,
    prompts: ScoredPrompts,
    patches: Sequence[HeadPatch],
    title: str,
    control: Model | None = None,
) -> Scores:
    """All prompts under every patch. A pass begins at the first block with a patched head, from the
    receiver's own stream.
    """
    models = {role: study.pair[role] for role in ROLES}
    layers = sorted({layer for patch in patches for layer, _ in patch.heads})
    readers: dict[str, Model] = {**models, **({} if control is None else {"control": control})}
    write = _write_weights(readers, patches)
    streams = [Site(layer, "hook_resid_pre") for layer in layers if layer]
    reads = [*(HEAD.site(layer) for layer in layers), *streams]
    count = len(prompts.encoded)
    ends, patched = np.full((2, 2, count), np.nan), np.full((len(patches), 2, count), np.nan)
    per_token = _bytes_per_token(models["tuned"], len(layers), len(readers))
    for rows in study.batches(prompts.encoded, models["tuned"], per_token):
        scored = prompts.batch(rows, models["tuned"].device)
        values = {}
        for role, model in readers.items():
            run = study.engine.run(model, scored.batch, reads=reads, keep=scored.keep)
            values[role] = run.values
            if role != "control":
                ends[ROLES.index(role), :, rows] = _scores(scored, run.require_logits()).T
        donated = _donated(values, write)
        for number in study.progress(range(len(patches)), title):
            patch = patches[number]
            first = Site(min(layer for layer, _ in patch.heads), "hook_resid_pre")
            start = [StartFromStream(first, values[patch.receiver][first])] if first.layer else []
            edits = [*start, *_edits(models["tuned"], patch, donated, scored.cells)]
            run = study.engine.run(
                models[patch.receiver], scored.batch, edits=edits, keep=scored.keep
            )
            patched[number][:, rows] = _scores(scored, run.require_logits())
    return Scores(ends, patched)


def _scores(scored: ScoredBatch, logits: Tensor) -> Float[np.ndarray, "2 B"]:
    value = to_host(scored.value(logits)).astype(np.float64)
    right = np.full(len(value), np.nan) if scored.right is None else to_host(scored.right(logits))
    return np.stack([value, right])


def _bytes_per_token(model: Model, layers: int, models: int) -> int:
    channels = HEAD.n_channels(model.anatomy) + model.anatomy.width
    return models * layers * channels * model.dtype.itemsize


def _write_weights(
    models: Mapping[str, Model], patches: Sequence[HeadPatch]
) -> dict[str, dict[int, Tensor]]:
    """Output projections, adapters applied, where any patch needs them."""
    layers = sorted({layer for p in patches if p.what == "z+o" for layer, _ in p.heads})
    return {
        role: {layer: HEAD.write_weights(model, layer) for layer in layers}
        for role, model in models.items()
    }


def _donated(
    values: Mapping[str, Mapping[Site, Tensor]], write: Mapping[str, Mapping[int, Tensor]]
) -> dict[str, Callable[[Donor, int, Tensor], Tensor]]:
    """By what is put: a donor's values of some channels of a block."""

    def outputs(role: str, layer: int, index: Int[Tensor, " K"]) -> Float[Tensor, "B T K"]:
        return values[role][HEAD.site(layer)][..., index]

    def contributions(role: str, layer: int, index: Int[Tensor, " K"]) -> Float[Tensor, "B T D"]:
        columns = write[role][layer][:, index]
        return outputs(role, layer, index).to(columns) @ columns.T

    def of_donor(read: Values) -> Callable[[Donor, int, Tensor], Tensor]:
        def donate(donor: Donor, layer: int, index: Tensor) -> Tensor:
            if donor != "without-control":
                return read(donor, layer, index)
            own = read("tuned", layer, index)
            return own + read("base", layer, index) - read("control", layer, index)

        return donate

    return {"z": of_donor(outputs), "z+o": of_donor(contributions)}


def _edits(
    model: Model,
    patch: HeadPatch,
    donated: Mapping[str, Callable[[Donor, int, Tensor], Tensor]],
    cells: Bool[Tensor, "B T"] | None,
) -> list[Edit]:
    edits: list[Edit] = []
    for layer, index in HEAD.channels(model.anatomy, patch.heads, model.device).items():
        site, values = HEAD.site(layer), donated[patch.what](patch.donor, layer, index)
        if patch.what == "z":
            edits.append(Replace(site, values, index, cells))
            continue
        if cells is None:
            edits.append(Ablate(site, index))
        else:
            nothing = torch.zeros(len(index), dtype=values.dtype, device=values.device)
            edits.append(Replace(site, nothing, index, cells))
            values = values.masked_fill(~cells[..., None], 0.0)
        edits.append(Add(HEAD.contribution(layer), values))
    return edits


def first_order(
    study: Study, prompts: ScoredPrompts, what: str = "z"
) -> Float[np.ndarray, "2 L H"]:
    """``<gradient, difference of the models>`` of every head at the base and at the fine-tuned
    model: what patching it changes the mean metric by, to first order (attribution patching).
    """
    models = [study.pair[role] for role in ROLES]
    anatomy = models[1].anatomy
    layers = range(anatomy.n_layers)
    sites = [HEAD.site(layer) for layer in layers]
    slopes_at = sites if what == "z" else [HEAD.contribution(layer) for layer in layers]
    write = None
    if what == "z+o":
        write = [[HEAD.write_weights(model, layer) for layer in layers] for model in models]
    totals = torch.zeros(2, anatomy.n_layers, anatomy.n_heads, dtype=torch.float64)
    per_token = 4 * _bytes_per_token(models[1], anatomy.n_layers, 2)
    groups = study.batches(prompts.encoded, models[1], per_token)
    for rows in study.progress(groups, "gradients"):
        scored = prompts.batch(rows, models[1].device)
        runs = [
            study.engine.run(
                model,
                scored.batch,
                reads=sites,
                gradients_at=slopes_at,
                gradient_of=scored.value,
                keep=scored.keep,
            )
            for model in models
        ]
        real = scored.batch.real if scored.cells is None else scored.cells
        for at in range(2):
            for layer in layers:
                slope = widen(runs[at].gradients[slopes_at[layer]])
                base, tuned = (widen(run.values[sites[layer]]) for run in runs)
                terms = (
                    slope * (tuned - base)
                    if write is None
                    else (slope @ widen(write[1][layer])) * tuned
                    - (slope @ widen(write[0][layer])) * base
                )
                terms = torch.where(real[..., None], terms, 0.0).double().sum((0, 1))
                totals[at, layer] += HEAD.gather(anatomy, terms).to(totals.device)
    return to_host(totals / len(prompts.encoded))


@dataclass(frozen=True)
class RandomGroups:
    """Distinct random groups of heads as large as a group, and the number of groups there are, the
    group itself among them.
    """

    groups: tuple[tuple[Head, ...], ...]
    arrangements: int


def random_groups(
    heads: Sequence[Head], n_layers: int, n_heads: int, draws: int, seed: int, same_layers: bool
) -> RandomGroups:
    """Groups of as many heads, in each layer (``same_layers``) or in all, other than the group
    itself. There may be fewer than ``draws``.
    """
    generator = np.random.default_rng(seed)
    counts = {layer: sum(at == layer for at, _ in heads) for layer, _ in heads}
    own = frozenset(heads)
    arrangements = (
        prod(comb(n_heads, count) for count in counts.values())
        if same_layers
        else comb(n_layers * n_heads, len(own))
    )
    found: dict[frozenset[Head], tuple[Head, ...]] = {}
    for _ in range(40 * draws):
        if len(found) >= min(draws, arrangements - 1):
            break
        if same_layers:
            drawn = [
                (layer, int(head))
                for layer, count in sorted(counts.items())
                for head in generator.choice(n_heads, count, replace=False)
            ]
        else:
            flat = generator.choice(n_layers * n_heads, len(own), replace=False)
            drawn = [(int(at) // n_heads, int(at) % n_heads) for at in flat]
        if frozenset(drawn) != own:
            found.setdefault(frozenset(drawn), tuple(sorted(drawn)))
    return RandomGroups(tuple(found.values()), arrangements)
