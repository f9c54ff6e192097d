"""How many ranks of the update are needed: the base with the first k ranks of every parameter's
change, compared with random updates of equal singular values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines import Batch
from interp.experiments.discovery.update_directions import numerical_rank
from interp.maths.host import to_host
from interp.maths.intervals import cluster_interval
from interp.maths.precision import widen
from interp.maths.subspaces import SingularBasis, leading_triplets, random_rotation
from interp.metrics import token_divergences
from interp.models.grafts import Scope
from interp.models.parameter_pairs import ParameterPair
from interp.models.updates import rounding_noise
from interp.prompts import Encoded
from interp.rows import key, measure, rows_table
from interp.study import Study
from interp.table import Table

UPDATE, RANDOM = "fine-tuned", "random"


class TruncationRow:
    """A row per number of ranks and kind of update; the base first."""

    ranks: int = key("ranks of every change that are kept; 0 for the base, -1 for all")
    update: str = key("the fine-tuned model's update, or a random one of equal singular values")
    draw: int = key("number of the random draw, from 0")
    kl: float = measure(
        "mean over texts of KL(fine-tuned || model with this update) per token", "nats"
    )
    low: float = measure("lower end of its 95 % interval over clusters of texts", "nats")
    high: float = measure("upper end of its 95 % interval over clusters of texts", "nats")
    recovered: float = measure(
        "1 - kl / kl of the base: 1 for the fine-tuned model, 0 for the base"
    )


def truncation_table(
    study: Study,
    texts: Sequence[Encoded],
    rows: Sequence[int],
    ranks: Sequence[int],
    draws: int,
) -> Table:
    """KL to the fine-tuned model of the base with truncated updates, over some texts.

    ``texts``: those of the study's positive class; ``rows``: the ones to use. The change of every
    parameter tensor is cut to its first k singular values (a vector has one, and a tensor of more
    dimensions is several matrices); ranks from the largest numerical rank on are left out. With all
    ranks it is the fine-tuned model, an adapter as merged. No rows where nothing changed. Raises
    UnsupportedModel where weights cannot be replaced in memory.
    """
    scope = Scope.from_pair(study.pair, "all")
    changed = any(bool(to_host((pair.changes != 0).any())) for pair in scope.pairs)
    found = []
    if changed and len(rows):
        bases = [_triplets(pair, max(ranks) + 1) for pair in scope.pairs]
        limit = max(_rank(pair, part) for pair, part in zip(scope.pairs, bases, strict=True))
        kept = sorted({k for k in ranks if k < limit})
        conditions = list(_conditions(study.seed, scope, bases, kept, draws))
        for ranks_kept, update, draw, make in study.progress(conditions, "truncated updates"):
            values = _divergences(study, texts, rows, scope, make())
            found.append((ranks_kept, update, draw, values))
    names = [study.prompts("positive").clusters[row] for row in rows]
    intervals = [cluster_interval(values, names) for *_, values in found]
    base = intervals[0].value if intervals else np.nan
    return rows_table(
        TruncationRow,
        "update-directions-truncation",
        {
            "ranks": np.array([one[0] for one in found], np.int64),
            "update": [one[1] for one in found],
            "draw": np.array([one[2] for one in found], np.int64),
            "kl": np.array([one.value for one in intervals], np.float64),
            "low": np.array([one.low for one in intervals], np.float64),
            "high": np.array([one.high for one in intervals], np.float64),
            "recovered": np.array(
                [1 - one.value / base if base > 0 else np.nan for one in intervals], np.float64
            ),
        },
    )


def _conditions(
    seed: int,
    scope: Scope,
    bases: Sequence[list[SingularBasis]],
    kept: Sequence[int],
    draws: int,
) -> Iterator[tuple[int, str, int, Callable[[], list[Tensor]]]]:
    """Ranks kept, kind, draw, and a function that makes the parameters."""
    yield 0, UPDATE, 0, lambda: [pair.base for pair in scope.pairs]
    for k in (*kept, -1):
        yield (
            k,
            UPDATE,
            0,
            lambda k=k: [
                pair.tuned.to(pair.base.dtype) if k < 0 else _added(pair, _truncated(basis, k))
                for pair, basis in zip(scope.pairs, bases, strict=True)
            ],
        )
        for draw in range(draws):
            yield (
                k,
                RANDOM,
                draw,
                lambda k=k, draw=draw: [
                    _added(pair, _random(pair, basis, k, (seed, at, draw)))
                    for at, (pair, basis) in enumerate(zip(scope.pairs, bases, strict=True))
                ],
            )


def _divergences(
    study: Study,
    texts: Sequence[Encoded],
    rows: Sequence[int],
    scope: Scope,
    tensors: Sequence[Tensor],
) -> Float[np.ndarray, " P"]:
    """Mean KL(fine-tuned || the base with these parameters) over the tokens of every text."""
    tuned, values = study.pair.tuned, np.zeros(len(rows))
    chosen = [texts[row] for row in rows]
    for numbers in study.batches(chosen, tuned, 16 * tuned.anatomy.vocabulary):
        batch = Batch.pad([chosen[at].ids for at in numbers], study.pad_id, "right", tuned.device)
        size = min(scope.model.anatomy.vocabulary, tuned.anatomy.vocabulary)
        target = study.engine.run(tuned, batch, keep=None).require_logits()[..., :size]
        with scope.weights_replaced(tensors):
            logits = study.engine.run(scope.model, batch, keep=None).require_logits()[..., :size]
        kl = token_divergences(target, logits.to(target.device), batch.mask)
        values[numbers] = to_host(kl.double().sum(1) / batch.mask.sum(1))
    return values


def _matrices(change: Tensor) -> Float[Tensor, "E m n"]:
    """A parameter's change as matrices: one, or one for each leading index; a vector is a column."""
    return change[None, :, None] if change.ndim == 1 else change.reshape(-1, *change.shape[-2:])


