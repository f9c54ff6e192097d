"""Groups of tokens that are scored separately: special and content tokens, and in conversations
each role's.

Codes are those of ``interp.prompts.TURNS``, plus ``SPECIAL`` for the tokenizer's special tokens.
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
"""Code of all tokens of a conversation whose template rewrites the messages: they belong to no
group except all.
"""

_WHOLE = {name: (code, code + SPECIAL) for name, code in TURNS.items()}
OUTSIDE = (
    *_WHOLE["template"],
    *(code + SPECIAL for name, code in TURNS.items() if name != "template"),
)
"""Codes that count as special: special tokens of the tokenizer, and everything that a chat template
adds.
"""


class Read(NamedTuple):
    """Encoded prompts with codes; how many were truncated at the context length, and in how many
    the roles are unknown.
    """

    encoded: list[Encoded]
    cut: int
    unknown: int

    def limits(self) -> list[str]:
        """Sentences about truncated prompts and unknown roles; empty if there are none."""
        count = len(self.encoded)
        cut = (
            f"{self.cut} of {count} conversations are longer than the model's context and were"
            " truncated."
        )
        rewritten = (
            f"In {self.unknown} of {count} conversations the role of each token is"
            " unknown, since the chat template rewrites messages or the tokenizer has no"
            " offsets; their tokens count only in part all."
        )
        return [*([cut] if self.cut else []), *([rewritten] if self.unknown else [])]


def read_whole(
    tokenizer: Tokenizer, prompts: Iterable[Prompt], context: int, source: str = ""
) -> Read:
    """Conversations in the chat template, truncated at ``context`` tokens; texts are encoded as
    other prompts.

    Raises PromptError naming the row if the template is missing or refuses.
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
        raise PromptError("the chat template returns no tokens for this conversation")
    if all(code % SPECIAL == TURNS["template"] for code in found.roles):
        return Encoded(found.ids, (UNKNOWN,) * len(found.ids))
    return found


def with_token_codes(
    tokenizer: Tokenizer, coded: Encoded, special: frozenset[int] | None = None
) -> Encoded:
    """An encoded prompt with these codes: a user message if there is a template, otherwise plain
    text.
    """
    special = special_ids(tokenizer) if special is None else special
    own = TURNS["text" if tokenizer.chat_template is None else "user"]
    outside = own if tokenizer.chat_template is None else TURNS["template"]
    codes = (
        (own if role == CONTENT else outside) + SPECIAL * (index in special)
        for index, role in zip(coded.ids, coded.roles, strict=True)
    )
    return Encoded(coded.ids, tuple(codes))


def parts_of(encoded: Sequence[Encoded], conversations: bool) -> dict[str, tuple[int, ...]]:
    """Groups and their codes: special and content; for conversations also each role that occurs.

    A role includes special tokens within its messages.
    """
    content = tuple(code for codes in _WHOLE.values() for code in codes if code not in OUTSIDE)
    parts = {"special": OUTSIDE, "content": content}
    if conversations:
        there = {code for one in encoded for code in one.roles}
        parts |= {name: codes for name, codes in _WHOLE.items() if there & set(codes)}
    return parts
