"""The metric with single modules inserted in the base, or taken out of the fine-tuned model, and
its first-order predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from interp.capture import make_batch
from interp.engines import Batch, Edit
from interp.engines.base import model_inputs
from interp.interventions.edits import StartFromStream
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import Objective
from interp.models.weight_modules import OUTSIDE, Role, Values, WeightModules
from interp.sites import Site
from interp.study import Study

GROUP = "positive"
STARTS: tuple[Role, Role] = ("base", "tuned")


@dataclass(frozen=True)
class State:
    """All weights of one model but for those of some modules.

    ``layer``: the first block that differs from ``start``, below which nothing is computed again;
    -1 where something outside the blocks does. ``values`` makes the weights of the modules by their
    numbers, so that only one state at a time is in memory.
    """

    start: Role
    layer: int
    values: Callable[[], dict[int, Values]]


def metric_of_states(
    study: Study, weights: WeightModules, states: Sequence[State], title: str
) -> tuple[Float[np.ndarray, "2 P"], Float[np.ndarray, "S P"]]:
    """The metric of every positive prompt in both models, and in every state.

    A pass starts from the stream of the state's model at its first block that differs.
    """
    inputs, model = study.decision_inputs(GROUP), weights.scope.model
    layers = sorted({state.layer for state in states if state.layer > 0})
    anatomy = model.anatomy
    per_token = 2 * (len(layers) + 1) * anatomy.width * model.dtype.itemsize
    ends, found = np.full((2, len(inputs)), np.nan), np.full((len(states), len(inputs)), np.nan)
    for rows in study.batches(inputs, model, per_token):
        batch, _ = make_batch(inputs, rows, study.pad_id, model.device)
        objective = study.objective(GROUP, rows)
        streams: dict[Role, dict[Site, Tensor]] = {}
        for at, start in enumerate(STARTS):
            sites = [Site(layer, "hook_resid_pre") for layer in layers]
            with weights.state(start):
                run = study.engine.run(model, batch, reads=sites, keep=objective.keep)
            ends[at, rows] = to_host(objective.function(run.require_logits()))
            streams[start] = run.values
        for number in study.progress(range(len(states)), title):
            state = states[number]
            edits: list[Edit] = []
            if state.layer > 0:
                site = Site(state.layer, "hook_resid_pre")
                edits = [StartFromStream(site, streams[state.start][site])]
            with weights.state(state.start, state.values()):
                run = study.engine.run(model, batch, edits=edits, keep=objective.keep)
            found[number, rows] = to_host(objective.function(run.require_logits()))
    return ends, found


def inserted(weights: WeightModules, numbers: Sequence[int]) -> State:
    """The base with these modules of the fine-tuned model."""
    return State("base", _first(weights, numbers), lambda: _values(weights, numbers, "tuned"))


def removed(weights: WeightModules, numbers: Sequence[int]) -> State:
    """The fine-tuned model with these modules of the base."""
    return State("tuned", _first(weights, numbers), lambda: _values(weights, numbers, "base"))


def with_change(
    weights: WeightModules, number: int, start: Role, change: Callable[[], Values]
) -> State:
    """One model with another change of a module: added to the base, or taken from the fine-tuned
    model.
    """
    module, sign = weights.modules[number], 1.0 if start == "base" else -1.0
    return State(
        start,
        _first(weights, [number]),
        lambda: {number: module.shifted(start, change(), sign)},
    )


def _first(weights: WeightModules, numbers: Sequence[int]) -> int:
    layers = [weights.modules[number].layer for number in numbers]
    return OUTSIDE if OUTSIDE in layers else min(layers)


def _values(weights: WeightModules, numbers: Sequence[int], role: Role) -> dict[int, Values]:
    return {number: weights.modules[number].values(role) for number in numbers}


def first_order(study: Study, weights: WeightModules) -> Float[np.ndarray, "2 M"]:
    """``<gradient, change>`` of every module at the base and at the fine-tuned model: what
    inserting it, or taking it out, changes the mean metric by to first order.
    """
    inputs, scope = study.decision_inputs(GROUP), weights.scope
    totals = torch.zeros(2, len(weights.modules), dtype=torch.float64)
    bytes_of_logits = 8 * scope.model.anatomy.vocabulary
    for rows in study.progress(study.batches(inputs, scope.model, bytes_of_logits), "gradients"):
        batch, _ = make_batch(inputs, rows, study.pad_id, scope.model.device)
        objective = study.objective(GROUP, rows)
        for at, start in enumerate(STARTS):
            gradients = _gradients(weights, start, batch, objective)
            for number, module in enumerate(weights.modules):
                terms = [
                    (parameter.take(widen(gradients[parameter.index])) * parameter.change)
                    .double()
                    .sum()
                    for parameter in module.parameters
                ]
                totals[at, number] += torch.stack(terms).sum().to(totals.device)
    return to_host(totals / len(inputs))


def _gradients(
    weights: WeightModules, start: Role, batch: Batch, objective: Objective
) -> list[Tensor]:
    """Gradients of the summed metric with respect to the scope's parameters."""
    scope = weights.scope
    leaves = [tensor.detach().requires_grad_() for tensor in weights.tensors(start, {})]
    parameters = {each.path: leaf for each, leaf in zip(scope.pairs, leaves, strict=True)}
    with scope.model.active() as module, torch.enable_grad():
        inputs = model_inputs(batch, objective.keep, None, False)
        logits = functional_call(module, parameters, kwargs=inputs).logits
        total = objective.function(logits).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, gradients, strict=True)
    ]
