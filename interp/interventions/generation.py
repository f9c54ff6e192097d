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
from interp.engines.shared_prefix import is_whole
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text
from interp.maths.host import to_host
from interp.models.caches import CachedPrefix, is_plain, keep_rows
from interp.models.model import Model
from interp.models.preflight import scaled_beyond
from interp.prompts import Encoded

LOOK = 4  # tokens between two checks whether an answer is decided
# batches for generation may have this many times the tokens of batches that are only read: after
# the first pass one token per row is read
MORE_WRITTEN = 1.5


def cached_bytes(
    model: Model, intervention: Intervention | None, prompts: Sequence[Encoded], max_new_tokens: int
) -> int:
    """Bytes to allow for each prompt token during generation: keys and values, of the answer too.

    Twice their size, since a growing cache is copied block by block, and the old one is not freed
    at once.
    """
    each = model.cached_bytes + (
        0 if intervention is None or not (donor := intervention.donor) else donor.cached_bytes
    )
    tokens = sum(len(prompt.ids) for prompt in prompts)
    return round(2 * each * (1 + max_new_tokens * len(prompts) / max(tokens, 1)))


@dataclass(frozen=True)
class Begun:
    """Known beginnings of some answers, by row.

    ``tokens``: the first tokens, which are not generated again. ``receiver`` and ``donor``: cached
    keys and values of the prompt and a part of these tokens; without them prompts and tokens are
    read again. Generation consumes these caches, so that they can be used once.
    """

    tokens: Sequence[Sequence[int]]
    receiver: CachedPrefix | None = None
    donor: CachedPrefix | None = None

    def select(self, rows: Sequence[int]) -> "Begun":
        """The beginnings of some rows."""
        receiver, donor = (
            None if cache is None else cache.of(rows) for cache in (self.receiver, self.donor)
        )
        return Begun([self.tokens[row] for row in rows], receiver, donor)


def generate(
    engine: Engine,
    model: Model,
    text: Text,
    max_new_tokens: int,
    intervention: Intervention | None = None,
    settled: Callable[[int, Sequence[int]], bool] | None = None,
    begun: Begun | None = None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    see: Callable[[Float[Tensor, "B V"]], None] | None = None,
) -> list[list[int]]:
    """Greedy answers, each ending with its stop token, or cut at ``max_new_tokens`` or at the end
    of the context.

    ``settled(row, begun)`` is called every few tokens; where it is true, the row is not continued.
    ``choose(logits, step)`` replaces the argmax: it gives the next token of every row of the batch.
    Such answers are generated from their first token on. ``see`` gets the logits at which the
    answers begin. The length limit of each row follows from its own prompt (and its twin, where one
    is read), not from the others of the batch. ``begun``: known beginnings of the answers.
    """
    beside = text.donor_prompts(intervention) if intervention is not None else text.prompts
    longest = [max(map(len, pair)) for pair in zip(text.prompts, beside, strict=True)]
    limits = [max(1, min(max_new_tokens, model.context_length - length)) for length in longest]
    if begun is not None and any(begun.tokens) and choose is None and see is None:
        return _go_on(engine, model, text, limits, intervention, settled, begun)
    if choose is None and (first := _before_scaling(model, text, limits)) != limits:
        # beyond this length the whole text is read again: earlier keys and values were rotated with
        # another scale
        known = _write(engine, model, text, first, intervention, settled, None, see)
        return _go_on(engine, model, text, limits, intervention, settled, Begun(known))
    return _write(engine, model, text, limits, intervention, settled, choose, see)


def _before_scaling(model: Model, text: Text, limits: Sequence[int]) -> list[int]:
    """Tokens of each answer that can be generated before text length scales positions."""
    boundary, lengths = scaled_beyond(model), [len(prompt) for prompt in text.prompts]
    if boundary is None:
        return list(limits)
    rows = zip(lengths, limits, strict=True)
    return [
        limit if length > boundary else min(limit, boundary - length + 1) for length, limit in rows
    ]


def _go_on(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    settled: Callable[[int, Sequence[int]], bool] | None,
    begun: Begun,
) -> list[list[int]]:
    """Continue answers whose first tokens are known."""
    found = [
        _until_stop(list(known[:limit]), text.stop_ids)
        for known, limit in zip(begun.tokens, limits, strict=True)
    ]
    ended = [bool(one) and one[-1] in text.stop_ids for one in found]
    rows = [
        row
        for row, (one, limit) in enumerate(zip(found, limits, strict=True))
        if not ended[row]
        and len(one) < limit
        and not (settled is not None and one and settled(row, one))
    ]
    if not rows:
        return found
    twins = None if text.twins is None else [[*text.twins[row], *found[row]] for row in rows]
    rest = Text(
        [[*text.prompts[row], *found[row]] for row in rows], twins, text.pad_id, text.stop_ids
    )
    if intervention is not None:
        intervention = intervention.on_rows(torch.tensor(rows))
    more = _write(
        engine,
        model,
        rest,
        [limits[row] - len(found[row]) for row in rows],
        intervention,
        None if settled is None else lambda at, new: settled(rows[at], [*found[rows[at]], *new]),
        start=_start(model, rest, intervention, begun, rows),
    )
    for row, new in zip(rows, more, strict=True):
        found[row] = [*found[row], *new]
    return found


