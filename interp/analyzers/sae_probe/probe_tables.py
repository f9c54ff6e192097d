"""Tables of probes: their accuracy, held-out scores, null, and the latents they select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.sae_probe.evidence import BASE, DICTIONARY, PROBED, Evidence
from interp.maths.statistics import minimum_detectable_effect, roc_auc
from interp.rows import DrawRow, PromptRow, flag, key, measure, rows_table
from interp.table import Table

NAN = float("nan")


class _OfProbe:
    source: str = key("source of codes: the dictionary, a baseline, or the dictionary in the base")
    k: int = key("number of latents in the probe")


class ProbeRow(_OfProbe):
    """A row per probe."""

    auc: float = measure("held-out area under the curve")
    low: float = measure("lower end of its interval over clusters")
    high: float = measure("upper end of its interval over clusters")
    null_mean: float = measure("mean under permuted labels")
    null_most: float = measure(
        "threshold for significance at 0.05, corrected for the number of values of k"
    )
    p: float = measure("p from permuted labels, with selection repeated")


class ScoreRow(PromptRow, _OfProbe):
    """A row per probe and held-out prompt."""

    score: float = measure("score of the regression; higher for the positive class")
    base_score: float = measure(
        "for the largest probe, score with the same latents refitted in the base; else NaN"
    )


class NullRow(DrawRow, _OfProbe):
    """A row per probe and permutation of labels."""

    auc: float = measure("held-out area under the curve")


class LatentRow:
    """A row per latent that a probe selected or that was given."""

    set: str = key("selected by the largest probe, or given")
    latent: int = key("number of the latent")
    weight: float = measure("weight in the regression on standardised codes; NaN if given")
    difference: float = measure("mean code on positive minus negative prompts")
    auc: float = measure(
        "held-out AUC of this latent alone; it was not selected by this, so there is no null"
    )
    rate: float = measure("share of tokens on which it fires")
    changed: bool = flag("included in the ablated and steered set")


def tables_of_probes(evidence: Evidence) -> dict[str, Table]:
    """The sub-tables about probes."""
    return {
        "scores": _scores(evidence),
        "null": _null(evidence),
        "latents": _latents(evidence),
    }


def probes_table(evidence: Evidence) -> Table:
    """The main table."""
    results = evidence.probes.results.values()
    return rows_table(
        ProbeRow,
        "",
        {
            **_of_probes(evidence, 1),
            **{
                name: np.array([getattr(result, name) for result in results], np.float64)
                for name in ("auc", "low", "high", "p")
            },
            "null_mean": [result.null.mean() for result in results],
            "null_most": [
                minimum_detectable_effect(result.null, evidence.level) for result in results
            ],
        },
    )


def _of_probes(evidence: Evidence, rows: int | Sequence[int]) -> dict[str, Any]:
    """Source and k of the probes, each for so many rows."""
    sources, ks = zip(*evidence.probes.results, strict=True)
    return {"source": np.repeat(np.array(sources, object), rows), "k": np.repeat(ks, rows)}


def _scores(evidence: Evidence) -> Table:
    results = evidence.probes.results
    held_out = np.flatnonzero(~evidence.probes.training)
    prompts = [
        (group, prompt.id, prompt.cluster)
        for group in evidence.held.classes
        for prompt in evidence.held.prompts(group)
    ] * len(results)
    largest = evidence.k[-1]
    in_base = {(DICTIONARY, largest): results[BASE, largest]} if (BASE, largest) in results else {}
    return rows_table(
        ScoreRow,
        "",
        {
            **_of_probes(evidence, held_out.size),
            **dict(zip(("group", "prompt_id", "cluster"), zip(*prompts, strict=True), strict=True)),
            "score": np.concatenate([result.scores[held_out] for result in results.values()]),
            "base_score": np.concatenate(
                [
                    in_base[probe].scores[held_out]
                    if probe in in_base
                    else np.full(held_out.size, NAN)
                    for probe in results
                ]
            ),
        },
    )


def _null(evidence: Evidence) -> Table:
    nulls = [result.null for result in evidence.probes.results.values()]
    return rows_table(
        NullRow,
        "",
        {
            **_of_probes(evidence, [len(null) for null in nulls]),
            "draw": np.concatenate([np.arange(len(null)) for null in nulls]),
            "auc": np.concatenate(nulls),
        },
    )


def _latents(evidence: Evidence) -> Table:
    probes, largest = evidence.probes, evidence.probes.largest
    rows = [
        (PROBED, int(j), float(w)) for j, w in zip(largest.latents, largest.weights, strict=True)
    ]
    rows += [
        (name, j, NAN) for name, latents in evidence.sets.items() if name != PROBED for j in latents
    ]
    sets, latents, weights = zip(*rows, strict=True)
    held_out = ~probes.training
    return rows_table(
        LatentRow,
        "",
        {
            "set": sets,
            "latent": latents,
            "weight": weights,
            "difference": probes.difference(np.array(latents)),
            "auc": [roc_auc(probes.labels[held_out], probes.codes[held_out, j]) for j in latents],
            "rate": evidence.firing.rates[list(latents)],
            "changed": [j in evidence.sets[name] for name, j, _ in rows],
        },
    )
