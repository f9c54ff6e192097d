"""Log-odds that an answer begins with one of a set of tokens, and the first tokens of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import MetricError
from interp.maths.precision import widen
from interp.metrics.base import Objective
from interp.prompts import Tokenizer, decode, n_usable_ids


@dataclass(frozen=True)
class FirstTokens:
    """log P(the first token is one of these) - log P(it is any other), in nats.

    ``pieces``: the tokens as text if they are only parts of words and so begin other words too.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...] = field(default=(), compare=False)

    @property
    def suffixes(self) -> tuple[tuple[int, ...], ...]:
        """Empty: the number is taken at the prompt's last token."""
        return ((),)

    @property
    def objective(self) -> Objective:
        """The log-odds, the same function for all prompts."""
        return Objective(1, lambda logits: log_odds(logits[:, -1], self.token_ids))

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers, for provenance."""
        return {"token_ids": list(self.token_ids)}

    @classmethod
    def from_phrases(cls, tokenizer: Tokenizer, phrases: Sequence[str]) -> FirstTokens:
        """The first tokens of phrases; MetricError if the tokenizer knows none."""
        is_word_by_token = _first_token_candidates(tokenizer, phrases)
        if not is_word_by_token:
            raise MetricError(
                f"no token of this tokenizer begins any of the {len(phrases)} phrases (first"
                f" {phrases[0]!r}); give others, or continuations"
            )
        ids = first_tokens(tokenizer, phrases)
        return cls(
            ids,
            (
                ()
                if any(is_word_by_token.values())
                else tuple(decode(tokenizer, [index]).strip() for index in ids)
            ),
        )


def log_odds(logits: Float[Tensor, "B V"], token_ids: Sequence[int]) -> Float[Tensor, " B"]:
    """log P(one of these tokens) - log P(any other token), in nats; unlike a probability it does
    not saturate.
    """
    ids = torch.tensor(token_ids, device=logits.device)
    logits = widen(logits)
    log_p_inside = logits.index_select(-1, ids).logsumexp(-1)
    log_p_others = logits.index_fill(-1, ids, -torch.inf).logsumexp(-1)
    return log_p_inside - log_p_others


def first_tokens(tokenizer: Tokenizer, phrases: Sequence[str]) -> tuple[int, ...]:
    """First tokens of all spellings of phrases (case and leading space varied), ascending; empty if
    none is known.

    Only whole words if there are any; spellings that begin with an unknown token are dropped.
    """
    is_word_by_token = _first_token_candidates(tokenizer, phrases)
    # the first piece of a word begins many other words: it is used only if no phrase's first word
    # is a single token
    words = [index for index, is_word in is_word_by_token.items() if is_word]
    return tuple(sorted(words or is_word_by_token))


def _first_token_candidates(tokenizer: Tokenizer, phrases: Sequence[str]) -> dict[int, bool]:
    """Known first tokens of spellings, and whether they are whole words."""
    is_word_by_token: dict[int, bool] = {}
    rows = n_usable_ids(tokenizer)
    for phrase in phrases:
        for spelling in _spellings(phrase):
            ids = tokenizer(spelling, add_special_tokens=False)["input_ids"]
            if ids and rows is not None and ids[0] >= rows:
                continue  # one of the models has no row for it
            first = decode(tokenizer, ids[:1]).strip() if ids else ""
            # unknown words, and spellings that begin with a bare space, do not identify the phrase
            if ids and ids[0] != tokenizer.unk_token_id and first:
                remainder = spelling.strip()[len(first) :]
                is_word_by_token[ids[0]] = (
                    is_word_by_token.get(ids[0], False) or not remainder[:1].isalnum()
                )
    return is_word_by_token


def _spellings(phrase: str) -> list[str]:
    variants = {phrase, phrase.lower(), phrase[:1].upper() + phrase[1:], phrase.upper()}
    return sorted({*variants, *(" " + form for form in variants)})
