"""What models write after prefills, and how likely other models find it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.experiments.sampled import sample_tokens
from interp.interventions.generation import GENERATION_BATCH_FACTOR, cached_bytes, generate
from interp.interventions.teacher_forcing import Text, answer_logits
from interp.maths.host import to_host
from interp.metrics import Sampling, token_losses
from interp.models.model import Model
from interp.models.preflight import single_prompt_reason
from interp.prompts import Encoded, n_usable_ids
from interp.study import Study


def sample_texts(
    study: Study,
    model: Model,
    prefills: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_ids: Sequence[int],
    *,
    groups: Sequence[Sequence[int]] | None = None,
    name: str = "samples",
) -> list[list[int]]:
    """A sample after every prefill, as token ids: up to and with the first of ``stop_ids``, at most
    ``max_new_tokens``.

    A prefill that is given again gets another sample. The random numbers follow from the seed, the
    prefill and how often it came before, so that all models are given the same ones. Tokens that
    not every model of the pair has are not drawn. ``groups``: the batches, as rows, where they were
    made before (``sample_groups``); ``name``: in the progress.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    sampling, uniforms = Sampling(1, temperature, seed), []
    for prefill in map(tuple, prefills):
        uniforms.append(sampling.uniforms(prefill, seen[prefill], max_new_tokens))
        seen[prefill] += 1
    usable = n_usable_ids(study.pair.tokenizer)
    samples: list[list[int]] = [[] for _ in prefills]
    if groups is None:
        groups = sample_groups(study, model, prefills, max_new_tokens)
    for rows in study.progress(groups, name):
        numbers = np.stack([uniforms[row] for row in rows])
        text = Text([prefills[row] for row in rows], None, study.pad_id, tuple(stop_ids))
        drawn = generate(
            study.engine,
            model,
            text,
            max_new_tokens,
            choose=lambda logits, step, numbers=numbers: sample_tokens(
                logits[:, :usable], temperature, numbers[:, step]
            ),
        )
        for row, sample in zip(rows, drawn, strict=True):
            samples[row] = sample
    return samples


def sample_groups(
    study: Study, model: Model, prefills: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Rows of the prefills in batches for ``sample_texts``."""
    coded = [_encoded(prefill) for prefill in prefills]
    mean_length = max(sum(len(one.ids) for one in coded) // max(len(coded), 1), 1)
    # probabilities and their sums over the vocabulary, one position per row, in float64
    drawing = 32 * model.anatomy.vocabulary // mean_length
    bytes_per_token = cached_bytes(model, None, coded, max_new_tokens) + drawing
    groups = study.batches(coded, model, bytes_per_token, GENERATION_BATCH_FACTOR)
    return unpadded(groups, model, coded, max_new_tokens)


def loss_groups(
    study: Study,
    model: Model,
    prefills: Sequence[Sequence[int]],
    samples: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Rows of prefills and samples in batches for ``sample_losses``."""
    coded = [
        _encoded((*prefill, *sample)) for prefill, sample in zip(prefills, samples, strict=True)
    ]
    groups = study.batches(coded, model, 16 * model.anatomy.vocabulary)
    return unpadded(groups, model, coded, 0)


def sample_losses(
    study: Study,
    model: Model,
    prefills: Sequence[Sequence[int]],
    samples: Sequence[Sequence[int]],
    *,
    groups: Sequence[Sequence[int]] | None = None,
    name: str = "losses of samples",
) -> list[Float[np.ndarray, " _"]]:
    """Loss of every token of every sample after its prefill, nats, in float64; the prefill's own
    tokens do not count, the end token does.

    Models are compared exactly only in the same batches: ``groups`` of ``loss_groups``.
    """
    losses: list[np.ndarray] = [np.zeros(0) for _ in samples]
    if groups is None:
        groups = loss_groups(study, model, prefills, samples)
    for rows in study.progress(groups, name):
        text = Text([prefills[row] for row in rows], None, study.pad_id, ())
        logits, targets, real = answer_logits(
            study.engine, model, text, [samples[row] for row in rows]
        )
        found = to_host(token_losses(logits, targets, real).double())
        for row, of_row in zip(rows, found, strict=True):
            losses[row] = of_row[len(of_row) - len(samples[row]) :].copy()
    return losses


def _encoded(ids: Sequence[int]) -> Encoded:
    return Encoded(tuple(ids), (0,) * len(ids))


def unpadded(
    groups: list[list[int]], model: Model, coded: Sequence[Encoded], more: int
) -> list[list[int]]:
    """One row per batch where padding would change a model's numbers."""
    longest = max((len(one.ids) for one in coded), default=0) + more
    if not single_prompt_reason(model, longest):
        return groups
    return [[row] for rows in groups for row in rows]
