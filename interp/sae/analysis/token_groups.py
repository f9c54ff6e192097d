"""Groups of tokens that are scored separately: special and content tokens, and in conversations
each role's.

Codes are those of ``interp.prompts.TOKEN_SOURCES``, plus ``SPECIAL`` for the tokenizer's special
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from interp.errors import PromptError
from interp.prompts import (
    CONTENT,
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Encoded,
    Prompt,
    Tokenizer,
    encode,
    encode_document,
    special_ids,
)

UNKNOWN_ROLE = 2 * SPECIAL_TOKEN
"""Code of all tokens of a conversation whose template rewrites the messages: they belong to no
group except all.
"""

_ROLE_CODES = {name: (code, code + SPECIAL_TOKEN) for name, code in TOKEN_SOURCES.items()}
SPECIAL_CODES = (
    *_ROLE_CODES["template"],
    *(code + SPECIAL_TOKEN for name, code in TOKEN_SOURCES.items() if name != "template"),
)
"""Codes that count as special: special tokens of the tokenizer, and everything that a chat template
adds.
"""


class EncodedPrompts(NamedTuple):
    """Encoded prompts with codes; how many were truncated at the context length, and in how many
    the roles are unknown.
    """

    encoded: list[Encoded]
    n_truncated: int
    n_unknown: int

    def limits(self) -> list[str]:
        """Sentences about truncated prompts and unknown roles; empty if there are none."""
        count = len(self.encoded)
        cut = (
            f"{self.n_truncated} of {count} conversations are longer than the model's context and"
            " were truncated."
        )
        rewritten = (
            f"In {self.n_unknown} of {count} conversations the role of each token is"
            " unknown, since the chat template rewrites messages or the tokenizer has no"
            " offsets; their tokens count only in part all."
        )
        return [*([cut] if self.n_truncated else []), *([rewritten] if self.n_unknown else [])]


def encode_conversations(
    tokenizer: Tokenizer, prompts: Iterable[Prompt], context: int, source: str = ""
) -> EncodedPrompts:
    """Conversations in the chat template, truncated at ``context`` tokens; texts are encoded as
    other prompts.

    Raises PromptError naming the row if the template is missing or refuses.
    """
    special, encoded, n_truncated, n_unknown = special_ids(tokenizer), [], 0, 0
    for prompt in prompts:
        try:
            coded = _conversation(tokenizer, prompt, special) if prompt.messages else None
            coded = coded or with_token_codes(tokenizer, encode(tokenizer, prompt.text), special)
        except PromptError as error:
            raise PromptError(f"{source}, row {prompt.id}: {error}") from error
        n_unknown += UNKNOWN_ROLE in coded.roles
        n_truncated += len(coded.ids) > context
        encoded.append(Encoded(coded.ids[:context], coded.roles[:context]))
    return EncodedPrompts(encoded, n_truncated, n_unknown)


def _conversation(tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int]) -> Encoded:
    messages = [{"role": role, "content": said} for role, said in prompt.messages or ()]
    coded = encode_document(tokenizer, messages, special)
    if not coded.ids:
        raise PromptError("the chat template returns no tokens for this conversation")
    if all(code % SPECIAL_TOKEN == TOKEN_SOURCES["template"] for code in coded.roles):
        return Encoded(coded.ids, (UNKNOWN_ROLE,) * len(coded.ids))
    return coded


def with_token_codes(
    tokenizer: Tokenizer, coded: Encoded, special: frozenset[int] | None = None
) -> Encoded:
    """An encoded prompt with these codes: a user message if there is a template, otherwise plain
    text.
    """
    special = special_ids(tokenizer) if special is None else special
    text_code = TOKEN_SOURCES["text" if tokenizer.chat_template is None else "user"]
    template_code = text_code if tokenizer.chat_template is None else TOKEN_SOURCES["template"]
    codes = (
        (text_code if role == CONTENT else template_code) + SPECIAL_TOKEN * (index in special)
        for index, role in zip(coded.ids, coded.roles, strict=True)
    )
    return Encoded(coded.ids, tuple(codes))


def token_groups(encoded: Sequence[Encoded], conversations: bool) -> dict[str, tuple[int, ...]]:
    """Groups and their codes: special and content; for conversations also each role that occurs.

    A role includes special tokens within its messages.
    """
    content = tuple(
        code for codes in _ROLE_CODES.values() for code in codes if code not in SPECIAL_CODES
    )
    parts = {"special": SPECIAL_CODES, "content": content}
    if conversations:
        occurring = {code for one in encoded for code in one.roles}
        parts |= {name: codes for name, codes in _ROLE_CODES.items() if occurring & set(codes)}
    return parts
