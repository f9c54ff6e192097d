"""Whether greedy answers show a behaviour; none is written longer than that takes to be read."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from interp.experiments.pending_answers import is_decided
from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.study import Study


def shown_behaviour(study: Study, role: str, group: str) -> Bool[np.ndarray, " B"]:
    """Whether a model's greedy answer to each prompt of a class shows the study's behaviour."""
    shows = study.part(f"behaviour {role} {group}", lambda: _shows(study, role, group))
    return np.array(shows, bool)


def _shows(study: Study, role: str, group: str) -> list[bool]:
    model, encoded = study.pair[role], study.encoded(group)
    prompts, metric = study.prompts(group).prompts, study.require_metric()
    shows = [False] * len(encoded)
    bytes_per_token = cached_bytes(model, None, encoded, study.max_new_tokens)
    batches = study.batches(encoded, model, bytes_per_token, GENERATION_BATCH_FACTOR)
    for rows in study.progress(batches, f"{role} answers, {group}"):
        answers = generate(
            study.engine,
            model,
            study.text(group, rows, role),
            study.max_new_tokens,
            None,
            lambda at, begun, rows=rows: is_decided(study, rows[at], begun, group),
        )
        texts = [study.decode(answer) for answer in answers]
        read = metric.exhibits([prompts[row] for row in rows], texts, group)
        for row, yes in zip(rows, read, strict=True):
            shows[row] = bool(yes)
    return shows
