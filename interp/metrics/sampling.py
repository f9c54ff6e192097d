"""How answers are sampled: number per prompt, temperature, random seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.errors import MetricError
from interp.provenance import digest


@dataclass(frozen=True)
class Sampling:
    """``samples`` answers per prompt, drawn at ``temperature`` with a random generator per prompt.

    Raises MetricError for fewer than one sample, a temperature not above 0, and a negative seed.
    """

    samples: int
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise MetricError(f"samples is {self.samples}; give 1 or more")
        if not 0 < self.temperature < math.inf:
            raise MetricError(
                f"temperature is {self.temperature:g}; give one above 0 (greedy answers are always"
                " read too)"
            )
        if self.seed < 0:
            raise MetricError(f"seed is {self.seed}; give 0 or more")

    @property
    def identity(self) -> dict[str, object]:
        """What determines the samples, for provenance."""
        return {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}

    def __str__(self) -> str:
        times = "answer" if self.samples == 1 else "answers"
        return f"{self.samples} {times} sampled per prompt at temperature {self.temperature:g}"

    def uniforms(
        self, prompt: Sequence[int], sample: int, count: int
    ) -> Float[np.ndarray, " count"]:
        """Uniform random numbers in [0, 1) that choose the tokens of one sample for a prompt (its
        token ids), one per token.

        They depend only on the seed, the prompt and the number of the sample, not on batch, model
        or condition.
        """
        prompt_digest = digest({"seed": self.seed, "prompt": list(prompt), "sample": sample})
        return np.random.default_rng(int(prompt_digest[:32], 16)).random(count)
