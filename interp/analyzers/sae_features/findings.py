"""Columns of the table of features, and claims about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from interp.analyzers.sae_features.compute import TUNED, FeatureReader
from interp.analyzers.sae_features.logits import LogitEffects
from interp.claims import ALPHA, Claim, mean, statistic
from interp.maths.host import to_host
from interp.maths.intervals import Interval, effective_clusters, jackknife
from interp.sae.analysis.firing_statistics import FiringStatistics
from interp.sae.analysis.token_labels import ActiveTokens, Label, adjusted_p
from interp.table import Table, table

NAN = float("nan")
_ALPHA_ROUNDED = ALPHA * (1 + 1e-9)
"""A tolerance for rounding: correction of equal p is off by the last bit."""
Columns = dict[str, tuple]


def firing_columns(
    reader: FeatureReader,
    statistics: Mapping[str, FiringStatistics],
    active: Mapping[str, Mapping[int, ActiveTokens]],
    selected: Sequence[int],
) -> Columns:
    """Firing rate and activation of each latent, and the same in the base if it is read."""
    tuned = statistics[TUNED]
    special, content = tuned.densities[:, selected]
    columns = {
        "density": (tuned.density[selected], "measure", "share of tokens on which it is active"),
        "density_special": (
            special,
            "measure",
            "the same among special tokens and those of the chat template",
        ),
        "density_content": (content, "measure", "the same among all other tokens"),
        "mean_activation": (tuned.mean[selected], "measure", "mean code where active"),
        "max_activation": (tuned.maximum[selected], "measure", "largest code"),
        "decoder_norm": (_norms(reader)[selected, -1], "measure", "norm of its decoder row"),
    }
    if reader.dictionary.config.models == 2:
        base = _norms(reader)[selected, 0]
        columns["decoder_norm_base"] = (
            base,
            "measure",
            "norm of the base's half of its decoder row",
        )
    if "base" in statistics:
        base_statistics = statistics["base"]
        gain, low, high = np.array(_gains(reader, active, selected)).T
        columns |= {
            "density_base": (
                base_statistics.density[selected],
                "measure",
                "share of tokens on which it is active in the base",
            ),
            "mean_base": (
                base_statistics.mean[selected],
                "measure",
                "mean code where active in the base",
            ),
            "density_gain": (gain, "measure", "density minus the base's"),
            "density_gain_low": (
                low,
                "measure",
                "lower end of its interval over clusters of documents",
            ),
            "density_gain_high": (high, "measure", "upper end of its interval"),
        }
    return columns


def _norms(reader: FeatureReader) -> NDArray:
    return to_host(reader.dictionary.decoder_norms)


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
    scored = np.array([label.examples > 0 for label in labels])
    label_texts = np.array(
        [" · ".join(decode([token]) for token in label.tokens) for label in labels], dtype=object
    )

    def null(name: str, of: Callable[[NDArray], float]) -> NDArray:
        return np.array(
            [
                float(of(getattr(label, name))) if len(getattr(label, name)) else NAN
                for label in labels
            ]
        )

    def most(values: NDArray) -> float:
        return np.quantile(values, 0.95)

    def numbers(name: str) -> NDArray:
        return np.array([float(getattr(label, name)) for label in labels])

    return {
        "label": (
            label_texts,
            "text",
            "tokens that predict its firing, by decreasing share of mutual information",
        ),
        "examples": (
            np.array([label.examples for label in labels]),
            "measure",
            "held-out active tokens scored, with as many quiet ones",
        ),
        "detection": (numbers("score"), "measure", "accuracy of the label on those"),
        "detection_low": (
            numbers("low"),
            "measure",
            "lower end of its interval over clusters of documents",
        ),
        "detection_high": (numbers("high"), "measure", "upper end of its interval"),
        "others": (
            null("others", np.mean),
            "measure",
            "mean accuracy of other latents' labels on the same tokens",
        ),
        "others_high": (null("others", most), "measure", "95 % quantile of that"),
        "shuffled": (
            null("shuffled", np.mean),
            "measure",
            "mean accuracy with firing moved to other clusters",
        ),
        "shuffled_high": (null("shuffled", most), "measure", "95 % quantile of that"),
        "p": (numbers("p"), "measure", "the larger p of both nulls"),
        "p_adjusted": (corrected, "measure", "p, corrected for all latents (Benjamini-Hochberg)"),
        "scored": (
            scored,
            "flag",
            "active on enough tokens in both halves to be labelled and scored",
        ),
        "detected": (
            np.nan_to_num(corrected, nan=1.0) <= _ALPHA_ROUNDED,
            "flag",
            "the label predicts its firing better than both nulls",
        ),
    }


def labels_table(labels: Sequence[Label], decode: Callable[[list[int]], str]) -> Table:
    """A row per token of a label."""
    rows = [
        (label.latent, rank, token, decode([token]))
        for label in labels
        for rank, token in enumerate(label.tokens)
    ]
    latents, ranks, ids, words = list(zip(*rows, strict=True)) or [()] * 4
    return table(
        "sae-features-labels",
        {
            "latent": (np.array(latents, np.int64), "key", "number of the latent"),
            "rank": (
                np.array(ranks, np.int64),
                "key",
                "by decreasing share of mutual information, from 0",
            ),
            "token_id": (np.array(ids, np.int64), "key", "the token's id"),
            "token": (np.array(words, dtype=object), "text", "the token"),
        },
    )


def logit_columns(logit_effects: LogitEffects) -> Columns:
    """The largest logit effect of each latent, compared with random rows."""
    p, corrected = logit_effects.p()
    random_effects = logit_effects.random_effects[TUNED]
    return {
        "largest_logit": (
            logit_effects.largest(),
            "measure",
            "largest absolute effect of its decoder row on a token",
            "logits",
        ),
        "random_logit": (
            np.full(len(p), random_effects.mean()),
            "measure",
            "mean of the same for random rows",
            "logits",
        ),
        "random_logit_high": (
            np.full(len(p), np.quantile(random_effects, 0.95)),
            "measure",
            "95 % quantile of that",
            "logits",
        ),
        "logit_p": (p, "measure", "p of an effect as large from a random row"),
        "logit_p_adjusted": (corrected, "measure", "the same, corrected for all latents"),
        "beyond_random": (
            corrected <= _ALPHA_ROUNDED,
            "flag",
            "its largest effect exceeds those of random rows",
        ),
    }


def claims_of(columns: Columns, logits: bool) -> list[Claim]:
    """Claims that labels are more accurate than other latents' labels, that more labels are than
    expected by chance, and that decoder rows have larger logit effects than random rows.
    """
    claims, scored = [], columns["scored"][0]
    rows = {"where": {"scored": True}}
    known = np.isfinite(columns["others"][0])
    if scored.any() and known[scored].all():
        claims.append(
            Claim(
                name="labels-detect",
                estimate=mean("detection", cluster="latent", minus={"column": "others"}, **rows),
                at_least=0.0,
                reference=mean("others", cluster="latent", **rows),
                control="labels of other latents, on the same tokens",
                text=(
                    "Labels predict on held-out documents where their latents are active with"
                    " mean accuracy {own:.3g}, other latents' labels with {control:.3g}: a"
                    " difference"
                    " of {value:+.3g} [{low:+.3g}, {high:+.3g}] over latents."
                ),
                also={"own": mean("detection", cluster="latent", **rows)},
            )
        )
    if scored.any():
        claims.append(
            _share_claim(
                "labels-beyond-nulls",
                "labels are more accurate than other latents' labels and with shuffled firing",
                "detected",
                "other latents' labels and shuffled firing, corrected",
                rows,
            )
        )
    if logits:
        claims.append(
            _share_claim(
                "logits-stand-out",
                "decoder rows change some token's logit more than random rows",
                "beyond_random",
                "random rows of equal norm, corrected",
                {},
            )
        )
    return claims


def _share_claim(
    name: str, statement: str, column: str, control: str, rows: Mapping[str, Mapping]
) -> Claim:
    """Claim that more latents are significant than the level of the single tests allows."""
    return Claim(
        name=name,
        estimate=mean(column, cluster="latent", **rows),
        at_least=ALPHA,
        reference=ALPHA,
        control=control,
        text=(
            f"{{count:d}} of {{total:d}} {statement} ({{low:.1%}} to {{high:.1%}}; at most"
            f" {ALPHA:.0%} expected by chance)."
        ),
        also={
            "count": statistic("sum", column, **rows),
            "total": statistic("count", column, **rows),
        },
    )


def first_sentence(columns: Columns, live: int) -> str:
    """The first sentence of the report."""
    count, scored = len(columns["latent"][0]), int(columns["scored"][0].sum())
    return f"{count} of {live} active latents, {scored} of them active often enough to be labelled."
