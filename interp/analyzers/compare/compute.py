"""Two models over the same prompts: next tokens, residual streams at every depth, and logit
lenses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.capture import make_batch
from interp.engines import Batch, Engine
from interp.engines.shared_prefix import SHORTEST
from interp.experiments.row_selection import some
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import token_divergences
from interp.metrics.base import DISTRIBUTIONS
from interp.models.model import Model
from interp.prompts import Prompt
from interp.sites import Site
from interp.study import Study

DEPTHS = ("cosine", "norm_ratio", "lens_kl", "lens_flip", "base_to_end", "tuned_to_end")


@runtime_checkable
class CompareOptions(Protocol):
    """Options for passes; see ``interp.analyzers.compare.Compare``."""

    @property
    def cka_tokens(self) -> int:
        """Number of tokens whose streams are kept for CKA."""
        ...

    @property
    def floor_prompts(self) -> int:
        """Number of prompts on which the rounding error is measured."""
        ...


@dataclass(frozen=True)
class Read:
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


def read(
    study: Study, asked: CompareOptions, base: Model, other: Model, group: str, what: str
) -> Read:
    """Run both models over every prompt of a class."""
    encoded, sites = study.encoded(group), stream_sites(other)
    count = len(encoded)
    depths = {name: np.full((count, len(sites)), np.nan) for name in DEPTHS}
    tokens: list[dict[str, np.ndarray]] = [{} for _ in encoded]
    picked = _picked(study, asked, group)
    kept: tuple[list, list] = [], []
    owners: list[int] = []
    held = 8 * other.anatomy.vocabulary + 8 * other.anatomy.width * len(sites)
    for rows in study.progress(study.groups(group, other, held), f"{what}, {group}"):
        batch, _ = make_batch(encoded, rows, study.pad_id, other.device)
        shared, width = _shared(batch), batch.ids.shape[1]
        runs = [
            study.engine.run(model, _on(batch, model), reads=sites, keep=width - shared)
            for model in (base, other)
        ]
        streams = [[run.values[site].to(other.device) for site in sites] for run in runs]
        numbers = _next_tokens(
            runs[0].require_logits(), runs[1].require_logits(), batch.mask[:, shared:]
        )
        once = (
            _of_beginning(study.engine, (base, other), encoded[rows[0]].ids[:shared])
            if shared
            else {}
        )
        apart = [drift(one, two, batch.mask) for one, two in zip(*streams, strict=True)]
        for name in apart[0]:
            depths[name][rows] = to_host(torch.stack([one[name] for one in apart], 1))
        step = max(1, DISTRIBUTIONS // (len(sites) * other.anatomy.vocabulary))
        ends = [
            torch.stack([value[:, -1] for value in stream], 1).split(step) for stream in streams
        ]
        for at, pieces in enumerate(zip(*ends, strict=True)):
            some = rows[at * step : (at + 1) * step]
            for name, values in _lens_numbers(*lenses(study.engine, (base, other), pieces)).items():
                depths[name][some] = to_host(values)
        for place, row in enumerate(rows):
            length = len(encoded[row].ids)
            after = min(length, width - shared)
            tokens[row] = {
                name: np.concatenate(
                    [*([once[name][0, : length - after]] if once else []), value[place, -after:]]
                )
                for name, value in numbers.items()
            }
            columns = torch.tensor(picked[row], dtype=torch.int64) - length
            owners += [row] * len(columns)
            for part, stream in zip(kept, streams, strict=True):
                part.append(
                    to_host(torch.stack([value[place, columns] for value in stream], 1).float())
                )
    sample = np.concatenate(kept[0]), np.concatenate(kept[1])
    prompts = study.prompts(group).prompts
    return Read(
        group, prompts, [coded.ids for coded in encoded], tokens, depths, sample, np.array(owners)
    )


def _shared(batch: Batch) -> int:
    """Length of the shared prefix that is run once; 0 where it is short or a whole prompt."""
    shared = min(batch.shared, min(batch.lengths) - 1)
    return shared if shared >= SHORTEST and len(batch.lengths) > 1 else 0


def _next_tokens(
    base: Float[Tensor, "B T V"], other: Float[Tensor, "B T V"], real: Bool[Tensor, "B T"]
) -> dict[str, np.ndarray]:
    """Divergence, whether the top tokens differ, and both models' top tokens, at every token."""
    base, real = base.to(other.device), real.to(other.device)
    first = [part.argmax(-1) for part in (base, other)]
    found = (token_divergences(other, base, real), first[0] != first[1], *first)
    return dict(zip(("kl", "flip", "base_next", "tuned_next"), map(to_host, found), strict=True))


