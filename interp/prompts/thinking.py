"""Where the answer of a model that thinks aloud begins: after its thinking block, which is not the
answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.prompts.tokens import Tokenizer, decoded, encode

OPENING, CLOSING = "<think>", "</think>"
BLOCKS = (
    (OPENING, CLOSING),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
"""How thinking blocks begin and end, of models whose chat template does not name theirs."""
AUTO, NEVER = "auto", "none"


@dataclass(frozen=True)
class AnswerStart:
    """The answer is what follows the last ``mark``; "" where it begins at once.

    ``opening``: only an answer that holds it has a block to end. ``inside``: the prompt ends within
    a block. ``blocks``: openings and their marks; an answer that begins with one of these openings
    follows its mark.
    """

    mark: str = ""
    opening: str = ""
    inside: bool = False
    blocks: tuple[tuple[str, str], ...] = ()

    def read(
        self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]
    ) -> tuple[str, bool]:
        """The answer's text, and whether it was reached; ``decode(ids, skip_special_tokens)``."""
        if block := self.block(ids, decode):
            return AnswerStart(block[1], block[0]).read(ids, decode)
        whole = decode(ids, False) if self.mark else ""
        marks = whole.count(self.mark) if self.mark else 0
        if marks:
            # by token ids, since the mark itself may be a special token that the text leaves out
            end = next(
                end
                for end in range(1, len(ids) + 1)
                if decode(ids[:end], False).count(self.mark) == marks
            )
            return decode(ids[end:], True).strip(), True
        thinking = self.mark and (self.inside or not self.opening or self.opening in whole)
        return ("", False) if thinking else (decode(ids, True).strip(), True)

    def block(
        self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]
    ) -> tuple[str, str] | None:
        """The one of ``blocks`` that an answer begins with."""
        text = decode(ids, False).lstrip() if self.blocks else ""
        return next((block for block in self.blocks if text.startswith(block[0])), None)

    def at_once(self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]) -> bool:
        """Whether it is settled that an answer which begins so has no thinking before it."""
        text = decode(ids, False).lstrip() if self.blocks else ""
        return not self.mark and not any(
            opening.startswith(text[: len(opening)]) for opening, _ in self.blocks
        )


def answer_start(tokenizer: Tokenizer, given: str = AUTO) -> AnswerStart:
    """Where answers begin: ``none`` at once, ``auto`` after a thinking block, else after a text of
    the user's.

    Where the chat template names no block, an answer that begins with one that is known has it:
    fine-tuning can teach a model to think that had no template for it.
    """
    if given == NEVER:
        return AnswerStart()
    if given != AUTO:
        return AnswerStart(given)
    template = tokenizer.chat_template
    if not template or CLOSING not in str(template):
        return AnswerStart(blocks=BLOCKS)
    turn = decoded(tokenizer, encode(tokenizer, "Hello").ids)
    inside = turn.rfind(OPENING) > turn.rfind(CLOSING)
    return AnswerStart(CLOSING, OPENING, inside)
