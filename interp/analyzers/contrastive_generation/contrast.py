"""Sampling from the contrast of two models that read the same text step by step.

``q(w) ~ exp((l_t(w) - gamma l_b(w)) / temperature)`` on the tokens with ``p_t >= alpha max p_t``,
with log probabilities ``l_t`` of the fine-tuned model and ``l_b`` of its base. Contrastive decoding
(arXiv 2210.15097) and CGE (arXiv 2410.14765) have gamma 1. Amplification,
``softmax((1 + a) z_t - a z_b)``, is gamma a / (1 + a) at temperature 1 / (1 + a) on all tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Engine
from interp.experiments.sampled import sample_tokens
from interp.interventions.generation import generate
from interp.interventions.teacher_forcing import Text
from interp.maths.host import to_host
from interp.metrics import Sampling
from interp.models.model import Model

_MILLIONTHS = 1_000_000


@dataclass(frozen=True)
class Contrast:
    """One member of the family; ``alpha`` 0 allows all tokens, 1 only the likeliest."""

    gamma: float
    temperature: float = 1.0
    alpha: float = 0.1

    @classmethod
    def amplified(cls, amount: float, alpha: float = 0.0) -> Contrast:
        """Amplification of the difference by ``amount`` >= 0; 0 is the fine-tuned model itself."""
        return cls(amount / (1 + amount), 1 / (1 + amount), alpha)

    def log_weights(
        self, tuned: Float[Tensor, "B V"], base: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """``log q`` up to a constant per row, -inf outside the candidates, from the logits."""
        tuned = tuned.log_softmax(-1)
        weights = (tuned - self.gamma * base.log_softmax(-1)) / self.temperature
        if self.alpha == 0:
            return weights
        least = tuned.amax(-1, keepdim=True) + math.log(self.alpha)
        return weights.masked_fill(tuned < least, -math.inf)


@dataclass(frozen=True)
class ContrastiveText:
    """A sampled text: its tokens (with the end token where it ends), and the mean log probability
    of a token in the fine-tuned model and in the base, nats.
    """

    ids: tuple[int, ...]
    tuned: float
    base: float


def contrastive_texts(
    engine: Engine,
    tuned: Model,
    base: Model,
    text: Text,
    contrast: Contrast,
    vocabulary: int,
    max_new_tokens: int,
    seed: int,
    draw: int = 0,
) -> list[ContrastiveText]:
    """A text after every prompt of one batch, over the first ``vocabulary`` token ids.

    The random numbers follow from seed, ``draw``, prompt and gamma, so that all models get the
    same. With
    ``tuned`` the base itself, which then runs once, the base is contrasted with itself.
    """
    sampling = Sampling(1, seed=seed)
    # gamma in millionths, so that the draws of a gamma do not depend on which others there are
    number = round(_MILLIONTHS * contrast.gamma) + draw * _MILLIONTHS**2
    uniforms = [sampling.uniforms(prompt, number, max_new_tokens) for prompt in text.prompts]
    other = None if tuned is base else _OtherModel(engine, base, text, max_new_tokens)
    sampler = _Sampler(contrast, vocabulary, np.stack(uniforms), other)
    answers = generate(engine, tuned, text, max_new_tokens, choose=sampler.choose)
    log_probabilities = to_host(torch.stack(sampler.log_probabilities, -1))
    texts = []
    for answer, of_row in zip(answers, log_probabilities.swapaxes(0, 1), strict=True):
        of_tuned, of_base = of_row[:, : len(answer)].mean(1)
        texts.append(ContrastiveText(tuple(answer), float(of_tuned), float(of_base)))
    return texts


@dataclass
class _OtherModel:
    """The base, which reads the same prompts and tokens with a cache of its own."""

    engine: Engine
    model: Model
    text: Text
    max_new_tokens: int
    cache: Any = None

    def __post_init__(self) -> None:
        prompts, device = self.text.prompts, self.model.device
        self.batch = Batch.pad(prompts, self.text.pad_id, device=device)
        self.room = torch.tensor(
            [self.model.context_length - len(prompt) for prompt in prompts], device=device
        )
        self.stops = torch.tensor(self.text.stop_ids, device=device)
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    def logits(self) -> Float[Tensor, "B V"]:
        """The logits of the next token of every row."""
        run = self.engine.run(self.model, self.batch, keep=1, cache=self.cache, use_cache=True)
        self.cache = run.cache
        return run.require_logits()[:, -1]

    def read(self, token: Int[Tensor, " B"], step: int) -> None:
        """Append a token to every row; those that ended, or are at the end of the context, get
        padding.
        """
        token = token.to(self.batch.ids.device)
        self.done |= torch.isin(token, self.stops) | (self.room <= step + 1)
        real: Bool[Tensor, " B"] = ~self.done
        new = token.masked_fill(self.done, self.text.pad_id)[:, None]
        ids = new if self.cache is not None else torch.cat([self.batch.ids, new], 1)
        self.batch = Batch(ids, torch.cat([self.batch.mask, real[:, None]], 1))


@dataclass
class _Sampler:
    """Chooses tokens by the contrast; ``log_probabilities``: [2, B] for every step, of the chosen
    token in both models.
    """

    contrast: Contrast
    vocabulary: int
    uniforms: Float[np.ndarray, "B steps"]
    other: _OtherModel | None
    log_probabilities: list[Float[Tensor, "2 B"]] = field(default_factory=list)

    def choose(self, logits: Float[Tensor, "B V"], step: int) -> Int[Tensor, " B"]:
        """The next token of every row, see ``interp.interventions.generation.generate``."""
        tuned = self._wide(logits)
        base = tuned if self.other is None else self._wide(self.other.logits().to(logits.device))
        weights = self.contrast.log_weights(tuned, base)
        token = sample_tokens(weights, 1.0, self.uniforms[:, step])
        self.log_probabilities.append(
            torch.stack(
                [one.log_softmax(-1).gather(1, token[:, None])[:, 0] for one in (tuned, base)]
            )
        )
        if self.other is not None:
            self.other.read(token, step)
        return token

    def _wide(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B n"]:
        # some devices have nothing wider than float32
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        return logits[:, : self.vocabulary].to(dtype)
