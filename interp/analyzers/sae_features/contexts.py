"""Contexts of latents: tokens around those on which they are most, moderately and weakly active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from interp.analyzers.sae_features.compute import Reader
from interp.sae.analysis.token_labels import Active
from interp.study import Study
from interp.table import Table, table

TOP, MIDDLE, LOW = LEVELS = ("top", "middle", "low")
_RANGES = {MIDDLE: (0.4, 0.6), LOW: (0.0, 0.2)}
_DIGITS = 2.0**16


def sampled(
    found: Active, documents: np.ndarray, count: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Token numbers of contexts by level, without repetition: the strongest of as many documents,
    others sampled from their quantiles.
    """
    # round, so that floating-point noise does not decide which contexts are selected
    size = np.abs(found.values).max(initial=0.0) or 1.0
    values = np.round(found.values / size * _DIGITS)
    order = np.lexsort((found.rows, -values))
    first = order[np.sort(np.unique(documents[found.rows[order]], return_index=True)[1])][:count]
    taken = set(first.tolist())
    levels = {TOP: found.rows[first]}
    rising = order[::-1]
    for level, (start, end) in _RANGES.items():
        part = rising[int(start * len(rising)) : int(np.ceil(end * len(rising)))]
        part = np.array([at for at in part if at not in taken], dtype=np.int64)
        drawn = generator.choice(part, min(count, len(part)), replace=False) if len(part) else part
        taken |= set(drawn.tolist())
        levels[level] = found.rows[np.sort(drawn)]
    return levels


def contexts_table(
    reader: Reader,
    active: Mapping[int, Active],
    latents: Sequence[int],
    count: int,
    window: int,
    study: Study,
) -> Table:
    """A row per token of a context: its activation, and whether the context was selected for it."""
    decode, ids = study.pair.tokenizer.decode, [prompt.id for prompt in study.prompts("positive")]
    rows = []
    for latent in latents:
        found = active[latent]
        generator = np.random.default_rng([study.seed, latent])
        first = reader.first[found.rows]  # a repeated text contributes its contexts once
        once = Active(found.rows[first], found.values[first])
        for level, places in sampled(once, reader.documents, count, generator).items():
            for number, place in enumerate(places.tolist()):
                document = int(reader.documents[place])
                start, end = int(reader.starts[document]), int(reader.starts[document + 1])
                around = np.arange(max(start, place - window), min(end, place + window + 1))
                at = np.searchsorted(found.rows, around)
                hit = np.append(found.rows, -1)[at] == around
                codes = np.where(hit, np.append(found.values, 0.0)[at], 0.0)
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
                            row == place,
                        )
                    )
    about = {
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
    values = list(zip(*rows, strict=True)) or [()] * len(about)
    return table(
        "sae-features-contexts",
        {n: (_typed(v, n), *said) for (n, said), v in zip(about.items(), values, strict=True)},
    )


def _typed(values: Sequence, name: str) -> np.ndarray:
    kind = {"level": object, "token": object, "activation": float, "chosen": bool}.get(
        name, np.int64
    )
    return np.array(list(values), dtype=kind)
