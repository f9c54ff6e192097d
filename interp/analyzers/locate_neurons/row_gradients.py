"""``gradient`` and ``gradient-counterfactual``: norm of a gradient by a neuron's own weights.

After GoodVibe (arXiv 2602.10778), whose paper and code were not available: reviews say that units
are rows of linear layers, scored by the size of a supervised loss's gradient; the rest is our
choice. A neuron's weights are its gate and up rows and its down column; the score is the norm of
one prompt's gradient over all three, averaged over positive prompts (a norm of the mean gradient
would let prompts cancel). Weight gradients are never formed: with D the gradient of a matrix's
output and X its input, the squared norm of row j is D[:, j]^T (X X^T) D[:, j].

gradient                  of the metric: the refusal log-odds, which do not saturate, or a task's
                          number
gradient-counterfactual   of the negative log-likelihood of the other answer's first token: the
                          base's answer, or without a base the fine-tuned model's answer to the
                          twin

Unsigned: the norm does not give the direction of a neuron's effect.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.locate_neurons.scores import (
    ROUNDING,
    MethodOptions,
    Scores,
    mlp_branches,
    position_mask,
)
from interp.capture import group_by_prompt, make_batch
from interp.engines import Run
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import Objective
from interp.prompts import Encoded
from interp.sites import Site, contribution, neurons
from interp.study import Study


def gradient(study: Study, options: MethodOptions) -> Scores:
    """Mean norm of the gradient of the metric by a neuron's own weights; needs no base."""
    return _row_gradients(
        study,
        study.decision_inputs("positive"),
        options.positions,
        partial(study.objective, "positive"),
        study.require_metric().labels.number,
    )


def gradient_counterfactual(study: Study, options: MethodOptions) -> Scores:
    """The same for the loss of the first token of the base's answer (without a base: of the
    fine-tuned model's answer to the twin).
    """
    if study.pair.base is not None:
        first_tokens = [answer[0] for answer in study.answers("base", "positive")]
    else:
        twin_answers = study.answers("tuned", "negative")
        first_tokens = [twin_answers[row][0] for row in study.twins("positive")]

    def loss(rows: Sequence[int]) -> Objective:
        targets = torch.tensor([[first_tokens[row]] for row in rows])
        return Objective(
            1,
            lambda logits: (
                -widen(logits[:, -1]).log_softmax(-1).gather(1, targets.to(logits.device))[:, 0]
            ),
        )

    loss_name = "loss of the other answer's first token"
    return _row_gradients(study, study.encoded("positive"), options.positions, loss, loss_name)


def _row_gradients(
    study: Study,
    encoded: Sequence[Encoded],
    positions: str,
    loss: Callable[[Sequence[int]], Objective],
    loss_name: str,
) -> Scores:
    model = study.pair.tuned
    anatomy = model.anatomy
    branches = mlp_branches(anatomy)
    layers = range(anatomy.n_layers)
    reads = [site for layer in layers for site in (Site(layer, "mlp.hook_in"), neurons(layer))]
    gradient_sites = [
        site
        for layer in layers
        for site in (*(Site(layer, b) for b in branches.values()), contribution(layer))
    ]
    part_names = (*branches, "down")
    sums = np.zeros((len(part_names) + 1, anatomy.n_layers, anatomy.n_neurons))
    losses = np.zeros(len(encoded))
    per_token = 8 * anatomy.n_layers * (4 * anatomy.n_neurons + 2 * anatomy.width)
    for rows in study.progress(study.batches(encoded, model, per_token), "row gradients"):
        batch, roles = make_batch(encoded, rows, study.pad_id, model.device)
        measure = loss(rows)
        run = study.engine.run(
            model,
            batch,
            reads=reads,
            gradients_at=gradient_sites,
            gradient_of=measure.function,
            keep=measure.keep,
        )
        losses[rows] = to_host(measure.function(run.require_logits()))
        for layer in layers:
            squares = list(
                _squared_norms(run, layer, branches, position_mask(roles, positions), len(rows))
            )
            for index, square in enumerate([*squares, sum(squares[1:], squares[0])]):
                sums[index, layer] += to_host(square.clamp(min=0).sqrt().sum(0))
    *by_part, total = sums / len(encoded)
    measures = {
        f"gradient_{part}": (
            by_part[index],
            f"mean norm of the gradient by the neuron's {part} weights",
        )
        for index, part in enumerate(part_names)
    }
    return Scores(
        total,
        np.full_like(total, ROUNDING * total.max(initial=0.0)),
        f"mean norm of the gradient of the {loss_name} by the neuron's own weights",
        measures,
        summary={"loss": loss_name, "mean_loss": float(losses.mean())},
    )


def _squared_norms(
    run: Run, layer: int, branches: dict[str, str], is_read: Bool[Tensor, "R T"], n_prompts: int
):
    """Squared norms ``[B, N]`` of each prompt's gradient, of the branches' rows and of the down
    column.
    """
    mask = is_read[..., None]

    def joined(values: Float[Tensor, "R T W"]) -> Float[Tensor, "B S W"]:
        """All tokens read of a prompt in one row: a weight's gradient is summed over them."""
        return group_by_prompt(values.double(), n_prompts).flatten(1, 2)

    inputs = joined(run.values[Site(layer, "mlp.hook_in")])
    for hook in branches.values():
        yield _quadratic(inputs, joined(run.gradients[Site(layer, hook)].masked_fill(~mask, 0.0)))
    output_gradients = joined(run.gradients[contribution(layer)].masked_fill(~mask, 0.0))
    yield _quadratic(output_gradients, joined(run.values[neurons(layer)]))


def _quadratic(
    rows: Float[Tensor, "B T D"], columns: Float[Tensor, "B T N"]
) -> Float[Tensor, "B N"]:
    """For every column c of ``columns``, ``c^T (rows rows^T) c``: the squared norm of the sum over
    t of ``rows_t c_t``.
    """
    return ((rows @ rows.mT) @ columns * columns).sum(1)
