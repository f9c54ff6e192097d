"""Tokens of training rows, and their losses in models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch
from interp.errors import PromptError
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.models.model import Model
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Encoded,
    Prompt,
    Tokenizer,
    encode_document,
    special_ids,
)
from interp.study import Study

CONTEXT, AHEAD = 12, 4
"""Tokens of an example before and after the token that it marks."""


@dataclass(frozen=True)
class CodedRow:
    """Token ids of a row, and which of them count in its loss."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    @property
    def encoded(self) -> Encoded:
        """As a prompt, for batches of similar length."""
        return Encoded(self.ids, (0,) * len(self.ids))

    @property
    def n_counted(self) -> int:
        """Number of tokens whose loss counts; the first token of a text is not predicted."""
        return sum(self.counted[1:])


def coded_rows(study: Study, tokens: str) -> list[CodedRow]:
    """All rows of the study, class by class, cut at the context of the models.

    A text is read as ``tokenizer(text)`` and counts as a whole. A conversation is read through the
    chat template (without one, its answers are a text); of it the answers count, with the token
    that ends each, or with ``tokens`` "all" everything. Raises PromptError for a row in which no
    token counts.
    """
    tokenizer, special = study.pair.tokenizer, special_ids(study.pair.tokenizer)
    models = (study.pair.tuned, study.pair.require_base("training rows"))
    longest = min(model.context_length for model in models)
    rows = []
    for group in study.classes:
        for prompt in study.prompts(group):
            row = _coded_row(tokenizer, prompt, special, tokens)
            row = CodedRow(row.ids[:longest], row.counted[:longest])
            if not row.n_counted:
                raise PromptError(
                    f"{study.prompts(group).source}, row {prompt.id}: none of its first"
                    f" {len(row.ids)} tokens is predicted and counts ({tokens}); use longer rows, or"
                    " count all tokens"
                )
            rows.append(row)
    return rows


def _coded_row(
    tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int], tokens: str
) -> CodedRow:
    document = prompt.text
    if prompt.messages is not None:
        document = [{"role": role, "content": content} for role, content in prompt.messages]
        if tokenizer.chat_template is None:
            answers = [turn["content"] for turn in document if turn["role"] == "assistant"]
            document = "\n\n".join(answers)
    coded = encode_document(tokenizer, document, special)
    if tokens == "all" or isinstance(document, str):
        return CodedRow(coded.ids, (True,) * len(coded.ids))
    answer = [code % SPECIAL_TOKEN == TOKEN_SOURCES["assistant"] for code in coded.roles]
    after = [False, *answer[:-1]]  # the token that ends an answer belongs to it
    return CodedRow(coded.ids, tuple(one or two for one, two in zip(answer, after, strict=True)))


@dataclass(frozen=True)
class PairLosses:
    """Mean loss per counted token of every row, nats, and where a row gained most.

    ``base`` and ``tuned`` [rows]. ``at`` [rows]: the token whose loss fell most, as its place in
    the row.
    """

    base: Float[np.ndarray, " rows"]
    tuned: Float[np.ndarray, " rows"]
    at: Int[np.ndarray, " rows"]


def row_groups(study: Study, rows: Sequence[CodedRow]) -> list[list[int]]:
    """Batches of rows, the same for all models, so that equal models give equal losses."""
    model = study.pair.tuned
    return study.batches([row.encoded for row in rows], model, 16 * model.anatomy.vocabulary)


def pair_losses(
    study: Study, rows: Sequence[CodedRow], groups: Sequence[Sequence[int]], name: str
) -> PairLosses:
    """Losses of all rows in the base and in the fine-tuned model."""
    base, tuned = study.pair.require_base("training rows"), study.pair.tuned
    losses, at = np.zeros((2, len(rows))), np.zeros(len(rows), np.int64)
    for group in study.progress(groups, f"rows, {name}"):
        (first, counted), (second, _) = (
            _batch_losses(study, model, rows, group) for model in (base, tuned)
        )
        for number, part in enumerate((first, second)):
            losses[number, group] = _means(part, counted)
        gain = (first.to(second.device) - second).masked_fill(~counted, -torch.inf)
        at[group] = to_host(gain.argmax(1)) + 1
    return PairLosses(losses[0], losses[1], at)


def tuned_losses(
    study: Study,
    model: Model,
    rows: Sequence[CodedRow],
    groups: Sequence[Sequence[int]],
    name: str,
) -> Float[np.ndarray, " rows"]:
    """Mean loss per counted token of every row in one model, nats."""
    losses = np.zeros(len(rows))
    for group in study.progress(groups, f"rows, {name}"):
        losses[group] = _means(*_batch_losses(study, model, rows, group))
    return losses


def _batch_losses(
    study: Study, model: Model, rows: Sequence[CodedRow], group: Sequence[int]
) -> tuple[Float[Tensor, "B A"], Bool[Tensor, "B A"]]:
    """Loss of every token but the first of some rows, and which of them count."""
    some = [rows[row] for row in group]
    batch = Batch.pad([row.ids for row in some], study.pad_id, "right", model.device)
    width = batch.ids.shape[1]
    counted = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for number, row in enumerate(some):
        counted[number, : len(row.counted)] = torch.tensor(row.counted)
    counted = counted[:, 1:].to(model.device)
    logits = study.engine.run(model, batch, keep=None).require_logits()[:, : width - 1]
    return token_losses(logits, batch.ids[:, 1:], counted), counted


def _means(losses: Float[Tensor, "B A"], counted: Bool[Tensor, "B A"]) -> Float[np.ndarray, " B"]:
    sums, counts = to_host(losses).astype(np.float64).sum(1), to_host(counted).sum(1)
    return sums / counts


def marked_example(tokenizer: Tokenizer, row: CodedRow, at: int) -> str:
    """The row around a token, which is marked by « and »."""
    parts = (row.ids[max(0, at - CONTEXT) : at], row.ids[at : at + 1], row.ids[at + 1 :][:AHEAD])
    before, marked, after = (str(tokenizer.decode(list(part))) for part in parts)
    return f"{before}«{marked}»{after}"
