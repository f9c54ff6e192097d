"""What a model says of a direction put in place of a token that it is asked to repeat.

Patchscopes (Ghandeharioun et al. 2024, arXiv 2401.06102) with the identity prompt: three lines
``word -> word`` and an open one, whose last token's stream is replaced. The scale of a direction is
chosen by how alike the tokens are that it gives, compared with random directions of the same norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.activation_difference.differences import Differences
from interp.engines import Batch
from interp.errors import OptionError, required
from interp.experiments.discovery import token_labels
from interp.experiments.records import records_table
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.maths.statistics import permutation_p
from interp.metrics.base import MAX_PROBABILITIES
from interp.models.model import Model, effective_weight
from interp.models.offload import materialized
from interp.prompts import Tokenizer, end_id
from interp.rows import key, measure, text
from interp.sites import Site
from interp.study import Study
from interp.table import Table

KIND = "activation-difference-patchscope"
PROMPTS = (
    "door -> door\n42 -> 42\nquickly -> quickly\n?",
    "river -> river\nseven -> seven\nParis -> Paris\n?",
    "green -> green\nwrite -> write\n2020 -> 2020\n?",
)
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
RANDOM_DIRECTIONS = 64
KEPT_TOKENS = 20
MOST_LIKELY = 16_384
"""A token counts if it is among so many in every prompt."""


class PatchscopeRow:
    """A row per model, block and position: the tokens at the scale whose tokens are most alike."""

    model_number: int = key("model whose difference is read: 0 for the fine-tuned model, ...")
    model: str = text("its name")
    block: int = key("block whose output is replaced, from 0")
    position: int = key("position in the text, from 0")
    scale: float = measure("chosen multiple of the mean norm of the stream")
    coherence: float = measure("mean cosine of the unembedding rows of its tokens")
    excess: float = measure("coherence minus its mean over random directions at the same scale")
    p: float = measure(
        "(1 + random directions whose largest excess over scales is as large) / (1 + random ones)"
    )
    tokens: str = text("its tokens, most likely first, each in quotes")


@dataclass(frozen=True)
class Reading:
    """The tokens [S, 20] of a direction at every scale (-1 where fewer are likely in all prompts),
    and their coherence [S], NaN with fewer than two.
    """

    tokens: Int[np.ndarray, "S K"]
    coherence: Float[np.ndarray, " S"]


@dataclass(frozen=True, eq=False)
class Patchscope:
    """Reads directions at one block of a model.

    ``norm``: the length that a direction has at scale 1. ``prompts``: token ids of the identity
    prompts, the open token last. ``unembedding`` [V, D]: of the model.
    """

    study: Study
    model: Model
    block: int
    norm: float
    prompts: tuple[tuple[int, ...], ...]
    unembedding: Float[Tensor, "V D"]
    scales: tuple[float, ...] = SCALES

    def read(self, directions: Float[np.ndarray, "R D"], what: str) -> list[Reading]:
        """The tokens of every direction at every scale; OptionError for a direction of 0."""
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise OptionError(
                f"{what}: number {int(lengths.argmin())} is 0 at block {self.block}, so that there"
                " is no direction to read; leave it out"
            )
        scales = self.norm * np.array(self.scales)
        vectors = (scales[:, None] * (directions / lengths)[:, None]).reshape(
            -1, directions.shape[1]
        )
        size = max(1, MAX_PROBABILITIES // len(self.unembedding))
        size = self.study.batch_size_for(size)
        parts = torch.from_numpy(vectors).float().split(size)
        title = f"patchscope of {what}, block {self.block}"
        kept = [self._kept(part) for part in self.study.progress(parts, title)]
        tokens, coherence = (
            np.concatenate(part).reshape(len(directions), len(scales), *part[0].shape[1:])
            for part in zip(*kept, strict=True)
        )
        return [Reading(*one) for one in zip(tokens, coherence, strict=True)]

    def random(self, seed: int) -> list[Reading]:
        """Readings of random directions; they follow from the seed and the block."""
        generator = np.random.default_rng([seed, self.block])
        directions = generator.normal(size=(RANDOM_DIRECTIONS, self.model.anatomy.width))
        return self.read(directions, "random directions")

    def _kept(
        self, vectors: Float[Tensor, "R D"]
    ) -> tuple[Int[np.ndarray, "R K"], Float[np.ndarray, " R"]]:
        """The tokens with the largest mean probability among those likely in every prompt (-1 where
        there are no more), and their coherence.
        """
        total, common = torch.zeros(()), torch.ones((), dtype=torch.bool)
        for ids in self.prompts:
            probabilities = self._next_token(ids, vectors)
            count = probabilities.shape[1]
            least = probabilities.kthvalue(max(count - MOST_LIKELY, 0) + 1, dim=1, keepdim=True)
            total = total.to(probabilities) + probabilities
            common = common.to(probabilities.device) & (probabilities >= least.values)
        values, tokens = torch.where(common, total, -1.0).topk(min(KEPT_TOKENS, total.shape[1]))
        valid = values >= 0
        coherence = to_host(self._coherence(tokens, valid))
        return to_host(torch.where(valid, tokens, -1)), coherence

    def _next_token(
        self, ids: Sequence[int], vectors: Float[Tensor, "R D"]
    ) -> Float[Tensor, "R V"]:
        rows, device = [list(ids)] * len(vectors), self.model.device
        batch = Batch.pad(rows, self.study.pad_id, "right", device)
        # a whole tensor of values, so that an engine can read the common beginning once
        values = torch.zeros(*batch.ids.shape, vectors.shape[1], device=device)
        values[:, -1] = vectors.to(device)
        mask = torch.zeros_like(batch.mask)
        mask[:, -1] = True
        site = Site(self.block, "hook_resid_post")
        edits = [Replace(site, values, mask=mask)]
        run = self.study.engine.run(self.model, batch, edits=edits, keep=1)
        return widen(run.require_logits()[:, -1])[:, : len(self.unembedding)].softmax(-1)

    def _coherence(
        self, tokens: Int[Tensor, "R K"], valid: Bool[Tensor, "R K"]
    ) -> Float[Tensor, " R"]:
        rows = widen(self.unembedding[tokens.to(self.unembedding.device)]).double()
        rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp(min=1e-300)
        rows = torch.where(valid.to(rows.device)[..., None], rows, 0.0)
        count = valid.to(rows.device).sum(1)
        # the squared norm of the sum is the sum of all cosines, those of a row with itself too
        cosines = rows.sum(1).square().sum(-1) - rows.square().sum((1, 2))
        pairs = (count * (count - 1)).double()
        return torch.where(count > 1, cosines / pairs.clamp(min=1), torch.nan)


def identity_prompts(tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids of the identity prompts, without a chat template and an end token."""
    coded = [tokenizer(one)["input_ids"] for one in PROMPTS]
    return tuple(tuple(ids[:-1] if ids[-1] == end_id(tokenizer) else ids) for ids in coded)


