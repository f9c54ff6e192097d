"""How much of what was learned of the training text goes when a direction is set to the base's
value.

At every token the fine-tuned model's stream gets the base's component along a direction v:
``h += (v . h_base - v . h) v``. The loss then moves from the fine-tuned model's towards the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.activation_difference.differences import (
    Differences,
    first_tokens,
    group_name,
)
from interp.analyzers.activation_difference.lens import GROUPS
from interp.engines import Batch
from interp.experiments.plain_text import coded_texts
from interp.experiments.records import records_table
from interp.interventions.edits import StartFromStream
from interp.maths.host import to_host
from interp.maths.intervals import cluster_interval
from interp.maths.precision import widen
from interp.maths.statistics import permutation_p
from interp.metrics import token_losses
from interp.models.model import Model
from interp.prompts import Encoded, OneClass, PromptSet
from interp.rows import key, measure, text
from interp.sites import Site
from interp.study import Study
from interp.table import Table

KIND = "activation-difference-causal"
RANDOM_PAIRS = 16
CONTEXT = 64
"""Tokens of a text among which a random activation is drawn."""
FINE_TUNED, CONTROL, ACTIVATIONS = "fine-tuned", "control", "activations"


class CausalRow:
    """A row per direction at every block."""

    block: int = key("block whose output is changed, from 0")
    direction: str = key(
        "fine-tuned: the mean difference; control: that of a control fine-tune; activations: the"
        " difference of two activations of the base on the study's texts"
    )
    where: str = key("positions of the mean; empty for differences of activations")
    name: str = text("the model, or the number of the pair of activations")
    loss_change: float = measure(
        "mean loss on the training text with the base's value along the direction, minus the"
        " fine-tuned model's",
        "nats per token",
    )
    low: float = measure("lower end of its 95 % interval over texts", "nats per token")
    high: float = measure("upper end of its 95 % interval over texts", "nats per token")
    share: float = measure("share of the difference between the base's loss and its own")
    share_low: float = measure("lower end of its 95 % interval over texts")
    share_high: float = measure("upper end of its 95 % interval over texts")
    p: float = measure(
        "(1 + directions of controls and activations with as large a change at this block) / (1 +"
        " number of them), of the fine-tuned model's"
    )


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector ``v`` [D] at a block, and what it is."""

    block: int
    kind: str
    where: str
    name: str
    v: Float[np.ndarray, " D"]


def with_base_component(
    stream: Float[Tensor, "B T D"], base: Float[Tensor, "B T D"], v: Float[Tensor, " D"]
) -> Float[Tensor, "B T D"]:
    """The stream with the base's component along the unit vector v."""
    return stream + ((base - stream) @ v)[..., None] * v


def directions_of(
    study: Study, texts: Sequence[Encoded], by_model: Sequence[Differences], names: Sequence[str]
) -> list[Direction]:
    """The mean differences of all models, by block and group of positions, and 16 differences of
    two random activations of the base at every block; those of 0 are left out.
    """
    positions = len(by_model[0].texts)
    listed = [
        (block, FINE_TUNED if number == 0 else CONTROL, group_name(group, positions), name, vector)
        for number, (name, one) in enumerate(zip(names, by_model, strict=True))
        for group in GROUPS
        for block, vector in zip(one.blocks, one.of_group(group), strict=True)
    ]
    listed += [
        (block, ACTIVATIONS, "", str(pair + 1), vectors[pair])
        for block, vectors in zip(
            by_model[0].blocks,
            _activation_differences(study, texts, by_model[0].blocks),
            strict=True,
        )
        for pair in range(RANDOM_PAIRS)
    ]
    return [
        Direction(block, kind, where, name, vector / np.linalg.norm(vector))
        for block, kind, where, name, vector in listed
        if vector.any()
    ]


