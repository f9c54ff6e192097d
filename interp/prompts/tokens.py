"""Token ids of a prompt, with a role for every token."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

from interp.errors import PromptError
from interp.prompts.template import PLACEHOLDER, remedy, render_turn

Tokenizer = PreTrainedTokenizerBase
"""A Hugging Face tokenizer."""

OTHER, CONTENT, DECISION, COMPLETION = range(4)
ROLES = {"content": CONTENT, "decision": DECISION, "completion": COMPLETION}

_LIMIT_ATTRIBUTE = "_interp_limit"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt and the role of each token (``OTHER``, ``CONTENT``, ``DECISION``,
    ``COMPLETION``).

    ``variants``: the same prompt with other suffixes, none of them longer, for the same batch; see
    ``texts``.
    """

    ids: tuple[int, ...]
    roles: tuple[int, ...]
    variants: tuple["Encoded", ...] = ()

    @property
    def texts(self) -> tuple["Encoded", ...]:
        """All variants of this prompt; a batch has one row for each."""
        return (self, *self.variants)

    def with_completion(self, ids: Sequence[int]) -> "Encoded":
        """The prompt followed by an answer."""
        return Encoded((*self.ids, *ids), (*self.roles, *[COMPLETION] * len(ids)))

    def with_decision(self, ids: Sequence[int], *others: Sequence[int]) -> "Encoded":
        """The prompt followed by the tokens at which a metric is decided; ``others`` are
        alternatives in rows of their own.
        """
        variants = tuple(self.with_decision(suffix) for suffix in others)
        return Encoded((*self.ids, *ids), (*self.roles, *[DECISION] * len(ids)), variants)


def encode(tokenizer: Tokenizer, text: str) -> Encoded:
    """Tokenise one prompt as a user turn if the tokenizer has a chat template, else exactly as
    ``tokenizer(text)``.

    The turn follows the system message of ``with_options``, if there is one. An end token that a
    tokenizer appends to every text is left out, because an answer follows the prompt. ``DECISION``
    are the template's tokens after the instruction, and always the last prompt token.
    """
    if tokenizer.chat_template is None:
        ids = list(tokenizer(text)["input_ids"])
        if appends_end(tokenizer) and len(ids) > 1 and ids[-1] == end_id(tokenizer):
            ids.pop()
        special = set(tokenizer.all_special_ids)
        roles = [OTHER if index in special else CONTENT for index in ids]
    else:
        ids, roles = _encode_turn(tokenizer, text)
    if not ids:
        raise PromptError(f"the tokenizer makes no token of the prompt {text[:40]!r}")
    require_usable_ids(tokenizer, ids, text)
    roles[-1] = DECISION
    return Encoded(tuple(ids), tuple(roles))


