"""Prompts: files read at the door, contrasts split by cluster, token ids with the role of every token."""

from interp.prompts.files import read_prompts
from interp.prompts.sets import Contrast, Prompt, PromptSet
from interp.prompts.tokens import COMPLETION, CONTENT, DECISION, OTHER, ROLES, Encoded, Tokenizer, encode

__all__ = [
    "COMPLETION",
    "CONTENT",
    "DECISION",
    "OTHER",
    "ROLES",
    "Contrast",
    "Encoded",
    "Prompt",
    "PromptSet",
    "Tokenizer",
    "encode",
    "read_prompts",
]
