"""Prompts: reading and checking files, contrasts split by cluster, token ids with a role for every
token.
"""

from interp.prompts.clusters import first_and_repeated, merge_clusters, positions_within_clusters
from interp.prompts.contrasts import NO_PROMPTS, Contrast, OneClass
from interp.prompts.documents import (
    SPECIAL_TOKEN,
    TOKEN_SOURCES,
    Document,
    Documents,
    encode_document,
    pack_documents,
    special_ids,
)
from interp.prompts.encoded_set import EncodedSet
from interp.prompts.files import read_chats, read_prompts, read_task
from interp.prompts.notes import prompt_notes, template_notes
from interp.prompts.sets import Prompt, PromptSet
from interp.prompts.task_file import (
    LAST,
    TaskFile,
    TaskRow,
    TokenRow,
    TokenText,
    padded_columns,
    read_task_file,
)
from interp.prompts.template import TemplateOptions, template_options, with_template_options
from interp.prompts.tokens import (
    COMPLETION,
    CONTENT,
    DECISION,
    OTHER,
    ROLES,
    Encoded,
    Tokenizer,
    content_roles,
    decode,
    encode,
    encode_answer,
    end_id,
    limit_token_ids,
    n_usable_ids,
    pad_id,
    require_usable_ids,
)

__all__ = [
    "COMPLETION",
    "CONTENT",
    "DECISION",
    "LAST",
    "NO_PROMPTS",
    "OTHER",
    "ROLES",
    "SPECIAL_TOKEN",
    "TOKEN_SOURCES",
    "Contrast",
    "Document",
    "Documents",
    "Encoded",
    "EncodedSet",
    "OneClass",
    "Prompt",
    "PromptSet",
    "TaskFile",
    "TaskRow",
    "TemplateOptions",
    "TokenRow",
    "TokenText",
    "Tokenizer",
    "content_roles",
    "decode",
    "encode",
    "encode_answer",
    "encode_document",
    "end_id",
    "first_and_repeated",
    "limit_token_ids",
    "merge_clusters",
    "n_usable_ids",
    "pack_documents",
    "pad_id",
    "padded_columns",
    "positions_within_clusters",
    "prompt_notes",
    "read_chats",
    "read_prompts",
    "read_task",
    "read_task_file",
    "require_usable_ids",
    "special_ids",
    "template_notes",
    "template_options",
    "with_template_options",
]
