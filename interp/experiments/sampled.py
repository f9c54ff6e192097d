"""Whether sampled answers show a behaviour, in addition to greedy ones.

The next token is the first at which the cumulative probability at the temperature exceeds a uniform
number from [0, 1). These numbers follow from seed, prompt and sample alone. So batches do not
matter (except by rounding), and all models and conditions use the same numbers: a condition that
changes no probability changes no sample, and differences between conditions are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.experiments.conditions import PatchTarget
from interp.experiments.pending_answers import is_decided
from interp.interventions.generation import generate
from interp.metrics import Behaviour, Sampling
from interp.study import Study


@dataclass(frozen=True)
class SampledAnswers:
    """Whether each sample shows the behaviour, ``[prompts, samples]``."""

    condition: str
    group: str
    exhibits: Bool[np.ndarray, "B S"]


def sampling_options(study: Study) -> Sampling | None:
    """How the study's behaviour samples answers; None where it uses greedy ones only."""
    return study.metric.sampling if isinstance(study.metric, Behaviour) else None


def sample_answers(
    study: Study, sampling: Sampling, name: str, group: str, receiver: PatchTarget
) -> SampledAnswers:
    """Sample answers to every prompt of a class under a condition, and evaluate them."""
    exhibits = study.part(
        f"samples {name} {group}", lambda: _sample_exhibits(study, sampling, group, receiver)
    )
    return SampledAnswers(name, group, np.array(exhibits, bool).reshape(-1, sampling.samples))


def _sample_exhibits(
    study: Study, sampling: Sampling, group: str, receiver: PatchTarget
) -> list[list[bool]]:
    model, encoded, metric = study.pair[receiver.role], study.encoded(group), study.require_metric()
    samples = [(row, at) for row in range(len(encoded)) for at in range(sampling.samples)]
    exhibits = [[False] * sampling.samples for _ in encoded]
    batches = study.batches([encoded[row] for row, _ in samples], model)
    for part in study.progress(batches, f"{receiver.role} samples, {group}"):
        batch_samples = [samples[at] for at in part]
        rows = [row for row, _ in batch_samples]
        text = study.text(group, rows, receiver.role if receiver.intervention is None else None)
        uniforms = np.stack(
            [
                sampling.uniforms(encoded[row].ids, at, study.max_new_tokens)
                for row, at in batch_samples
            ]
        )
        answers = generate(
            study.engine,
            model,
            text,
            study.max_new_tokens,
            receiver.intervention,
            lambda at, begun, rows=rows: is_decided(study, rows[at], begun, group),
            choose=lambda logits, step, numbers=uniforms: sample_tokens(
                logits, sampling.temperature, numbers[:, step]
            ),
        )
        prompts = [study.prompts(group).prompts[row] for row in rows]
        batch_exhibits = metric.exhibits(
            prompts, [study.decode(answer) for answer in answers], group
        )
        for (row, at), yes in zip(batch_samples, batch_exhibits, strict=True):
            exhibits[row][at] = bool(yes)
    return exhibits


def sample_tokens(
    logits: Float[Tensor, "B V"],
    temperature: float,
    uniforms: Sequence[float] | Float[np.ndarray, " B"],
) -> Int[Tensor, " B"]:
    """The tokens at which the cumulative probability at a temperature first exceeds each number."""
    # rare tokens can vanish in float32; some devices have nothing wider
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = (logits.to(dtype) / temperature).softmax(-1).cumsum(-1)
    thresholds = (
        torch.tensor(np.asarray(uniforms), dtype=dtype, device=logits.device)[:, None]
        * cumulative[:, -1:]
    )
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )
