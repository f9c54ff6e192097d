"""Tables of latents: a row per latent, and the tokens of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.sae_features.compute import TUNED, FeatureReader
from interp.analyzers.sae_features.logits import LogitEffects
from interp.claims import ALPHA
from interp.experiments.records import records_table
from interp.maths.host import to_host
from interp.maths.intervals import Interval, effective_clusters, jackknife
from interp.rows import flag, key, measure, text
from interp.sae.analysis.firing_statistics import FiringStatistics
from interp.sae.analysis.token_labels import ActiveTokens, Label, adjusted_p
from interp.table import Table

NAN = float("nan")
_ALPHA_ROUNDED = ALPHA * (1 + 1e-9)
"""A tolerance for rounding: correction of equal p is off by the last bit."""
Columns = dict[str, NDArray]


class FeatureRow:
    """A row per latent; the optional columns are those of the base, of crosscoders, and of logit
    effects.
    """

    latent: int = key("number of the latent")
    density: float = measure("share of tokens on which it is active")
    density_special: float = measure("the same among special tokens and those of the chat template")
    density_content: float = measure("the same among all other tokens")
    mean_activation: float = measure("mean code where active")
    max_activation: float = measure("largest code")
    decoder_norm: float = measure("norm of its decoder row")
    decoder_norm_base: float = measure("norm of the base's half of its decoder row", optional=True)
    density_base: float = measure(
        "share of tokens on which it is active in the base", optional=True
    )
    mean_base: float = measure("mean code where active in the base", optional=True)
    density_gain: float = measure("density minus the base's", optional=True)
    density_gain_low: float = measure(
        "lower end of its interval over clusters of documents", optional=True
    )
    density_gain_high: float = measure(
        "upper end of its interval over clusters of documents", optional=True
    )
    label: str = text("tokens that predict its firing, by decreasing share of mutual information")
    examples: int = measure("held-out active tokens scored, with as many quiet ones")
    detection: float = measure("accuracy of the label on those")
    detection_low: float = measure("lower end of its interval over clusters of documents")
    detection_high: float = measure("upper end of its interval over clusters of documents")
    others: float = measure("mean accuracy of other latents' labels on the same tokens")
    others_high: float = measure("95 % quantile of that")
    shuffled: float = measure("mean accuracy with firing moved to other clusters")
    shuffled_high: float = measure("95 % quantile of that")
    p: float = measure("the larger p of both nulls")
    p_adjusted: float = measure("p, corrected for all latents (Benjamini-Hochberg)")
    scored: bool = flag("active on enough tokens in both halves to be labelled and scored")
    detected: bool = flag("the label predicts its firing better than both nulls")
    largest_logit: float = measure(
        "largest absolute effect of its decoder row on a token", "logits", optional=True
    )
    random_logit: float = measure("mean of the same for random rows", "logits", optional=True)
    random_logit_high: float = measure("95 % quantile of that", "logits", optional=True)
    logit_p: float = measure("p of an effect as large from a random row", optional=True)
    logit_p_adjusted: float = measure("the same, corrected for all latents", optional=True)
    beyond_random: bool = flag("its largest effect exceeds those of random rows", optional=True)


class LabelRow:
    """A row per token of a label."""

    latent: int = key("number of the latent")
    rank: int = key("by decreasing share of mutual information, from 0")
    token_id: int = key("the token's id")
    token: str = text("the token")


def firing_columns(
    reader: FeatureReader,
    statistics: Mapping[str, FiringStatistics],
    active: Mapping[str, Mapping[int, ActiveTokens]],
    selected: Sequence[int],
) -> Columns:
    """Firing rate and activation of each latent, and the same in the base if it is read."""
    tuned, norms = statistics[TUNED], to_host(reader.dictionary.decoder_norms)[selected]
    special, content = tuned.densities[:, selected]
    columns = {
        "density": tuned.density[selected],
        "density_special": special,
        "density_content": content,
        "mean_activation": tuned.mean[selected],
        "max_activation": tuned.maximum[selected],
        "decoder_norm": norms[:, -1],
    }
    if reader.dictionary.config.models == 2:
        columns["decoder_norm_base"] = norms[:, 0]
    if "base" in statistics:
        gain, low, high = np.array(_gains(reader, active, selected)).T
        columns |= {
            "density_base": statistics["base"].density[selected],
            "mean_base": statistics["base"].mean[selected],
            "density_gain": gain,
            "density_gain_low": low,
            "density_gain_high": high,
        }
    return columns


def _gains(reader: FeatureReader, active: Mapping, selected: Sequence[int]) -> list[Interval]:
    """Density minus the base's for each selected latent, with the jackknife's interval over
    clusters of documents.
    """
    count = int(reader.clusters.max()) + 1
    tokens = np.bincount(reader.clusters, minlength=count)
    freedom = effective_clusters(reader.clusters) - 1
    intervals = []
    for latent in selected:
        tuned_counts, base_counts = (
            np.bincount(reader.clusters[active[role][latent].rows], minlength=count)
            for role in (TUNED, "base")
        )
        gain = tuned_counts - base_counts
        with np.errstate(invalid="ignore"):
            without_cluster = (gain.sum() - gain) / (tokens.sum() - tokens)
        intervals.append(jackknife(gain.sum() / tokens.sum(), without_cluster, freedom))
    return intervals


def label_columns(labels: Sequence[Label], decode: Callable[[list[int]], str]) -> Columns:
    """Labels as text, their scores, both nulls, p and corrected p."""
    corrected = adjusted_p(labels)
    texts = [" · ".join(decode([token]) for token in label.tokens) for label in labels]

    def null(name: str, of: Callable[[NDArray], float]) -> NDArray:
        draws = [getattr(label, name) for label in labels]
        return np.array([float(of(values)) if len(values) else NAN for values in draws])

    def high(values: NDArray) -> float:
        return np.quantile(values, 0.95)

    def numbers(name: str) -> NDArray:
        return np.array([float(getattr(label, name)) for label in labels])

    return {
        "label": np.array(texts, dtype=object),
        "examples": np.array([label.examples for label in labels]),
        "detection": numbers("score"),
        "detection_low": numbers("low"),
        "detection_high": numbers("high"),
        "others": null("others", np.mean),
        "others_high": null("others", high),
        "shuffled": null("shuffled", np.mean),
        "shuffled_high": null("shuffled", high),
        "p": numbers("p"),
        "p_adjusted": corrected,
        "scored": np.array([label.examples > 0 for label in labels]),
        "detected": np.nan_to_num(corrected, nan=1.0) <= _ALPHA_ROUNDED,
    }


def labels_table(labels: Sequence[Label], decode: Callable[[list[int]], str]) -> Table:
    """A row per token of a label."""
    rows = [
        {"latent": label.latent, "rank": rank, "token_id": token, "token": decode([token])}
        for label in labels
        for rank, token in enumerate(label.tokens)
    ]
    return records_table(LabelRow, "", rows)


def logit_columns(logit_effects: LogitEffects) -> Columns:
    """The largest logit effect of each latent, compared with random rows."""
    p, corrected = logit_effects.p()
    random_effects = logit_effects.random_effects[TUNED]
    return {
        "largest_logit": logit_effects.largest(),
        "random_logit": np.full(len(p), random_effects.mean()),
        "random_logit_high": np.full(len(p), np.quantile(random_effects, 0.95)),
        "logit_p": p,
        "logit_p_adjusted": corrected,
        "beyond_random": corrected <= _ALPHA_ROUNDED,
    }
