"""Masks of fine-tuned weights to graft: ranked by movement, first order or learning, and random
ones.

A ranking is one score per weight of a scope; ties go to the lower index. Its masks of ``k`` weights
are nested and have exactly ``k``. Learned rankings relax the mask to ``m = sigmoid(S)`` and
minimise the loss of the relaxed graft on the questions of the selection split: ``dL/dS =
sigma'(S) * movement * dL/dtheta``, one backward pass per step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call

from interp.engines import Batch
from interp.engines.base import model_inputs
from interp.errors import OptionError
from interp.experiments.questions import Questions, engine_logits
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.grafts import Scope
from interp.models.pair import Pair
from interp.prompts import first_and_repeated
from interp.study import Study
from interp.table import Table

Ranking = Float[Tensor, " P"]
REGULARISERS = ("l1", "binarise")
_BIAS, _MARGIN = 10.0, 5.0


def require_density(*shares: float) -> None:
    """Raise OptionError for a density that is not above 0 and at most 1."""
    if bad := [share for share in shares if not 0 < share <= 1]:
        raise OptionError(f"the density of a mask is {bad[0]:g}; use a share above 0 and at most 1")


def mask_size(scope: Scope, density: float) -> int:
    """Number of weights of a mask of this density: at least 1."""
    return max(1, round(density * scope.size))


def n_kept(mask: Bool[Tensor, ...]) -> int:
    """Number of weights in a mask."""
    return int(to_host(mask.sum()))


def require_graft_run(run: Table) -> None:
    """Raise OptionError for a run of another kind."""
    if run.kind != "graft":
        raise OptionError(
            f"run {run.require_provenance().key} is of kind {run.kind}; give keys of graft runs"
            " (interp ls)"
        )


def is_run_of(run: Table, pair: Pair) -> bool:
    """Whether a run is of the pair's base and fine-tuned model."""
    inputs, digests = run.require_provenance().inputs, pair.digests
    return all(inputs.get(role) == digests.get(role) for role in ("base", "tuned", "adapter"))


def stored_masks(run: Table, kind: str) -> dict[str, np.ndarray]:
    """The mask of a kind in a stored graft run: sorted flat indices per parameter."""
    return {
        name.split("/", 1)[1]: where
        for name, where in run.arrays.items()
        if name.startswith(f"{kind}/")
    }


def top_mask(ranking: Float[Tensor, " P"], count: int) -> Bool[Tensor, " P"]:
    """Mask of the ``count`` greatest scores; ties at the border go to the lower indices."""
    chosen = torch.zeros(len(ranking), dtype=torch.bool, device=ranking.device)
    if count <= 0:
        return chosen
    border = ranking.topk(count).values[-1]
    chosen |= ranking > border
    tied = (ranking == border).nonzero().flatten()
    chosen[tied[: count - n_kept(chosen)]] = True
    return chosen


def random_mask(scope: Scope, count: int, seed: int) -> Bool[Tensor, " P"]:
    """``count`` weights of the scope, drawn uniformly."""
    return _drawn(np.random.default_rng(seed), scope.size, count, scope.model.device)


def matched_mask(scope: Scope, reference: Bool[Tensor, " P"], seed: int) -> Bool[Tensor, " P"]:
    """As many weights of every parameter as in the mask ``reference``, drawn uniformly."""
    generator = np.random.default_rng(seed)
    return torch.cat(
        [
            _drawn(generator, part.numel(), n_kept(part), part.device)
            for part in scope.split(reference)
        ]
    )


def _drawn(
    generator: np.random.Generator, size: int, count: int, device: torch.device
) -> Bool[Tensor, " size"]:
    drawn = generator.choice(size, count, replace=False, shuffle=False)
    chosen = torch.zeros(size, dtype=torch.bool, device=device)
    chosen[torch.from_numpy(drawn).to(device)] = True
    return chosen


def movement_ranking(scope: Scope) -> Ranking:
    """Absolute change of each weight."""
    return scope.changes.abs()


def first_order_ranking(study: Study, scope: Scope, questions: Questions) -> Ranking:
    """First-order decrease of the loss by moving each weight, at the base: ``-movement *
    dL/dtheta``.
    """
    base_values = [piece.base for piece in scope.pairs]
    return -scope.changes * _mean_gradient(study, scope, questions, base_values)


def learned_ranking(
    study: Study,
    scope: Scope,
    questions: Questions,
    count: int,
    *,
    steps: int,
    learning_rate: float,
    penalty: float,
    batch: int,
) -> Ranking:
    """Scores learned by Adam from ``m = 1/2`` everywhere.

    Minimises the loss of ``batch`` questions plus ``penalty`` times the L1 norm of the mask over
    ``count``. The penalty's weight rises from 0 over the first half of ``steps``. Adam's steps have
    about the size ``learning_rate`` whatever the size of a gradient; the paper's plain gradient
    descent needs a rate of 1e7 instead.
    """
    moved, generator = scope.changes, torch.Generator().manual_seed(study.seed)
    scores, first_moment, second_moment = (torch.zeros_like(moved) for _ in range(3))
    distinct, _ = first_and_repeated(questions.keys)  # a repeated question counts once
    for step in study.progress(range(steps), "learning a mask"):
        # at most ``batch`` questions per step, fewer where memory ran out
        drawn = torch.randperm(len(distinct), generator=generator)[: study.batch_size_for(batch)]
        rows = [distinct[at] for at in to_host(drawn).tolist()]
        mask = scores.sigmoid()
        gradient = _gradient(study, scope, questions, rows, _relaxed_weights(scope, mask))
        gradient = gradient * moved / len(rows) + min(1.0, 2 * step / steps) * penalty / count
        gradient *= mask * (1 - mask)
        first_moment.lerp_(gradient, 0.1)
        second_moment.lerp_(gradient.square_(), 0.001)
        size = (
            (second_moment / (1 - 0.999 ** (step + 1)))
            .sqrt_()
            .add_(torch.finfo(second_moment.dtype).tiny)
        )
        scores -= learning_rate * first_moment / (1 - 0.9 ** (step + 1)) / size
    return scores


