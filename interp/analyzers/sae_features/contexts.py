"""Contexts of latents: tokens around those on which they are most, moderately and weakly active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from interp.analyzers.sae_features.compute import FeatureReader
from interp.sae.analysis.token_labels import ActiveTokens
from interp.study import Study
from interp.table import Table, table

TOP, MIDDLE, LOW = LEVELS = ("top", "middle", "low")
_RANGES = {MIDDLE: (0.4, 0.6), LOW: (0.0, 0.2)}
_DIGITS = 2.0**16


def sample_contexts(
    active: ActiveTokens, documents: np.ndarray, count: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Token numbers of contexts by level, without repetition: the strongest of as many documents,
    others sampled from their quantiles.
    """
    # round, so that floating-point noise does not decide which contexts are selected
    size = np.abs(active.values).max(initial=0.0) or 1.0
    values = np.round(active.values / size * _DIGITS)
    order = np.lexsort((active.rows, -values))
    first = order[np.sort(np.unique(documents[active.rows[order]], return_index=True)[1])][:count]
    used = set(first.tolist())
    levels = {TOP: active.rows[first]}
    rising = order[::-1]
    for level, (start, end) in _RANGES.items():
        part = rising[int(start * len(rising)) : int(np.ceil(end * len(rising)))]
        part = np.array([at for at in part if at not in used], dtype=np.int64)
        selected = (
            generator.choice(part, min(count, len(part)), replace=False) if len(part) else part
        )
        used |= set(selected.tolist())
        levels[level] = active.rows[np.sort(selected)]
    return levels


def contexts_table(
    reader: FeatureReader,
    active: Mapping[int, ActiveTokens],
    latents: Sequence[int],
    count: int,
    window: int,
    study: Study,
) -> Table:
    """A row per token of a context: its activation, and whether the context was selected for it."""
    decode, ids = study.pair.tokenizer.decode, [prompt.id for prompt in study.prompts("positive")]
    rows = []
    for latent in latents:
        active_tokens = active[latent]
        generator = np.random.default_rng([study.seed, latent])
        first = reader.first[active_tokens.rows]  # a repeated text contributes its contexts once
        without_repeats = ActiveTokens(active_tokens.rows[first], active_tokens.values[first])
        for level, centres in sample_contexts(
            without_repeats, reader.documents, count, generator
        ).items():
            for number, centre in enumerate(centres.tolist()):
                document = int(reader.documents[centre])
                start, end = int(reader.starts[document]), int(reader.starts[document + 1])
                around = np.arange(max(start, centre - window), min(end, centre + window + 1))
                index = np.searchsorted(active_tokens.rows, around)
                is_active = np.append(active_tokens.rows, -1)[index] == around
                codes = np.where(is_active, np.append(active_tokens.values, 0.0)[index], 0.0)
                for row, code in zip(around.tolist(), codes.tolist(), strict=True):
                    token = int(reader.tokens[row])
                    rows.append(
                        (
                            latent,
                            level,
                            number,
                            ids[document],
                            row - start,
                            token,
                            decode([token]),
                            code,
                            row == centre,
                        )
                    )
    descriptions = {
        "latent": ("key", "number of the latent"),
        "level": ("key", "top, middle or low range of its codes"),
        "context": ("key", "number of the context in its level, from 0"),
        "prompt_id": ("key", "position in the file"),
        "position": ("key", "token position in the prompt, from 0"),
        "token_id": ("key", "the token's id"),
        "token": ("text", "the token"),
        "activation": ("measure", "the latent's code at the token"),
        "chosen": ("flag", "the token for which the context was selected"),
    }
    values = list(zip(*rows, strict=True)) or [()] * len(descriptions)
    return table(
        "sae-features-contexts",
        {
            n: (_typed(v, n), *said)
            for (n, said), v in zip(descriptions.items(), values, strict=True)
        },
    )


def _typed(values: Sequence, name: str) -> np.ndarray:
    kind = {"level": object, "token": object, "activation": float, "chosen": bool}.get(
        name, np.int64
    )
    return np.array(list(values), dtype=kind)
