"""A circuit of heads evaluated by mean ablation: every head that is not in it gets its mean output.

Means are per head and position over other prompts (arXiv 2402.14811). At named positions the heads
of the circuit keep their outputs; at all other positions every head gets its mean. MLPs are never
ablated. Where prompts are of equal length, a mean is of one column; otherwise of one named
position, and of all other tokens together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.engines import Batch
from interp.experiments.path_patching import Patching
from interp.interventions.edits import ReplaceByRow
from interp.maths.host import to_host
from interp.models.units import HEAD
from interp.prompts import TokenText, padded_columns

HeadsAt = Mapping[str, Bool[np.ndarray, "L H"]]
"""Heads by named position."""
_OTHER = ""


@dataclass(frozen=True)
class Means:
    """Mean head outputs by column where ``by_column``, else by named position (and ``""`` for other
    tokens): [L, C] each, in float64.
    """

    by_column: bool
    values: Mapping[int | str, Float[Tensor, "L C"]]

    def of(
        self, texts: Sequence[TokenText], names: Sequence[str], width: int
    ) -> Float[Tensor, "L B T C"]:
        """The means for texts padded on the left to ``width``; padding gets any."""
        rows = []
        for text in texts:
            offset = width - len(text.ids)
            keys: list[int | str] = [_OTHER] * width
            if self.by_column:
                keys = [max(0, column - offset) for column in range(width)]
            else:
                for name in names:
                    keys[offset + text.columns[name]] = name
            rows.append(torch.stack([self.values[key] for key in keys], 1))
        return torch.stack(rows, 1)


def mean_outputs(
    batches: Sequence[Patching], names: Sequence[str], texts: Callable[[Patching], list[TokenText]]
) -> Means:
    """Means over the texts of some batches, streamed."""
    lengths = {len(text.ids) for patching in batches for text in texts(patching)}
    by_column = len(lengths) == 1
    sums: dict[int | str, Tensor] = {}
    counts: dict[int | str, int] = {}

    def add(key: int | str, values: Tensor, count: int) -> None:
        sums[key] = sums[key] + values if key in sums else values
        counts[key] = counts.get(key, 0) + count

    for patching in batches:
        own = texts(patching)
        batch = patching.batch(own)
        sites = [HEAD.site(layer) for layer in range(patching.model.anatomy.n_layers)]
        run = patching.engine.run(patching.model, batch, reads=sites, keep=0)
        patching.counter.passes[0] += len(own)
        z = torch.stack([run.values[site].to(batch.ids.device) for site in sites]).double()
        width = batch.ids.shape[1]
        if by_column:
            for column in range(width):
                add(column, z[:, :, column].sum(1), len(own))
            continue
        other = batch.mask.clone()
        at = torch.arange(len(own), device=other.device)
        for name in names:
            columns = torch.tensor(padded_columns(own, name, width), device=other.device)
            other[at, columns] = False
            add(name, z[:, at, columns].sum(1), len(own))
        add(_OTHER, z[:, other].sum(1), int(to_host(other.sum())))
    return Means(by_column, {key: value / max(counts[key], 1) for key, value in sums.items()})


def ablation_mask(
    patching: Patching, batch: Batch, ablated: HeadsAt, *, elsewhere: bool
) -> Bool[Tensor, "L B T H"]:
    """Which head outputs are replaced. ``ablated``: by named position; ``elsewhere``: all heads at
    all other positions. A token with two names is ablated where either says so, unless the rest is
    ablated: then where both do.
    """
    texts = [row.prompt for row in patching.rows]
    anatomy = patching.model.anatomy
    shape = (anatomy.n_layers, *batch.ids.shape, anatomy.n_heads)
    mask = torch.full(shape, elsewhere)
    at = torch.arange(len(texts))
    for name, heads in ablated.items():
        columns = torch.tensor(padded_columns(texts, name, batch.ids.shape[1]))
        own = torch.from_numpy(np.ascontiguousarray(heads))[:, None]
        before = mask[:, at, columns]
        mask[:, at, columns] = before & own if elsewhere else before | own
    return mask.to(batch.ids.device)


def right_under_ablation(
    patching: Patching, means: Means, ablated: HeadsAt, *, elsewhere: bool
) -> Bool[np.ndarray, " B"]:
    """Whether the answer is the most likely token when these heads get their means."""
    texts = [row.prompt for row in patching.rows]
    batch = patching.batch(texts)
    anatomy, width = patching.model.anatomy, batch.ids.shape[1]
    mask = ablation_mask(patching, batch, ablated, elsewhere=elsewhere)
    values = means.of(texts, list(ablated), width).to(batch.ids.device)
    channels = torch.arange(anatomy.n_heads * anatomy.head_width, device=batch.ids.device)
    edits = [
        ReplaceByRow(
            HEAD.site(layer),
            values[layer].to(patching.model.dtype),
            channels,
            mask[layer].repeat_interleave(anatomy.head_width, -1),
        )
        for layer in range(anatomy.n_layers)
        if bool(to_host(mask[layer].any()))
    ]
    run = patching.engine.run(patching.model, batch, edits=edits, keep=1)
    patching.counter.passes[0] += len(texts)
    logits = run.require_logits()[:, -1]
    return to_host(logits.argmax(-1) == patching.answers.to(logits.device)) > 0


@dataclass(frozen=True)
class Evaluation:
    """One model on some prompts, and the means with which its heads are ablated."""

    batches: Sequence[Patching]
    means: Means

    def limited(self, count: int) -> Evaluation:
        """On the first ``count`` prompts."""
        kept, left = [], count
        for patching in self.batches:
            if left > 0:
                kept.append(replace(patching, rows=patching.rows[:left]))
            left -= len(patching.rows)
        return replace(self, batches=kept)

    def full(self) -> Bool[np.ndarray, " N"]:
        """Right answers of the whole model."""
        return np.concatenate([patching.right() for patching in self.batches])

    def circuit(self, kept: HeadsAt) -> Bool[np.ndarray, " N"]:
        """Right answers with only these heads at their positions, all other outputs at their
        means.
        """
        ablated = {name: ~heads for name, heads in kept.items()}
        return self._right(ablated, elsewhere=True)

    def without(self, removed: HeadsAt) -> Bool[np.ndarray, " N"]:
        """Right answers of the model with only these heads at their positions at their means."""
        return self._right(removed, elsewhere=False)

    def _right(self, ablated: HeadsAt, *, elsewhere: bool) -> Bool[np.ndarray, " N"]:
        return np.concatenate(
            [
                right_under_ablation(patching, self.means, ablated, elsewhere=elsewhere)
                for patching in self.batches
            ]
        )