def _of_beginning(
    engine: Engine, models: Sequence[Model], ids: Sequence[int]
) -> dict[str, np.ndarray]:
    """The same for the tokens of the shared prefix."""
    runs = [
        engine.run(model, Batch.pad([ids], 0, device=model.device), keep=None).require_logits()
        for model in models
    ]
    return _next_tokens(runs[0], runs[1], torch.ones(runs[1].shape[:2], dtype=torch.bool))


def drift(
    base: Float[Tensor, "B T D"], other: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]
) -> dict[str, Float[Tensor, " B"]]:
    """Cosine, and norm of the other's stream over the base's, both as means over a prompt's
    tokens.
    """
    base, other = base.double(), other.double()
    lengths = [torch.linalg.vector_norm(part, dim=-1).clamp(min=1e-300) for part in (base, other)]
    cosine = (base * other).sum(-1) / (lengths[0] * lengths[1])
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
    found = []
    for model, stream in zip(models, streams, strict=True):
        shape = stream.shape[:2]
        nothing = Batch(
            torch.zeros(shape, dtype=torch.int64, device=model.device),
            torch.ones(shape, dtype=torch.bool, device=model.device),
        )
        end = Replace(Site(model.anatomy.n_layers - 1, "hook_resid_post"), stream)
        found.append(
            engine.run(model, nothing, edits=[end], keep=None).require_logits().to(stream.device)
        )
    return found


def _lens_numbers(
    base: Float[Tensor, "B S V"], other: Float[Tensor, "B S V"]
) -> dict[str, Float[Tensor, "B S"]]:
    flips = (other.argmax(-1) != base.argmax(-1)).float()
    base, other = (widen(part).log_softmax(-1) for part in (base, other))

    def kl(first: Float[Tensor, "B _ V"], second: Float[Tensor, "B S V"]) -> Float[Tensor, "B S"]:
        found = torch.nn.functional.kl_div(
            second, first.expand_as(second), log_target=True, reduction="none"
        )
        return found.sum(-1).clamp(min=0)

    return {
        "lens_kl": kl(other, base),
        "lens_flip": flips,
        "base_to_end": kl(base[:, -1:], base),
        "tuned_to_end": kl(other[:, -1:], other),
    }


def rounding(study: Study, asked: CompareOptions) -> float:
    """Largest KL at a prompt's last token between the fine-tuned model and itself with more
    padding.
    """
    model, largest = study.pair.tuned, 0.0
    for group in study.classes:
        encoded = [
            study.encoded(group)[row] for row in study.prompts(group).sample(asked.floor_prompts)
        ]
        for rows in study.batches(encoded, model, 8 * model.anatomy.vocabulary):
            batch = make_batch(encoded, rows, study.pad_id, model.device)[0]
            ids = [encoded[row].ids for row in rows]
            wider = Batch.pad(ids, study.pad_id, device=model.device, length=batch.ids.shape[1] + 5)
            # where padding changes more than rounding, repeat the prompts instead
            if study.reads_alone:
                wider = Batch.pad([*ids, *ids], study.pad_id, device=model.device)
            one, other = (
                study.engine.run(model, each, keep=None).require_logits() for each in (batch, wider)
            )
            other = other[: len(ids)]
            kl = token_divergences(one[:, -1:], other[:, -1:], batch.mask[:, -1:])
            largest = max(largest, float(to_host(kl).max()))
    return largest


def _picked(study: Study, asked: CompareOptions, group: str) -> list[list[int]]:
    """Positions whose streams are kept for CKA: the last of every distinct text, and random
    others.
    """
    prompts, generator = study.prompts(group), np.random.default_rng(study.seed)
    each = max(1, asked.cka_tokens // sum(study.prompts(name).n_texts for name in study.classes))
    texts = prompts.sample(len(prompts))
    found: list[list[int]] = [[] for _ in prompts]
    for row in texts:
        last = len(study.encoded(group)[row].ids) - 1
        found[row] = sorted({last, *map(int, generator.permutation(last)[: each - 1])})
    keep = set(some(prompts, texts, asked.cka_tokens // len(study.classes), study.seed))
    return [tokens if row in keep else [] for row, tokens in enumerate(found)]


def _on(batch: Batch, model: Model) -> Batch:
    return (
        batch
        if batch.ids.device == model.device
        else Batch(batch.ids.to(model.device), batch.mask.to(model.device))
    )