def _activation_differences(
    study: Study, texts: Sequence[Encoded], blocks: Sequence[int]
) -> Float[np.ndarray, "L P D"]:
    """Differences of two activations of the base each, drawn without repeats from the texts'
    positions after the first.
    """
    base, cut = study.pair.require_base("the causal share"), first_tokens(texts, CONTEXT)
    places = [(row, at) for row, one in enumerate(cut) for at in range(1, len(one.ids))]
    drawn = np.random.default_rng(study.seed).permutation(len(places))[: 2 * RANDOM_PAIRS]
    # with few texts an activation is used more than once
    drawn = np.resize(drawn, 2 * RANDOM_PAIRS)
    sites = [Site(block, "hook_resid_post") for block in blocks]
    values = np.zeros((len(sites), len(drawn), base.anatomy.width))
    for index, (row, at) in enumerate(places[one] for one in drawn):
        # read alone, so that batches do not matter
        batch = Batch.pad([cut[row].ids], study.pad_id, "right", base.device)
        run = study.engine.run(base, batch, reads=sites, keep=0)
        for block, site in enumerate(sites):
            values[block, index] = to_host(widen(run.values[site][0, at]).double())
    return values[:, 0::2] - values[:, 1::2]


def losses_along(
    study: Study, training: Sequence[Encoded], directions: Sequence[Direction]
) -> Float[np.ndarray, "R P"]:
    """Mean loss per token of every training text: of the base, of the fine-tuned model, and of the
    fine-tuned model along every direction; nats.
    """
    base, tuned = study.pair.require_base("the causal share"), study.pair.tuned
    sites = sorted({Site(one.block, "hook_resid_post") for one in directions})
    losses = np.zeros((2 + len(directions), len(training)))
    per_token = 16 * tuned.anatomy.vocabulary + 16 * tuned.anatomy.width * len(sites)
    for rows in study.progress(study.batches(training, tuned, per_token), "causal share"):
        batch = Batch.pad([training[row].ids for row in rows], study.pad_id, "right", tuned.device)
        runs = []
        for at, model in enumerate((base, tuned)):
            run = study.engine.run(model, batch, reads=sites, keep=None)
            losses[at, rows] = _losses(run.require_logits(), batch)
            runs.append({site: widen(value) for site, value in run.values.items()})
        for at, one in enumerate(directions, 2):
            site = Site(one.block, "hook_resid_post")
            before, stream = runs[0][site].to(tuned.device), runs[1][site]
            edited = with_base_component(stream, before, _vector(one, tuned))
            run = study.engine.run(tuned, batch, edits=[StartFromStream(site, edited)], keep=None)
            losses[at, rows] = _losses(run.require_logits(), batch)
    return losses


def _vector(direction: Direction, model: Model) -> Float[Tensor, " D"]:
    return torch.from_numpy(direction.v).float().to(model.device)


def _losses(logits: Float[Tensor, "B T V"], batch: Batch) -> Float[np.ndarray, " B"]:
    real = batch.mask[:, 1:]
    losses = token_losses(logits[:, :-1], batch.ids[:, 1:], real)
    return to_host(losses.double().sum(1) / real.sum(1))


def causal_table(
    study: Study,
    texts: Sequence[Encoded],
    training: PromptSet,
    by_model: Sequence[Differences],
    names: Sequence[str],
) -> Table:
    """The change of the loss on training text along every direction, with intervals over the texts'
    clusters; no rows where the fine-tuned model does not differ.
    """
    directions = directions_of(study, texts, by_model, names) if by_model[0].mean.any() else []
    if not directions:
        return records_table(CausalRow, KIND, [])
    coded = coded_texts(study.with_prompts(OneClass(training)), "positive")
    losses = losses_along(study, coded, directions)
    base, tuned, edited = losses[0], losses[1], losses[2:]
    clusters = [prompt.cluster for prompt in training]
    changes = edited.mean(1) - tuned.mean()
    records = []
    for at, one in enumerate(directions):
        change = cluster_interval(edited[at], clusters, minus=tuned)
        share = cluster_interval(edited[at], clusters, minus=tuned, over=base, over_minus=tuned)
        null = [
            changes[other]
            for other, compared in enumerate(directions)
            if compared.block == one.block
            and (
                compared.kind == ACTIVATIONS
                or (compared.kind, compared.where) == (CONTROL, one.where)
            )
        ]
        records.append(
            {
                "block": one.block,
                "direction": one.kind,
                "where": one.where,
                "name": one.name,
                "loss_change": change.value,
                "low": change.low,
                "high": change.high,
                "share": share.value,
                "share_low": share.low,
                "share_high": share.high,
                "p": permutation_p(change.value, null) if one.kind == FINE_TUNED else np.nan,
            }
        )
    return records_table(CausalRow, KIND, records)
