"""Roles of tokens that any chat-like fine-tuning makes more or less likely."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.experiments.discovery import token_labels
from interp.prompts.documents import special_ids
from interp.prompts.tokens import Tokenizer

END, BREAK, MARK, SEEN = "end of the text", "line break", "list mark", "token of the text so far"
ROLES = (END, BREAK, MARK, SEEN)
BINS = (1, 16, 32, 64, 128)
"""First position of every bin in which the end of the text is given."""
EVERYWHERE = "all"
_LIST_MARK = re.compile(r"(?:[-*+\u2022\u2013]|\*\*|#{1,6}|\d{1,2}[.)])\s*")
_TINY = 1e-37  # probabilities below it are those: a float32 has nothing much smaller
_ROUNDING = 1e-6  # of a sum of probabilities near 1


@dataclass(frozen=True)
class Roles:
    """Which tokens have a role at every position: ``sets`` [S, V] of ``ROLES`` without the last.

    ``special`` [V]: tokens that do not count as a token of the text so far.
    """

    sets: Bool[np.ndarray, "S V"]
    special: Bool[np.ndarray, " V"]

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> Roles:
        """Of ``size`` tokens; ``ends``: ids that end an answer."""
        sets, special = np.zeros((3, size), bool), np.zeros(size, bool)
        sets[0, [index for index in ends if index < size]] = True
        special[[index for index in special_ids(tokenizer) if index < size]] = True
        for index, label in enumerate(token_labels(tokenizer, range(size))):
            sets[1, index] = "\n" in label and not label.strip()
            sets[2, index] = _LIST_MARK.fullmatch(label.strip(" ")) is not None
        return cls(sets, special)

    @property
    def present(self) -> Bool[np.ndarray, " R"]:
        """Which roles any token has; tokens of the text always do."""
        return np.append(self.sets.any(axis=1), True)

    def log_odds(
        self, probabilities: Float[Tensor, "P V"], texts: Sequence[Sequence[int]]
    ) -> Float[Tensor, "P R"]:
        """Log odds that the next token has each role, at every position of some texts, text by
        text, but the first of each.

        A constant that is added to the logits of all tokens of a role is added to the log odds too.
        """
        device = probabilities.device
        inside = torch.from_numpy(self.sets.T.astype(np.float32)).to(device)
        has_role, has_not = (
            (probabilities @ part).clamp(min=_TINY) for part in (inside, 1 - inside)
        )
        seen, start = [], 0
        for ids in texts:
            rows = probabilities[start : start + len(ids) - 1]
            read = torch.from_numpy(self._first_occurrences(ids)).to(device)
            # at position t the tokens 0..t were read
            before = torch.ones(rows.shape[0], len(ids), device=device).tril(1) * read
            seen.append((rows[:, list(ids)] * before).sum(1))
            start += len(ids) - 1
        seen = torch.cat(seen)
        return torch.cat(
            [
                has_role.log() - has_not.log(),
                (seen.clamp(min=_TINY).log() - (1 - seen).clamp(min=_ROUNDING).log())[:, None],
            ],
            1,
        )

    def _first_occurrences(self, ids: Sequence[int]) -> Float[np.ndarray, " T"]:
        """1 where a token of a text is not special and occurs for the first time."""
        first = np.zeros(len(ids), np.float32)
        first[np.unique(ids, return_index=True)[1]] = 1
        return first * ~self.special[list(ids)]


def bin_labels() -> list[str]:
    """The bins of positions, as text."""
    return [
        f"positions {low} to {high - 1}" if high else f"positions from {low} on"
        for low, high in zip(BINS, [*BINS[1:], 0], strict=True)
    ]
