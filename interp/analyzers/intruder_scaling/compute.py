"""Measures the fine-tuned model at every scale: the task, and loss and divergence on plain text."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.capture import make_batch
from interp.engines import Batch
from interp.errors import required
from interp.experiments.plain_text import coded_texts
from interp.maths.host import to_host
from interp.metrics import token_divergences, token_losses
from interp.models.model import Model
from interp.study import Study


@dataclass(frozen=True)
class Measured:
    """Measurements at one scale: ``metric`` of every task prompt (None without a task), ``loss``
    and ``kl`` of every text.

    Loss and KL(scaled || base) are means over tokens, in nats.
    """

    metric: Float[np.ndarray, " P"] | None
    loss: Float[np.ndarray, " B"]
    kl: Float[np.ndarray, " B"]

    @property
    def task(self) -> Float[np.ndarray, " P"]:
        """``metric``, or OptionError without a task."""
        return required(self.metric, "a task")


def of_text(study: Study) -> str:
    """The class of the study's prompts that is plain text."""
    return study.classes[-1]


def measured(
    study: Study,
    base: Model,
    kinds: Sequence[str],
    scales: Sequence[float],
    scaled: Callable[[str, float], AbstractContextManager],
) -> tuple[dict[tuple[str, float], Measured], Measured, Float[np.ndarray, " B"]]:
    """Measurements by kind and scale, of the unscaled fine-tuned model, and the base's loss per
    text.

    Raises PromptError for a text of one token.
    """
    texts, tuned = coded_texts(study, of_text(study)), study.pair.tuned
    settings = [("", 1.0), *((kind, scale) for kind in kinds for scale in scales if scale != 1)]
    before, losses, kls = np.zeros(len(texts)), *np.zeros((2, len(settings), len(texts)))
    # scales in the inner loop: the base has to run unscaled, and with an adapter the scaled model
    # shares its weights
    for rows in study.progress(study.batches(texts, tuned, 16 * tuned.anatomy.vocabulary), "texts"):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", tuned.device)
        targets, real = batch.ids[:, 1:], batch.mask[:, 1:]
        plain = study.engine.run(base, batch, keep=None).require_logits()[:, :-1].to(tuned.device)
        before[rows] = to_host(token_losses(plain, targets, real).double().sum(1) / real.sum(1))
        for at, (kind, scale) in enumerate(settings):
            with scaled(kind, scale):
                logits = study.engine.run(tuned, batch, keep=None).require_logits()[:, :-1]
            losses[at, rows] = to_host(
                token_losses(logits, targets, real).double().sum(1) / real.sum(1)
            )
            kls[at, rows] = to_host(
                token_divergences(logits, plain, real).double().sum(1) / real.sum(1)
            )
    found = {}
    for at, (kind, scale) in enumerate(study.progress(settings, "scales")):
        metric = None
        if study.metric is not None:
            with scaled(kind, scale):
                metric = _numbers(study)
        found[kind, scale] = Measured(metric, losses[at], kls[at])
    whole = {
        (kind, scale): found["" if scale == 1 else kind, scale]
        for kind in kinds
        for scale in scales
    }
    return whole, found["", 1.0], before


def _numbers(study: Study) -> np.ndarray:
    """The metric of every positive prompt in the fine-tuned model in its present state."""
    posed, model = study.decision_inputs("positive"), study.pair.tuned
    found = np.zeros(len(posed))
    for rows in study.batches(posed, model):
        batch, _ = make_batch(posed, rows, study.pad_id, model.device)
        aim = study.objective("positive", rows)
        found[rows] = to_host(
            aim.of(study.engine.run(model, batch, keep=aim.keep).require_logits())
        )
    return found
