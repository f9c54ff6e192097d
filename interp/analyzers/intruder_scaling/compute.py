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
class ScaleMeasurements:
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


def text_class(study: Study) -> str:
    """The class of the study's prompts that is plain text."""
    return study.classes[-1]


def measure_scales(
    study: Study,
    base: Model,
    kinds: Sequence[str],
    scales: Sequence[float],
    scaled: Callable[[str, float], AbstractContextManager],
) -> tuple[dict[tuple[str, float], ScaleMeasurements], ScaleMeasurements, Float[np.ndarray, " B"]]:
    """Measurements by kind and scale, of the unscaled fine-tuned model, and the base's loss per
    text.

    Raises PromptError for a text of one token.
    """
    texts, tuned = coded_texts(study, text_class(study)), study.pair.tuned
    settings = [("", 1.0), *((kind, scale) for kind in kinds for scale in scales if scale != 1)]
    base_losses, losses, kls = np.zeros(len(texts)), *np.zeros((2, len(settings), len(texts)))
    # scales in the inner loop: the base has to run unscaled, and with an adapter the scaled model
    # shares its weights
    for rows in study.progress(study.batches(texts, tuned, 16 * tuned.anatomy.vocabulary), "texts"):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", tuned.device)
        targets, mask = batch.ids[:, 1:], batch.mask[:, 1:]
        base_logits = (
            study.engine.run(base, batch, keep=None).require_logits()[:, :-1].to(tuned.device)
        )
        base_losses[rows] = to_host(
            token_losses(base_logits, targets, mask).double().sum(1) / mask.sum(1)
        )
        for index, (kind, scale) in enumerate(settings):
            with scaled(kind, scale):
                logits = study.engine.run(tuned, batch, keep=None).require_logits()[:, :-1]
            losses[index, rows] = to_host(
                token_losses(logits, targets, mask).double().sum(1) / mask.sum(1)
            )
            kls[index, rows] = to_host(
                token_divergences(logits, base_logits, mask).double().sum(1) / mask.sum(1)
            )
    by_measured_setting = {}
    for index, (kind, scale) in enumerate(study.progress(settings, "scales")):
        metric = None
        if study.metric is not None:
            with scaled(kind, scale):
                metric = _metric_values(study)
        by_measured_setting[kind, scale] = ScaleMeasurements(metric, losses[index], kls[index])
    by_setting = {
        (kind, scale): by_measured_setting["" if scale == 1 else kind, scale]
        for kind in kinds
        for scale in scales
    }
    return by_setting, by_measured_setting["", 1.0], base_losses


def _metric_values(study: Study) -> np.ndarray:
    """The metric of every positive prompt in the fine-tuned model in its present state."""
    inputs, model = study.decision_inputs("positive"), study.pair.tuned
    values = np.zeros(len(inputs))
    for rows in study.batches(inputs, model):
        batch, _ = make_batch(inputs, rows, study.pad_id, model.device)
        objective = study.objective("positive", rows)
        values[rows] = to_host(
            objective.function(study.engine.run(model, batch, keep=objective.keep).require_logits())
        )
    return values
