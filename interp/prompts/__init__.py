"""Prompts: reading and checking files, contrasts split by cluster, token ids with a role for every
token.
"""

from interp.prompts.clusters import repeats_last, tied, turns
from interp.prompts.contrasts import NOTHING, Contrast, OneClass
from interp.prompts.documents import (
    SPECIAL,
    TURNS,
    Document,
    Documents,
    encode_document,
    packed,
    special_ids,
)
from interp.prompts.encoded_set import EncodedSet
from interp.prompts.files import read_chats, read_prompts, read_task
from interp.prompts.notes import prompt_notes, template_notes
from interp.prompts.sets import Prompt, PromptSet
from interp.prompts.template import TemplateOptions, options_of, with_options
from interp.prompts.tokens import (
    COMPLETION,
    CONTENT,
    DECISION,
    OTHER,
    ROLES,
    Encoded,
    Tokenizer,
    apart,
    decoded,
    encode,
    encode_answer,
    end_id,
    limited,
    pad_id,
    require_rows,
    rows_read,
)

__all__ = [
    "COMPLETION",
    "CONTENT",
    "DECISION",
    "NOTHING",
    "OTHER",
    "ROLES",
    "SPECIAL",
    "TURNS",
    "Contrast",
    "Document",
    "Documents",
    "Encoded",
    "EncodedSet",
    "OneClass",
    "Prompt",
    "PromptSet",
    "TemplateOptions",
    "Tokenizer",
    "apart",
    "decoded",
    "encode",
    "encode_answer",
    "encode_document",
    "end_id",
    "limited",
    "options_of",
    "packed",
    "pad_id",
    "prompt_notes",
    "read_chats",
    "read_prompts",
    "read_task",
    "repeats_last",
    "require_rows",
    "rows_read",
    "special_ids",
    "template_notes",
    "tied",
    "turns",
    "with_options",
]
