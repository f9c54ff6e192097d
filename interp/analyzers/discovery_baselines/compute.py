"""How a model differs from its base on texts, streamed: no logits are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyzers.discovery_baselines.roles import BINS, ROLES, Roles
from interp.engines import Batch
from interp.errors import PromptError
from interp.experiments.plain_text import coded_texts
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Encoded
from interp.study import Study

BYTES = 20  # per token and vocabulary: two distributions, their difference, two products
FIT, REST = 0, 1


@dataclass(frozen=True)
class Halves:
    """Texts in two halves that share no cluster: on ``FIT`` a bias is fitted, on ``REST`` it is
    judged.

    ``texts`` [n], ``prompt_ids`` [n] in the file, ``half`` [n].
    """

    texts: Sequence[Encoded]
    prompt_ids: Sequence[int]
    half: Int[np.ndarray, " n"]

    @classmethod
    def split(cls, study: Study) -> Halves:
        """The study's texts, in halves drawn by its seed; PromptError for one cluster."""
        if study.prompts("positive").n_clusters < 2:
            raise PromptError(
                f"{study.counts}: a bias is fitted on one half of the texts and judged on the"
                " other; give texts of two clusters or more"
            )
        parts = study.split(study.seed)
        texts = [coded_texts(part, "positive") for part in parts]
        prompt_ids = [prompt.id for part in parts for prompt in part.prompts("positive")]
        half = np.repeat([FIT, REST], [len(part) for part in texts])
        return cls([*texts[FIT], *texts[REST]], prompt_ids, half)

    def rows(self, half: int) -> list[int]:
        """Rows of the texts of a half."""
        return [int(row) for row in np.flatnonzero(self.half == half)]


class Change:
    """How a model differs from the base at the positions of texts but the first of each.

    With the log probabilities l of the model (p = exp l) and of the base, and e their difference:
    ``contribution`` [V], sums of p e, whose total is the sum of the divergences KL(model || base),
    nats. By half: ``count`` [2] of positions, ``divergence`` [2], ``gain`` [2, V] sums of e,
    ``probability`` [2, V] sums of p. ``role_sum`` and ``role_count`` [R, bins]: changes of the log
    odds of each role, by bin of positions. ``top_*`` [at most ``limit``]: the positions with the
    largest divergence, largest first: it, the text, the position in it, and the token that
    contributes most.
    """

    def __init__(self, vocabulary: int, limit: int) -> None:
        self.limit = limit
        self.contribution = np.zeros(vocabulary)
        self.count, self.divergence = np.zeros(2), np.zeros(2)
        self.gain, self.probability = np.zeros((2, vocabulary)), np.zeros((2, vocabulary))
        self.role_sum, self.role_count = np.zeros((2, len(ROLES), len(BINS)))
        self.top_divergence = np.zeros(0)
        self.top_text, self.top_position, self.top_token = np.zeros((3, 0), np.int64)

    @property
    def mean_divergence(self) -> float:
        """KL(model || base) per position, nats."""
        return float(self.divergence.sum() / self.count.sum())

    @property
    def role_means(self) -> Float[np.ndarray, "R places"]:
        """Mean change of the log odds of each role at all positions, then in every bin; NaN where
        there is no position.
        """
        total, count = (
            np.column_stack([part.sum(1), part]) for part in (self.role_sum, self.role_count)
        )
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def update(
        self,
        base: Float[Tensor, "P V"],
        model: Float[Tensor, "P V"],
        texts: Sequence[Sequence[int]],
        rows: Sequence[int],
        half: Int[np.ndarray, " B"],
        roles: Roles,
    ) -> None:
        """Add the positions of some texts, whose rows and halves are given. ``base`` and ``model``:
        log probabilities in float32, both overwritten.
        """
        counts = [len(ids) - 1 for ids in texts]
        owner, halves = np.repeat(rows, counts), np.repeat(half, counts)
        position = np.concatenate([np.arange(1, count + 1) for count in counts])
        in_half = torch.from_numpy(np.eye(2, dtype=np.float32)[halves]).to(base.device)
        gain = model - base
        self.gain += to_host(in_half.T @ gain)
        probability = model.exp_()
        self.probability += to_host(in_half.T @ probability)
        product = gain.mul_(probability)
        self.contribution += to_host(product.sum(0))
        divergence = to_host(product.sum(1)).astype(np.float64)
        self.count += np.bincount(halves, minlength=2)
        self.divergence += np.bincount(halves, divergence, minlength=2)
        self._keep_largest(divergence, owner, position, product)
        odds = roles.log_odds(probability, texts) - roles.log_odds(base.exp_(), texts)
        bins = np.searchsorted(BINS, position, side="right") - 1
        for role, changes in enumerate(to_host(odds.T).astype(np.float64)):
            self.role_sum[role] += np.bincount(bins, changes, minlength=len(BINS))
            self.role_count[role] += np.bincount(bins, minlength=len(BINS))

    def _keep_largest(
        self,
        divergence: Float[np.ndarray, " P"],
        owner: Int[np.ndarray, " P"],
        position: Int[np.ndarray, " P"],
        product: Float[Tensor, "P V"],
    ) -> None:
        some = np.argsort(-divergence, kind="stable")[: self.limit]
        some = some[divergence[some] > 0]
        token = to_host(product[torch.from_numpy(some).to(product.device)].argmax(1))
        found = [
            np.concatenate(parts)
            for parts in (
                (self.top_divergence, divergence[some]),
                (self.top_text, owner[some]),
                (self.top_position, position[some]),
                (self.top_token, token),
            )
        ]
        # ties in the order of the texts, so that batches do not matter
        order = np.lexsort((found[2], found[1], -found[0]))[: self.limit]
        self.top_divergence, self.top_text, self.top_position, self.top_token = (
            part[order] for part in found
        )


