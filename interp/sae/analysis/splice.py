"""Cost of replacing a site by a reconstruction: loss and divergence, compared with zero and mean
ablation.

The dictionary's output replaces the site's activation at the counted positions only. *Recovered* is
the share of an ablation's cost that the dictionary avoids: ``(CE_ablated - CE_spliced) /
(CE_ablated - CE_clean)`` and ``(KL_ablated - KL_spliced) / KL_ablated``. Zero ablation makes these
look better (zero is far from anything the model has seen), so both are reported.
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

Replacement = Callable[[Tensor], Tensor]

CLEAN, ZERO, MEAN = "clean", "zero", "mean"


class Cost(NamedTuple):
    """Sums over a prompt's counted positions: cross-entropy of next tokens, and KL divergence from
    the unedited model.
    """

    loss: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]


class Costs(NamedTuple):
    """For one batch: numbers of next tokens and positions counted, and the costs of each condition,
    including ``clean``.
    """

    predicted: Int[Tensor, " B"]
    positions: Int[Tensor, " B"]
    by_condition: dict[str, Cost]
    values: Float[Tensor, "B T W"]


def ablations(mean: Float[Tensor, " W"]) -> dict[str, Replacement]:
    """Zero ablation and mean ablation of a site."""
    return {ZERO: torch.zeros_like, MEAN: lambda rows: mean.to(rows).expand_as(rows)}


def reconstruct_with(dictionary: Dictionary) -> Replacement:
    """A function that replaces activations by the dictionary's reconstruction, in the inputs'
    units.
    """
    return lambda rows: dictionary(rows.to(dictionary.W_dec)).to(rows.dtype)


@torch.no_grad()
def splice(
    engine: Engine,
    model: Model,
    batch: Batch,
    site: Site,
    replacements: Mapping[str, Replacement],
    counted: Bool[Tensor, "B T"],
    clean: Run | None = None,
) -> Costs:
    """Costs of each function of ``replacements`` as replacement of a site's activation, where
    ``counted`` is true.

    Divergence is over counted positions, loss over the next tokens of those. ``clean``: an unedited
    pass with all logits and the site's activation, if already available. Raises OptionError for a
    site that the model does not have.
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

    costs = {CLEAN: cost(clean.require_logits())}
    for name, make in replacements.items():
        costs[name] = cost(
            engine.run(
                model, batch, edits=[Transform(site, make, counted)], keep=None
            ).require_logits()
        )
    return Costs(predicted.sum(1), counted.sum(1), costs, clean.values[site])


def recovered_share(spliced: float, clean: float, ablated: float) -> float:
    """Share of an ablation's cost that is avoided; NaN if the ablation has no cost."""
    lost = ablated - clean
    return (ablated - spliced) / lost if lost > 0 else math.nan


def counted_positions(
    batch: Batch, roles: Int[Tensor, "B T"], excluded: Sequence[int] = ()
) -> Bool[Tensor, "B T"]:
    """Non-padding tokens whose role is not in ``excluded``."""
    mask = batch.real
    return (
        mask & ~torch.isin(roles, torch.tensor(list(excluded), device=roles.device))
        if excluded
        else mask
    )
