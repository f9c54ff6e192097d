"""Token ids of a prompt, with the role of every token."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

from interp.errors import PromptError
from interp.prompts.template import PLACE, remedy, render

Tokenizer = PreTrainedTokenizerBase
"""What turns text into token ids, as Hugging Face loads it."""

OTHER, CONTENT, DECISION, COMPLETION = range(4)
ROLES = {"content": CONTENT, "decision": DECISION, "completion": COMPLETION}

_LIMIT = "_interp_limit"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt with the role of each token (``OTHER``, ``CONTENT``, ``DECISION``,
    ``COMPLETION``).

    ``beside``: the same prompt with other ends, none of them longer, that are read in the same
    batch: see ``texts``.
    """

    ids: tuple[int, ...]
    roles: tuple[int, ...]
    beside: tuple["Encoded", ...] = ()

    @property
    def texts(self) -> tuple["Encoded", ...]:
        """All that is read of this prompt: a batch has one row for each of them."""
        return (self, *self.beside)

    def with_completion(self, ids: Sequence[int]) -> "Encoded":
        """The prompt followed by an answer."""
        return Encoded((*self.ids, *ids), (*self.roles, *[COMPLETION] * len(ids)))

    def with_decision(self, ids: Sequence[int], *others: Sequence[int]) -> "Encoded":
        """The prompt followed by the part of an answer on which a metric is decided, and beside it
        by ``others``.
        """
        beside = tuple(self.with_decision(other) for other in others)
        return Encoded((*self.ids, *ids), (*self.roles, *[DECISION] * len(ids)), beside)


def encode(tokenizer: Tokenizer, text: str) -> Encoded:
    """Tokenise one prompt as a user turn where the tokenizer has a chat template, else exactly as
    ``tokenizer(text)``.

    The turn stands behind the system message of ``with_options``, where the tokenizer was given
    one. An end token that a tokenizer writes after every text is left out: an answer follows the
    prompt, not its end. ``DECISION`` are the template's tokens after the instruction and always the
    last prompt token.
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
    require_rows(tokenizer, ids, text)
    roles[-1] = DECISION
    return Encoded(tuple(ids), tuple(roles))


def apart(tokenizer: Tokenizer, coded: Encoded) -> Encoded:
    """Every token as ``OTHER`` (special ids, and all that a chat template adds) or ``CONTENT``."""
    special = set(tokenizer.all_special_ids)
    plain = tokenizer.chat_template is None
    roles = [
        CONTENT if index not in special and (plain or role == CONTENT) else OTHER
        for index, role in zip(coded.ids, coded.roles, strict=True)
    ]
    return Encoded(coded.ids, tuple(roles))


def decoded(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """The text of one sequence of token ids."""
    # by transformers' annotations it could be a list, which it is of several sequences only
    return cast(str, tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


def limited(tokenizer: Tokenizer, rows: int, why: str) -> Tokenizer:
    """A copy of a tokenizer of which ids from ``rows`` on are not read; ``why`` ends the sentence
    that refuses one.
    """
    found = copy.deepcopy(tokenizer)
    setattr(found, _LIMIT, (rows, why))
    return found


def rows_read(tokenizer: Tokenizer) -> int | None:
    """How many ids of a tokenizer may be read; None where nothing limits them."""
    return getattr(tokenizer, _LIMIT, (None,))[0]


def require_rows(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> None:
    """Raise PromptError where a text holds a token that one of the models has no row for."""
    rows, why = getattr(tokenizer, _LIMIT, (None, ""))
    found = [index for index in ids if rows is not None and index >= rows]
    if not found:
        return
    token = cast(str, tokenizer.convert_ids_to_tokens(found[0]))
    where = f"the text {text[:40]!r} holds"
    if tokenizer.chat_template is not None and token not in text:
        where = "the chat template writes"
    raise PromptError(f"{where} the token {token!r} (id {found[0]}), {why}")


def pad_id(tokenizer: Tokenizer) -> int:
    """Token id used for padding; where the tokenizer names none that a model can read, its end
    token's, or 0.
    """
    rows = rows_read(tokenizer)
    for index in (cast("int | None", tokenizer.pad_token_id), end_id(tokenizer) if rows else None):
        if index is not None and (rows is None or index < rows):
            return index
    return 0


def end_id(tokenizer: Tokenizer) -> int | None:
    """Token id that ends a text, where the tokenizer names one."""
    return cast("int | None", tokenizer.eos_token_id)


def appends_end(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer without a chat template writes its end token after every text."""
    if tokenizer.chat_template is not None:
        return False
    # a letter, since of an empty text some write nothing
    return [*tokenizer("a")["input_ids"]][-1:] == [end_id(tokenizer)] and end_id(
        tokenizer
    ) is not None