def content_roles(tokenizer: Tokenizer, encoded: Encoded) -> Encoded:
    """Every token as ``OTHER`` (special tokens, and tokens that a chat template adds) or
    ``CONTENT``.
    """
    special = set(tokenizer.all_special_ids)
    is_plain = tokenizer.chat_template is None
    roles = [
        CONTENT if index not in special and (is_plain or role == CONTENT) else OTHER
        for index, role in zip(encoded.ids, encoded.roles, strict=True)
    ]
    return Encoded(encoded.ids, tuple(roles))


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """The text of one sequence of token ids."""
    # transformers annotates a list too, which it returns only for several sequences
    return cast(str, tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


def limit_token_ids(tokenizer: Tokenizer, rows: int, reason: str) -> Tokenizer:
    """A copy of a tokenizer that refuses token ids from ``rows`` on; ``reason`` ends the error
    message.
    """
    copied = copy.deepcopy(tokenizer)
    setattr(copied, _LIMIT_ATTRIBUTE, (rows, reason))
    return copied


def n_usable_ids(tokenizer: Tokenizer) -> int | None:
    """Number of token ids that may be used; None without a limit."""
    return getattr(tokenizer, _LIMIT_ATTRIBUTE, (None,))[0]


def require_usable_ids(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> None:
    """Raise PromptError if a text contains a token for which one of the models has no embedding
    row.
    """
    rows, reason = getattr(tokenizer, _LIMIT_ATTRIBUTE, (None, ""))
    too_large = [index for index in ids if rows is not None and index >= rows]
    if not too_large:
        return
    token = cast(str, tokenizer.convert_ids_to_tokens(too_large[0]))
    where = f"the text {text[:40]!r} holds"
    if tokenizer.chat_template is not None and token not in text:
        where = "the chat template writes"
    raise PromptError(f"{where} the token {token!r} (id {too_large[0]}), {reason}")


def pad_id(tokenizer: Tokenizer) -> int:
    """Token id used for padding: the tokenizer's pad token, else its end token, else 0, among ids
    that the models have.
    """
    rows = n_usable_ids(tokenizer)
    for index in (cast("int | None", tokenizer.pad_token_id), end_id(tokenizer) if rows else None):
        if index is not None and (rows is None or index < rows):
            return index
    return 0


def end_id(tokenizer: Tokenizer) -> int | None:
    """Id of the end-of-text token, if the tokenizer has one."""
    return cast("int | None", tokenizer.eos_token_id)


def appends_end(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer without a chat template appends its end token to every text."""
    if tokenizer.chat_template is not None:
        return False
    # a letter, since some tokenizers return nothing for an empty text
    return [*tokenizer("a")["input_ids"]][-1:] == [end_id(tokenizer)] and end_id(
        tokenizer
    ) is not None


def encode_answer(tokenizer: Tokenizer, text: str, answer: str) -> tuple[int, ...]:
    """Token ids of an answer as it would be written after a prompt, without an end token.

    It directly follows a chat template's turn; without a template, one space is inserted unless the
    prompt ends or the answer begins with one. Raises PromptError if the tokenizer makes no token of
    it.
    """
    if tokenizer.chat_template is None:
        before = text
        answer = answer if answer[:1].isspace() or text[-1:].isspace() else f" {answer}"
        prompt, prompt_and_answer = (
            tokenizer(before)["input_ids"],
            tokenizer(before + answer)["input_ids"],
        )
    else:
        before = render_turn(tokenizer, text)
        prompt, prompt_and_answer = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (before, before + answer)
        )
    # if the tokenizer ends a text with a special token, or merges across the border, tokenise the #
    # answer alone
    if prompt_and_answer[: len(prompt)] != prompt:
        prompt, prompt_and_answer = [], tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = tuple(prompt_and_answer[len(prompt) :])
    if not ids:
        raise PromptError(f"the tokenizer makes no token of the answer {answer[:40]!r}")
    require_usable_ids(tokenizer, ids, answer)
    return ids


def _encode_turn(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    try:
        rendered = render_turn(tokenizer, text)
    # a template is foreign code and can raise anything
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if _fails_for_all(tokenizer):
            raise PromptError(
                f"the chat template fails for a single user turn, whatever its text ({reason}); "
                f"{remedy(tokenizer, error)}"
            ) from error
        raise PromptError(
            f"the chat template fails for the prompt {text[:40]!r} ({reason}); change the prompt"
        ) from error
    if not tokenizer.is_fast:
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids, [CONTENT] * len(ids)
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    start, end = _prompt_span(tokenizer, text, rendered)
    roles = [
        CONTENT if begin < end and stop > start else DECISION if begin >= end else OTHER
        for begin, stop in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), roles


def _fails_for_all(tokenizer: Tokenizer) -> bool:
    try:
        render_turn(tokenizer, "Hello.")
    except Exception:  # foreign code, as above
        return True
    return False


def _prompt_span(tokenizer: Tokenizer, text: str, rendered: str) -> tuple[int, int]:
    """Span of the prompt in its turn: between the template's text before and after it, as found
    with a placeholder.
    """
    try:
        before, placeholder, after = render_turn(tokenizer, PLACEHOLDER).partition(PLACEHOLDER)
    except Exception:  # the template fails for the placeholder but not for the prompt
        placeholder = before = after = ""
    start, end = 0, len(rendered)
    if (
        placeholder
        and rendered.startswith(before)
        and rendered.endswith(after)
        and len(rendered) >= len(before) + len(after)
    ):
        start, end = len(before), len(rendered) - len(after)
        if rendered[start:end].strip() == text.strip():
            return start, end
    if rendered.count(text.strip(), start, end) == 1:
        start = rendered.index(text.strip(), start, end)
        return start, start + len(text.strip())
    raise PromptError(
        f"the chat template rewrites the prompt {text[:40]!r}, so its tokens cannot be identified;"
        " change the template"
    )
