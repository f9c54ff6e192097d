"""Sets of continuations: the log-odds that an answer begins with one of them.

The log-probability of a continuation is the sum over its tokens, teacher-forced after the prompt;
that of a set is the logsumexp over its continuations. All proper prefixes of continuations are the
nodes of a tree. Every maximal prefix is appended to the prompt in its own row, so one pass
evaluates the whole tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import MetricError
from interp.maths.precision import widen
from interp.metrics.base import Objective
from interp.prompts import Tokenizer, encode_answer

Ids = tuple[int, ...]
_ANY_PROMPT = "x"  # continuations are tokenised as they follow any prompt


@dataclass(frozen=True)
class Continuations:
    """log P(an answer begins with one of ``targets``) - log P(it begins with one of
    ``alternatives``), in nats.

    Each continuation is a tuple of token ids; within a set, none is a prefix of another. If
    ``alternatives`` is empty, the alternative is any other answer. For single tokens this is the
    log-odds of the first token after the prompt.

    ``nodes``: all proper prefixes of continuations, the empty one first. ``suffixes``: the maximal
    nodes, the longest first, which are appended to the prompt.
    """

    targets: tuple[Ids, ...]
    alternatives: tuple[Ids, ...] = ()
    nodes: tuple[Ids, ...] = field(init=False, compare=False)
    suffixes: tuple[Ids, ...] = field(init=False, compare=False)

    @classmethod
    def from_texts(
        cls, tokenizer: Tokenizer, targets: Sequence[str], alternatives: Sequence[str] = ()
    ) -> Continuations:
        """Continuations from text, tokenised as the beginning of an answer; case and wording count.

        Raises MetricError for a blank one, for one with a token that the tokenizer does not know,
        and if a continuation of one set is a prefix of one of the other set.
        """
        sets = [
            [_encode_continuation(tokenizer, text) for text in texts]
            for texts in (targets, alternatives)
        ]
        for target_ids, text in zip(sets[0], targets, strict=True):
            for alternative_ids, alternative in zip(sets[1], alternatives, strict=True):
                if target_ids[: len(alternative_ids)] == alternative_ids[: len(target_ids)]:
                    raise MetricError(
                        f"the continuations {text!r} and {alternative!r} are alternatives, but one"
                        " begins with the other; give two that differ"
                    )
        return cls(*(_drop_extensions(continuations) for continuations in sets))

    def __post_init__(self) -> None:
        prefixes = {
            ids[:end] for ids in (*self.targets, *self.alternatives) for end in range(len(ids))
        }
        extended = {node[:end] for node in prefixes for end in range(len(node))}
        nodes = tuple(sorted(prefixes, key=_by_length))
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(
            self, "suffixes", tuple(node for node in reversed(nodes) if node not in extended)
        )

    @property
    def objective(self) -> Objective:
        """The log-odds, the same function for all prompts."""
        return Objective(1 + len(self.suffixes[0]), self.log_odds)

    def log_odds(self, logits: Float[Tensor, "R keep V"]) -> Float[Tensor, " B"]:
        """From the logits at the last columns of a batch with one row per suffix of every
        prompt.
        """
        positions = [self._position(node) for node in self.nodes]
        rows, offsets = (
            torch.tensor(part, device=logits.device) for part in zip(*positions, strict=True)
        )
        by_row = logits.unflatten(0, (-1, len(self.suffixes)))
        log_p = widen(by_row[:, rows, logits.shape[1] - 1 - offsets]).log_softmax(-1)
        targets = torch.stack(
            [self._log_probability(log_p, ids) for ids in self.targets], -1
        ).logsumexp(-1)
        alternatives = [self._log_probability(log_p, ids) for ids in self.alternatives] or [
            self._log_probability_of_leaving(log_p, node) for node in self.nodes
        ]
        return targets - torch.stack(alternatives, -1).logsumexp(-1)

    def _position(self, node: Ids) -> tuple[int, int]:
        """The suffix whose row contains a node, and how many columns before the row's last the node
        ends.
        """
        row = next(row for row, suffix in enumerate(self.suffixes) if suffix[: len(node)] == node)
        return row, len(self.suffixes[row]) - len(node)

    def _log_probability(self, log_p: Float[Tensor, "B nodes V"], ids: Ids) -> Float[Tensor, " B"]:
        """log P(the answer begins with these tokens)."""
        token_log_p = [
            log_p[:, self.nodes.index(ids[:end]), token] for end, token in enumerate(ids)
        ]
        return torch.stack(token_log_p, -1).sum(-1) if token_log_p else log_p.new_zeros(len(log_p))

    def _log_probability_of_leaving(
        self, log_p: Float[Tensor, "B nodes V"], node: Ids
    ) -> Float[Tensor, " B"]:
        """log P(the answer begins with a node and then continues unlike every wanted
        continuation).
        """
        continuing = sorted(
            {
                ids[len(node)]
                for ids in self.targets
                if ids[: len(node)] == node and len(ids) > len(node)
            }
        )
        # 1 - P(wanted) would round to 0 where P is nearly 1: sum the tokens that leave the tree #
        # instead
        leaving = log_p[:, self.nodes.index(node)].index_fill(
            -1, torch.tensor(continuing, device=log_p.device), -torch.inf
        )
        return self._log_probability(log_p, node) + leaving.logsumexp(-1)

    @property
    def identity(self) -> dict[str, object]:
        """What determines its numbers, for provenance."""
        return {
            "wanted": [list(ids) for ids in self.targets],
            "against": [list(ids) for ids in self.alternatives],
        }


def _by_length(ids: Ids) -> tuple[int, Ids]:
    return len(ids), ids


def _encode_continuation(tokenizer: Tokenizer, text: str) -> Ids:
    if not text.strip():
        raise MetricError(
            f"the continuation {text!r} is blank and begins every answer; leave it out"
        )
    ids = encode_answer(tokenizer, _ANY_PROMPT, text)
    if tokenizer.unk_token_id in ids:
        raise MetricError(
            f"the tokenizer does not know all of the continuation {text!r}; give another"
        )
    return ids


def _drop_extensions(continuations: Sequence[Ids]) -> tuple[Ids, ...]:
    """Drop continuations that begin with another one: they are contained in the shorter one."""
    unique = set(continuations)
    return tuple(
        sorted(ids for ids in unique if not any(ids[:end] in unique for end in range(1, len(ids))))
    )
