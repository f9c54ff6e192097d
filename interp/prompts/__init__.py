"""Prompts: files read at the door, contrasts split by cluster, token ids with the role of every token."""

from interp.prompts.files import read_prompts, read_task
from interp.prompts.sets import NOTHING, Contrast, OneClass, Prompt, PromptSet
from interp.prompts.tokens import COMPLETION, CONTENT, DECISION, OTHER, ROLES, Encoded, Tokenizer, encode, encode_answer

__all__ = [
    "COMPLETION",
    "CONTENT",
    "DECISION",
    "NOTHING",
    "OTHER",
    "ROLES",
    "Contrast",
    "Encoded",
    "OneClass",
    "Prompt",
    "PromptSet",
    "Tokenizer",
    "encode",
    "encode_answer",
    "read_prompts",
    "read_task",
]
