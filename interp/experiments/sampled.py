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
from interp.experiments.pending_answers import settles
from interp.interventions.generation import generate
from interp.metrics import Behaviour, Sampling
from interp.study import Study


@dataclass(frozen=True)
class Sampled:
    """Whether each sample shows the behaviour, ``[prompts, samples]``."""

    condition: str
    group: str
    exhibits: Bool[np.ndarray, "B S"]


def sampling_of(study: Study) -> Sampling | None:
    """How the study's behaviour samples answers; None where it uses greedy ones only."""
    return study.metric.sampling if isinstance(study.metric, Behaviour) else None


def sample(
    study: Study, sampling: Sampling, name: str, group: str, receiver: PatchTarget
) -> Sampled:
    """Sample answers to every prompt of a class under a condition, and evaluate them."""
    kept = study.part(f"samples {name} {group}", lambda: _shown(study, sampling, group, receiver))
    return Sampled(name, group, np.array(kept, bool).reshape(-1, sampling.samples))


def _shown(study: Study, sampling: Sampling, group: str, receiver: PatchTarget) -> list[list[bool]]:
    model, coded, metric = study.pair[receiver.role], study.encoded(group), study.require_metric()
    asked = [(row, at) for row in range(len(coded)) for at in range(sampling.samples)]
    shown = [[False] * sampling.samples for _ in coded]
    batches = study.batches([coded[row] for row, _ in asked], model)
    for part in study.progress(batches, f"{receiver.role} samples, {group}"):
        mine = [asked[at] for at in part]
        rows = [row for row, _ in mine]
        text = study.text(group, rows, receiver.role if receiver.intervention is None else None)
        numbers = np.stack(
            [sampling.uniforms(coded[row].ids, at, study.max_new_tokens) for row, at in mine]
        )
        answers = generate(
            study.engine,
            model,
            text,
            study.max_new_tokens,
            receiver.intervention,
            lambda at, begun, rows=rows: settles(study, rows[at], begun, group),
            choose=lambda logits, step, numbers=numbers: chosen(
                logits, sampling.temperature, numbers[:, step]
            ),
        )
        prompts = [study.prompts(group).prompts[row] for row in rows]
        found = metric.exhibits(prompts, [study.decode(answer) for answer in answers], group)
        for (row, at), yes in zip(mine, found, strict=True):
            shown[row][at] = bool(yes)
    return shown


def chosen(
    logits: Float[Tensor, "B V"],
    temperature: float,
    numbers: Sequence[float] | Float[np.ndarray, " B"],
) -> Int[Tensor, " B"]:
    """The tokens at which the cumulative probability at a temperature first exceeds each number."""
    # rare tokens can vanish in float32; some devices have nothing wider
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    share = (logits.to(wide) / temperature).softmax(-1).cumsum(-1)
    reached = (
        torch.tensor(np.asarray(numbers), dtype=wide, device=logits.device)[:, None] * share[:, -1:]
    )
    return torch.searchsorted(share, reached, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
