"""The token ids of a prompt set: encoded once, with their digest."""

from dataclasses import dataclass
from functools import cached_property

from interp.errors import PromptError
from interp.prompts.documents import encode_document
from interp.prompts.sets import PromptSet
from interp.prompts.tokens import Encoded, Tokenizer, encode
from interp.provenance import digest


@dataclass(frozen=True)
class EncodedSet:
    """Prompts and their token ids, encoded once: a template may read the clock, and the pass and
    the key must use the same ids.
    """

    tokenizer: Tokenizer
    prompts: PromptSet

    @cached_property
    def encoded(self) -> list[Encoded]:
        """Every prompt as a user turn, or as plain text without a chat template; PromptError if the
        template fails for one.
        """
        return [encode(self.tokenizer, prompt.text) for prompt in self.prompts]

    def within(self, context: int) -> list[Encoded]:
        """The encoded prompts; PromptError, naming the longest, if it leaves no room for an
        answer.
        """
        longest = max(range(len(self.encoded)), key=lambda row: len(self.encoded[row].ids))
        if (length := len(self.encoded[longest].ids)) >= context:
            raise PromptError(
                f"{self.prompts.source}, row {self.prompts.prompts[longest].id}: {length} tokens"
                f" leave no room in a context of {context}; shorten the prompt"
            )
        return self.encoded

    @cached_property
    def digest(self) -> str | None:
        """Digest of the token ids, including whole conversations; None if the template fails for
        one.

        Reading those prompts through the template then fails too; for plain text, the digest of the
        texts is sufficient.
        """
        try:
            if any(prompt.messages for prompt in self.prompts):
                conversations = [
                    [{"role": r, "content": c} for r, c in prompt.messages or ()]
                    for prompt in self.prompts
                ]
                pairs = zip(conversations, self.prompts.texts, strict=True)
                return digest(
                    [
                        encode_document(self.tokenizer, messages or text, frozenset()).ids
                        for messages, text in pairs
                    ]
                )
            return digest([coded.ids for coded in self.encoded])
        except PromptError:
            return None
