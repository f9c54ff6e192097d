"""How answers are sampled: how many to a prompt, at which temperature, from which seed."""

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
    """``samples`` answers to every prompt, drawn at ``temperature`` from a generator of each
    prompt's own.

    Raises MetricError for fewer than one sample, for a temperature that is not above 0 and for a
    seed below 0.
    """

    samples: int
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise MetricError(f"samples is {self.samples}; give 1 or more")
        if not 0 < self.temperature < math.inf:
            raise MetricError(
                f"temperature is {self.temperature:g}; give one above 0 (greedy answers are read"
                " anyway)"
            )
        if self.seed < 0:
            raise MetricError(f"seed is {self.seed}; give 0 or more")

    @property
    def identity(self) -> dict[str, object]:
        """What determines the samples, for provenance."""
        return {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}

    def __str__(self) -> str:
        times = "answer" if self.samples == 1 else "answers"
        return f"{self.samples} {times} sampled to each prompt at temperature {self.temperature:g}"

    def uniforms(
        self, prompt: Sequence[int], sample: int, count: int
    ) -> Float[np.ndarray, " count"]:
        """Numbers from [0, 1) that choose the tokens of one sample to a prompt (its token ids), one
        for each token.

        They follow from seed, prompt and number of the sample alone: whatever the batch, the model
        and the condition.
        """
        own = digest({"seed": self.seed, "prompt": list(prompt), "sample": sample})
        return np.random.default_rng(int(own[:32], 16)).random(count)
