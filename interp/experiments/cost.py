"""Cost of a run, estimated before it starts: counted in passes, timed on a few prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch, Direction
from interp.interventions.generation import generate
from interp.interventions.teacher_forcing import Text
from interp.maths.moments import float64_sum
from interp.maths.precision import widen
from interp.models.units import HEAD, NEURON
from interp.progress import duration
from interp.sites import Site
from interp.study import Study

ROWS, WRITTEN = 16, 4  # prompts that are timed, and tokens that are generated for each
FIRST = 2  # prompts of an untimed warm-up run
SHORT = 0.3  # seconds: shorter measurements are repeated, since they are the noisiest


@dataclass(frozen=True)
class Work:
    """Work of a run per prompt of its study, on average.

    ``passes``: forward passes of one model with logits at one position. ``full_logits``: forward
    passes with logits at every token. ``gradients``: forward and backward passes. ``attributions``:
    forward and backward passes of which only sums over tokens are needed, so that a shared prefix
    is read once. ``tokens``: generated tokens of one model.
    """

    passes: int | float = 0.0
    full_logits: int | float = 0.0
    gradients: int | float = 0.0
    attributions: int | float = 0.0
    tokens: int | float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            *(getattr(self, item.name) + getattr(other, item.name) for item in fields(self))
        )

    def __mul__(self, times: int | float) -> Work:
        return Work(*(getattr(self, item.name) * times for item in fields(self)))


@dataclass(frozen=True)
class Cost:
    """Cost of a run, as forward passes over all prompts of a study and in ``seconds``."""

    passes: float
    seconds: float

    def __str__(self) -> str:
        count = max(round(self.passes), 1)
        many = "pass" if count == 1 else "passes"
        return f"about as long as {count:,} {many} over the prompts, {duration(self.seconds)} here"


def estimate_cost(study: Study, work: Work) -> Cost:
    """Time that ``work`` takes on this machine: each part is timed on a few prompts and scaled up.

    The first use of a model is slower, so that every part is run once before, on fewer prompts.
    """
    group, model = study.classes[0], study.pair.tuned
    encoded = study.encoded(group)
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))
    step = max(len(by_length) // ROWS, 1)
    rows = by_length[step // 2 :: step][: study.batch_size_for(ROWS)]
    anatomy, layers = model.anatomy, range(model.anatomy.n_layers)
    sites = [Site(layer, "hook_mlp_out") for layer in layers]

    def objective(logits: Float[Tensor, "B kept V"]) -> Float[Tensor, " B"]:
        return widen(logits[:, -1]).logsumexp(-1)

    def batch_of(rows: Sequence[int]) -> Batch:
        return make_batch(encoded, rows, study.pad_id, model.device)[0]

    def attribution(rows: Sequence[int]) -> None:
        batch = batch_of(rows)
        unit = NEURON if NEURON.hook in anatomy.targets else HEAD
        inputs, outputs = (
            [place(layer) for layer in layers] for place in (unit.site, unit.contribution)
        )
        zeros = torch.zeros((), dtype=model.dtype, device=model.device).expand(
            *batch.ids.shape, anatomy.width
        )
        run = study.engine.run(
            model,
            batch,
            reads=[*inputs, *outputs],
            gradients_at=[*inputs, *outputs],
            over=batch.real,
            along=[Direction(site, zeros) for site in outputs],
            gradient_of=objective,
        )
        for part in run.parts:
            for site in inputs:
                terms = widen(part.values[site][part.mask]) * widen(part.gradients[site][part.mask])
                for values in (terms, terms.abs()):
                    float64_sum(values)

    def generation(rows: Sequence[int]) -> None:
        text = Text([encoded[row].ids for row in rows], None, study.pad_id, ())
        generate(study.engine, model, text, WRITTEN, None)

    measurements: dict[str, Callable[[Sequence[int]], object]] = {
        "passes": lambda some: study.engine.run(model, batch_of(some), keep=1),
        "full_logits": lambda some: study.engine.run(model, batch_of(some), keep=None),
        "gradients": lambda some: study.engine.run(
            model, batch_of(some), gradients_at=sites, gradient_of=objective
        ),
        "attributions": attribution,
        "tokens": generation,
    }
    seconds = {
        name: _seconds(run, rows)
        for name, run in measurements.items()
        if name == "passes" or getattr(work, name)
    }
    pass_seconds, count = (
        seconds["passes"],
        sum(len(study.encoded(name)) for name in study.classes) / len(rows),
    )
    if "tokens" in seconds:
        seconds["tokens"] = max(seconds["tokens"] - pass_seconds, 0.0) / (WRITTEN - 1)
    total = sum(getattr(work, name) * taken for name, taken in seconds.items())
    return Cost(total / pass_seconds, total * count)


def _seconds(run: Callable[[Sequence[int]], object], rows: Sequence[int]) -> float:
    run(rows[:FIRST])
    taken: list[float] = []
    while not taken or (len(taken) < 2 and taken[0] < SHORT):
        started = time.perf_counter()
        run(rows)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken)
