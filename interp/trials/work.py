"""How long a run will take, before it begins: what it does, in passes, times what a few prompts take here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from interp.capture import make_batch
from interp.generate import Text, generate
from interp.progress import duration
from interp.sites import Site
from interp.study import Study

ROWS, WRITTEN = 16, 4  # prompts that are timed, and tokens that are written for each


@dataclass(frozen=True)
class Work:
    """What a run does to every prompt of its study, on average.

    ``passes`` of one model up to its head at one position; ``whole`` ones, whose head reads every token; ``gradients``:
    passes forward and back; ``tokens`` that are written, by one model.
    """

    passes: int | float = 0.0
    whole: int | float = 0.0
    gradients: int | float = 0.0
    tokens: int | float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, times: int | float) -> Work:
        return Work(*(getattr(self, one.name) * times for one in fields(self)))


@dataclass(frozen=True)
class Cost:
    """Plain passes over all prompts of a study that take as long as a run, and these ``seconds``."""

    passes: float
    seconds: float

    def __str__(self) -> str:
        return f"about as long as {self.passes:,.0f} passes over the prompts, {duration(self.seconds)} here"


def cost(study: Study, work: Work) -> Cost:
    """How long ``work`` takes here: each of its parts is timed on a few prompts, and scaled by their number.

    The first time that a model is used costs more than those that follow, so that every part is run once before.
    """
    group, model = study.classes[0], study.pair.tuned
    encoded = study.encoded(group)
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))
    step = max(len(by_length) // ROWS, 1)
    rows = by_length[step // 2 :: step][: study.at_a_time(ROWS)]
    batch, _ = make_batch(encoded, rows, study.pad_id, model.device)
    text = Text([encoded[row].ids for row in rows], None, study.pad_id, ())
    sites = [Site(layer, "hook_mlp_out") for layer in range(model.anatomy.n_layers)]

    def gradient() -> None:
        study.engine.run(
            model, batch, gradients_at=sites, gradient_of=lambda logits: logits[:, -1].float().logsumexp(-1)
        )

    timed: dict[str, Callable[[], object]] = {
        "passes": lambda: study.engine.run(model, batch, keep=1),
        "whole": lambda: study.engine.run(model, batch, keep=None),
        "gradients": gradient,
        "tokens": lambda: generate(study.engine, model, text, WRITTEN, None),
    }
    count = sum(len(study.encoded(name)) for name in study.classes) / len(rows)
    plain = _seconds(timed["passes"])
    total = work.passes * plain
    for name in ("whole", "gradients"):
        if getattr(work, name):
            total += getattr(work, name) * _seconds(timed[name])
    if work.tokens:
        total += work.tokens * max(_seconds(timed["tokens"]) - plain, 0.0) / (WRITTEN - 1)
    return Cost(total / plain, total * count)


def _seconds(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken)
