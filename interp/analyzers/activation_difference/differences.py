"""Mean difference of two models' residual streams at the first positions of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.engines import Batch
from interp.experiments.records import records_table
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.prompts import Encoded
from interp.rows import key, measure, text
from interp.sites import Site
from interp.study import Study
from interp.table import Table

KIND = "activation-difference-differences"
SINK, REST = "position 0", "later positions"


class DifferenceRow:
    """A row per model, block and position."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = text("its name")
    block: int = key("block whose output is read, from 0")
    position: int = key("position in the text, from 0")
    texts: int = measure("texts that have this position")
    norm: float = measure("norm of the mean difference from the base")
    stream: float = measure("mean norm of the base's stream there")
    cosine: float = measure("cosine with the fine-tuned model's mean difference there")


@dataclass(frozen=True)
class Streams:
    """Means over texts of one model's streams.

    ``mean`` [L, T, D]: at the outputs of the ``blocks`` [L] and the positions 0 to T - 1. ``norm``
    [L, T]: mean norm. ``texts`` [T]: how many texts have the position.
    """

    blocks: tuple[int, ...]
    mean: Float[np.ndarray, "L T D"]
    norm: Float[np.ndarray, "L T"]
    texts: Int[np.ndarray, " T"]


@dataclass(frozen=True)
class Differences:
    """Mean difference of a model's streams from the base's at every place, as in ``Streams``.

    ``stream`` [L, T]: mean norm of the base's stream.
    """

    blocks: tuple[int, ...]
    mean: Float[np.ndarray, "L T D"]
    stream: Float[np.ndarray, "L T"]
    texts: Int[np.ndarray, " T"]

    def of_group(self, group: str) -> Float[np.ndarray, "L D"]:
        """Mean of the differences at position 0, or at the later positions."""
        return self.mean[:, self.positions(group)].mean(1)

    def positions(self, group: str) -> list[int]:
        """The positions of a group."""
        return [0] if group == SINK else [*range(1, len(self.texts))]


def blocks_at(depths: Sequence[float], n_layers: int) -> tuple[int, ...]:
    """The blocks ``int(depth (L - 1))``, each once, in order."""
    return tuple(sorted({int(depth * (n_layers - 1)) for depth in depths}))


def group_name(group: str, positions: int) -> str:
    """``position 0``, or ``positions 1-4`` of 5."""
    if group == SINK:
        return SINK
    return "position 1" if positions == 2 else f"positions 1-{positions - 1}"


def first_tokens(texts: Sequence[Encoded], count: int) -> list[Encoded]:
    """The texts cut after some tokens: a causal model reads these as it does in the whole text."""
    return [Encoded(text.ids[:count], text.roles[:count]) for text in texts]


def position_batches(
    study: Study, texts: Sequence[Encoded], blocks: Sequence[int]
) -> list[list[int]]:
    """Rows of the texts in batches, to be used for every model: two equal models then give equal
    numbers, bit for bit.
    """
    tuned = study.pair.tuned
    return study.batches(texts, tuned, 8 * tuned.anatomy.width * len(blocks))


def mean_streams(
    study: Study,
    model: Model,
    texts: Sequence[Encoded],
    batches: Sequence[Sequence[int]],
    blocks: Sequence[int],
    name: str,
) -> Streams:
    """Means over texts of a model's streams at some blocks' outputs, at every position of the
    longest text.

    Sums only: memory does not grow with the number of texts.
    """
    width, positions = model.anatomy.width, max(len(text.ids) for text in texts)
    sites = [Site(block, "hook_resid_post") for block in blocks]
    sums = np.zeros((len(sites), positions, width))
    norms, counts = np.zeros((len(sites), positions)), np.zeros(positions, np.int64)
    for rows in study.progress(batches, f"streams, {name}"):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", model.device)
        values = study.engine.run(model, batch, reads=sites, keep=0).values
        reached = batch.ids.shape[1]
        counts[:reached] += to_host(batch.mask.sum(0))
        for at, site in enumerate(sites):
            stream = widen(values[site]).double()
            real = batch.mask.to(stream.device)
            sums[at, :reached] += to_host(torch.where(real[..., None], stream, 0.0).sum(0))
            lengths = torch.linalg.vector_norm(stream, dim=-1)
            norms[at, :reached] += to_host(torch.where(real, lengths, 0.0).sum(0))
    seen = np.maximum(counts, 1)
    return Streams(tuple(blocks), sums / seen[:, None], norms / seen, counts)


def mean_norm_from(streams: Streams, first: int) -> Float[np.ndarray, " L"]:
    """Mean norm of the streams at the positions from ``first`` on, or at the last position where
    texts are shorter.
    """
    first = min(first, len(streams.texts) - 1)
    return np.average(streams.norm[:, first:], axis=1, weights=streams.texts[first:])


def difference_of(base: Streams, tuned: Streams) -> Differences:
    """What a model's mean streams have beyond the base's."""
    return Differences(base.blocks, tuned.mean - base.mean, base.norm, base.texts)


def differences_table(names: Sequence[str], by_model: Sequence[Differences]) -> Table:
    """The size of every model's mean differences, and their cosines with the first model's; no rows
    where the first model does not differ from the base.
    """
    changed = by_model[0].mean.any()
    records = [
        {
            "model_number": number,
            "model": name,
            "block": block,
            "position": position,
            "texts": one.texts[position],
            "norm": np.linalg.norm(one.mean[at, position]),
            "stream": one.stream[at, position],
            "cosine": cosine(one.mean[at, position], by_model[0].mean[at, position]),
        }
        for number, (name, one) in enumerate(zip(names, by_model, strict=True))
        for at, block in enumerate(one.blocks)
        for position in range(len(one.texts))
        if changed
    ]
    return records_table(DifferenceRow, KIND, records)


def cosine(one: Float[np.ndarray, " D"], other: Float[np.ndarray, " D"]) -> float:
    """Cosine of two vectors; NaN where one of them is 0."""
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else float("nan")