def _change(pair: ParameterPair) -> Float[Tensor, "E m n"]:
    return _matrices(pair.changes.view(pair.base.shape))


def _rank(pair: ParameterPair, bases: Sequence[SingularBasis]) -> int:
    """The largest numerical rank of the change's matrices, as far as triplets are known."""
    shape = _matrices(pair.base).shape[1:]
    size = float(to_host(widen(pair.base).square().mean().sqrt()))
    noise = rounding_noise(torch.finfo(pair.base.dtype).eps, size, shape)
    return max(numerical_rank(to_host(one.values), shape, noise) for one in bases)


def _triplets(pair: ParameterPair, count: int) -> list[SingularBasis]:
    return [leading_triplets(matrix, count) for matrix in _change(pair)]


def _truncated(bases: Sequence[SingularBasis], k: int) -> Float[Tensor, "E m n"]:
    return torch.stack([(one.left[:, :k] * one.values[:k]) @ one.right[:, :k].T for one in bases])


def _random(
    pair: ParameterPair, bases: Sequence[SingularBasis], k: int, seeds: tuple[int, int, int]
) -> Float[Tensor, "E m n"]:
    """The first k singular values (all for -1) with left and right vectors rotated at random."""
    seed, index, draw = seeds
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) * 10_007 + draw)
    rotated = []
    for number, matrix in enumerate(_change(pair)):
        if k < 0:
            once = random_rotation(matrix, generator)
            rotated.append(random_rotation(once.T.contiguous(), generator).T)
            continue
        one = bases[number]
        left = random_rotation(one.left[:, :k] * one.values[:k], generator)
        rotated.append(left @ random_rotation(one.right[:, :k], generator).T)
    return torch.stack(rotated)


def _added(pair: ParameterPair, change: Float[Tensor, "E m n"]) -> Tensor:
    base = widen(pair.base)
    return (base + change.to(base).reshape(base.shape)).to(pair.base.dtype)
