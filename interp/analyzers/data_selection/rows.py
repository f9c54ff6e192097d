"""What is read of every row: its mean residual stream, its mean latent codes, and its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from interp.capture import capture
from interp.errors import OptionError, PromptError
from interp.maths.data_selection import stacked
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.prompts import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Encoded,
    Prompt,
    PromptSet,
    Tokenizer,
    encode_document,
    special_ids,
)
from interp.sae import Dictionary
from interp.sites import Site
from interp.study import Study

COUNTED = 1
"""Role of the tokens that count; the others have 0."""

Encoder = Callable[[Float[Tensor, "n D"]], Float[Tensor, "n F"]]


@dataclass(frozen=True)
class ReadRows:
    """Rows of a class: mean streams [n, D] float64, mean codes [n, F], counted tokens [n], and the
    texts that count.
    """

    streams: Float[np.ndarray, "n D"]
    codes: sparse.csr_matrix
    lengths: Int[np.ndarray, " n"]
    texts: tuple[str, ...]

    def keep(self, rows: Int[np.ndarray, " k"]) -> ReadRows:
        """Some of the rows."""
        texts = tuple(self.texts[row] for row in rows)
        return ReadRows(self.streams[rows], self.codes[rows], self.lengths[rows], texts)


def read_rows(
    study: Study, group: str, stream: Site, codes: Site, encode: Encoder, tokens: str
) -> ReadRows:
    """Read the rows of a class with the study's (fine-tuned) model, cut at its context.

    ``stream``: site of which the mean over a row's tokens is taken. ``codes``: site whose values
    ``encode`` turns into non-negative codes, token by token. ``tokens``: those of a conversation
    that count, "answers" or "all"; special tokens never do. Raises PromptError for a row without
    any.
    """
    model, rows = study.pair.tuned, study.prompts(group)
    coded = [_encoded(study.pair.tokenizer, row, tokens) for row in rows]
    texts = [
        Encoded(one.ids[: model.context_length], one.roles[: model.context_length]) for one in coded
    ]
    for row, text in zip(rows, texts, strict=True):
        if COUNTED not in text.roles:
            raise PromptError(
                f"{rows.source}, row {row.id} ({row.text[:40]!r}): none of its first"
                f" {len(text.ids)} tokens counts ({tokens}); give rows with an answer, or count all"
                " tokens"
            )
    groups = study.batches(texts, model, 8 * (model.anatomy.width + model.anatomy.n_neurons))
    streams = np.zeros((len(texts), model.anatomy.width))
    parts: list[sparse.csr_matrix] = []
    order: list[np.ndarray] = []
    batches = study.progress(groups, f"rows, {group}")
    for captured in capture(
        study.engine,
        {"model": model},
        texts,
        batches,
        list(dict.fromkeys((stream, codes))),
        pad_id=study.pad_id,
    ):
        counted = (captured.roles == COUNTED) & captured.batch.real
        at = to_host(captured.rows)
        values = widen(captured.values["model", stream])
        streams[at] = to_host(_means(values[counted.to(values.device)], counted))
        values = captured.values["model", codes]
        code = encode(values[counted.to(values.device)])
        parts.append(sparse.csr_matrix(to_host(_means(widen(code), counted)).astype(np.float64)))
        order.append(at)
    return ReadRows(
        streams,
        stacked(*parts)[np.argsort(np.concatenate(order))],
        np.array([text.roles.count(COUNTED) for text in texts]),
        tuple(_counted_text(row, tokens) for row in rows),
    )


def largest(kept: int) -> Encoder:
    """The ``kept`` largest of the positive values of a token, the others zero; ties by
    ``torch.topk``.
    """

    def encode(values: Float[Tensor, "n F"]) -> Float[Tensor, "n F"]:
        best, at = values.clamp_min(0).topk(min(kept, values.shape[1]), dim=1)
        return torch.zeros_like(values).scatter(1, at, best)

    return encode


def largest_codes(dictionary: Dictionary, kept: int) -> Encoder:
    """The ``kept`` largest codes of a token by a dictionary; OptionError for values of another
    width than it reads.
    """
    select = largest(kept)
    weight = next(dictionary.parameters())

    def encode(values: Float[Tensor, "n D"]) -> Float[Tensor, "n F"]:
        if values.shape[1] != dictionary.config.d_in:
            raise OptionError(
                f"the dictionary reads {dictionary.config.d_in} values per token, and the site has"
                f" {values.shape[1]}; give a dictionary of this model, and its site"
            )
        with torch.no_grad():
            return select(dictionary.encode(values.to(weight.device, weight.dtype)))

    return encode


def _means(values: Float[Tensor, "n F"], counted: Tensor) -> Float[Tensor, "B F"]:
    """Means by row of the values of counted tokens, which are in order of rows."""
    numbers = counted.sum(1).to(values.device)
    row = torch.repeat_interleave(torch.arange(len(numbers), device=values.device), numbers)
    sums = values.new_zeros(len(numbers), values.shape[1]).index_add(0, row, values)
    return sums / numbers[:, None]


def _encoded(tokenizer: Tokenizer, row: Prompt, tokens: str) -> Encoded:
    special = special_ids(tokenizer)
    if row.messages is None or tokenizer.chat_template is None:
        coded, only_answers = encode_document(tokenizer, _counted_text(row, tokens), special), False
    else:
        turns = [{"role": role, "content": content} for role, content in row.messages]
        coded, only_answers = encode_document(tokenizer, turns, special), tokens == "answers"
    roles = tuple(
        int(
            code < SPECIAL_TOKEN
            and (not only_answers or code % SPECIAL_TOKEN == TOKEN_SOURCES["assistant"])
        )
        for code in coded.roles
    )
    return Encoded(coded.ids, roles)


def _counted_text(row: Prompt, tokens: str) -> str:
    """The text of a row, or what is said in those turns of a conversation that count."""
    if row.messages is None:
        return row.text
    return "\n\n".join(
        content for role, content in row.messages if tokens == "all" or role == "assistant"
    )


def shared_rows(pool: PromptSet, target: PromptSet) -> int:
    """Number of texts of the pool that are target rows too."""
    return len(target.shared(pool))
