"""KL divergence of conditions from the fine-tuned model on its own answers, token by token."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from interp.experiments.answer_groups import answer_batches
from interp.experiments.base_losses import store_losses
from interp.experiments.conditions import PatchTarget
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import answer_logits
from interp.maths.host import to_host
from interp.metrics import token_divergences
from interp.study import Study


def divergences(
    study: Study,
    group: str,
    receivers: Mapping[str, PatchTarget],
    rows: Sequence[int] | None = None,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Mean KL(fine-tuned || condition) of next-token distributions over each prompt's answer
    tokens, nats, by condition.

    NaN for rows that are not in ``rows``.
    """
    answers = study.answers("tuned", group)
    values = {name: np.full(len(answers), np.nan) for name in receivers}
    chosen = range(len(answers)) if rows is None else sorted(rows)
    for batch_rows in (
        answer_batches(study, group, study.pair.tuned, answers, chosen, 20) if receivers else ()
    ):
        text, batch_answers = study.text(group, batch_rows), [answers[row] for row in batch_rows]
        tuned_logits, _, real = answer_logits(study.engine, study.pair.tuned, text, batch_answers)
        lengths = real.sum(1).clamp(min=1)
        for name, receiver in receivers.items():
            answer_read = answer_logits(
                study.engine, study.pair[receiver.role], text, batch_answers, receiver.intervention
            )
            if receiver.role == "base" and receiver.intervention is None:
                store_losses(study, group, batch_rows, answers, answer_read)
            logits, _, _ = answer_read
            values[name][batch_rows] = to_host(
                token_divergences(tuned_logits, logits.to(tuned_logits.device), real).sum(1)
                / lengths
            )
    return values


def divergence(
    study: Study, intervention: Intervention, rows: Sequence[int]
) -> Float[np.ndarray, " rows"]:
    """The same for the fine-tuned model under an intervention, on some negative prompts, in this
    order.
    """
    values = divergences(study, "negative", {"": PatchTarget("tuned", intervention)}, rows)[""]
    return values[list(rows)]
