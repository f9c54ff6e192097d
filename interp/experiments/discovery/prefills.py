"""Beginnings that models continue: raw text, and the start of the assistant's turn."""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import PromptError
from interp.metrics import Sampling
from interp.organisms import prompts
from interp.prompts import Encoded, encode, end_id, require_usable_ids, special_ids
from interp.prompts.tokens import Tokenizer
from interp.study import Study

SHORTEST, LONGEST = 3, 10
"""Tokens of a prefill that is cut from a text."""


def raw_prefills(
    study: Study, prefills: Sequence[str], count: int, seed: int
) -> list[tuple[int, ...]]:
    """Token ids of at most ``count`` different prefills, without a chat template.

    These are the given ``prefills`` in their order; where there are none, the beginnings of the
    study's texts: their first 3 to 10 tokens, after special tokens that the tokenizer puts before
    every text. Which texts, and how many tokens, follows from ``seed`` and the text, and not from
    the other texts. Raises PromptError for a text without a token.
    """
    tokenizer = study.pair.tokenizer
    if prefills:
        coded = [_ids(tokenizer, text) for text in prefills]
    else:
        drawn, special = [], special_ids(tokenizer)
        for prompt in study.prompts("positive"):
            ids = _ids(tokenizer, prompt.text)
            order, length = Sampling(1, seed=seed).uniforms(ids, 0, 2)
            start = next((at for at, one in enumerate(ids) if one not in special), 0)
            tokens = SHORTEST + int(length * (LONGEST - SHORTEST + 1))
            drawn.append((order, ids[: start + tokens]))
        coded = [ids for _, ids in sorted(drawn)]
    return list(dict.fromkeys(coded))[:count]


def chat_prefills(study: Study, questions: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of every question as a user's turn, up to where the assistant's turn begins; none
    where the tokenizer has no chat template. Without ``questions``: the shipped ones.
    """
    return [question.ids for question in chat_questions(study, questions)]


def chat_questions(study: Study, questions: Sequence[str]) -> list[Encoded]:
    """The same questions with the role of every token."""
    tokenizer = study.pair.tokenizer
    if tokenizer.chat_template is None:
        return []
    if not questions:
        shipped = prompts("discover", "text", "questions").read_text(encoding="utf-8")
        questions = [line for line in shipped.splitlines() if line.strip()]
    return [encode(tokenizer, question) for question in questions]


def _ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    ids = list(tokenizer(text)["input_ids"])
    # some tokenizers end every text, and a text that has ended is not continued
    if ids[-1:] == [end_id(tokenizer)] and tokenizer("a")["input_ids"][-1:] == ids[-1:]:
        ids.pop()
    if not ids:
        raise PromptError(f"the tokenizer makes no token of the prefill {text[:40]!r}; give words")
    require_usable_ids(tokenizer, ids, text)
    return tuple(ids)
