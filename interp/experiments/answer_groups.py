"""Batches of prompts with given answers, and of prompts that are read again under many edits."""

from collections.abc import Callable, Sequence

import numpy as np

from interp.maths.batches import BATCH_COST_ON_CPU, BATCH_COST_ON_GPU, batch_by_length
from interp.models.model import Model
from interp.study import Study


def answer_batches(
    study: Study,
    group: str,
    model: Model,
    answers: Sequence[Sequence[int]],
    rows: Sequence[int],
    bytes_per_logit: int,
) -> list[list[int]]:
    """Some rows of a class in batches of similar length of prompt and answer.

    ``answers``: of every row of the class. ``bytes_per_logit``: bytes that a pass keeps for each
    logit.
    """
    encoded = study.encoded(group)
    shortest = min(len(each.ids) for each in encoded)
    batches = study.groups(
        group, model, bytes_per_logit * model.anatomy.vocabulary * study.max_new_tokens // shortest
    )
    max_rows = min(map(len, batches[:-1]), default=len(batches[0]))
    lengths = [len(encoded[row].ids) + len(answers[row]) for row in rows]
    row_cost = BATCH_COST_ON_CPU if model.device.type == "cpu" else BATCH_COST_ON_GPU
    return [[rows[at] for at in some] for some in batch_by_length(lengths, max_rows, row_cost)]


def equal_batches(
    study: Study, rows: Sequence[int], length: Callable[[int], int]
) -> list[list[int]]:
    """Rows by increasing ``length`` in batches of one size, at most 96."""
    size = study.batch_size_for(max(1, min(len(rows), 96)))
    ordered = sorted(rows, key=length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def by_row(batches: Sequence[Sequence[int]], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Values of the rows of all batches, by increasing row."""
    return np.concatenate(parts)[np.argsort(np.concatenate(batches), kind="stable")]
