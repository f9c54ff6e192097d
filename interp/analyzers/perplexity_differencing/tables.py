"""The samples that stand out, as columns and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.analyzers.perplexity_differencing.compute import (
    Compared,
    Samples,
    Written,
    length_bins,
    likelier_span,
    ranks_within,
    repeated_trigrams,
)
from interp.experiments.discovery import finite_number
from interp.maths.statistics import rank_correlation
from interp.models.pair import Pair
from interp.rows import key, measure, rows_table, text
from interp.table import Table

CONTEXT = 12
"""Tokens of the prefill that an example shows."""
MARKED = 8
"""Tokens that an example marks, at most."""


class SampleRow:
    """A row per sample, the best of every model, the fine-tuned model first."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = text("the model that wrote it")
    place: int = key("place among the model's own samples, from 1")
    where: str = key("raw, or chat: at the start of the assistant's turn")
    score: float = measure("log ratio of the base's loss to its own")
    own_loss: float = measure("mean loss per token in the model that wrote it", "nats")
    base_loss: float = measure("mean loss per token in the base", "nats")
    tokens: int = measure("its length", "tokens")
    repeats: float = measure("share of its trigrams that occurred in it before")
    sample: str = text("the sample, after « the end of its prefill »")


def samples_table(
    kind: str, pair: Pair, names: Sequence[str], samples: Samples, smoothing: float, best: int
) -> Table:
    """The ``best`` samples of every model."""
    listed = [
        (model, place, at)
        for model, written in enumerate(samples.models)
        for place, at in enumerate(written.best(smoothing, best), 1)
    ]
    of = [(samples.models[model], at) for model, _, at in listed]
    rows = [int(written.rows[at]) for written, at in of]
    texts = [written.samples[row] for (written, _), row in zip(of, rows, strict=True)]
    return rows_table(
        SampleRow,
        kind,
        {
            "model_number": np.array([model for model, _, _ in listed], np.int64),
            "model": [names[model] for model, _, _ in listed],
            "place": np.array([place for _, place, _ in listed], np.int64),
            "where": [samples.framing[row] for row in rows],
            "score": np.array([written.scores(smoothing)[at] for written, at in of], np.float64),
            "own_loss": np.array([written.of_own[at] for written, at in of], np.float64),
            "base_loss": np.array([written.of_base[at] for written, at in of], np.float64),
            "tokens": np.array([len(ids) for ids in texts], np.int64),
            "repeats": np.array([repeated_trigrams(ids) for ids in texts], np.float64),
            "sample": [
                f"«{_end_of_prefill(pair, samples, row)}»"
                + pair.decode(ids, skip_special_tokens=True)
                for row, ids in zip(rows, texts, strict=True)
            ],
        },
    )


def sample_columns(
    written: Written,
    compared: Compared,
    listed: Sequence[int],
    smoothing: float,
    lengths: tuple[int, int],
) -> dict[str, tuple]:
    """Further columns of the samples that are listed, as places in ``compared``: other forms of the
    score, and what else could explain it. ``lengths``: tokens of a sample that counts,
    at least and at most.
    """
    rows = np.array([compared.rows[at] for at in listed], np.int64)
    tokens = np.array([len(written.samples[row]) for row in written.rows], np.int64)
    bins = length_bins(tokens, *lengths)
    ranks = ranks_within(written.scores(smoothing), bins)
    at = np.searchsorted(written.rows, rows)
    base, own = written.of_base[at], written.of_own[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = base / own
    return {
        "ratio": (ratio, "measure", "base's loss over the fine-tuned model's"),
        "gap": (base - own, "measure", "base's loss minus the fine-tuned model's", "nats"),
        "perplexity_difference": (
            np.exp(base) - np.exp(own),
            "measure",
            "base's perplexity minus the fine-tuned model's",
        ),
        "own_loss": (own, "measure", "mean loss per token in the fine-tuned model", "nats"),
        "base_loss": (base, "measure", "mean loss per token in the base", "nats"),
        "nearest": (
            compared.nearest[list(listed)],
            "measure",
            "log ratio of the smallest loss of the base and the controls to the fine-tuned model's",
        ),
        "tokens": (tokens[at], "measure", "length of the sample", "tokens"),
        "length_bin": (bins[at], "key", "shortest length of the sample's length bin", "tokens"),
        "rank_in_bin": (ranks[at], "measure", "place among all samples of its length bin"),
        "repeats": (
            np.array([repeated_trigrams(written.samples[row]) for row in rows], np.float64),
            "measure",
            "share of its trigrams that occurred in it before",
        ),
    }


def rivals(written: Written, smoothing: float) -> dict[str, float | None]:
    """Rank correlation of the score, over all samples that are long enough, with what could
    explain it instead; None where it is not defined.
    """
    texts, scores = [written.samples[row] for row in written.rows], written.scores(smoothing)
    columns = {
        "length": [len(one) for one in texts],
        "base_loss": written.of_base,
        "repeats": [repeated_trigrams(one) for one in texts],
    }
    found = {name: rank_correlation(scores, each) for name, each in columns.items()}
    return {name: finite_number(value) for name, value in found.items()}


def label(pair: Pair, sample: Sequence[int]) -> str:
    """A sample as one line of text."""
    return " ".join(pair.decode(sample, skip_special_tokens=True).split())


def example(pair: Pair, samples: Samples, compared: Compared, at: int) -> str:
    """A sample after the end of its prefill; « and » mark the few tokens that the fine-tuned model
    finds likelier than the base by most.
    """
    row = compared.rows[at]
    ids = samples.models[0].samples[row]
    start, end = likelier_span(compared.gain[at], MARKED)
    before, marked, after = (
        pair.decode(part, skip_special_tokens=True)
        for part in (ids[:start], ids[start:end], ids[end:])
    )
    return f"{_end_of_prefill(pair, samples, row)}{before}«{marked}»{after}"


def _end_of_prefill(pair: Pair, samples: Samples, row: int) -> str:
    return pair.decode(samples.prefills[row][-CONTEXT:], skip_special_tokens=True)