def relaxed_ranking(
    study: Study,
    scope: Scope,
    questions: Questions,
    count: int,
    *,
    steps: int,
    learning_rate: float,
) -> Ranking:
    """Panigrahi et al.'s relaxation as in their code: gradient descent from the mask of greatest
    movement.

    ``m = first + (1 - 2 first) sigmoid(S - 10)``, S uniform in [0, 1), gradients of the mean loss
    of all questions. The step with the most right answers (then the least loss) on the selection
    split is returned. Its relaxed mask is ranked here, so that ``count`` weights are kept; their
    code rounds it, which keeps another number.
    """
    moved = scope.changes
    first = top_mask(moved.abs(), count).to(moved.dtype)
    flip = 1 - 2 * first
    generator = torch.Generator().manual_seed(study.seed)
    scores = torch.rand(scope.size, generator=generator).to(first)
    best, best_mask = None, first
    groups = study.batches(questions.read, scope.model)
    for _ in study.progress(range(steps), "gradient descent as in the paper"):
        mask = first + flip * (scores - _BIAS).sigmoid()
        gradient = _mean_gradient(study, scope, questions, _relaxed_weights(scope, mask)) * moved
        part = (scores - _BIAS).sigmoid()
        scores -= learning_rate * flip * gradient * part * (1 - part)
        mask = first + flip * (scores - _BIAS).sigmoid()
        with scope.grafted(top_mask(mask, count)) as model:
            result = questions.grade(groups, engine_logits(study.engine, model), model.device)
        quality = (result.accuracy, -float(result.loss.mean()))
        if best is None or quality > best:
            best, best_mask = quality, mask
    return best_mask


def localised_mask(
    study: Study,
    scope: Scope,
    questions: Questions,
    start: int,
    *,
    steps: int,
    learning_rate: float,
    penalty: float,
    regulariser: str,
) -> Bool[Tensor, " P"]:
    """The mask that Localize-and-Stitch learns (He et al. 2024, arXiv 2408.13656):
    ``round(sigmoid(S))``, of any size.

    ``S`` starts at 5 for the ``start`` weights that moved most and at -5 elsewhere; gradient
    descent with step ``learning_rate`` on the mean loss of all questions. ``regulariser``, one
    of ``REGULARISERS``, is the use of ``penalty`` in each step: ``l1`` is the paper's penalty on
    the size of the mask, ``S -= penalty * sigma'(S)``; ``binarise`` is that of the released code,
    ``S += penalty * sigma'(S) * sign(S)`` with sign(0) = -1, which drives scores away from 0 and
    does not shrink the mask. The code sums gradients over batches; here they are means, so that
    ``learning_rate`` does not depend on the number of questions.
    """
    moved = scope.changes
    scores = top_mask(moved.abs(), start).to(moved.dtype) * 2 * _MARGIN - _MARGIN
    for _ in study.progress(range(steps), "localising"):
        mask = scores.sigmoid()
        sigmoid_slope = mask * (1 - mask)
        gradient = _mean_gradient(study, scope, questions, _relaxed_weights(scope, mask)) * moved
        penalty_sign = (
            1.0 if regulariser == "l1" else torch.where(scores > 0, -1.0, 1.0).to(scores.dtype)
        )
        scores -= sigmoid_slope * (learning_rate * gradient + penalty * penalty_sign)
    return scores > 0


def _relaxed_weights(scope: Scope, mask: Float[Tensor, " P"]) -> list[Tensor]:
    """``base + m * movement`` in at least float32, rounded once to the model's dtype."""
    return [
        torch.lerp(widen(piece.base), widen(piece.tuned), part.to(widen(piece.base).dtype)).to(
            piece.base.dtype
        )
        for piece, part in zip(scope.pairs, scope.split(mask), strict=True)
    ]


def _mean_gradient(
    study: Study, scope: Scope, questions: Questions, weights: Sequence[Tensor]
) -> Ranking:
    parts = (
        _gradient(study, scope, questions, rows, weights)
        for rows in study.batches(questions.read, scope.model)
    )
    return functools.reduce(torch.Tensor.add_, parts) / len(questions)


def _gradient(
    study: Study, scope: Scope, questions: Questions, rows: Sequence[int], weights: Sequence[Tensor]
) -> Ranking:
    """Gradient of the summed loss of some questions with respect to the scope's weights, at these
    values.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in weights]
    parameters = {piece.path: leaf for piece, leaf in zip(scope.pairs, leaves, strict=True)}
    with scope.model.active() as module, torch.enable_grad():

        def logits(batch: Batch, keep: int) -> Tensor:
            return functional_call(
                module, parameters, kwargs=model_inputs(batch, keep, None, False)
            ).logits

        loss = questions.loss(rows, logits, scope.model.device).sum()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    flat = [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, gradients, strict=True)
    ]
    return torch.cat([widen(slope).flatten() for slope in flat])
