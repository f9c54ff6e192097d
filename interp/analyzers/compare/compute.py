"""Two models over the same prompts: next tokens, residual streams at every depth, and logit
lenses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch, Engine
from interp.engines.shared_prefix import MIN_PREFIX_TOKENS
from interp.experiments.row_selection import sample_rows
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import token_divergences
from interp.metrics.base import MAX_PROBABILITIES
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Prompt
from interp.sites import Site
from interp.study import Study

DEPTHS = ("cosine", "norm_ratio", "lens_kl", "lens_flip", "base_to_end", "tuned_to_end")


@dataclass(frozen=True)
class GroupComparison:
    """Measurements of one class, prompts in file order.

    ``tokens`` per prompt: ``kl`` and ``flip`` of every token, and both models' next token ids.
    ``depths``: arrays ``[prompts, L + 1]``, one column for the stream before every block and after
    the last. ``sample``: streams of some tokens ``[rows, L + 1, D]`` of (base, other); ``rows``:
    the row of the prompt of each.
    """

    group: str
    prompts: Sequence[Prompt]
    ids: Sequence[Sequence[int]]
    tokens: Sequence[dict[str, np.ndarray]]
    depths: dict[str, np.ndarray]
    sample: tuple[np.ndarray, np.ndarray]
    rows: np.ndarray

    @property
    def kl(self) -> np.ndarray:
        """Mean over a prompt's tokens, nats."""
        return np.array([found["kl"].mean() for found in self.tokens])

    @property
    def flips(self) -> np.ndarray:
        """Share of a prompt's tokens at which the models' top next tokens differ."""
        return np.array([found["flip"].mean() for found in self.tokens])


def stream_sites(model: Model) -> list[Site]:
    """The stream before every block, and after the last."""
    layers = range(model.anatomy.n_layers)
    return [
        *(Site(layer, "hook_resid_pre") for layer in layers),
        Site(layers[-1], "hook_resid_post"),
    ]


def measure_group(
    study: Study, pair: Pair, group: str, label: str, cka_tokens: int
) -> GroupComparison:
    """Run both models of ``pair`` over every prompt of a class of the study.

    ``label`` names the pair in the progress; streams of about ``cka_tokens`` tokens are kept.
    """
    base, tuned = pair.require_base("a comparison"), pair.tuned
    encoded, sites = study.encoded(group), stream_sites(tuned)
    count = len(encoded)
    depths = {name: np.full((count, len(sites)), np.nan) for name in DEPTHS}
    tokens: list[dict[str, np.ndarray]] = [{} for _ in encoded]
    picked = _sampled_positions(study, cka_tokens, group)
    samples: tuple[list, list] = [], []
    sample_rows: list[int] = []
    bytes_per_token = 8 * tuned.anatomy.vocabulary + 8 * tuned.anatomy.width * len(sites)
    for rows in study.progress(study.groups(group, tuned, bytes_per_token), f"{label}, {group}"):
        batch, _ = make_batch(encoded, rows, study.pad_id, tuned.device)
        shared, width = _prefix_length(batch), batch.ids.shape[1]
        runs = [
            study.engine.run(model, _on_device(batch, model), reads=sites, keep=width - shared)
            for model in (base, tuned)
        ]
        streams = [[run.values[site].to(tuned.device) for site in sites] for run in runs]
        numbers = _next_tokens(
            runs[0].require_logits(), runs[1].require_logits(), batch.mask[:, shared:]
        )
        # of every token and both models: not held while the lenses add theirs
        runs.clear()
        prefix_numbers = (
            _prefix_numbers(study.engine, (base, tuned), encoded[rows[0]].ids[:shared])
            if shared
            else {}
        )
        drifts = [drift(one, two, batch.mask) for one, two in zip(*streams, strict=True)]
        for name in drifts[0]:
            depths[name][rows] = to_host(torch.stack([one[name] for one in drifts], 1))
        step = max(1, MAX_PROBABILITIES // (len(sites) * tuned.anatomy.vocabulary))
        last_streams = [
            torch.stack([value[:, -1] for value in stream], 1).split(step) for stream in streams
        ]
        for chunk, chunk_streams in enumerate(zip(*last_streams, strict=True)):
            chunk_rows = rows[chunk * step : (chunk + 1) * step]
            for name, values in _lens_numbers(
                *lenses(study.engine, (base, tuned), chunk_streams)
            ).items():
                depths[name][chunk_rows] = to_host(values)
        for index, row in enumerate(rows):
            length = len(encoded[row].ids)
            after = min(length, width - shared)
            tokens[row] = {
                name: np.concatenate(
                    [
                        *([prefix_numbers[name][0, : length - after]] if prefix_numbers else []),
                        value[index, -after:],
                    ]
                )
                for name, value in numbers.items()
            }
            columns = torch.tensor(picked[row], dtype=torch.int64) - length
            sample_rows += [row] * len(columns)
            for sample_list, stream in zip(samples, streams, strict=True):
                sample_list.append(
                    to_host(torch.stack([value[index, columns] for value in stream], 1).float())
                )
    sample = np.concatenate(samples[0]), np.concatenate(samples[1])
    prompts = study.prompts(group).prompts
    return GroupComparison(
        group,
        prompts,
        [coded.ids for coded in encoded],
        tokens,
        depths,
        sample,
        np.array(sample_rows),
    )


def _prefix_length(batch: Batch) -> int:
    """Length of the shared prefix that is run once; 0 where it is short or a whole prompt."""
    shared = min(batch.prefix_length, min(batch.lengths) - 1)
    return shared if shared >= MIN_PREFIX_TOKENS and len(batch.lengths) > 1 else 0


def _next_tokens(
    base: Float[Tensor, "B T V"], tuned: Float[Tensor, "B T V"], real: Bool[Tensor, "B T"]
) -> dict[str, np.ndarray]:
    """Divergence, whether the top tokens differ, and both models' top tokens, at every token."""
    base, real = base.to(tuned.device), real.to(tuned.device)
    top_tokens = [part.argmax(-1) for part in (base, tuned)]
    values = (token_divergences(tuned, base, real), top_tokens[0] != top_tokens[1], *top_tokens)
    return dict(zip(("kl", "flip", "base_next", "tuned_next"), map(to_host, values), strict=True))


def _prefix_numbers(
    engine: Engine, models: Sequence[Model], ids: Sequence[int]
) -> dict[str, np.ndarray]:
    """The same for the tokens of the shared prefix."""
    runs = [
        engine.run(model, Batch.pad([ids], 0, device=model.device), keep=None).require_logits()
        for model in models
    ]
    return _next_tokens(runs[0], runs[1], torch.ones(runs[1].shape[:2], dtype=torch.bool))


def drift(
    base: Float[Tensor, "B T D"], tuned: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]
) -> dict[str, Float[Tensor, " B"]]:
    """Cosine, and norm of the other's stream over the base's, both as means over a prompt's
    tokens.
    """
    base, tuned = base.double(), tuned.double()
    lengths = [torch.linalg.vector_norm(part, dim=-1).clamp(min=1e-300) for part in (base, tuned)]
    cosine = (base * tuned).sum(-1) / (lengths[0] * lengths[1])
    return {
        name: value.where(real, 0.0).sum(-1) / real.sum(1)
        for name, value in (
            ("cosine", cosine.clamp(-1, 1)),
            ("norm_ratio", lengths[1] / lengths[0]),
        )
    }


