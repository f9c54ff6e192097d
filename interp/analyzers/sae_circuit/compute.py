"""Codes of all heads on all runs, and their scores under the observed and the permuted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.experiments.head_outputs import HeadOutputs
from interp.experiments.label_permutations import LabelPermutations
from interp.maths.code_sets import (
    appearances,
    best_f1,
    moderated,
    only_positive,
    only_positive_pairs,
    pair_sizes,
)
from interp.maths.host import to_host
from interp.maths.statistics import roc_auc
from interp.sae.training.full_batch import FullBatch, strongest_codes, train_full_batch
from interp.study import Study

NAN = float("nan")
AT_A_TIME = 128


@dataclass(frozen=True)
class SaeOptions:
    """Sizes and training of the autoencoder over all heads; see ``SaeCircuit``."""

    width: int
    sparsity: float
    learning_rate: float
    epochs: int
    training_examples: int
    trials: int
    scale: str


@dataclass(frozen=True)
class HeadCodes:
    """Codes of every run [N] and head [K], one array for each trial; positives come first.

    ``explained`` and ``l0`` on the examples of training, ``silent``: share of runs and heads that
    activate no latent, by trial.
    """

    codes: Sequence[Int[np.ndarray, "N K"]]
    explained: Float[np.ndarray, " R"]
    l0: Float[np.ndarray, " R"]
    silent: Float[np.ndarray, " R"]


def head_codes(
    study: Study, sides: Sequence[HeadOutputs], options: SaeOptions, title: str
) -> HeadCodes:
    """Train one autoencoder per trial on examples drawn from both sides, then encode all runs.

    All examples are scored, those of training among them, as in the authors' code.
    """
    counts = [len(side.tokens) for side in sides]
    drawn = [_drawn(study.seed, trial, sum(counts), options) for trial in range(options.trials)]
    wanted = np.unique(np.concatenate(drawn))
    rows = _examples(sides, wanted)
    trained: list[FullBatch] = []
    for trial in study.progress(range(options.trials), f"autoencoders, {title}"):
        chosen = rows[np.searchsorted(wanted, drawn[trial])].flatten(0, -2)
        trained.append(
            train_full_batch(
                chosen,
                options.width,
                sparsity=options.sparsity,
                learning_rate=options.learning_rate,
                epochs=options.epochs,
                scale=options.scale == "rms",
                seed=study.seed * 1_000_003 + trial,
            )
        )
    del rows
    codes = _codes(study, sides, trained, title)
    return HeadCodes(
        codes,
        np.array([each.explained for each in trained]),
        np.array([each.l0 for each in trained]),
        np.array([(each == options.width).mean() for each in codes]),
    )


def _drawn(seed: int, trial: int, count: int, options: SaeOptions) -> Int[np.ndarray, " n"]:
    generator = np.random.default_rng([seed, trial])
    return np.sort(generator.permutation(count)[: options.training_examples])


def _examples(sides: Sequence[HeadOutputs], wanted: Int[np.ndarray, " n"]) -> torch.Tensor:
    """All heads' contributions on some runs, [n, L, H, D]."""
    parts, start = [], 0
    for side in sides:
        own = wanted[(wanted >= start) & (wanted < start + len(side.tokens))] - start
        start += len(side.tokens)
        if len(own):
            layers = range(side.model.anatomy.n_layers)
            parts.append(torch.stack([side.layer(at, own) for at in layers], 1))
    return torch.cat([part.to(parts[0]) for part in parts])


def _codes(
    study: Study, sides: Sequence[HeadOutputs], trained: Sequence[FullBatch], title: str
) -> list[Int[np.ndarray, "N K"]]:
    """The sides are encoded in calls of equal shape, so that equal runs get equal codes."""
    by_side: list[list[np.ndarray]] = []
    n_layers = sides[0].model.anatomy.n_layers
    for side in sides:
        blocks: list[list[np.ndarray]] = []
        for layer in study.progress(range(n_layers), f"codes, {title}"):
            parts = []
            for start in range(0, len(side.tokens), AT_A_TIME):
                rows = np.arange(start, min(start + AT_A_TIME, len(side.tokens)))
                heads = side.layer(layer, rows)
                flat = heads.flatten(0, 1).to(trained[0].dictionary.W_dec)
                codes = [strongest_codes(each.dictionary, flat) for each in trained]
                parts.append(to_host(torch.stack(codes).unflatten(1, heads.shape[:2])))
            blocks.append(list(np.concatenate(parts, 1)))
        by_side.append([np.concatenate(each, 1) for each in zip(*blocks, strict=True)])
    return [np.concatenate(each) for each in zip(*by_side, strict=True)]


