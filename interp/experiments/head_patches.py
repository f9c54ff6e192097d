"""Outputs of attention heads of one model put into the other on the same prompts (cross-model
activation patching, CMAP; Prakash et al. 2024, arXiv 2402.14811).

``z`` puts the donor's head outputs, read in a pass of its own, in place of the receiver's: the
receiver's output projection applies. ``z+o`` puts what the heads write to the stream, the donor's
output projection applied. ``q``, ``k`` and ``v`` put queries, keys or values as they are projected,
``qkv`` all three; heads that share keys and values get them together. Everything else is computed
anew. Modules run with their biases and adapters.
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
from interp.experiments.path_patching import key_value_heads
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
LEAST_GROUPS = 19
WHATS = ("z", "z+o", "q", "k", "v", "qkv")
_HOOKS = {"z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v"}
Donate = Callable[[Donor, Site, Int[Tensor, " K"]], Float[Tensor, "B T K"]]


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
    letters = sorted({letter for patch in patches for letter in letters_of(patch.what)})
    readers: dict[str, Model] = {**models, **({} if control is None else {"control": control})}
    write = _write_weights(readers, patches)
    sites = [Site(layer, _HOOKS[letter]) for layer in layers for letter in letters]
    reads = [*sites, *(Site(layer, "hook_resid_pre") for layer in layers if layer)]
    count = len(prompts.encoded)
    ends, patched = np.full((2, 2, count), np.nan), np.full((len(patches), 2, count), np.nan)
    per_token = _bytes_per_token(models["tuned"], len(sites) + len(layers), len(readers))
    for rows in study.batches(prompts.encoded, models["tuned"], per_token):
        scored = prompts.batch(rows, models["tuned"].device)
        values = {}
        for role, model in readers.items():
            run = study.engine.run(model, scored.batch, reads=reads, keep=scored.keep)
            values[role] = run.values
            if role != "control":
                ends[ROLES.index(role), :, rows] = _scores(scored, run.require_logits()).T
        donate, contribute = _donors(values, write)
        for number in study.progress(range(len(patches)), title):
            patch = patches[number]
            first = Site(min(layer for layer, _ in patch.heads), "hook_resid_pre")
            start = [StartFromStream(first, values[patch.receiver][first])] if first.layer else []
            edits = [*start, *_edits(models["tuned"], patch, donate, contribute, scored.cells)]
            run = study.engine.run(
                models[patch.receiver], scored.batch, edits=edits, keep=scored.keep
            )
            patched[number][:, rows] = _scores(scored, run.require_logits())
    return Scores(ends, patched)


def _scores(scored: ScoredBatch, logits: Tensor) -> Float[np.ndarray, "2 B"]:
    value = to_host(scored.value(logits)).astype(np.float64)
    right = np.full(len(value), np.nan) if scored.right is None else to_host(scored.right(logits))
    return np.stack([value, right])


def letters_of(what: str) -> tuple[str, ...]:
    """The parts of a head that a patch replaces: ``z``, or some of ``q``, ``k`` and ``v``."""
    return ("z",) if what.startswith("z") else tuple(what)


def head_channels(
    model: Model, letter: str, heads: Sequence[Head]
) -> dict[Site, Int[Tensor, " K"]]:
    """The channels of heads at the site of a part; of keys and values those that a head shares."""
    shared = 1 if letter in "zq" else model.anatomy.n_heads // key_value_heads(model)
    own = sorted({(layer, head // shared) for layer, head in heads})
    channels = HEAD.channels(model.anatomy, own, model.device)
    return {Site(layer, _HOOKS[letter]): index for layer, index in channels.items()}


def _bytes_per_token(model: Model, sites: int, models: int) -> int:
    width = max(HEAD.n_channels(model.anatomy), model.anatomy.width)
    return models * sites * width * model.dtype.itemsize


def _write_weights(
    models: Mapping[str, Model], patches: Sequence[HeadPatch]
) -> dict[str, dict[int, Tensor]]:
    """Output projections, adapters applied, where any patch needs them."""
    layers = sorted({layer for p in patches if p.what == "z+o" for layer, _ in p.heads})
    return {
        role: {layer: HEAD.write_weights(model, layer) for layer in layers}
        for role, model in models.items()
    }


def _donors(
    values: Mapping[str, Mapping[Site, Tensor]], write: Mapping[str, Mapping[int, Tensor]]
) -> tuple[Donate, Donate]:
    """A donor's values of some channels of a site, and what these write to the stream."""

    def outputs(role: str, site: Site, index: Int[Tensor, " K"]) -> Float[Tensor, "B T K"]:
        return values[role][site][..., index]

    def contributions(role: str, site: Site, index: Int[Tensor, " K"]) -> Float[Tensor, "B T D"]:
        columns = write[role][site.layer][:, index]
        return outputs(role, site, index).to(columns) @ columns.T

    def of_donor(read: Callable[[str, Site, Tensor], Tensor]) -> Donate:
        def donate(donor: Donor, site: Site, index: Int[Tensor, " K"]) -> Tensor:
            if donor != "without-control":
                return read(donor, site, index)
            own = read("tuned", site, index)
            return own + read("base", site, index) - read("control", site, index)

        return donate

    return of_donor(outputs), of_donor(contributions)


