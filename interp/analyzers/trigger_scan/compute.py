"""First-order gains of all tokens at places in prompts, and the exact gains of some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.trigger_scan.places import Slot
from interp.engines import Batch
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import token_divergences
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Encoded, Tokenizer, n_usable_ids, special_ids
from interp.sites import Site
from interp.study import Study

ENTRY = Site(0, "hook_resid_pre")
"""The stream that a token enters."""
CHUNK = 1024
"""Tokens whose streams are read at once."""
BYTES = 24  # per token of the vocabulary: logits of both models and their distributions


def divergence(
    tuned: Float[Tensor, "B one V"], base: Float[Tensor, "B one V"]
) -> Float[Tensor, " B"]:
    """KL(fine-tuned || base) of the next token, nats, differentiable in both."""
    size = min(tuned.shape[-1], base.shape[-1])
    first = widen(tuned[:, -1, :size]).log_softmax(-1)
    second = widen(base[:, -1, :size]).log_softmax(-1).to(first.device)
    return (first.exp() * (first - second)).sum(-1)


@dataclass(frozen=True)
class Slopes:
    """Mean gradient over prompts of the divergence with respect to the stream that enters a model
    at a slot, [S, D], in the fine-tuned model and in the base, and ``offset`` [S]: its mean product
    with the streams of the tokens at which it was taken.
    """

    tuned: Float[np.ndarray, "S D"]
    base: Float[np.ndarray, "S D"]
    offset: Float[np.ndarray, " S"]


def slopes(study: Study, pair: Pair, among: Sequence[Slot], name: str) -> Slopes:
    """Mean gradients, from two forward passes and one backward pass of each model per place.

    Texts are read one at a time, so that nothing is padded.
    """
    base, tuned = pair.require_base("the trigger scan"), pair.tuned
    sums = [np.zeros((len(among), model.anatomy.width)) for model in (tuned, base)]
    offset = np.zeros(len(among))
    work = [(number, place) for number, slot in enumerate(among) for place in slot.places]
    for number, place in study.progress(work, f"gradients, {name}"):
        text, share = place.with_token(place.nearest), 1 / len(among[number].places)
        before, after = (_logits(study, model, [text], pair) for model in (base, tuned))
        gradients = (
            _gradient(study, tuned, text, lambda z, one=before: divergence(z, one)),
            _gradient(study, base, text, lambda z, one=after: divergence(one, z)),
        )
        nearest = torch.tensor([place.nearest])
        for total, gradient, model in zip(sums, gradients, (tuned, base), strict=True):
            at_place = share * to_host(gradient[0, place.at]).astype(np.float64)
            total[number] += at_place
            offset[number] += at_place @ to_host(entering(study, model, nearest))[0]
    return Slopes(sums[0], sums[1], offset)


def _gradient(
    study: Study,
    model: Model,
    text: Sequence[int],
    objective: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B T D"]:
    batch = Batch.pad([text], study.pad_id, device=model.device)
    run = study.engine.run(model, batch, gradients_at=[ENTRY], gradient_of=objective)
    return run.gradients[ENTRY]


def _logits(
    study: Study, model: Model, texts: Sequence[Sequence[int]], pair: Pair
) -> Float[Tensor, "B one V"]:
    """Logits after each of some texts, of the tokens that both models have."""
    batch = Batch.pad(texts, study.pad_id, device=model.device)
    vocabulary = vocabulary_of(pair)
    return study.engine.run(model, batch).require_logits()[..., :vocabulary]


def vocabulary_of(pair: Pair) -> int:
    """Number of tokens that both models have."""
    base = pair.require_base("the trigger scan")
    return min(base.anatomy.vocabulary, pair.tuned.anatomy.vocabulary)


def entering(study: Study, model: Model, tokens: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
    """The stream that each token enters a model with, at the first position of a text.

    Read from the model, since some scale embeddings or add a position to them: what all tokens have
    in common does not count in differences.
    """
    ids = tokens[:, None].to(model.device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
    return widen(study.engine.run(model, batch, reads=[ENTRY], keep=0).values[ENTRY][:, 0])


def first_order(
    study: Study, pair: Pair, mean_slopes: Slopes, vocabulary: int
) -> Float[np.ndarray, "S V"]:
    """``(E_v - E_x) . grad`` of the divergence for every token v in place of x, summed over both
    models, mean over prompts, nats (as in HotFlip, arXiv 1712.06751).
    """
    sides = (
        (pair.tuned, mean_slopes.tuned),
        (pair.require_base("the trigger scan"), mean_slopes.base),
    )
    gains = np.zeros((len(mean_slopes.offset), vocabulary))
    for start in range(0, vocabulary, CHUNK):
        stop = min(start + CHUNK, vocabulary)
        for model, slope in sides:
            streams = to_host(entering(study, model, torch.arange(start, stop)))
            gains[:, start:stop] += slope @ streams.T
    return gains - mean_slopes.offset[:, None]


def candidates(tokenizer: Tokenizer, vocabulary: int) -> Bool[np.ndarray, " V"]:
    """Which tokens are tried: all but special ones, which change whose turn it is, and those that
    the tokenizer or one of the models does not have.
    """
    tried = np.zeros(vocabulary, bool)
    tried[: min(len(tokenizer), n_usable_ids(tokenizer) or vocabulary)] = True
    special = np.array(sorted(special_ids(tokenizer)), np.int64)
    tried[special[special < vocabulary]] = False
    return tried


def best_tokens(
    gains: Float[np.ndarray, "M S V"], tried: Bool[np.ndarray, " V"], count: int
) -> list[list[int]]:
    """At each slot the union of every model's ``count`` best tokens, in order: by how far the
    model's gain is beyond the mean of the other models; ties by token.

    All models choose in the same way, so that none of them is favoured.
    """
    n_models = len(gains)
    others = (gains.sum(axis=0) - gains) / max(n_models - 1, 1)
    beyond = np.where(tried, gains - others, -np.inf)
    order = np.argsort(-beyond, axis=-1, kind="stable")[..., : min(count, int(tried.sum()))]
    return [sorted({*map(int, of_slot.flat)}) for of_slot in order.transpose(1, 0, 2)]


def exact_gains(
    study: Study,
    pair: Pair,
    among: Sequence[Slot],
    tried: Bool[np.ndarray, " V"],
    count: int,
    name: str,
) -> Float[np.ndarray, "S V"]:
    """Gain of every token that is tried in the first ``count`` prompts of every slot, exactly; 0
    for other tokens.
    """
    tokens = list(map(int, np.flatnonzero(tried)))
    few = [replace(slot, places=slot.places[:count]) for slot in among]
    found = divergences(study, pair, few, [tokens] * len(few), name)
    gains = np.zeros((len(few), len(tried)))
    for row, values in zip(gains, found, strict=True):
        row[tokens] = (values[:, 1:] - values[:, :1]).mean(axis=0)
    return gains


def divergences(
    study: Study,
    pair: Pair,
    among: Sequence[Slot],
    tokens: Sequence[Sequence[int]],
    name: str,
) -> list[Float[np.ndarray, "_ _"]]:
    """Divergence of the prompts of every slot with each of its ``tokens``, nats: by slot an array
    [prompts, 1 + tokens], its first column without a token.
    """
    found = [
        np.zeros((len(slot.places), 1 + len(some)))
        for slot, some in zip(among, tokens, strict=True)
    ]
    work = [(number, row) for number, values in enumerate(found) for row in range(len(values))]
    for number, row in study.progress(work, f"divergences, {name}"):
        place = among[number].places[row]
        found[number][row, :1] = _read(study, pair, [place.ids])
        texts = [place.with_token(token) for token in tokens[number]]
        found[number][row, 1:] = _read(study, pair, texts)
    return found


def _read(
    study: Study, pair: Pair, texts: Sequence[tuple[int, ...]]
) -> Float[np.ndarray, " texts"]:
    """Divergence after texts of one length, in batches that share what they begin with."""
    values, tuned = np.zeros(len(texts)), pair.tuned
    if not texts:
        return values
    coded = [Encoded(text, (0,) * len(text)) for text in texts]
    # only the last position has logits
    bytes_per_token = BYTES * tuned.anatomy.vocabulary // len(texts[0])
    for rows in study.batches(coded, tuned, bytes_per_token):
        some = [texts[row] for row in rows]
        before, after = (
            _logits(study, model, some, pair)
            for model in (pair.require_base("the trigger scan"), tuned)
        )
        everywhere = torch.ones(after.shape[:2], dtype=torch.bool, device=after.device)
        values[rows] = to_host(token_divergences(after, before.to(after.device), everywhere))[:, 0]
    return values