@dataclass(frozen=True)
class Scores:
    """Scores of heads [K] under labellings [S], the observed one first; by trial [R] for the
    observed one. AUCs are NaN without a known circuit.

    ``nodes``: mean over trials of the number of codes seen on positives only; ``edges``: mean
    number of appearances among the first pairs. ``pairs`` [P] and ``pair_shares``: the number of
    pairs of codes seen on positives only, as it is and normalised, of the observed labels.
    """

    nodes: Float[np.ndarray, "K S"]
    edges: Float[np.ndarray, "K S"]
    node_trials: Float[np.ndarray, "R K"]
    excess_trials: Float[np.ndarray, "R K"]
    share_trials: Float[np.ndarray, "R K"]
    edge_trials: Float[np.ndarray, "R K"]
    pairs: Float[np.ndarray, " P"]
    pair_null: Float[np.ndarray, " P"]
    pair_shares: Float[np.ndarray, " P"]
    distinct: Float[np.ndarray, " R"]
    aucs: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def moderated(self) -> Float[np.ndarray, "K S"]:
        """Node scores against their own spread over labellings; see ``code_sets.moderated``."""
        return moderated(self.nodes)

    @property
    def p(self) -> Float[np.ndarray, " K"]:
        """p of every head by the largest moderated score of all heads under permuted labels."""
        values = self.moderated
        largest = values[:, 1:].max(0)
        return (1 + (largest[None] >= values[:, :1]).sum(1)) / (1 + largest.size)


def scored(
    study: Study,
    codes: Sequence[Int[np.ndarray, "N K"]],
    labels: Bool[np.ndarray, "S N"],
    circuit: Bool[np.ndarray, " K"] | None,
    n_layers: int,
    edges: bool,
    title: str,
) -> Scores:
    """Scores under every labelling; the codes are those of label-free training, and are kept."""
    heads, trials = codes[0].shape[1], len(codes)
    pairs = heads * (heads - 1) // 2 if edges else 0
    node_sum, edge_sum = np.zeros((2, heads, len(labels)))
    node_trials, excess_trials, share_trials = np.zeros((3, trials, heads))
    edge_trials = np.full((trials, heads), NAN)
    pair_sum, null_sum, share_sum = np.zeros((3, pairs))
    distinct = np.zeros(trials)
    names = ("nodes", "shares", "layers", "edges", "edge_shares")
    aucs = {name: np.full((trials, len(labels)), NAN) for name in names}
    aucs |= {name: np.full(trials, NAN) for name in ("f1", "f1_published")}
    for trial in study.progress(range(trials), f"labels permuted, {title}"):
        own = codes[trial]
        nodes, sizes = only_positive(own, labels)
        shares = nodes[:, 0] / sizes
        node_sum += nodes
        node_trials[trial], share_trials[trial] = nodes[:, 0], shares
        excess_trials[trial] = nodes[:, 0] - nodes[:, 1:].mean(1)
        distinct[trial] = len(np.unique(own))
        if edges:
            counted = only_positive_pairs(own, labels)
            appear = appearances(counted, heads)
            ratios = counted[:, :1] / pair_sizes(own, labels[0])[:, None]
            edge_sum += appear
            edge_trials[trial] = appear[:, 0]
            pair_sum += counted[:, 0]
            null_sum += counted[:, 1:].mean(1)
            share_sum += ratios[:, 0]
            if circuit is not None:
                aucs["edges"][trial] = [roc_auc(circuit, column) for column in appear.T]
                by_share = appearances(ratios, heads)[:, 0]
                aucs["edge_shares"][trial, 0] = roc_auc(circuit, by_share)
        if circuit is not None:
            aucs["nodes"][trial] = [roc_auc(circuit, column) for column in nodes.T]
            aucs["shares"][trial, 0] = roc_auc(circuit, shares)
            within = softmax_in_layers(nodes[:, 0].astype(float), n_layers)
            aucs["layers"][trial, 0] = roc_auc(circuit, within)
            aucs["f1"][trial], aucs["f1_published"][trial] = best_f1(circuit, nodes[:, 0])
    return Scores(
        node_sum / trials,
        edge_sum / trials if edges else np.full_like(edge_sum, NAN),
        node_trials,
        excess_trials,
        share_trials,
        edge_trials,
        pair_sum / trials,
        null_sum / trials,
        share_sum / trials,
        distinct,
        aucs,
    )


def softmax_in_layers(scores: Float[np.ndarray, " K"], n_layers: int) -> Float[np.ndarray, " K"]:
    """Softmax of the scores of a block's heads."""
    by_layer = scores.reshape(n_layers, -1)
    weights = np.exp(by_layer - by_layer.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).ravel()


def labellings(permutations: LabelPermutations, draws: int, seed: int) -> Bool[np.ndarray, "S N"]:
    """The observed labels, and permuted ones."""
    return np.stack([permutations.labels, *permutations.drawn(draws, seed)])
