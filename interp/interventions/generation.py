"""Greedy answers under an intervention, token by token.

With a donor, both models step through the text together: the donor reads the receiver's tokens
first (or the twin prompt followed by the receiver's answer), and its activations at the same
columns become the edits of the receiver's pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Edit, Engine
from interp.engines.shared_prefix import needs_full_passes
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text
from interp.maths.host import to_host
from interp.models.caches import CachedPrefix, is_plain, keep_rows
from interp.models.model import Model
from interp.models.preflight import rope_scaling_boundary
from interp.prompts import Encoded

CHECK_EVERY = 4  # tokens between two checks whether an answer is decided
# batches for generation may have this many times the tokens of batches that are only read: after
# the first pass one token per row is read
GENERATION_BATCH_FACTOR = 1.5


def cached_bytes(
    model: Model, intervention: Intervention | None, prompts: Sequence[Encoded], max_new_tokens: int
) -> int:
    """Bytes to allow for each prompt token during generation: keys and values, of the answer too.

    Twice their size, since a growing cache is copied block by block, and the old one is not freed
    at once.
    """
    bytes_per_token = model.cached_bytes + (
        0 if intervention is None or not (donor := intervention.donor) else donor.cached_bytes
    )
    tokens = sum(len(prompt.ids) for prompt in prompts)
    return round(2 * bytes_per_token * (1 + max_new_tokens * len(prompts) / max(tokens, 1)))


@dataclass(frozen=True)
class KnownBeginnings:
    """Known beginnings of some answers, by row.

    ``tokens``: the first tokens, which are not generated again. ``receiver`` and ``donor``: cached
    keys and values of the prompt and a part of these tokens; without them prompts and tokens are
    read again. Generation consumes these caches, so that they can be used once.
    """

    tokens: Sequence[Sequence[int]]
    receiver: CachedPrefix | None = None
    donor: CachedPrefix | None = None

    def select(self, rows: Sequence[int]) -> "KnownBeginnings":
        """The beginnings of some rows."""
        receiver, donor = (
            None if cache is None else cache.of(rows) for cache in (self.receiver, self.donor)
        )
        return KnownBeginnings([self.tokens[row] for row in rows], receiver, donor)


def generate(
    engine: Engine,
    model: Model,
    text: Text,
    max_new_tokens: int,
    intervention: Intervention | None = None,
    is_decided: Callable[[int, Sequence[int]], bool] | None = None,
    beginnings: KnownBeginnings | None = None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    callback: Callable[[Float[Tensor, "B V"]], None] | None = None,
) -> list[list[int]]:
    """Greedy answers, each ending with its stop token, or cut at ``max_new_tokens`` or at the end
    of the context.

    ``is_decided(row, begun)`` is called every few tokens; where it is true, the row is not
    continued. ``choose(logits, step)`` replaces the argmax: it gives the next token of every row of
    the batch. Such answers are generated from their first token on. ``callback`` gets the logits at
    which the answers begin. The length limit of each row follows from its own prompt (and its twin,
    where one is read), not from the others of the batch. ``beginnings``: known beginnings of the
    answers.
    """
    donor_prompts = text.donor_prompts(intervention) if intervention is not None else text.prompts
    longest = [max(map(len, pair)) for pair in zip(text.prompts, donor_prompts, strict=True)]
    limits = [max(1, min(max_new_tokens, model.context_length - length)) for length in longest]
    if beginnings is not None and any(beginnings.tokens) and choose is None and callback is None:
        return _continue_answers(engine, model, text, limits, intervention, is_decided, beginnings)
    if (
        choose is None
        and (unscaled_limits := _limits_before_scaling(model, text, limits)) != limits
    ):
        # beyond this length the whole text is read again: earlier keys and values were rotated with
        # another scale
        written = _generate_tokens(
            engine, model, text, unscaled_limits, intervention, is_decided, None, callback
        )
        return _continue_answers(
            engine, model, text, limits, intervention, is_decided, KnownBeginnings(written)
        )
    return _generate_tokens(engine, model, text, limits, intervention, is_decided, choose, callback)


def _limits_before_scaling(model: Model, text: Text, limits: Sequence[int]) -> list[int]:
    """Tokens of each answer that can be generated before text length scales positions."""
    boundary, lengths = rope_scaling_boundary(model), [len(prompt) for prompt in text.prompts]
    if boundary is None:
        return list(limits)
    rows = zip(lengths, limits, strict=True)
    return [
        limit if length > boundary else min(limit, boundary - length + 1) for length, limit in rows
    ]


def _continue_answers(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    is_decided: Callable[[int, Sequence[int]], bool] | None,
    beginnings: KnownBeginnings,
) -> list[list[int]]:
    """Continue answers whose first tokens are known."""
    answers = [
        _cut_at_stop(list(known[:limit]), text.stop_ids)
        for known, limit in zip(beginnings.tokens, limits, strict=True)
    ]
    ended = [bool(one) and one[-1] in text.stop_ids for one in answers]
    rows = [
        row
        for row, (one, limit) in enumerate(zip(answers, limits, strict=True))
        if not ended[row]
        and len(one) < limit
        and not (is_decided is not None and one and is_decided(row, one))
    ]
    if not rows:
        return answers
    twins = None if text.twins is None else [[*text.twins[row], *answers[row]] for row in rows]
    extended_text = Text(
        [[*text.prompts[row], *answers[row]] for row in rows], twins, text.pad_id, text.stop_ids
    )
    if intervention is not None:
        intervention = intervention.on_rows(torch.tensor(rows))
    continuations = _generate_tokens(
        engine,
        model,
        extended_text,
        [limits[row] - len(answers[row]) for row in rows],
        intervention,
        None
        if is_decided is None
        else lambda at, new: is_decided(rows[at], [*answers[rows[at]], *new]),
        start=_start_from_cache(model, extended_text, intervention, beginnings, rows),
    )
    for row, new in zip(rows, continuations, strict=True):
        answers[row] = [*answers[row], *new]
    return answers


@dataclass
class _Start:
    """The receiver's and the donor's first batch, and the cached keys and values before them."""

    batch: Batch
    donor_batch: Batch | None
    cache: Any = None
    donor_cache: Any = None


def _start_from_cache(
    model: Model,
    text: Text,
    intervention: Intervention | None,
    beginnings: KnownBeginnings,
    rows: Sequence[int],
) -> _Start | None:
    """The tokens that no pass has read yet, with the cached keys and values of the others; None
    without a cache.
    """
    donor = None if intervention is None else intervention.donor
    if beginnings.receiver is None or (donor is not None and beginnings.donor is None):
        return None
    receiver = beginnings.receiver.take_rows(rows)
    donor_cache = None if beginnings.donor is None else beginnings.donor.take_rows(rows)
    unread = [
        prompt[length:] for prompt, length in zip(text.prompts, receiver.lengths, strict=True)
    ]
    new = Batch.pad(unread, text.pad_id, device=model.device)
    batch = Batch(new.ids, torch.cat([receiver.mask.to(model.device), new.mask], 1))
    if donor is None or donor_cache is None:
        return _Start(batch, None, receiver.cache())
    mask = torch.cat([each.to(donor.device) for each in (donor_cache.mask, new.mask)], 1)
    return _Start(
        batch, Batch(new.ids.to(donor.device), mask), receiver.cache(), donor_cache.cache()
    )


def _start_from_prompts(
    model: Model, text: Text, intervention: Intervention | None, width: int
) -> _Start:
    """A start from whole prompts, without a cache."""
    batch = Batch.pad(text.prompts, text.pad_id, device=model.device, length=width)
    if intervention is None or intervention.donor is None:
        return _Start(batch, None)
    prompts = text.donor_prompts(intervention)
    return _Start(
        batch, Batch.pad(prompts, text.pad_id, device=intervention.donor.device, length=width)
    )


def _generate_tokens(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    is_decided: Callable[[int, Sequence[int]], bool] | None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    callback: Callable[[Float[Tensor, "B V"]], None] | None = None,
    start: _Start | None = None,
) -> list[list[int]]:
    limits, donor_prompts = (
        list(limits),
        text.donor_prompts(intervention) if intervention is not None else text.prompts,
    )
    limit = torch.tensor(limits, device=model.device)
    start = start or _start_from_prompts(
        model, text, intervention, max(map(len, (*text.prompts, *donor_prompts)))
    )
    donor = None if intervention is None else intervention.donor
    batch, donor_batch, cache, donor_cache = (
        start.batch,
        start.donor_batch,
        start.cache,
        start.donor_cache,
    )
    stops = torch.tensor(text.stop_ids, device=model.device)
    done = torch.zeros(len(text.prompts), dtype=torch.bool, device=model.device)
    written = torch.full((len(limits), max(limits)), text.pad_id, device=model.device)
    rows = torch.arange(len(limits), device=model.device)
    for step in range(max(limits)):
        edits: Sequence[Edit] = ()
        if intervention is not None:
            activations = {}
            if donor is not None and donor_batch is not None:
                run = engine.run(
                    donor,
                    donor_batch,
                    reads=intervention.reads,
                    keep=0,
                    cache=donor_cache,
                    use_cache=True,
                )
                activations, donor_cache = run.values, run.cache
            edits = intervention.bind(
                activations, donor_batch.real if intervention.twin and donor_batch else None
            )
        run = engine.run(model, batch, edits=edits, keep=1, cache=cache, use_cache=True)
        cache = run.cache
        logits = run.require_logits()[:, -1]
        if callback is not None and step == 0:
            callback(logits)
        token = logits.argmax(-1) if choose is None else choose(logits, step)
        token = token.masked_fill(done[rows], text.pad_id)
        written[rows, step] = token
        done[rows] |= torch.isin(token, stops) | (limit[rows] <= step + 1)
        if is_decided is not None and (step + 1) % CHECK_EVERY == 0:
            written_tokens = to_host(written[:, : step + 1]).tolist()
            active = to_host(~done).nonzero()[0]
            decided = [int(row) for row in active if is_decided(int(row), written_tokens[row])]
            done[decided] = True
            for row in decided:
                limits[row] = step + 1
        n_active = int(to_host((~done[rows]).sum()))
        if not n_active:
            break
        real = ~done[rows]
        if (
            2 * n_active <= len(rows)
            and choose is None
            and _can_drop_rows(intervention, (model, cache), (donor, donor_cache))
        ):
            kept_rows = real.nonzero().ravel()
            rows, token, real, batch = (
                rows[kept_rows],
                token[kept_rows],
                real[kept_rows],
                _select_rows(batch, kept_rows),
            )
            keep_rows(cache, kept_rows)
            if intervention is not None:
                intervention = intervention.on_rows(kept_rows)
            if donor_batch is not None and donor is not None:
                donor_batch = _select_rows(donor_batch, kept_rows.to(donor.device))
                keep_rows(donor_cache, kept_rows)
        batch = _extend(batch, token, real, cache)
        donor_batch = (
            None if donor_batch is None else _extend(donor_batch, token, real, donor_cache)
        )
    token_rows = to_host(written).tolist()
    return [
        _cut_at_stop(row[:count], text.stop_ids)
        for row, count in zip(token_rows, limits, strict=True)
    ]


def _can_drop_rows(
    intervention: Intervention | None, *models_and_caches: tuple[Model | None, Any]
) -> bool:
    """Whether finished rows can be dropped from the batch: explicit edits may hold values of every
    row.
    """
    has_explicit_edits = intervention is not None and intervention.kind == "edits"
    return not has_explicit_edits and all(
        model is None or (is_plain(cache) and not needs_full_passes(model))
        for model, cache in models_and_caches
    )


def _select_rows(batch: Batch, rows: Int[Tensor, " K"]) -> Batch:
    return Batch(batch.ids[rows], batch.mask[rows])


def _extend(batch: Batch, token: Int[Tensor, " B"], real: Bool[Tensor, " B"], cache: Any) -> Batch:
    """The next pass's batch: the new token alone, or the whole text where there is no cache."""
    device = batch.mask.device
    new, mask = token.to(device)[:, None], torch.cat([batch.mask, real.to(device)[:, None]], 1)
    return Batch(new if cache is not None else torch.cat([batch.ids, new], 1), mask)


def _cut_at_stop(row: list[int], stops: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stops:
            return row[: index + 1]
    return row
