"""Common steps of analyzers: a row per prompt, lengths of answers, the exchange of two models."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.rows import PromptRow, columns_of, rows_table
from interp.study import Study
from interp.table import Table


def prompt_rows(
    study: Study, row: type[PromptRow], **columns: Shaped[np.ndarray, " prompts"]
) -> Table:
    """Rows of all prompts, class by class: their keys, and ``columns`` in the same order."""
    own = [
        (group, prompt.id, prompt.cluster)
        for group in study.classes
        for prompt in study.prompts(group)
    ]
    keys = dict(zip(columns_of(PromptRow), map(list, zip(*own, strict=True)), strict=True))
    return rows_table(row, "", {**keys, **columns})


def answer_lengths(study: Study, role: str) -> Int[np.ndarray, " prompts"]:
    """Tokens of a model's greedy answer to every prompt, class by class."""
    return np.array([len(each) for group in study.classes for each in study.answers(role, group)])


def sign_flips(
    study: Study,
    row: type,
    draws: int,
    **differences: Float[np.ndarray, " prompts"] | Int[np.ndarray, " prompts"],
) -> Table:
    """The null in which two models are exchanged at random, all prompts of a cluster together.

    One column of ``row`` for each of the ``differences``: their means under every draw.
    """
    clusters = [p.cluster for group in study.classes for p in study.prompts(group)]
    _, code = np.unique(clusters, return_inverse=True)
    signs = np.random.default_rng(study.seed).choice([-1, 1], (draws, code.max() + 1))[:, code]
    means = {name: (signs * values).mean(1) for name, values in differences.items()}
    return rows_table(row, "", {"draw": np.arange(draws), **means})