def lenses(
    engine: Engine, models: Sequence[Model], streams: Sequence[Float[Tensor, "B S D"]]
) -> list[Float[Tensor, "B S V"]]:
    """Logit lens of every stream (nostalgebraist 2020): each model's own final norm and head on
    streams of any depth.

    One short pass per model: the streams replace the last block's output, one position each, since
    norm and head act on every position separately.
    """
    logits = []
    for model, stream in zip(models, streams, strict=True):
        shape = stream.shape[:2]
        placeholder = Batch(
            torch.zeros(shape, dtype=torch.int64, device=model.device),
            torch.ones(shape, dtype=torch.bool, device=model.device),
        )
        replacement = Replace(Site(model.anatomy.n_layers - 1, "hook_resid_post"), stream)
        logits.append(
            engine.run(model, placeholder, edits=[replacement], keep=None)
            .require_logits()
            .to(stream.device)
        )
    return logits


def _lens_numbers(
    base: Float[Tensor, "B S V"], tuned: Float[Tensor, "B S V"]
) -> dict[str, Float[Tensor, "B S"]]:
    flips = (tuned.argmax(-1) != base.argmax(-1)).float()
    base, tuned = (widen(part).log_softmax(-1) for part in (base, tuned))

    def kl(first: Float[Tensor, "B _ V"], second: Float[Tensor, "B S V"]) -> Float[Tensor, "B S"]:
        terms = torch.nn.functional.kl_div(
            second, first.expand_as(second), log_target=True, reduction="none"
        )
        return terms.sum(-1).clamp(min=0)

    return {
        "lens_kl": kl(tuned, base),
        "lens_flip": flips,
        "base_to_end": kl(base[:, -1:], base),
        "tuned_to_end": kl(tuned[:, -1:], tuned),
    }


def rounding_floor(study: Study, n_prompts: int) -> float:
    """Largest KL (nats) at a prompt's last token between the fine-tuned model and itself with more
    padding, over about ``n_prompts`` prompts of each class.
    """
    model, largest = study.pair.tuned, 0.0
    for group in study.classes:
        encoded = [study.encoded(group)[row] for row in study.prompts(group).sample(n_prompts)]
        for rows in study.batches(encoded, model, 8 * model.anatomy.vocabulary):
            batch = make_batch(encoded, rows, study.pad_id, model.device)[0]
            ids = [encoded[row].ids for row in rows]
            wider = Batch.pad(ids, study.pad_id, device=model.device, length=batch.ids.shape[1] + 5)
            # where padding changes more than rounding, repeat the prompts instead
            if study.single_prompt_reason:
                wider = Batch.pad([*ids, *ids], study.pad_id, device=model.device)
            reference, padded = (
                study.engine.run(model, each, keep=None).require_logits() for each in (batch, wider)
            )
            padded = padded[: len(ids)]
            kl = token_divergences(reference[:, -1:], padded[:, -1:], batch.mask[:, -1:])
            largest = max(largest, float(to_host(kl).max()))
    return largest


def _sampled_positions(study: Study, cka_tokens: int, group: str) -> list[list[int]]:
    """Positions whose streams are kept for CKA: the last of every distinct text, and random
    others.
    """
    prompts, generator = study.prompts(group), np.random.default_rng(study.seed)
    per_text = max(1, cka_tokens // sum(study.prompts(name).n_texts for name in study.classes))
    texts = prompts.sample(len(prompts))
    positions: list[list[int]] = [[] for _ in prompts]
    for row in texts:
        last = len(study.encoded(group)[row].ids) - 1
        positions[row] = sorted({last, *map(int, generator.permutation(last)[: per_text - 1])})
    keep = set(sample_rows(prompts, texts, cka_tokens // len(study.classes), study.seed))
    return [tokens if row in keep else [] for row, tokens in enumerate(positions)]


def _on_device(batch: Batch, model: Model) -> Batch:
    return (
        batch
        if batch.ids.device == model.device
        else Batch(batch.ids.to(model.device), batch.mask.to(model.device))
    )
