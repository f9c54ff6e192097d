"""Prompts of a set as token ids: encoded once, found to fit, and told by their digest."""

from dataclasses import dataclass
from functools import cached_property

from interp.errors import PromptError
from interp.prompts.documents import encode_document
from interp.prompts.sets import PromptSet
from interp.prompts.tokens import Encoded, Tokenizer, encode
from interp.provenance import digest


@dataclass(frozen=True)
class EncodedSet:
    """Prompts and their token ids: the same for what is read and for the key, though a template may
    read the clock.
    """

    tokenizer: Tokenizer
    prompts: PromptSet

    @cached_property
    def encoded(self) -> list[Encoded]:
        """Every prompt as a user turn, or as it is without a chat template; PromptError where that
        refuses one.
        """
        return [encode(self.tokenizer, prompt.text) for prompt in self.prompts]

    def within(self, context: int) -> list[Encoded]:
        """The same; PromptError, naming the longest prompt, where it leaves no room for an answer."""
        longest = max(range(len(self.encoded)), key=lambda row: len(self.encoded[row].ids))
        if (length := len(self.encoded[longest].ids)) >= context:
            raise PromptError(
                f"{self.prompts.source}, row {self.prompts.prompts[longest].id}: {length} tokens"
                f" leave no room in a context of {context}; shorten the prompt"
            )
        return self.encoded

    @cached_property
    def digest(self) -> str | None:
        """Digest of the token ids, of conversations as a whole; None where the template refuses
        some.

        Who reads these in the template refuses them too; to who reads them as plain text the text
        says all.
        """
        try:
            if any(prompt.messages for prompt in self.prompts):
                turns = [
                    [{"role": r, "content": c} for r, c in prompt.messages or ()]
                    for prompt in self.prompts
                ]
                whole = zip(turns, self.prompts.texts, strict=True)
                return digest(
                    [
                        encode_document(self.tokenizer, one or text, frozenset()).ids
                        for one, text in whole
                    ]
                )
            return digest([coded.ids for coded in self.encoded])
        except PromptError:
            return None
