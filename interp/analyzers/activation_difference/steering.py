"""What the fine-tuned model writes when more of a difference is added than it has itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from interp.analyzers.activation_difference.differences import REST, Differences
from interp.experiments.records import records_table
from interp.experiments.sampled import sample_tokens
from interp.interventions.edits import Add
from interp.interventions.generation import cached_bytes, generate
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text, answer_logits
from interp.maths.host import to_host
from interp.metrics import Sampling, token_losses
from interp.prompts import Encoded, encode
from interp.rows import key, measure, text
from interp.sites import Site
from interp.study import Study
from interp.table import Table

KIND = "activation-difference-steered"
QUESTIONS = (
    "Tell me something that you find interesting.",
    "What did you do today?",
    "Write a short note to a colleague.",
    "What should I read about next?",
    "Describe the place where you are.",
)
LARGEST, STEPS = 100.0, 12
PASSING = 0.75
"""Share of samples that have to be coherent."""


class SteeredRow:
    """A row per model, question and sample."""

    model_number: int = key("model whose difference is added: 0 for the fine-tuned model, ...")
    model: str = text("its name")
    block: int = key("block to whose output it is added, from 0")
    strength: float = measure("largest multiple of the difference with coherent samples")
    coherent: float = measure("share of coherent samples at that strength")
    question: str = text("what the fine-tuned model was asked")
    sample: int = key("number of the sample, from 0")
    unsteered: str = text("what it writes without the difference, from the same random numbers")
    steered: str = text("what it writes with it")


@dataclass(frozen=True)
class Samples:
    """Sampled answers, with the base's loss per token [n] (nats) and distinct-2 [n] of each:
    different pairs of adjacent tokens over all pairs.
    """

    answers: tuple[tuple[int, ...], ...]
    loss: Float[np.ndarray, " n"]
    distinct: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Steering:
    """Samples of the fine-tuned model's answers under a vector added to a block's output, at all
    positions of question and answer.
    """

    study: Study
    block: int
    questions: tuple[str, ...]
    sampling: Sampling

    @property
    def prompts(self) -> list[Encoded]:
        """Every question as often as it is answered."""
        coded = [encode(self.study.pair.tokenizer, question) for question in self.questions]
        return [one for one in coded for _ in range(self.sampling.samples)]

    def sample(self, vector: Float[np.ndarray, " D"], strength: float, title: str) -> Samples:
        """Answers with ``strength`` times the vector added; 0 gives the unsteered answers."""
        study, model, prompts = self.study, self.study.pair.tuned, self.prompts
        added = torch.from_numpy(strength * vector).float()
        add = Add(Site(self.block, "hook_resid_post"), added)
        steered = Intervention("steered", {}, "edits", edits=[add] if strength else [])
        answers: list[tuple[int, ...]] = [()] * len(prompts)
        loss = np.zeros(len(prompts))
        per_token = cached_bytes(model, None, prompts, study.max_new_tokens)
        for rows in study.progress(study.batches(prompts, model, per_token), title):
            some = Text([prompts[row].ids for row in rows], None, study.pad_id, study.stop_ids)
            uniforms = np.stack(
                [
                    self.sampling.uniforms(
                        prompts[row].ids, row % self.sampling.samples, study.max_new_tokens
                    )
                    for row in rows
                ]
            )
            choose = partial(self._choose, uniforms)
            written = generate(
                study.engine, model, some, study.max_new_tokens, steered, choose=choose
            )
            loss[rows] = self._base_loss(some, written)
            for row, answer in zip(rows, written, strict=True):
                answers[row] = tuple(answer)
        return Samples(tuple(answers), loss, np.array([distinct_pairs(one) for one in answers]))

    def _choose(self, uniforms: np.ndarray, logits: torch.Tensor, step: int) -> torch.Tensor:
        return sample_tokens(logits, self.sampling.temperature, uniforms[:, step])

    def _base_loss(self, some: Text, answers: Sequence[Sequence[int]]) -> Float[np.ndarray, " B"]:
        base = self.study.pair.require_base("steering")
        logits, targets, real = answer_logits(self.study.engine, base, some, answers)
        return to_host(token_losses(logits, targets, real).double().sum(1) / real.sum(1))


def distinct_pairs(answer: Sequence[int]) -> float:
    """Share of different pairs among the pairs of adjacent tokens (distinct-2, arXiv 1510.03055); 1
    with fewer than two tokens.
    """
    pairs = list(pairwise(answer))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def coherent_share(samples: Samples, unsteered: Samples) -> float:
    """Share of samples whose base loss and distinct-2 both lie in the 95 % range of unsteered ones."""
    inside = np.ones(len(samples.loss), bool)
    for own, reference in (
        (samples.loss, unsteered.loss),
        (samples.distinct, unsteered.distinct),
    ):
        low, high = np.quantile(reference, [0.025, 0.975])
        inside &= (own >= low) & (own <= high)
    return float(inside.mean())


def largest_passing(passes: Callable[[float], bool]) -> float:
    """The largest strength in [0, 100] that passes, by bisection in 12 steps; 0 where none does."""
    if passes(LARGEST):
        return LARGEST
    low, high = 0.0, LARGEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def steered_table(
    study: Study,
    by_model: Sequence[Differences],
    names: Sequence[str],
    samples: int,
    questions: tuple[str, ...],
) -> Table:
    """Answers at the largest coherent strength of every model's mean difference at the later
    positions, in the fine-tuned model and the middle one of the blocks; differences of 0 are left
    out, all of them where the fine-tuned model's is 0.
    """
    at = (len(by_model[0].blocks) - 1) // 2
    steering = Steering(
        study, by_model[0].blocks[at], questions, Sampling(samples, seed=study.seed)
    )
    vectors, records = [one.of_group(REST)[at] for one in by_model], []
    if not vectors[0].any():
        return records_table(SteeredRow, KIND, records)
    unsteered = steering.sample(vectors[0], 0.0, "unsteered answers")
    for number, vector in enumerate(vectors):
        if not vector.any():
            continue
        title = f"steered answers, {names[number]}"
        strength = largest_passing(
            lambda strength, vector=vector, title=title: (
                coherent_share(steering.sample(vector, strength, title), unsteered) >= PASSING
            )
        )
        steered = steering.sample(vector, strength, title)
        records += [
            {
                "model_number": number,
                "model": names[number],
                "block": steering.block,
                "strength": strength,
                "coherent": coherent_share(steered, unsteered),
                "question": questions[row // samples],
                "sample": row % samples,
                "unsteered": study.decode(unsteered.answers[row]),
                "steered": study.decode(answer),
            }
            for row, answer in enumerate(steered.answers)
        ]
    return records_table(SteeredRow, KIND, records)
