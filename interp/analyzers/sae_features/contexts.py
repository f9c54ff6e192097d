"""Contexts of latents: tokens around those on which they are most, moderately and weakly active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from interp.analyzers.sae_features.compute import FeatureReader
from interp.experiments.records import records_table
from interp.rows import PromptRow, flag, key, measure, text
from interp.sae.analysis.token_labels import ActiveTokens
from interp.study import Study
from interp.table import Table

TOP, MIDDLE, LOW = LEVELS = ("top", "middle", "low")
_RANGES = {MIDDLE: (0.4, 0.6), LOW: (0.0, 0.2)}
_DIGITS = 2.0**16


class ContextRow:
    """A row per token of a context of a latent."""

    latent: int = key("number of the latent")
    level: str = key("top, middle or low range of its codes")
    context: int = key("number of the context in its level, from 0")
    prompt_id: int = PromptRow.prompt_id
    position: int = key("token position in the prompt, from 0")
    token_id: int = key("the token's id")
    token: str = text("the token")
    activation: float = measure("the latent's code at the token")
    chosen: bool = flag("the token for which the context was selected")


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
                        {
                            "latent": latent,
                            "level": level,
                            "context": number,
                            "prompt_id": ids[document],
                            "position": row - start,
                            "token_id": token,
                            "token": decode([token]),
                            "activation": code,
                            "chosen": row == centre,
                        }
                    )
    return records_table(ContextRow, "", rows)
