"""Tokens of form: those that any chat-like fine-tuning makes more or less likely."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from interp.prompts.documents import special_ids
from interp.prompts.tokens import Tokenizer


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Every token as text, its leading space kept."""
    return [str(tokenizer.decode([int(index)])) for index in ids]


def form_tokens(tokenizer: Tokenizer, size: int) -> Bool[np.ndarray, " V"]:
    """Which of ``size`` token ids are form and not content: special tokens, and tokens without a
    letter or a digit (punctuation, list marks, white space).

    Three additive rules on such tokens and on repetition make a base model answer like a chat model
    (arXiv 2409.14254): ends sooner, repeats less, list marks. That a fine-tuned model does so is
    not a finding.
    """
    form = np.zeros(size, bool)
    special = special_ids(tokenizer)
    for index, label in enumerate(token_labels(tokenizer, range(size))):
        form[index] = index in special or not any(one.isalnum() for one in label)
    return form
