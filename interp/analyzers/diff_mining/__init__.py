"""``DiffMining``: which tokens does the fine-tuned model make likelier on ordinary text?

At every position of texts that both models read, the k tokens whose logit rose most and the k whose
logit fell most are counted ("Diff Mining", arXiv 2608.26462). A token's score is the share of
positions at which it is among the rises minus the share among the falls. Every control fine-tune is
scored in the same way.

Where it departs from the reference: only differences strictly beyond the position's median count,
since otherwise the identical pair lists the first tokens of the vocabulary at 100 %; likelihood is
compared by log probabilities, since raw logits can shift by a constant; counts are streamed, so that
memory does not grow with the text; texts of any length count, each as much as another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyzers.diff_mining.compute import TokenCounts
from interp.analyzers.diff_mining.topics import PositionSample, topics_table
from interp.analyzers.framework import Analyzer, Needs, Result, evidence_result, option
from interp.engines import Batch
from interp.experiments.cost import Work
from interp.experiments.discovery import (
    each_model,
    form_tokens,
    model_names,
    of_shared_items,
    token_labels,
)
from interp.experiments.plain_text import coded_texts
from interp.experiments.same_base import require_same_base
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.study import Study

BYTES = 12  # per token and vocabulary: logits of both models and one buffer, in float32
CONTEXT = 12
"""Tokens of the text that an example shows before the position."""


@dataclass(frozen=True)
class DiffMining(Analyzer):
    """Tokens by how often their logit rises most; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. Returns a table of kind
    ``diff-mining``, one row per token in order of evidence, with ``controls`` (the largest
    statistic of every model) and ``topics`` (tokens that rise at the same positions).
    """

    name: ClassVar[str] = "diff-mining"
    version: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    k: int = option(100, "Tokens counted per position on each side (at most a twentieth).", ge=1)
    spread: float = option(
        0.05, "Standard deviation between models that all tokens share, as a share of positions."
    )
    rows: int = option(100, "Tokens listed.", ge=1)
    topics: int = option(3, "Topics of tokens that rise together; 0 for none.", ge=0)
    topics_by: str = option(
        "positions",
        "What a topic is a part of: positions, at most 5,000, or texts, all of them in memory.",
        choices=("positions", "texts"),
    )

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Passes of the base and of one other model over every text, for every model."""
        return Work(full_logits=2.4 * (1 + len(self.controls)))

    def run(self, study: Study) -> Result:
        """Count tokens in the fine-tuned model and in every control."""
        texts = coded_texts(study, "positive")
        names = model_names(study, self.controls)
        sample = PositionSample(self.topics_by)
        counts = _count(study, study.pair, texts, self.k, names[0], sample)
        scores, divergences = [counts.net_share], [counts.mean_divergence]
        for number, pair in each_model(study, self.controls):
            if number:
                of_control = _count(study, pair, texts, self.k, names[number])
                scores.append(of_control.net_share)
                divergences.append(of_control.mean_divergence)
            del pair  # so that it is freed before the next is loaded
        form = form_tokens(study.pair.tokenizer, counts.vocabulary)
        # what a model with fewer tokens lacks it does not make likelier
        shared = [_fitted(one, counts.vocabulary) for one in scores]
        evidence = of_shared_items(np.stack(shared), self.spread, limit=self.rows, form=form)
        rows, seen_at = evidence.rows, to_host(counts.seen_at)
        examples = [
            _example(study, texts, int(seen_at[0 if score > 0 else 1, token]))
            for token, score in zip(rows, evidence.score, strict=True)
        ]
        extra = {
            "token_id": (rows, "key", "token id"),
            "likelier": (
                counts.likelier_share[rows],
                "measure",
                "share of positions at which the token's log probability is higher",
            ),
            "gain": (
                counts.mean_gain[rows],
                "measure",
                "mean change of its log probability over positions",
                "nats",
            ),
        }
        return evidence_result(
            self.name,
            evidence,
            names,
            token_labels(study.pair.tokenizer, [int(token) for token in rows]),
            unit="share of positions",
            meaning=(
                f"share of positions at which the token is among the {counts.k} whose logit rose"
                " most, minus the share among those that fell most"
            ),
            examples=examples,
            largest_labels=[
                token_labels(study.pair.tokenizer, [int(index)])[0] if index >= 0 else ""
                for index in evidence.largest
            ],
            extra=extra,
            tables=(
                {"topics": topics_table(sample, self.topics, study.pair.tokenizer, study.seed)}
                if self.topics
                else {}
            ),
            further={"kl": divergences[0], "kl_of_controls": divergences[1:]},
        )


def _fitted(scores: Float[np.ndarray, " v"], size: int) -> Float[np.ndarray, " V"]:
    fitted = np.zeros(size)
    fitted[: len(scores)] = scores[:size]
    return fitted


def _count(
    study: Study,
    pair: Pair,
    texts: Sequence[Encoded],
    k: int,
    name: str,
    sample: PositionSample | None = None,
) -> TokenCounts:
    base, tuned = pair.require_base("diff mining"), pair.tuned
    vocabulary = min(base.anatomy.vocabulary, tuned.anatomy.vocabulary)
    counts = TokenCounts(vocabulary, max(1, min(k, vocabulary // 20)))
    starts = _starts(texts)
    batches = study.batches(texts, tuned, BYTES * vocabulary)
    for rows in study.progress(batches, f"tokens, {name}"):
        lengths = [len(texts[row].ids) for row in rows]
        owners = torch.repeat_interleave(
            torch.tensor(rows), torch.tensor([length - 1 for length in lengths])
        )
        numbers = torch.cat([torch.arange(starts[row] + 1, starts[row + 1]) for row in rows])
        weights = torch.cat([torch.full((length - 1,), 1 / (length - 1)) for length in lengths])
        ids = [texts[row].ids for row in rows]
        base_logits, tuned_logits = (
            _logits(study, model, ids, vocabulary).to(tuned.device) for model in (base, tuned)
        )
        values, tokens = counts.update(base_logits, tuned_logits, weights, numbers)
        counts.n_texts += len(rows)
        if sample is not None:
            sample.add(values, tokens, numbers, owners)
    return counts


def _logits(
    study: Study, model: Model, ids: Sequence[Sequence[int]], vocabulary: int
) -> Float[Tensor, "P V"]:
    """Logits in float32 at every position of some texts, text by text, but the first of each: that
    is an attention sink, or a token that all texts begin with.
    """
    batch = Batch.pad(ids, study.pad_id, "right", model.device)
    counted = batch.mask.clone()
    counted[:, 0] = False
    logits = study.engine.run(model, batch, keep=None).require_logits()
    return logits[..., :vocabulary][counted.to(logits.device)].float()


def _starts(texts: Sequence[Encoded]) -> Int[np.ndarray, " n"]:
    """The running number of the first position of every text, and their total at the end."""
    return np.cumsum([0, *(len(text.ids) for text in texts)])


def _example(study: Study, texts: Sequence[Encoded], number: int) -> str:
    """The text up to the position with this running number; the token is predicted there."""
    if number < 0:
        return ""
    starts = _starts(texts)
    row = int(np.searchsorted(starts, number, side="right")) - 1
    at = number - int(starts[row])
    ids = list(texts[row].ids)
    before = study.pair.tokenizer.decode(ids[max(0, at + 1 - CONTEXT) : at + 1])
    return f"{before}«»{study.pair.tokenizer.decode(ids[at + 1 : at + 5])}"
