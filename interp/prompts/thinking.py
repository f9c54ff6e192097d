"""Where the answer of a reasoning model begins: after its thinking block, which is not part of the
answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.prompts.tokens import Tokenizer, decode, encode

OPENING, CLOSING = "<think>", "</think>"
THINKING_BLOCKS = (
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
"""Known begin and end markers of thinking blocks, for models whose chat template does not contain
theirs.
"""
AUTO_START, NO_THINKING = "auto", "none"


@dataclass(frozen=True)
class AnswerStart:
    """The answer is the text after the last ``mark``; with an empty mark it begins at once.

    ``opening``: only an answer that contains it has a block to end. ``in_block``: the prompt ends
    within a block. ``blocks``: pairs of opening and closing markers; an answer that begins with one
    of the openings starts after its closing marker.
    """

    mark: str = ""
    opening: str = ""
    in_block: bool = False
    blocks: tuple[tuple[str, str], ...] = ()

    def read(
        self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]
    ) -> tuple[str, bool]:
        """The answer's text, and whether it was reached; ``decode(ids, skip_special_tokens)``."""
        if block := self.block(ids, decode):
            return AnswerStart(block[1], block[0]).read(ids, decode)
        full_text = decode(ids, False) if self.mark else ""
        n_marks = full_text.count(self.mark) if self.mark else 0
        if n_marks:
            # by token ids, since the mark itself may be a special token, which decoding skips
            end = next(
                end
                for end in range(1, len(ids) + 1)
                if decode(ids[:end], False).count(self.mark) == n_marks
            )
            return decode(ids[end:], True).strip(), True
        is_thinking = self.mark and (self.in_block or not self.opening or self.opening in full_text)
        return ("", False) if is_thinking else (decode(ids, True).strip(), True)

    def block(
        self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]
    ) -> tuple[str, str] | None:
        """The pair of ``blocks`` with whose opening an answer begins."""
        text = decode(ids, False).lstrip() if self.blocks else ""
        return next((block for block in self.blocks if text.startswith(block[0])), None)

    def excludes_thinking(
        self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]
    ) -> bool:
        """Whether these first tokens already exclude a thinking block."""
        text = decode(ids, False).lstrip() if self.blocks else ""
        return not self.mark and not any(
            opening.startswith(text[: len(opening)]) for opening, _ in self.blocks
        )


def answer_start(tokenizer: Tokenizer, mark: str = AUTO_START) -> AnswerStart:
    """Where answers begin: ``none`` at once, ``auto`` after a thinking block, otherwise after the
    given text.

    If the chat template contains no thinking markers, known ones at the beginning of an answer are
    used: a fine-tuned model can have learned to think without a template for it.
    """
    if mark == NO_THINKING:
        return AnswerStart()
    if mark != AUTO_START:
        return AnswerStart(mark)
    template = tokenizer.chat_template
    if not template or CLOSING not in str(template):
        return AnswerStart(blocks=THINKING_BLOCKS)
    turn = decode(tokenizer, encode(tokenizer, "Hello").ids)
    inside = turn.rfind(OPENING) > turn.rfind(CLOSING)
    return AnswerStart(CLOSING, OPENING, inside)
