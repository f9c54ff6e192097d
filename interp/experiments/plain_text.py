"""Plain text: tokens without a chat template, and the loss of every text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.engines import Batch
from interp.errors import PromptError
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.models.model import Model
from interp.prompts import Encoded, require_usable_ids
from interp.study import Study


def coded_texts(study: Study, group: str) -> list[Encoded]:
    """The texts of a class as tokens, cut at the context; PromptError for a text of one token."""
    coded = []
    for prompt in study.prompts(group):
        ids = study.pair.tokenizer(prompt.text)["input_ids"][: study.pair.tuned.context_length]
        if len(ids) < 2:
            raise PromptError(
                f"text {prompt.id} has {len(ids)} token(s), so nothing to predict; use longer ones"
            )
        require_usable_ids(study.pair.tokenizer, ids, prompt.text)
        coded.append(Encoded(tuple(ids), (0,) * len(ids)))
    return coded


def text_losses(study: Study, group: str, models: Sequence[Model]) -> Float[np.ndarray, "M P"]:
    """Mean loss per token of every text of a class in every model, ``[models, texts]``, nats."""
    texts = coded_texts(study, group)
    losses = np.zeros((len(models), len(texts)))
    for rows in study.progress(
        study.batches(texts, models[-1], 16 * models[-1].anatomy.vocabulary), "texts"
    ):
        for model_index, model in enumerate(models):
            batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", model.device)
            targets, real = batch.ids[:, 1:], batch.mask[:, 1:]
            logits = study.engine.run(model, batch, keep=None).require_logits()[:, :-1]
            losses[model_index, rows] = to_host(
                token_losses(logits, targets, real).double().sum(1) / real.sum(1)
            )
    return losses
