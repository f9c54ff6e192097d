"""What a model loses when a site goes through a dictionary: loss and divergence, beside zero and
mean ablation.

The dictionary's output stands in for the site's value on the positions that count and nowhere else.
*Recovered* is the share of what an ablation costs that the dictionary saves: ``(CE_ablated -
CE_spliced) / (CE_ablated - CE_clean)`` and ``(KL_ablated - KL_spliced) / KL_ablated``. Against zero
ablation these flatter (zero is far from all that the model ever saw), so both are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Engine, Run
from interp.interventions.edits import Transform
from interp.metrics import token_divergences, token_losses
from interp.models.model import Model
from interp.sae.core.dictionary import Dictionary
from interp.sites import Site

Make = Callable[[Tensor], Tensor]

CLEAN, ZERO, MEAN = "clean", "zero", "mean"


class Cost(NamedTuple):
    """Summed over a prompt's positions that count: cross-entropy of next tokens, divergence from
    the clean pass.
    """

    loss: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]


class Costs(NamedTuple):
    """Of one batch: how many next tokens and positions counted, and the costs of every condition,
    ``clean`` too.
    """

    predicted: Int[Tensor, " B"]
    positions: Int[Tensor, " B"]
    by: dict[str, Cost]
    values: Float[Tensor, "B T W"]


def ablations(mean: Float[Tensor, " W"]) -> dict[str, Make]:
    """Zero in place of a site's value, and its mean over the data."""
    return {ZERO: torch.zeros_like, MEAN: lambda rows: mean.to(rows).expand_as(rows)}


def through(dictionary: Dictionary) -> Make:
    """A dictionary as what a splice puts in: its reconstruction in the inputs' own units."""
    return lambda rows: dictionary(rows.to(dictionary.W_dec)).to(rows.dtype)


@torch.no_grad()
def splice(
    engine: Engine,
    model: Model,
    batch: Batch,
    site: Site,
    made: Mapping[str, Make],
    counted: Bool[Tensor, "B T"],
    clean: Run | None = None,
) -> Costs:
    """Costs of every function of ``made`` in place of a site's value, where ``counted`` is true.

    Divergence is taken at positions that count; loss of the next token there, where there is one.
    ``clean``: the pass without them, with all logits and the site's value, where it has been made
    already. Raises OptionError for a site that the model does not have.
    """
    counted = counted & batch.real
    clean = engine.run(model, batch, reads=[site], keep=None) if clean is None else clean
    targets = batch.ids[:, 1:]
    predicted = counted[:, :-1] & batch.real[:, 1:]

    def cost(logits: Tensor) -> Cost:
        loss = token_losses(logits[:, :-1], targets, predicted).double().sum(1)
        return Cost(
            loss, token_divergences(clean.require_logits(), logits, counted).double().sum(1)
        )

    by = {CLEAN: cost(clean.require_logits())}
    for name, make in made.items():
        by[name] = cost(
            engine.run(
                model, batch, edits=[Transform(site, make, counted)], keep=None
            ).require_logits()
        )
    return Costs(predicted.sum(1), counted.sum(1), by, clean.values[site])


def recovered(spliced: float, clean: float, ablated: float) -> float:
    """Share of an ablation's cost that is saved; NaN where the ablation costs nothing, or does
    good.
    """
    lost = ablated - clean
    return (ablated - spliced) / lost if lost > 0 else math.nan


def counted_positions(
    batch: Batch, roles: Int[Tensor, "B T"], excluded: Sequence[int] = ()
) -> Bool[Tensor, "B T"]:
    """Real tokens whose role is none of ``excluded``."""
    found = batch.real
    return (
        found & ~torch.isin(roles, torch.tensor(list(excluded), device=roles.device))
        if excluded
        else found
    )