@dataclass
class _Start:
    """The receiver's and the donor's first batch, and the cached keys and values before them."""

    batch: Batch
    follower: Batch | None
    cache: Any = None
    donor_cache: Any = None


def _start(
    model: Model, text: Text, intervention: Intervention | None, begun: Begun, rows: Sequence[int]
) -> _Start | None:
    """The tokens that no pass has read yet, with the cached keys and values of the others; None
    without a cache.
    """
    donor = None if intervention is None else intervention.donor
    if begun.receiver is None or (donor is not None and begun.donor is None):
        return None
    receiver = begun.receiver.only(rows)
    other = None if begun.donor is None else begun.donor.only(rows)
    unread = [
        prompt[length:] for prompt, length in zip(text.prompts, receiver.lengths, strict=True)
    ]
    new = Batch.pad(unread, text.pad_id, device=model.device)
    batch = Batch(new.ids, torch.cat([receiver.mask.to(model.device), new.mask], 1))
    if donor is None or other is None:
        return _Start(batch, None, receiver.cache())
    mask = torch.cat([each.to(donor.device) for each in (other.mask, new.mask)], 1)
    return _Start(batch, Batch(new.ids.to(donor.device), mask), receiver.cache(), other.cache())


def _from_prompts(
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


def _write(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    settled: Callable[[int, Sequence[int]], bool] | None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    see: Callable[[Float[Tensor, "B V"]], None] | None = None,
    start: _Start | None = None,
) -> list[list[int]]:
    limits, beside = (
        list(limits),
        text.donor_prompts(intervention) if intervention is not None else text.prompts,
    )
    limit = torch.tensor(limits, device=model.device)
    start = start or _from_prompts(
        model, text, intervention, max(map(len, (*text.prompts, *beside)))
    )
    donor = None if intervention is None else intervention.donor
    batch, follower, cache, donor_cache = (
        start.batch,
        start.follower,
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
            if donor is not None and follower is not None:
                run = engine.run(
                    donor,
                    follower,
                    reads=intervention.reads,
                    keep=0,
                    cache=donor_cache,
                    use_cache=True,
                )
                activations, donor_cache = run.values, run.cache
            edits = intervention.bind(
                activations, follower.real if intervention.twin and follower else None
            )
        run = engine.run(model, batch, edits=edits, keep=1, cache=cache, use_cache=True)
        cache = run.cache
        logits = run.require_logits()[:, -1]
        if see is not None and step == 0:
            see(logits)
        token = logits.argmax(-1) if choose is None else choose(logits, step)
        token = token.masked_fill(done[rows], text.pad_id)
        written[rows, step] = token
        done[rows] |= torch.isin(token, stops) | (limit[rows] <= step + 1)
        if settled is not None and (step + 1) % LOOK == 0:
            begun = to_host(written[:, : step + 1]).tolist()
            going = to_host(~done).nonzero()[0]
            ended = [int(row) for row in going if settled(int(row), begun[row])]
            done[ended] = True
            for row in ended:
                limits[row] = step + 1
        left = int(to_host((~done[rows]).sum()))
        if not left:
            break
        real = ~done[rows]
        if (
            2 * left <= len(rows)
            and choose is None
            and _may_drop(intervention, (model, cache), (donor, donor_cache))
        ):
            kept = real.nonzero().ravel()
            rows, token, real, batch = rows[kept], token[kept], real[kept], _some(batch, kept)
            keep_rows(cache, kept)
            if intervention is not None:
                intervention = intervention.on_rows(kept)
            if follower is not None and donor is not None:
                follower = _some(follower, kept.to(donor.device))
                keep_rows(donor_cache, kept)
        batch = _extend(batch, token, real, cache)
        follower = None if follower is None else _extend(follower, token, real, donor_cache)
    found = to_host(written).tolist()
    return [
        _until_stop(row[:count], text.stop_ids) for row, count in zip(found, limits, strict=True)
    ]


def _may_drop(intervention: Intervention | None, *running: tuple[Model | None, Any]) -> bool:
    """Whether finished rows can be dropped from the batch: explicit edits may hold values of every
    row.
    """
    given = intervention is not None and intervention.kind == "edits"
    return not given and all(
        model is None or (is_plain(cache) and not is_whole(model)) for model, cache in running
    )


def _some(batch: Batch, rows: Int[Tensor, " K"]) -> Batch:
    return Batch(batch.ids[rows], batch.mask[rows])


def _extend(batch: Batch, token: Int[Tensor, " B"], real: Bool[Tensor, " B"], cache: Any) -> Batch:
    """The next pass's batch: the new token alone, or the whole text where there is no cache."""
    device = batch.mask.device
    new, mask = token.to(device)[:, None], torch.cat([batch.mask, real.to(device)[:, None]], 1)
    return Batch(new if cache is not None else torch.cat([batch.ids, new], 1), mask)


def _until_stop(row: list[int], stops: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stops:
            return row[: index + 1]
    return row
