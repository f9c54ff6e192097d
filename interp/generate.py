"""Greedy answers under an intervention, and the one-pass test whether a greedy answer would be a given text.

With a donor, donor and receiver go through the text in lockstep: the donor reads the receiver's tokens first (or the
twin prompt followed by the receiver's answer), and its activations at the same columns are bound into the edits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.edit import Intervention
from interp.engines import Batch, Edit, Engine
from interp.errors import OptionError, required
from interp.maths.host import to_host
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
) -> tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"], Bool[Tensor, "B A"]]:
    """Logits that predict each answer token, the answers right-aligned, and which of their cells are real.

    Only the answer's own tokens before its last are read, so that column ``a`` predicts token ``a``. ``activations``
    of the donor can be given where they were taken before (they do not depend on which units are grafted).
    """
    longest = max(len(answer) for answer in answers)
    width = max(len(prompt) for prompt in (*text.prompts, *(text.twins or ()))) + longest - 1
    read = [[*prompt, *answer[:-1]] for prompt, answer in zip(text.prompts, answers, strict=True)]
    batch = Batch.pad(read, text.pad_id, device=model.device, length=width)
    edits: Sequence[Edit] = ()
    if intervention is not None:
        if activations is None:
            activations = read_donor(engine, intervention, text, answers)
        real = _donor_batch(intervention, text, answers).real if intervention.twin else None
        edits = intervention.bind(activations, real)
    logits = engine.run(model, batch, edits=edits, keep=longest).require_logits()
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


def _donor_batch(intervention: Intervention, text: Text, answers: Sequence[Sequence[int]]) -> Batch:
    longest = max(len(answer) for answer in answers)
    width = max(len(prompt) for prompt in (*text.prompts, *(text.twins or ()))) + longest - 1
    prompts = text.donor_prompts(intervention)
    read = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    donor = required(intervention.donor, "a donor")
    return Batch.pad(read, text.pad_id, device=donor.device, length=width)


def would_answer(
    logits: Float[Tensor, "B A V"], answers: Int[Tensor, "B A"], real: Bool[Tensor, "B A"]
) -> Bool[Tensor, " B"]:
    """Whether greedy decoding would produce exactly the given answers: every argmax is the next token."""
    return ((logits.argmax(-1) == answers) | ~real).all(1)


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
    choose: Callable[[Float[Tensor, "B V"], int], Int[Tensor, " B"]] | None = None,
) -> list[list[int]]:
    """Greedy answers, each ending with its stop token, or cut at ``max_new_tokens`` or at the end of the context.

    ``settled(row, begun)`` is asked every few tokens, and a row for which it says yes is written no further.
    ``choose(logits, step)`` gives the next token of every row of the batch in the likeliest one's place.
    Each row has the room that its own prompt (and the twin, where one is read) leave, whatever the others of the batch.
    """
    beside = text.donor_prompts(intervention) if intervention is not None else text.prompts
    longest = [max(map(len, pair)) for pair in zip(text.prompts, beside, strict=True)]
    limits = [max(1, min(max_new_tokens, model.context_length - length)) for length in longest]
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
    written, cache, donor_cache = [], None, None
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
        token = logits.argmax(-1) if choose is None else choose(logits, step)
        token = token.masked_fill(done, text.pad_id)
        written.append(token)
        done |= torch.isin(token, stops) | (limit <= step + 1)
        if settled is not None and (step + 1) % LOOK == 0:
            begun = to_host(torch.stack(written, 1)).tolist()
            going = to_host(~done).nonzero()[0]
            ended = [int(row) for row in going if settled(int(row), begun[row])]
            done[ended] = True
            for row in ended:
                limits[row] = step + 1
        if to_host(done.all()):
            break
        batch = _extend(batch, token, ~done)
        follower = None if follower is None else _extend(follower, token, ~done)
    rows = to_host(torch.stack(written, 1)).tolist()
    return [_until_stop(row[:count], text.stop_ids) for row, count in zip(rows, limits, strict=True)]


def _extend(batch: Batch, token: Int[Tensor, " B"], real: Bool[Tensor, " B"]) -> Batch:
    device = batch.mask.device
    return Batch(token.to(device)[:, None], torch.cat([batch.mask, real.to(device)[:, None]], 1))


def _until_stop(row: list[int], stops: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stops:
            return row[: index + 1]
    return row
