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

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.locate_neurons.scores import MethodOptions, Scores, chosen
from interp.capture import by_prompt, make_batch
from interp.engines import Run
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import Objective
from interp.prompts import Encoded
from interp.sites import Site, contribution, neurons
from interp.study import Study

_EPSILON = float(np.finfo(np.float32).eps)


def gradient(study: Study, asked: MethodOptions) -> Scores:
    """Mean norm of the gradient of the metric by a neuron's own weights; needs no base."""

    def loss(rows: Sequence[int]) -> Objective:
        return study.objective("positive", rows)

    return _row_gradients(
        study,
        study.decision_inputs("positive"),
        asked.positions,
        loss,
        study.require_metric().words.number,
    )


def gradient_counterfactual(study: Study, asked: MethodOptions) -> Scores:
    """The same for the loss of the first token of the base's answer (without a base: of the
    fine-tuned model's answer to the twin).
    """
    if study.pair.base is not None:
        first = [answer[0] for answer in study.answers("base", "positive")]
    else:
        others = study.answers("tuned", "negative")
        first = [others[row][0] for row in study.twins("positive")]

    def loss(rows: Sequence[int]) -> Objective:
        wanted = torch.tensor([[first[row]] for row in rows])
        return Objective(
            1,
            lambda logits: (
                -widen(logits[:, -1]).log_softmax(-1).gather(1, wanted.to(logits.device))[:, 0]
            ),
        )

    what = "loss of the other answer's first token"
    return _row_gradients(study, study.encoded("positive"), asked.positions, loss, what)


def _row_gradients(
    study: Study,
    encoded: Sequence[Encoded],
    positions: str,
    loss: Callable[[Sequence[int]], Objective],
    what: str,
) -> Scores:
    model = study.pair.tuned
    anatomy = model.anatomy
    branches = (
        {"gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear"}
        if anatomy.gated
        else {"up": "mlp.hook_pre"}
    )
    layers = range(anatomy.n_layers)
    reads = [site for layer in layers for site in (Site(layer, "mlp.hook_in"), neurons(layer))]
    pulled = [
        site
        for layer in layers
        for site in (*(Site(layer, b) for b in branches.values()), contribution(layer))
    ]
    parts = (*branches, "down")
    sums = np.zeros((len(parts) + 1, anatomy.n_layers, anatomy.n_neurons))
    losses = np.zeros(len(encoded))
    per_token = 8 * anatomy.n_layers * (4 * anatomy.n_neurons + 2 * anatomy.width)
    for rows in study.progress(study.batches(encoded, model, per_token), "row gradients"):
        batch, roles = make_batch(encoded, rows, study.pad_id, model.device)
        measure = loss(rows)
        run = study.engine.run(
            model,
            batch,
            reads=reads,
            gradients_at=pulled,
            gradient_of=measure.of,
            keep=measure.keep,
        )
        losses[rows] = to_host(measure.of(run.require_logits()))
        for layer in layers:
            squares = list(_squares(run, layer, branches, chosen(roles, positions), len(rows)))
            for index, square in enumerate([*squares, sum(squares[1:], squares[0])]):
                sums[index, layer] += to_host(square.clamp(min=0).sqrt().sum(0))
    *by_part, whole = sums / len(encoded)
    measures = {
        f"gradient_{part}": (
            by_part[index],
            f"mean norm of the gradient by the neuron's {part} weights",
        )
        for index, part in enumerate(parts)
    }
    return Scores(
        whole,
        np.full_like(whole, 8 * _EPSILON * whole.max(initial=0.0)),
        f"mean norm of the gradient of the {what} by the neuron's own weights",
        measures,
        summary={"loss": what, "mean_loss": float(losses.mean())},
    )


def _squares(
    run: Run, layer: int, branches: dict[str, str], read: Bool[Tensor, "R T"], prompts: int
):
    """Squared norms ``[B, N]`` of each prompt's gradient, of the branches' rows and of the down
    column.
    """
    mask = read[..., None]

    def joined(values: Float[Tensor, "R T W"]) -> Float[Tensor, "B S W"]:
        """All tokens read of a prompt in one row: a weight's gradient is summed over them."""
        return by_prompt(values.double(), prompts).flatten(1, 2)

    entering = joined(run.values[Site(layer, "mlp.hook_in")])
    for hook in branches.values():
        yield _quadratic(entering, joined(run.gradients[Site(layer, hook)].masked_fill(~mask, 0.0)))
    leaving = joined(run.gradients[contribution(layer)].masked_fill(~mask, 0.0))
    yield _quadratic(leaving, joined(run.values[neurons(layer)]))


def _quadratic(
    rows: Float[Tensor, "B T D"], columns: Float[Tensor, "B T N"]
) -> Float[Tensor, "B N"]:
    """For every column c of ``columns``, ``c^T (rows rows^T) c``: the squared norm of the sum over
    t of ``rows_t c_t``.
    """
    return ((rows @ rows.mT) @ columns * columns).sum(1)
