"""How far an intervention moves what a model says where it should not: KL on its own answers to negative prompts."""

from collections.abc import Sequence

import numpy as np

from interp.generate import answer_logits
from interp.intervention import Intervention
from interp.maths.host import to_host
from interp.metrics import token_divergences
from interp.study import Study


def divergence(study: Study, intervention: Intervention, rows: Sequence[int]) -> np.ndarray:
    """Mean KL per answer token of each negative prompt, tuned model as it is || under the intervention, in nats."""
    model, answers = study.pair.tuned, study.answers("tuned", "negative")
    found = np.zeros(len(study.prompts("negative")))
    wanted = set(rows)
    for group in study.groups("negative", model):
        part = [row for row in group if row in wanted]
        if not part:
            continue
        text, own = study.text("negative", part), [answers[row] for row in part]
        before, _, real = answer_logits(study.engine, model, text, own)
        after, _, _ = answer_logits(study.engine, model, text, own, intervention)
        found[part] = to_host(token_divergences(before, after, real).sum(1) / real.sum(1))
    return found[list(rows)]
