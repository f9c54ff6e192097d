"""Greedy answers under an intervention, and the one-pass test whether a greedy answer would be a given text.

With a donor, donor and receiver go through the text in lockstep: the donor reads the receiver's tokens first (or the
twin prompt followed by the receiver's answer), and its activations at the same columns are bound into the edits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edit import Enter
from interp.engines import Batch, Edit, Engine
from interp.engines.shared_prefix import is_whole
from interp.errors import OptionError, required
from interp.intervention import Intervention
from interp.maths.host import to_host
from interp.models.caches import is_plain, keep_rows
from interp.models.model import Model
from interp.sites import Site

LOOK = 4  # tokens between two looks at what is written


@dataclass(frozen=True)
class Text:
    """Token ids of prompts, of their twins where an intervention needs them, and the special ids of the tokenizer."""

    prompts: Sequence[Sequence[int]]
    twins: Sequence[Sequence[int]] | None
    pad_id: int
    stop_ids: tuple[int, ...]

    def donor_prompts(self, intervention: Intervention) -> Sequence[Sequence[int]]:
        """What the donor reads before the answer."""
        if not intervention.twin:
            return self.prompts
        if self.twins is None:
            raise OptionError("an intervention from twin prompts needs a twin for every prompt")
        return self.twins


def answer_logits(
    engine: Engine,
    model: Model,
    text: Text,
    answers: Sequence[Sequence[int]],
    intervention: Intervention | None = None,
    activations: dict[Site, Float[Tensor, "B T N"]] | None = None,
    enter: Enter | None = None,
) -> tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"], Bool[Tensor, "B A"]]:
    """Logits that predict each answer token, the answers right-aligned, and which of their cells are real.

    Only the answer's own tokens before its last are read, so that column ``a`` predicts token ``a``. ``activations``
    of the donor can be given where they were taken before (they do not depend on which units are grafted), and with
    ``enter`` the stream on the same columns that a block is given, where nothing below it is edited.
    """
    batch, longest = _answered(text, text.prompts, answers, model), max(map(len, answers))
    edits: Sequence[Edit] = ()
    if intervention is not None:
        if activations is None:
            activations = read_donor(engine, intervention, text, answers)
        real = _donor_batch(intervention, text, answers).real if intervention.twin else None
        edits = intervention.bind(activations, real)
    begin = [] if enter is None else [enter]
    logits = engine.run(model, batch, edits=[*begin, *edits], keep=longest).require_logits()
    target = Batch.pad(answers, text.pad_id, device=model.device, length=longest)
    return logits, target.ids, target.mask


def read_donor(
    engine: Engine, intervention: Intervention, text: Text, answers: Sequence[Sequence[int]]
) -> dict[Site, Float[Tensor, "B T N"]]:
    """The donor's activations on prompt and answer, on the columns that ``answer_logits`` uses."""
    if intervention.donor is None or not intervention.reads:
        return {}
    batch = _donor_batch(intervention, text, answers)
    return engine.run(intervention.donor, batch, reads=intervention.reads, keep=0).values


def stream_at(engine: Engine, model: Model, text: Text, answers: Sequence[Sequence[int]], layer: int) -> Enter:
    """What a block is given on prompt and answer, to enter there, on the columns that ``answer_logits`` uses."""
    return stream_of(engine, model, _answered(text, text.prompts, answers, model), layer)


def stream_of(engine: Engine, model: Model, batch: Batch, layer: int) -> Enter:
    """What a block is given in a pass without an intervention, to enter there."""
    site = Site(layer, "hook_resid_pre")
    return Enter(site, engine.run(model, batch, reads=[site], keep=0).values[site])


def _donor_batch(intervention: Intervention, text: Text, answers: Sequence[Sequence[int]]) -> Batch:
    donor = required(intervention.donor, "a donor")
    return _answered(text, text.donor_prompts(intervention), answers, donor)


def _answered(text: Text, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], model: Model) -> Batch:
    """Prompts followed by answers without their last tokens, as wide as twins with them."""
    longest = max(map(len, answers))
    width = max(len(prompt) for prompt in (*text.prompts, *(text.twins or ()))) + longest - 1
    read = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    return Batch.pad(read, text.pad_id, device=model.device, length=width)


def would_answer(
    logits: Float[Tensor, "B A V"], answers: Int[Tensor, "B A"], real: Bool[Tensor, "B A"]
) -> Bool[Tensor, " B"]:
    """Whether greedy decoding would produce exactly the given answers: every argmax is the next token."""
    return ((logits.argmax(-1) == answers) | ~real).all(1)


def known_beginnings(
    logits: Float[Tensor, "B A V"], answers: Int[Tensor, "B A"], real: Bool[Tensor, "B A"]
) -> list[list[int]]:
    """What greedy decoding writes as far as a pass over given answers tells: up to the first token that differs.

    Of a row that would give the whole answer, all of it.
    """
    best, given, cells = (to_host(each).tolist() for each in (logits.argmax(-1), answers, real))
    found = []
    for choices, answer, here in zip(best, given, cells, strict=True):
        pairs = [(one, other) for one, other, cell in zip(choices, answer, here, strict=True) if cell]
        right = next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))
        found.append([one for one, _ in pairs[: right + 1]])
    return found


def first_logits(logits: Float[Tensor, "B A V"], real: Bool[Tensor, "B A"]) -> Float[Tensor, "B V"]:
    """The logits at the last prompt token, where the answer's first token is decided."""
    first = real.int().argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), first]


