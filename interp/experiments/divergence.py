"""KL divergence of conditions from the fine-tuned model on its own answers, token by token."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from interp.experiments.answer_groups import answer_groups
from interp.experiments.base_losses import keep_losses
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
    found = {name: np.full(len(answers), np.nan) for name in receivers}
    chosen = range(len(answers)) if rows is None else sorted(rows)
    for some in (
        answer_groups(study, group, study.pair.tuned, answers, chosen, 20) if receivers else ()
    ):
        text, given = study.text(group, some), [answers[row] for row in some]
        plain, _, real = answer_logits(study.engine, study.pair.tuned, text, given)
        lengths = real.sum(1).clamp(min=1)
        for name, receiver in receivers.items():
            read = answer_logits(
                study.engine, study.pair[receiver.role], text, given, receiver.intervention
            )
            if receiver.role == "base" and receiver.intervention is None:
                keep_losses(study, group, some, answers, read)
            logits, _, _ = read
            found[name][some] = to_host(
                token_divergences(plain, logits.to(plain.device), real).sum(1) / lengths
            )
    return found


def divergence(
    study: Study, intervention: Intervention, rows: Sequence[int]
) -> Float[np.ndarray, " rows"]:
    """The same for the fine-tuned model under an intervention, on some negative prompts, in this
    order.
    """
    found = divergences(study, "negative", {"": PatchTarget("tuned", intervention)}, rows)[""]
    return found[list(rows)]
