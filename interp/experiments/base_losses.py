"""Loss of answers in the base model, the measure of fluency; each answer is measured once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.experiments.answer_groups import answer_batches
from interp.interventions.teacher_forcing import answer_logits
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.study import Study

Key = tuple[int, ...]


def base_losses(
    study: Study, group: str, answers: Sequence[Sequence[int]]
) -> Float[np.ndarray, " B"]:
    """Negative log-likelihood of answers to a class in the base, nats per token; NaN without a
    base.
    """
    if study.pair.base is None:
        return np.full(len(answers), np.nan)
    known, keys = known_losses(study, group), _keys(study, group, answers)
    unknown = [row for row, key in enumerate(keys) if key not in known]
    for batch_rows in answer_batches(study, group, study.pair.base, answers, unknown, 12):
        text, batch_answers = study.text(group, batch_rows), [answers[row] for row in batch_rows]
        store_losses(
            study,
            group,
            batch_rows,
            answers,
            answer_logits(study.engine, study.pair.base, text, batch_answers),
        )
    return np.array([known[key] for key in keys])


def store_losses(
    study: Study,
    group: str,
    rows: Sequence[int],
    answers: Sequence[Sequence[int]],
    answer_logits: tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"], Bool[Tensor, "B A"]],
) -> None:
    """Keep the losses of the answers of some rows; ``answer_logits``: the base's logits, targets,
    mask.
    """
    logits, targets, real = answer_logits
    losses = to_host(token_losses(logits, targets, real).sum(1) / real.sum(1).clamp(min=1)).tolist()
    keys = _keys(study, group, answers)
    known_losses(study, group).update(zip([keys[row] for row in rows], losses, strict=True))


def known_losses(study: Study, group: str) -> dict[Key, float]:
    """The losses measured so far, by prompt id and answer tokens."""
    return study.cached(("base losses", group), dict)


def _keys(study: Study, group: str, answers: Sequence[Sequence[int]]) -> list[Key]:
    return [
        (prompt.id, *answer) for prompt, answer in zip(study.prompts(group), answers, strict=True)
    ]
