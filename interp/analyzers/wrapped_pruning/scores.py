"""The first-order score of a neuron: its weights times the gradient of the loss by them.

With ``theta`` the weights of neuron j, ``theta . dL/dtheta`` is to first order the fall of the loss
L when they are set to zero. For the column of the output matrix this is ``h_j dL/dh_j`` summed over
tokens, and for the row of a gated MLP's up projection the same number, so that no gradient of a
weight is ever formed.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch, BatchPart
from interp.experiments.base_answers import BaseAnswers
from interp.maths.host import to_host
from interp.maths.moments import float64_sum
from interp.maths.precision import widen
from interp.metrics import token_losses
from interp.models.anatomy import Anatomy
from interp.models.model import Model
from interp.models.units import NEURON
from interp.sites import Site, Weight, neurons

OUTPUT, ALL = "output", "all"


def first_order_scores(
    answers: BaseAnswers, model: Model, rows: Int[np.ndarray, " m"], weights: str
) -> Float[np.ndarray, "L N"]:
    """Mean over prompts of ``theta . dL/dtheta`` of every MLP neuron of a model, in nats.

    L is the loss of the base's greedy answer, mean over its tokens. ``weights``: the neuron's
    column of the output matrix (``output``), or with it its rows of the input matrices (``all``).
    """
    NEURON.require(model.anatomy)
    anatomy, study = model.anatomy, answers.study
    layers = range(anatomy.n_layers)
    inputs = _input_hooks(anatomy) if weights == ALL else {}
    reads = [
        *map(neurons, layers),
        *(Site(layer, "mlp.hook_in") for layer in layers if inputs),
    ]
    gradients_at = [
        *map(neurons, layers),
        *(Site(layer, hook) for layer in layers for hook in inputs.values()),
    ]
    matrices = {
        (layer, name): model.weight(Weight(layer, name)) for layer in layers for name in inputs
    }
    sums = torch.zeros(
        anatomy.n_layers, anatomy.n_neurons, dtype=torch.float64, device=model.device
    )
    texts = [answers.encoded[row].with_completion(answers.answers[row][:-1]) for row in rows]
    bytes_per_token = 8 * anatomy.n_layers * (anatomy.n_neurons * (2 + len(inputs)))
    batches = study.batches(texts, model, bytes_per_token + 16 * anatomy.vocabulary)
    for some in study.progress(batches, f"scores of neurons, {model.name}"):
        batch, _ = make_batch(texts, some, study.pad_id, model.device)
        chosen = [answers.answers[row] for row in rows[some]]
        target = Batch.pad(chosen, study.pad_id, device=model.device)

        def loss(logits: Float[Tensor, "B A V"], target: Batch = target) -> Float[Tensor, " B"]:
            lengths = target.mask.sum(1)
            return token_losses(logits, target.ids, target.mask).sum(1) / lengths

        run = study.engine.run(
            model,
            batch,
            reads=reads,
            gradients_at=gradients_at,
            gradient_of=loss,
            keep=target.ids.shape[1],
            over=batch.real,
        )
        for part in run.parts:
            for layer in layers:
                sums[layer] += _sum_of(part, neurons(layer), part.values[neurons(layer)])
                for name, hook in inputs.items():
                    entering = widen(part.values[Site(layer, "mlp.hook_in")])
                    # without the bias, which is no weight of an input
                    values = entering @ matrices[layer, name].to(entering).T
                    sums[layer] += _sum_of(part, Site(layer, hook), values)
    return to_host(sums / len(rows))


def _sum_of(part: BatchPart, site: Site, values: Float[Tensor, "r n N"]) -> Float[Tensor, " N"]:
    terms = widen(values[part.mask]) * widen(part.gradients[site][part.mask])
    return float64_sum(terms)


def _input_hooks(anatomy: Anatomy) -> dict[str, str]:
    """The input matrices of an MLP, and the hook of the output of each."""
    if anatomy.gated:
        return {"mlp.gate": "mlp.hook_pre", "mlp.in": "mlp.hook_pre_linear"}
    return {"mlp.in": "mlp.hook_pre"}
