"""Teacher forcing: the logits of given answers, and whether greedy decoding would write them.

With a donor, the donor reads the receiver's text first (or the twin prompt followed by the
receiver's answer), and its activations at the same columns become the edits of the receiver's pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Edit, Engine, Run
from interp.errors import OptionError, required
from interp.interventions.edits import StartFromStream
from interp.interventions.intervention import Activations, Intervention
from interp.maths.host import to_host
from interp.models.model import Model
from interp.sites import Site


@dataclass(frozen=True)
class Text:
    """Token ids of prompts and, where an intervention needs them, of their twins; padding and stop
    ids.
    """

    prompts: Sequence[Sequence[int]]
    twins: Sequence[Sequence[int]] | None
    pad_id: int
    stop_ids: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> "Text":
        """Some of the prompts, without twins."""
        return Text([self.prompts[row] for row in rows], None, self.pad_id, self.stop_ids)

    def donor_prompts(self, intervention: Intervention) -> Sequence[Sequence[int]]:
        """The prompts that the donor reads before the answer."""
        if not intervention.twin:
            return self.prompts
        if self.twins is None:
            raise OptionError("an intervention from twin prompts needs a twin for every prompt")
        return self.twins


class UneditedStream(NamedTuple):
    """The stream that enters a block in an unedited pass, as an edit that starts there; the cache
    of the blocks below.
    """

    start_edit: StartFromStream
    cache: Any = None


class AnswerLogits(NamedTuple):
    """Logits that predict each answer token, answers right-aligned; which cells are real; the
    pass's cache.
    """

    logits: Float[Tensor, "B A V"]
    target: Int[Tensor, "B A"]
    real: Bool[Tensor, "B A"]
    cache: Any = None


def answer_logits(
    engine: Engine,
    model: Model,
    text: Text,
    answers: Sequence[Sequence[int]],
    intervention: Intervention | None = None,
    activations: Activations | None = None,
    start_edit: StartFromStream | None = None,
) -> tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"], Bool[Tensor, "B A"]]:
    """Logits that predict each answer token, the answers (right-aligned), and which cells are real.

    The last token of an answer is not read, so that column ``a`` predicts token ``a``.
    ``activations``: those of the donor, where they are known (they do not depend on which units are
    patched). ``start_edit``: the stream that enters a block on the same columns, where nothing
    below it is edited.
    """
    return read_answers(engine, model, text, answers, intervention, activations, start_edit)[:3]


def read_answers(
    engine: Engine,
    model: Model,
    text: Text,
    answers: Sequence[Sequence[int]],
    intervention: Intervention | None = None,
    activations: Activations | None = None,
    start_edit: StartFromStream | None = None,
    use_cache: bool = False,
) -> AnswerLogits:
    """As ``answer_logits``; with ``use_cache`` also the keys and values of the blocks that ran."""
    batch, longest = _answer_batch(text, text.prompts, answers, model), max(map(len, answers))
    edits: Sequence[Edit] = ()
    if intervention is not None:
        if activations is None:
            activations = read_donor(engine, intervention, text, answers).values
        donor_mask = _donor_batch(intervention, text, answers).real if intervention.twin else None
        edits = intervention.bind(activations, donor_mask)
    start_edits = [] if start_edit is None else [start_edit]
    run = engine.run(model, batch, edits=[*start_edits, *edits], keep=longest, use_cache=use_cache)
    target = Batch.pad(answers, text.pad_id, device=model.device, length=longest)
    return AnswerLogits(run.require_logits(), target.ids, target.mask, run.cache)


def read_donor(
    engine: Engine,
    intervention: Intervention,
    text: Text,
    answers: Sequence[Sequence[int]],
    use_cache: bool = False,
) -> Run:
    """The donor's activations on prompt and answer, on the columns of ``answer_logits``."""
    if intervention.donor is None or not intervention.reads:
        return Run(None)
    batch = _donor_batch(intervention, text, answers)
    return engine.run(
        intervention.donor, batch, reads=intervention.reads, keep=0, use_cache=use_cache
    )


def stream_at(
    engine: Engine,
    model: Model,
    text: Text,
    answers: Sequence[Sequence[int]],
    layer: int,
    use_cache: bool = False,
) -> UneditedStream:
    """The stream that enters a block on prompt and answer, on the columns of ``answer_logits``."""
    return stream_from_batch(
        engine, model, _answer_batch(text, text.prompts, answers, model), layer, use_cache
    )


def stream_from_batch(
    engine: Engine, model: Model, batch: Batch, layer: int, use_cache: bool = False
) -> UneditedStream:
    """The stream that enters a block in an unedited pass, as an edit that starts there."""
    site = Site(layer, "hook_resid_pre")
    run = engine.run(model, batch, reads=[site], keep=0, use_cache=use_cache)
    return UneditedStream(StartFromStream(site, run.values[site]), run.cache)


def first_columns(text: Text, answers: Sequence[Sequence[int]]) -> list[int]:
    """The column of each row's first token in the batches of ``answer_logits``, without twins."""
    lengths = [
        len(prompt) + len(answer) - 1 for prompt, answer in zip(text.prompts, answers, strict=True)
    ]
    width = max(map(len, text.prompts)) + max(map(len, answers)) - 1
    return [width - length for length in lengths]


def _donor_batch(intervention: Intervention, text: Text, answers: Sequence[Sequence[int]]) -> Batch:
    donor = required(intervention.donor, "a donor")
    return _answer_batch(text, text.donor_prompts(intervention), answers, donor)


def _answer_batch(
    text: Text, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], model: Model
) -> Batch:
    """Prompts followed by answers without their last tokens, padded to the width of the twins."""
    longest = max(map(len, answers))
    width = max(len(prompt) for prompt in (*text.prompts, *(text.twins or ()))) + longest - 1
    sequences = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    return Batch.pad(sequences, text.pad_id, device=model.device, length=width)


def would_answer(
    logits: Float[Tensor, "B A V"], answers: Int[Tensor, "B A"], real: Bool[Tensor, "B A"]
) -> Bool[Tensor, " B"]:
    """Whether greedy decoding would write exactly the given answers: every argmax is the next
    token.
    """
    return ((logits.argmax(-1) == answers) | ~real).all(1)


def known_beginnings(
    logits: Float[Tensor, "B A V"], answers: Int[Tensor, "B A"], real: Bool[Tensor, "B A"]
) -> list[list[int]]:
    """What greedy decoding would write, as far as a pass over given answers determines it.

    That is up to and with the first token that differs from the answer, or the whole answer.
    """
    greedy_tokens, answer_tokens, masks = (
        to_host(each).tolist() for each in (logits.argmax(-1), answers, real)
    )
    beginnings = []
    for choices, answer, mask in zip(greedy_tokens, answer_tokens, masks, strict=True):
        pairs = [
            (one, other) for one, other, cell in zip(choices, answer, mask, strict=True) if cell
        ]
        n_equal = next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))
        beginnings.append([one for one, _ in pairs[: n_equal + 1]])
    return beginnings


def first_logits(logits: Float[Tensor, "B A V"], real: Bool[Tensor, "B A"]) -> Float[Tensor, "B V"]:
    """The logits at the last prompt token, which decide the answer's first token."""
    first = real.int().argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), first]
