"""Whose tokens are scored apart: special ones and content, and in whole conversations every role's.

Codes are those of ``interp.prompts.TURNS``, ``SPECIAL`` added to tokens that the tokenizer calls
special.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from interp.errors import PromptError
from interp.prompts import (
    CONTENT,
    SPECIAL,
    TURNS,
    Encoded,
    Prompt,
    Tokenizer,
    encode,
    encode_document,
    special_ids,
)

UNKNOWN = 2 * SPECIAL
"""Code of every token of a conversation whose template rewrites what was said: nobody's, in no part
but all.
"""

_WHOLE = {name: (code, code + SPECIAL) for name, code in TURNS.items()}
OUTSIDE = (
    *_WHOLE["template"],
    *(code + SPECIAL for name, code in TURNS.items() if name != "template"),
)
"""What counts as special: the tokenizer's special tokens, and all that a chat template writes."""


class Read(NamedTuple):
    """Prompts as token ids with codes; how many were cut at the context, and in how many nobody's
    words are known.
    """

    encoded: list[Encoded]
    cut: int
    unknown: int

    def limits(self) -> list[str]:
        """What was left out, in sentences; none where nothing was."""
        count = len(self.encoded)
        cut = (
            f"{self.cut} of {count} conversations are longer than the model's context and were cut"
            " at it."
        )
        rewritten = (
            f"In {self.unknown} of {count} conversations who says what is not known, since the chat"
            " template rewrites it or the tokenizer keeps no offsets; their tokens count in no"
            " part but all."
        )
        return [*([cut] if self.cut else []), *([rewritten] if self.unknown else [])]


def read_whole(
    tokenizer: Tokenizer, prompts: Iterable[Prompt], context: int, source: str = ""
) -> Read:
    """Conversations whole, in the chat template, cut at ``context`` tokens; texts as prompts are
    encoded elsewhere.

    Raises PromptError naming the row where the template refuses or is missing.
    """
    special, encoded, cut, unknown = special_ids(tokenizer), [], 0, 0
    for prompt in prompts:
        try:
            found = _conversation(tokenizer, prompt, special) if prompt.messages else None
            found = found or with_token_codes(tokenizer, encode(tokenizer, prompt.text), special)
        except PromptError as error:
            raise PromptError(f"{source}, row {prompt.id}: {error}") from error
        unknown += UNKNOWN in found.roles
        cut += len(found.ids) > context
        encoded.append(Encoded(found.ids[:context], found.roles[:context]))
    return Read(encoded, cut, unknown)


def _conversation(tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int]) -> Encoded:
    messages = [{"role": role, "content": said} for role, said in prompt.messages or ()]
    found = encode_document(tokenizer, messages, special)
    if not found.ids:
        raise PromptError("the chat template makes no token of this conversation")
    if all(code % SPECIAL == TURNS["template"] for code in found.roles):
        return Encoded(found.ids, (UNKNOWN,) * len(found.ids))
    return found


def with_token_codes(
    tokenizer: Tokenizer, coded: Encoded, special: frozenset[int] | None = None
) -> Encoded:
    """An encoded prompt with these codes: a user's words in a template, else plain text."""
    special = special_ids(tokenizer) if special is None else special
    own = TURNS["text" if tokenizer.chat_template is None else "user"]
    outside = own if tokenizer.chat_template is None else TURNS["template"]
    codes = (
        (own if role == CONTENT else outside) + SPECIAL * (index in special)
        for index, role in zip(coded.ids, coded.roles, strict=True)
    )
    return Encoded(coded.ids, tuple(codes))


def parts_of(encoded: Sequence[Encoded], conversations: bool) -> dict[str, tuple[int, ...]]:
    """Parts and their codes: special and content; where conversations were given also every role
    that says something.

    A role has special tokens that stand in its words.
    """
    content = tuple(code for codes in _WHOLE.values() for code in codes if code not in OUTSIDE)
    parts = {"special": OUTSIDE, "content": content}
    if conversations:
        there = {code for one in encoded for code in one.roles}
        parts |= {name: codes for name, codes in _WHOLE.items() if there & set(codes)}
    return parts
