"""Where the answer of a model that thinks aloud begins: after its thinking block, which is not the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.prompts.tokens import Tokenizer, decoded, encode

OPENING, CLOSING = "<think>", "</think>"
AUTO, NEVER = "auto", "none"


@dataclass(frozen=True)
class AnswerStart:
    """The answer is what follows the last ``mark``; "" where it begins at once.

    ``opening``: only an answer that holds it has a block to end. ``inside``: the prompt ends within a block.
    """

    mark: str = ""
    opening: str = ""
    inside: bool = False

    def read(self, ids: Sequence[int], decode: Callable[[Sequence[int], bool], str]) -> tuple[str, bool]:
        """The answer's text, and whether it was reached; ``decode(ids, skip_special_tokens)``."""
        whole = decode(ids, False) if self.mark else ""
        marks = whole.count(self.mark) if self.mark else 0
        if marks:
            # by token ids, since the mark itself may be a special token that the text leaves out
            end = next(end for end in range(1, len(ids) + 1) if decode(ids[:end], False).count(self.mark) == marks)
            return decode(ids[end:], True).strip(), True
        thinking = self.mark and (self.inside or not self.opening or self.opening in whole)
        return ("", False) if thinking else (decode(ids, True).strip(), True)


def answer_start(tokenizer: Tokenizer, given: str = AUTO) -> AnswerStart:
    """Where answers begin: ``auto`` as the chat template says, ``none`` at once, else after a text of the user's."""
    if given == NEVER:
        return AnswerStart()
    if given != AUTO:
        return AnswerStart(given)
    template = tokenizer.chat_template
    if not template or CLOSING not in str(template):
        return AnswerStart()
    turn = decoded(tokenizer, encode(tokenizer, "Hello").ids)
    inside = turn.rfind(OPENING) > turn.rfind(CLOSING)
    return AnswerStart(CLOSING, OPENING, inside)