def measure(
    study: Study, pair: Pair, halves: Halves, roles: Roles, limit: int, name: str
) -> Change:
    """How a pair's fine-tuned model differs from its base on all texts."""
    base, tuned = pair.require_base("discovery-baselines"), pair.tuned
    vocabulary = roles.sets.shape[1]
    change = Change(vocabulary, limit)
    batches = study.batches(halves.texts, tuned, BYTES * vocabulary)
    for rows in study.progress(batches, f"baselines, {name}"):
        ids = [halves.texts[row].ids for row in rows]
        base_logs, tuned_logs = (
            log_probabilities(study, model, ids, vocabulary).to(tuned.device)
            for model in (base, tuned)
        )
        change.update(base_logs, tuned_logs, ids, rows, halves.half[rows], roles)
    return change


def log_probabilities(
    study: Study, model: Model, ids: Sequence[Sequence[int]], vocabulary: int
) -> Float[Tensor, "P V"]:
    """In float32 at every position of some texts, text by text, but the first of each: that is an
    attention sink, or a token that all texts begin with.
    """
    batch = Batch.pad(ids, study.pad_id, "right", model.device)
    counted = batch.mask.clone()
    counted[:, 0] = False
    logits = study.engine.run(model, batch, keep=None).require_logits()
    return logits[..., :vocabulary][counted.to(logits.device)].float().log_softmax(1)


def fitted_biases(
    study: Study, halves: Halves, changes: Sequence[Change], steps: int
) -> Float[np.ndarray, "M V"]:
    """For every model one bias b [V] that makes softmax(base's logits + b) like the model on
    average, over the first half.

    Starts at the mean of e. A step adds the logarithm of the ratio of the two mean probabilities of
    every token: generalised iterative scaling (Darroch and Ratcliff 1972) with one feature per
    token, which lowers the mean KL(model || biased base) at every step; where it stops, both mean
    distributions are equal.
    """
    biases = np.stack([change.gain[FIT] / change.count[FIT] for change in changes])
    wanted = np.stack([change.probability[FIT] / change.count[FIT] for change in changes])
    tiny = float(np.finfo(np.float32).tiny)
    for step in range(steps):
        total = np.zeros_like(biases)
        factors, _ = _factors(biases)
        for probability in _base_probabilities(study, halves, FIT, f"fit {step + 1}"):
            weights = torch.from_numpy(factors).to(probability)
            total += to_host((1 / (probability @ weights.T)).T @ probability)
        reached = factors * total / changes[0].count[FIT]
        biases = biases + np.log(np.maximum(wanted, tiny)) - np.log(np.maximum(reached, tiny))
    return biases


def context_free_shares(
    study: Study,
    halves: Halves,
    changes: Sequence[Change],
    biases: Float[np.ndarray, "n M V"],
) -> Float[np.ndarray, "n M"]:
    """1 - KL(model || softmax(base's logits + b)) / KL(model || base) on the second half, for
    several biases of every model; NaN for a model that equals the base.
    """
    n_sets, n_models, vocabulary = biases.shape
    factors, largest = _factors(biases.reshape(-1, vocabulary))
    log_sum = np.zeros(len(factors))
    for probability in _base_probabilities(study, halves, REST, "context-free share"):
        weights = torch.from_numpy(factors).to(probability)
        log_sum += to_host((probability @ weights.T).log()).astype(np.float64).sum(0)
    count = np.stack([change.count[REST] for change in changes])
    before = np.stack([change.divergence[REST] / change.count[REST] for change in changes])
    wanted = np.stack([change.probability[REST] / change.count[REST] for change in changes])
    log_sum = log_sum.reshape(n_sets, n_models) / count + largest.reshape(n_sets, n_models)
    after = before - (wanted * biases).sum(2) + log_sum
    return np.where(before > 0, 1 - after / np.where(before > 0, before, 1), np.nan)


def _factors(
    biases: Float[np.ndarray, "n V"],
) -> tuple[Float[np.ndarray, "n V"], Float[np.ndarray, " n"]]:
    """exp(b - max b) in float32, and max b."""
    largest = biases.max(1)
    return np.exp(biases - largest[:, None]).astype(np.float32), largest


def _base_probabilities(study: Study, halves: Halves, half: int, name: str):
    """Probabilities [P, V] of the base at the positions of a half, batch by batch."""
    base = study.pair.require_base("discovery-baselines")
    rows = halves.rows(half)
    texts = [halves.texts[row] for row in rows]
    vocabulary = min(base.anatomy.vocabulary, study.pair.tuned.anatomy.vocabulary)
    for some in study.progress(study.batches(texts, base, BYTES * vocabulary), name):
        yield log_probabilities(study, base, [texts[at].ids for at in some], vocabulary).exp_()