def generate(
    engine: Engine,
    model: Model,
    text: Text,
    max_new_tokens: int,
    intervention: Intervention | None = None,
    settled: Callable[[int, Sequence[int]], bool] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    see: Callable[[Float[Tensor, "B V"]], None] | None = None,
) -> list[list[int]]:
    """Greedy answers, each ending with its stop token, or cut at ``max_new_tokens`` or at the end of the context.

    ``settled(row, begun)`` is asked every few tokens, and a row for which it says yes is written no further.
    ``choose(logits, step)`` gives the next token of every row of the batch in the likeliest one's place; such answers
    are written from their first token on. ``see`` is shown the logits where the answers begin.
    Each row has the room that its own prompt (and the twin, where one is read) leave, whatever the others of the batch.
    ``begun``: beginnings of these answers that are known already; they are read and not written again.
    """
    beside = text.donor_prompts(intervention) if intervention is not None else text.prompts
    longest = [max(map(len, pair)) for pair in zip(text.prompts, beside, strict=True)]
    limits = [max(1, min(max_new_tokens, model.context_length - length)) for length in longest]
    if begun is not None and any(begun) and choose is None and see is None:
        return _go_on(engine, model, text, limits, intervention, settled, begun)
    return _write(engine, model, text, limits, intervention, settled, choose, see)


def _go_on(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    settled: Callable[[int, Sequence[int]], bool] | None,
    begun: Sequence[Sequence[int]],
) -> list[list[int]]:
    """The rest of answers that are known to their first tokens."""
    found = [_until_stop(list(known[:limit]), text.stop_ids) for known, limit in zip(begun, limits, strict=True)]
    ended = [bool(one) and one[-1] in text.stop_ids for one in found]
    rows = [
        row for row, (one, limit) in enumerate(zip(found, limits, strict=True))
        if not ended[row] and len(one) < limit and not (settled is not None and one and settled(row, one))
    ]  # fmt: skip
    if not rows:
        return found
    twins = None if text.twins is None else [[*text.twins[row], *found[row]] for row in rows]
    rest = Text([[*text.prompts[row], *found[row]] for row in rows], twins, text.pad_id, text.stop_ids)
    if intervention is not None:
        intervention = intervention.on_rows(torch.tensor(rows))
    more = _write(
        engine, model, rest, [limits[row] - len(found[row]) for row in rows], intervention,
        None if settled is None else lambda at, new: settled(rows[at], [*found[rows[at]], *new]),
    )  # fmt: skip
    for row, new in zip(rows, more, strict=True):
        found[row] = [*found[row], *new]
    return found


def _write(
    engine: Engine,
    model: Model,
    text: Text,
    limits: Sequence[int],
    intervention: Intervention | None,
    settled: Callable[[int, Sequence[int]], bool] | None,
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
    see: Callable[[Float[Tensor, "B V"]], None] | None = None,
) -> list[list[int]]:
    limits, beside = list(limits), text.donor_prompts(intervention) if intervention is not None else text.prompts
    longest = [max(map(len, pair)) for pair in zip(text.prompts, beside, strict=True)]
    limit = torch.tensor(limits, device=model.device)
    width = max(longest)
    batch = Batch.pad(text.prompts, text.pad_id, device=model.device, length=width)
    follower = None
    donor = None if intervention is None else intervention.donor
    if intervention is not None and donor is not None:
        prompts = text.donor_prompts(intervention)
        follower = Batch.pad(prompts, text.pad_id, device=donor.device, length=width)
    stops = torch.tensor(text.stop_ids, device=model.device)
    done = torch.zeros(len(text.prompts), dtype=torch.bool, device=model.device)
    written = torch.full((len(limits), max(limits)), text.pad_id, device=model.device)
    rows, cache, donor_cache = torch.arange(len(limits), device=model.device), None, None
    for step in range(max(limits)):
        edits: Sequence[Edit] = ()
        if intervention is not None:
            activations = {}
            if donor is not None and follower is not None:
                run = engine.run(donor, follower, reads=intervention.reads, keep=0, cache=donor_cache, use_cache=True)
                activations, donor_cache = run.values, run.cache
            edits = intervention.bind(activations, follower.real if intervention.twin and follower else None)
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
        if 2 * left <= len(rows) and choose is None and _may_drop(intervention, (model, cache), (donor, donor_cache)):
            kept = real.nonzero().ravel()
            rows, token, real, batch = rows[kept], token[kept], real[kept], _some(batch, kept)
            keep_rows(cache, kept)
            if intervention is not None:
                intervention = intervention.on_rows(kept)
            if follower is not None and donor is not None:
                follower = _some(follower, kept.to(donor.device))
                keep_rows(donor_cache, kept)
        batch = _extend(batch, token, real)
        follower = None if follower is None else _extend(follower, token, real)
    found = to_host(written).tolist()
    return [_until_stop(row[:count], text.stop_ids) for row, count in zip(found, limits, strict=True)]


def _may_drop(intervention: Intervention | None, *running: tuple[Model | None, Any]) -> bool:
    """Whether finished rows can be left out: of edits that are given, some may hold values of every row."""
    given = intervention is not None and intervention.kind == "edits"
    return not given and all(model is None or (is_plain(cache) and not is_whole(model)) for model, cache in running)


def _some(batch: Batch, rows: Int[Tensor, " K"]) -> Batch:
    return Batch(batch.ids[rows], batch.mask[rows])


def _extend(batch: Batch, token: Int[Tensor, " B"], real: Bool[Tensor, " B"]) -> Batch:
    device = batch.mask.device
    return Batch(token.to(device)[:, None], torch.cat([batch.mask, real.to(device)[:, None]], 1))


def _until_stop(row: list[int], stops: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stops:
            return row[: index + 1]
    return row
