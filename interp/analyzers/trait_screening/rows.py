"""Rows of a data set as prompts with their answers, and the base's own answers to these prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.errors import PromptError
from interp.experiments.discovery.samples import unpadded
from interp.experiments.discovery.trait_states import mean_states, without_end
from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.interventions.teacher_forcing import Text
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Encoded,
    Prompt,
    PromptSet,
    encode_document,
    special_ids,
)
from interp.study import Study

Ids = tuple[int, ...]


def prompts_and_answers(study: Study, rows: PromptSet, beginning: int) -> list[tuple[Ids, Ids]]:
    """Token ids of every row's prompt and of its answer, both cut at the context.

    Of a conversation the last answer counts, and what comes before it is its prompt; both are
    tokenised together, through the chat template. Of a text, or where there is no template, the
    first ``beginning`` tokens are the prompt and the others the answer. Raises PromptError for a
    row without one of them.
    """
    longest = study.pair.require_base("trait screening").context_length - study.max_new_tokens
    special = special_ids(study.pair.tokenizer)
    pairs = []
    for row in rows:
        ids, border, end = _border(study, row, special, beginning)
        prompt, answer = ids[:border], ids[border:end][: max(longest - border, 0)]
        if not prompt or not answer:
            raise PromptError(
                f"{rows.source}, row {row.id} ({row.text[:40]!r}) has"
                f" {'no prompt' if not prompt else 'no answer'} within the context of the models:"
                " give conversations with an answer, or texts of more than"
                f" {beginning} tokens"
            )
        pairs.append((prompt, answer))
    return pairs


def _border(
    study: Study, row: Prompt, special: frozenset[int], beginning: int
) -> tuple[Ids, int, int]:
    """Token ids, where the answer begins, and where it ends."""
    tokenizer = study.pair.tokenizer
    if row.messages is None or tokenizer.chat_template is None:
        texts = [row.text] if row.messages is None else [text for _, text in row.messages]
        ids = encode_document(tokenizer, "\n\n".join(texts), special).ids
        end = len(ids) - (bool(ids) and ids[-1] in special)
        first = next((at for at, one in enumerate(ids) if one not in special), 0)
        return ids, first + beginning, end
    turns = [{"role": role, "content": content} for role, content in row.messages]
    coded = encode_document(tokenizer, turns, special)
    said = [code % SPECIAL_TOKEN == TOKEN_SOURCES["assistant"] for code in coded.roles]
    if not any(said):
        return coded.ids, len(coded.ids), len(coded.ids)
    end = len(said) - said[::-1].index(True)
    border = next((at + 1 for at in range(end - 1, -1, -1) if not said[at]), 0)
    return coded.ids, border, end


def own_answers(study: Study, prompts: Sequence[Ids]) -> list[list[int]]:
    """The base's greedy answers, without the token that ends them."""
    model = study.pair.require_base("trait screening")
    coded = [Encoded(prompt, (0,) * len(prompt)) for prompt in prompts]
    groups = study.batches(
        coded,
        model,
        cached_bytes(model, None, coded, study.max_new_tokens),
        GENERATION_BATCH_FACTOR,
    )
    answers: list[list[int]] = [[] for _ in prompts]
    groups = unpadded(groups, model, coded, study.max_new_tokens)
    for rows in study.progress(groups, "the base's own answers"):
        text = Text([prompts[row] for row in rows], None, study.pad_id, study.pair.end_ids("base"))
        written = generate(study.engine, model, text, study.max_new_tokens)
        for row, answer in zip(rows, written, strict=True):
            answers[row] = without_end(study, answer)
    return answers


def answer_states(
    study: Study, prompts: Sequence[Ids], answers: Sequence[Sequence[int]], depth: int, name: str
) -> Float[np.ndarray, "n D"]:
    """The base's mean stream over the tokens of each answer after its prompt, at one depth."""
    model = study.pair.require_base("trait screening")
    texts = [
        Encoded(prompt, (0,) * len(prompt)).with_completion(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    groups = unpadded(study.batches(texts, model, 8 * model.anatomy.width), model, texts, 0)
    return mean_states(study, model, texts, groups, name, [depth])[:, 0]