def encode_answer(tokenizer: Tokenizer, text: str, answer: str) -> tuple[int, ...]:
    """Token ids of an answer as it would be written after a prompt, without an end token.

    After a chat template's turn it follows at once; without a template one space stands between,
    unless the prompt ends or the answer begins with one. Raises PromptError where the tokenizer
    makes no token of it.
    """
    if tokenizer.chat_template is None:
        before = text
        answer = answer if answer[:1].isspace() or text[-1:].isspace() else f" {answer}"
        prompt, whole = tokenizer(before)["input_ids"], tokenizer(before + answer)["input_ids"]
    else:
        before = render(tokenizer, text)
        prompt, whole = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (before, before + answer)
        )
    # tokenizers that end a text with a special token, or merge across the border, write the two
    # apart
    if whole[: len(prompt)] != prompt:
        prompt, whole = [], tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = tuple(whole[len(prompt) :])
    if not ids:
        raise PromptError(f"the tokenizer makes no token of the answer {answer[:40]!r}")
    require_rows(tokenizer, ids, answer)
    return ids


def _encode_turn(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    try:
        turn = render(tokenizer, text)
    # a template is a program of the model's author: it can raise anything
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if _refuses_all(tokenizer):
            raise PromptError(
                f"the chat template refuses a user's turn alone, whatever it says ({reason}); "
                f"{remedy(tokenizer, error)}"
            ) from error
        raise PromptError(
            f"the chat template refuses the prompt {text[:40]!r} ({reason}); change the prompt"
        ) from error
    if not tokenizer.is_fast:
        ids = tokenizer(turn, add_special_tokens=False)["input_ids"]
        return ids, [CONTENT] * len(ids)
    coded = tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True)
    start, end = _body(tokenizer, text, turn)
    roles = [
        CONTENT if begin < end and stop > start else DECISION if begin >= end else OTHER
        for begin, stop in coded["offset_mapping"]
    ]
    return list(coded["input_ids"]), roles


def _refuses_all(tokenizer: Tokenizer) -> bool:
    try:
        render(tokenizer, "Hello.")
    except Exception:  # as where the prompt itself is rendered
        return True
    return False


def _body(tokenizer: Tokenizer, text: str, turn: str) -> tuple[int, int]:
    """Where the prompt stands in its turn: between what the template writes before and after any
    other prompt.
    """
    try:
        before, found, after = render(tokenizer, PLACE).partition(PLACE)
    except Exception:  # a template that refuses the placeholder did not refuse the prompt
        found = before = after = ""
    start, end = 0, len(turn)
    if (
        found
        and turn.startswith(before)
        and turn.endswith(after)
        and len(turn) >= len(before) + len(after)
    ):
        start, end = len(before), len(turn) - len(after)
        if turn[start:end].strip() == text.strip():
            return start, end
    if turn.count(text.strip(), start, end) == 1:
        start = turn.index(text.strip(), start, end)
        return start, start + len(text.strip())
    raise PromptError(
        f"the chat template rewrites the prompt {text[:40]!r}, so its tokens cannot be told apart;"
        " change the template"
    )
