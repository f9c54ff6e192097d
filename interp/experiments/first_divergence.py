"""The first token at which the greedy answers of two models to one prompt diverge.

The base writes a few tokens at a time and the fine-tuned model reads them: up to the first token
that it would not have written, both wrote the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.interventions.teacher_forcing import Text, answer_logits
from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.study import Study

FIRST_TOKENS = 8
"""Tokens that are written before the models are compared; then as many again, and so on."""


@dataclass(frozen=True)
class Divergence:
    """A prompt (class and row), the tokens that both models write, and the next one of each."""

    group: str
    row: int
    answer: tuple[int, ...]
    base_token: int
    tuned_token: int

    def text(self, study: Study) -> Encoded:
        """The prompt and the common beginning of the answers."""
        return study.encoded(self.group)[self.row].with_completion(self.answer)


def first_divergences(
    study: Study, pair: Pair, max_new_tokens: int, title: str
) -> list[Divergence]:
    """Where the greedy answers of the pair to the study's prompts diverge, in the order of the
    prompts; those that do not within ``max_new_tokens`` are left out.

    Both models read the study's token ids, and answers end at the stop tokens of either.
    """
    common: dict[tuple[str, int], tuple[int, ...]] = {
        (group, row): () for group in study.classes for row in range(len(study.encoded(group)))
    }
    found: dict[tuple[str, int], Divergence] = {}
    active, written = list(common), 0
    while active and written < max_new_tokens:
        count = min(max(written, FIRST_TOKENS), max_new_tokens - written)
        texts = [study.encoded(group)[row].ids + common[group, row] for group, row in active]
        answers = _written(study, pair, texts, count, title)
        following = []
        for item, (tokens, choices) in zip(active, answers, strict=True):
            agreed = next(
                (at for at, (a, b) in enumerate(zip(tokens, choices, strict=True)) if a != b),
                len(tokens),
            )
            common[item] += tuple(tokens[:agreed])
            if agreed < len(tokens):
                found[item] = Divergence(*item, common[item], tokens[agreed], choices[agreed])
            elif len(tokens) == count and tokens[-1] not in pair.stop_ids:
                following.append(item)
        context = pair.tuned.context_length
        active = [
            (group, row)
            for group, row in following
            if len(study.encoded(group)[row].ids) + len(common[group, row]) < context
        ]
        written += count
    return [found[item] for item in common if item in found]


def _written(
    study: Study, pair: Pair, texts: Sequence[tuple[int, ...]], count: int, title: str
) -> list[tuple[list[int], list[int]]]:
    """What the base writes next, and what the fine-tuned model would at each of these tokens."""
    base, tuned = pair.require_base("a first divergence"), pair.tuned
    encoded = [Encoded(ids, (0,) * len(ids)) for ids in texts]
    logits_bytes = 8 * tuned.anatomy.vocabulary * count * len(texts) // sum(map(len, texts))
    per_token = cached_bytes(base, None, encoded, count) + logits_bytes
    results: list[tuple[list[int], list[int]]] = [([], []) for _ in texts]
    groups = study.batches(encoded, tuned, per_token, GENERATION_BATCH_FACTOR)
    for rows in study.progress(groups, title):
        text = Text([texts[row] for row in rows], None, study.pad_id, pair.stop_ids)
        tokens = generate(study.engine, base, text, count)
        logits, _, _ = answer_logits(study.engine, tuned, text, tokens)
        choices = to_host(logits.argmax(-1)).tolist()
        for row, own, other in zip(rows, tokens, choices, strict=True):
            results[row] = own, other[len(other) - len(own) :]
    return results