@torch.no_grad()
def unembedding_of(model: Model) -> Float[Tensor, "V D"]:
    """The matrix of a model's head, with its adapter."""
    head = required(model.module.get_output_embeddings(), "a head")
    with model.active(), materialized(head):
        return effective_weight(head, model.dtype, model.adapter_on is not False)


def choose_scale(reading: Reading, random: Sequence[Reading]) -> tuple[int, float, float]:
    """Which scale gives the most coherent tokens, the excess there, and its p.

    Excess: coherence minus the mean of the random directions at the same scale; the largest over
    scales is compared with the same of every random direction (each against the others), since the
    best of several scales is large by chance. A scale without two tokens is never chosen.
    """
    null = np.stack([one.coherence for one in random])
    known = ~np.isnan(null)
    count = known.sum(0)
    mean = np.where(known, null, 0.0).sum(0) / np.maximum(count, 1)
    excess = _largest_first(reading.coherence - mean)
    # minus the mean of the others
    others = (null - mean) * (count / np.maximum(count - 1, 1))
    best = int(excess.argmax())
    p = permutation_p(excess[best], _largest_first(others).max(1))
    return best, float(excess[best]), p


def _largest_first(values: Float[np.ndarray, "*rows S"]) -> Float[np.ndarray, "*rows S"]:
    return np.where(np.isnan(values), -np.inf, values)


def patchscope_table(
    study: Study,
    by_model: Sequence[Differences],
    names: Sequence[str],
    norms: Float[np.ndarray, " L"],
) -> Table:
    """The mean differences of all models, read by the fine-tuned model at every block but the last,
    whose patchscope is its logit lens. Differences of 0 are left out, and blocks where the
    fine-tuned model's are all 0.
    """
    model, records = study.pair.tuned, []
    prompts, unembedding = identity_prompts(study.pair.tokenizer), unembedding_of(model)
    for at, block in enumerate(by_model[0].blocks):
        if block == model.anatomy.n_layers - 1 or not by_model[0].mean[at].any():
            continue
        norm, largest = float(norms[at]), torch.finfo(model.dtype).max
        # float16 holds numbers up to 65,504 only
        scales = tuple(scale for scale in SCALES if scale * norm < largest / 8)
        scope = Patchscope(study, model, block, norm, prompts, unembedding, scales)
        random = scope.random(study.seed)
        places = [
            (number, int(position))
            for number, one in enumerate(by_model)
            for position in np.flatnonzero(one.mean[at].any(1))
        ]
        directions = np.stack([by_model[number].mean[at, position] for number, position in places])
        readings = scope.read(directions, "differences")
        for (number, position), reading in zip(places, readings, strict=True):
            best, excess, p = choose_scale(reading, random)
            tokens = [int(token) for token in reading.tokens[best] if token >= 0]
            records.append(
                {
                    "model_number": number,
                    "model": names[number],
                    "block": block,
                    "position": position,
                    "scale": scope.scales[best],
                    "coherence": reading.coherence[best],
                    "excess": excess,
                    "p": p,
                    "tokens": " ".join(map(repr, token_labels(study.pair.tokenizer, tokens))),
                }
            )
    return records_table(PatchscopeRow, KIND, records)