def _edits(
    model: Model,
    patch: HeadPatch,
    donate: Donate,
    contribute: Donate,
    cells: Bool[Tensor, "B T"] | None,
) -> list[Edit]:
    edits: list[Edit] = []
    if patch.what != "z+o":
        for letter in letters_of(patch.what):
            for site, index in head_channels(model, letter, patch.heads).items():
                edits.append(Replace(site, donate(patch.donor, site, index), index, cells))
        return edits
    for site, index in head_channels(model, "z", patch.heads).items():
        written = contribute(patch.donor, site, index)
        if cells is None:
            edits.append(Ablate(site, index))
        else:
            nothing = torch.zeros(len(index), dtype=written.dtype, device=written.device)
            edits.append(Replace(site, nothing, index, cells))
            written = written.masked_fill(~cells[..., None], 0.0)
        edits.append(Add(HEAD.contribution(site.layer), written))
    return edits


def first_order(
    study: Study, prompts: ScoredPrompts, what: str = "z"
) -> Float[np.ndarray, "2 L H"]:
    """``<gradient, difference of the models>`` of every head at the base and at the fine-tuned
    model: what patching it changes the mean metric by, to first order (attribution patching).
    """
    models = [study.pair[role] for role in ROLES]
    anatomy, layers = models[1].anatomy, range(models[1].anatomy.n_layers)
    sites = [Site(layer, _HOOKS[letter]) for layer in layers for letter in letters_of(what)]
    slopes_at = sites if what != "z+o" else [HEAD.contribution(layer) for layer in layers]
    write = None
    if what == "z+o":
        write = [[widen(HEAD.write_weights(model, at)) for at in layers] for model in models]
    totals = torch.zeros(2, anatomy.n_layers, anatomy.n_heads, dtype=torch.float64)
    per_token = 4 * _bytes_per_token(models[1], len(sites), 2)
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
        real = (scored.batch.real if scored.cells is None else scored.cells)[..., None]
        for at, site in enumerate(sites):
            base, tuned = (widen(run.values[site]) for run in runs)
            for model in range(2):
                slope = widen(runs[model].gradients[slopes_at[at]])
                terms = (
                    slope * (tuned - base)
                    if write is None
                    else (slope @ write[1][site.layer]) * tuned
                    - (slope @ write[0][site.layer]) * base
                )
                by_channel = torch.where(real, terms, 0.0).double().sum((0, 1))
                by_head = HEAD.gather(anatomy, by_channel)
                # of shared keys and values every head has the whole
                shared = anatomy.n_heads // len(by_head)
                totals[model, site.layer] += by_head.repeat_interleave(shared).to(totals.device)
    return to_host(totals / len(prompts.encoded))


@dataclass(frozen=True)
class RandomGroups:
    """Distinct random groups of heads as large as a group, and the number of groups they were drawn
    from, the group itself among them.
    """

    groups: tuple[tuple[Head, ...], ...]
    arrangements: int


def random_groups(
    heads: Sequence[Head], pool: Sequence[Head], draws: int, seed: int, same_layers: bool
) -> RandomGroups:
    """Groups of as many heads of a pool, in each layer (``same_layers``) or in all layers.

    None of the group's own heads is drawn, as one head can carry all that the group does; only
    where the others make fewer than 19 groups, any group but the same one. There may be fewer than
    ``draws``, and none for an empty group.
    """
    own, generator = frozenset(heads), np.random.default_rng(seed)
    strata: dict[int, int] = {}
    for layer, _ in own:
        strata[layer if same_layers else -1] = strata.get(layer if same_layers else -1, 0) + 1
    for candidates in ([head for head in pool if head not in own], list(pool)):
        free = {
            layer: [head for head in candidates if not same_layers or head[0] == layer]
            for layer in strata
        }
        count = prod(comb(len(free[layer]), size) for layer, size in strata.items())
        count -= own <= set(candidates)
        if count >= LEAST_GROUPS:
            break
    found: dict[frozenset[Head], tuple[Head, ...]] = {}
    for _ in range(40 * draws if own and count else 0):
        if len(found) >= min(draws, count):
            break
        drawn = [
            free[layer][at]
            for layer, size in sorted(strata.items())
            for at in generator.permutation(len(free[layer]))[:size]
        ]
        if frozenset(drawn) != own:
            found.setdefault(frozenset(drawn), tuple(sorted(drawn)))
    return RandomGroups(tuple(found.values()), count + 1)
