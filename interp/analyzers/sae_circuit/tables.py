"""Tables of heads, trials, permuted labels, pairs of heads and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.analyzers.sae_circuit.compute import HeadCodes, Scores, softmax_in_layers
from interp.claims.control_fine_tunes import ControlRow, controls_table
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, LayerRow, flag, key, measure, rows_table
from interp.table import Table

FIRST_PAIRS = 200
SCORE = "codes on positive runs that no negative run has, mean over trials"


class HeadRow(LayerRow):
    """An attention head."""

    head: int = key("number of the head in its block, from 0")
    score: float = measure(SCORE)
    low: float = measure("lower end of its interval over trials")
    high: float = measure("upper end of its interval over trials")
    share: float = measure("score over the number of codes on all runs, mean over trials")
    within_layer: float = measure("softmax of the scores of a block's heads")
    permuted: float = measure("mean score with labels permuted")
    moderated: float = measure(
        "score minus its mean over labellings, over its deviation plus the median deviation"
    )
    p: float = measure("by the largest moderated score of all heads with labels permuted")
    rank: int = measure("place by score, from 1; ties in the order of heads")
    edges: float = measure("appearances among the first pairs, mean over trials; NaN without pairs")
    known: bool = flag("in the known circuit")


class TrialRow:
    """An autoencoder: its training, and the scores by its codes."""

    trial: int = key("number of the autoencoder, from 0")
    explained: float = measure("variance explained on the rows of training")
    l0: float = measure("active latents per row of training")
    silent: float = measure("share of heads and runs without an active latent")
    codes: int = measure("distinct codes of all heads and runs")
    score: float = measure("mean score of a head")
    excess: float = measure("mean score of a head minus its mean with labels permuted")
    share: float = measure("mean share of a head")
    auc_nodes: float = measure("AUC of scores for the known circuit; NaN without one")
    auc_shares: float = measure("AUC of shares")
    auc_layers: float = measure("AUC of softmax within a block")
    auc_edges: float = measure("AUC of appearances among the first pairs")
    auc_edge_shares: float = measure("AUC of appearances, pairs ranked by normalised scores")
    f1: float = measure("largest F1 of precision and recall over all thresholds of the score")
    f1_published: float = measure("largest harmonic mean of TPR and TNR over all thresholds")


class PermutedRow(DrawRow):
    """Labels permuted."""

    score: float = measure("mean score of a head, mean over trials")
    largest: float = measure("largest moderated score of a head")
    auc_nodes: float = measure("AUC of scores for the known circuit, mean over trials")
    auc_edges: float = measure("AUC of appearances, mean over trials")


class EdgeRow:
    """A pair of heads among the first by score."""

    layer: int = key("block of the earlier head, from 0")
    head: int = key("number of the earlier head in its block")
    other_layer: int = key("block of the later head")
    other_head: int = key("number of the later head in its block")
    score: float = measure(
        "pairs of codes on positive runs that no negative run has, mean of trials"
    )
    share: float = measure("the same over the distinct pairs of codes on either class, added up")
    permuted: float = measure("mean score with labels permuted")


class CodesControlRow(ControlRow):
    """A control fine-tune against the base, by autoencoders of its own."""

    score: float = measure("mean score of a head, mean over trials")
    excess: float = measure("the same minus its mean with labels permuted")
    share: float = measure("mean share of a head, mean over trials")
    beyond: int = measure("heads with p of at most 0.05")


def heads_table(scores: Scores, circuit: np.ndarray | None, n_layers: int) -> Table:
    """One row per head, in the order of the model."""
    observed = scores.nodes[:, 0]
    count = len(observed) // n_layers
    trials = np.arange(len(scores.node_trials))
    intervals = [cluster_interval(values, trials) for values in scores.node_trials.T]
    order = np.argsort(-observed, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    data = {
        "layer": np.repeat(np.arange(n_layers), count),
        "head": np.tile(np.arange(count), n_layers),
        "score": observed,
        "low": [each.low for each in intervals],
        "high": [each.high for each in intervals],
        "share": scores.share_trials.mean(0),
        "within_layer": softmax_in_layers(observed, n_layers),
        "permuted": scores.nodes[:, 1:].mean(1),
        "moderated": scores.moderated[:, 0],
        "p": scores.p,
        "rank": rank,
        "edges": scores.edges[:, 0],
        "known": np.zeros(len(observed), bool) if circuit is None else circuit,
    }
    return rows_table(HeadRow, "", data)


def trials_table(codes: HeadCodes, scores: Scores) -> Table:
    """One row per trial."""
    aucs = scores.aucs
    data = {
        "trial": np.arange(len(codes.explained)),
        "explained": codes.explained,
        "l0": codes.l0,
        "silent": codes.silent,
        "codes": scores.distinct.astype(np.int64),
        "score": scores.node_trials.mean(1),
        "excess": scores.excess_trials.mean(1),
        "share": scores.share_trials.mean(1),
        **{
            f"auc_{name}": aucs[name][:, 0]
            for name in ("nodes", "shares", "layers", "edges", "edge_shares")
        },
        "f1": aucs["f1"],
        "f1_published": aucs["f1_published"],
    }
    return rows_table(TrialRow, "", data)


def permuted_table(scores: Scores) -> Table:
    """One row per permutation of the labels."""
    drawn = scores.nodes[:, 1:]
    data = {
        "draw": np.arange(drawn.shape[1]),
        "score": drawn.mean(0),
        "largest": scores.moderated[:, 1:].max(0),
        "auc_nodes": scores.aucs["nodes"][:, 1:].mean(0),
        "auc_edges": scores.aucs["edges"][:, 1:].mean(0),
    }
    return rows_table(PermutedRow, "", data)


def edges_table(scores: Scores, n_heads: int) -> Table:
    """The first pairs with a score above 0, by score."""
    heads = len(scores.nodes)
    ends = np.triu_indices(heads, 1) if len(scores.pairs) else (np.zeros(0, int),) * 2
    order = np.argsort(-scores.pairs, kind="stable")[:FIRST_PAIRS]
    order = order[scores.pairs[order] > 0]
    first, second = (end[order] for end in ends)
    data = {
        "layer": first // n_heads,
        "head": first % n_heads,
        "other_layer": second // n_heads,
        "other_head": second % n_heads,
        "score": scores.pairs[order],
        "share": scores.pair_shares[order],
        "permuted": scores.pair_null[order],
    }
    return rows_table(EdgeRow, "", data)


def controls_scores(names: Sequence[str], measured: Sequence[Scores]) -> Table:
    """One row per control."""
    numbers = {
        "score": [float(each.nodes[:, 0].mean()) for each in measured],
        "excess": [float(each.excess_trials.mean()) for each in measured],
        "share": [float(each.share_trials.mean()) for each in measured],
        "beyond": [int((each.p <= 0.05).sum()) for each in measured],
    }
    return controls_table(names, row=CodesControlRow, numbers=numbers)
