"""Masks over attention heads at a named word, learned so that a source's information is carried over
(desiderata-based component masking, DCM; Davies et al. 2023, arXiv 2307.03637; as used by Prakash
et al. 2024, arXiv 2402.14811).

With a mask m in [0, 1] for every head, ``z <- m z + (1 - m) z_source`` at the word, and
``loss = - mean logit(target) + penalty * sum(1 - m)``. Only m is learned: the models are frozen and
source activations have no gradient. The gradient of m is exact: the gradient of the loss at the
blended output, times what m multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engines import Batch, Edit
from interp.experiments.head_patches import Head
from interp.experiments.scored_prompts import encoded_text
from interp.interventions.edits import BlendUnits, Observe
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.units import HEAD
from interp.prompts import TokenRow, padded_columns
from interp.study import Study


@dataclass(frozen=True)
class Fitting:
    """How a mask is learned; ``ties``: whether of masks with equal validation accuracy the one with
    ``more`` or with ``fewer`` heads is kept.
    """

    penalty: float = 0.01
    learning_rate: float = 0.1
    epochs: int = 2
    batch: int = 32
    validate_every: int = 4
    ties: str = "more"


@dataclass(frozen=True)
class FitStep:
    """A rounded mask during learning: after how many batches, its heads, and its accuracy on the
    validation rows.
    """

    step: int
    heads: int
    accuracy: float


@dataclass(frozen=True)
class FittedMask:
    """The chosen mask: its heads, the values m before rounding by head, and every mask that was
    tried.
    """

    heads: tuple[Head, ...]
    values: Mapping[Head, float]
    steps: Sequence[FitStep]


class MaskedModel:
    """One model on some rows, with heads at ``position`` patched from the rows' ``source``.

    Sources are read once. ``heads``: all that masks are about.
    """

    def __init__(
        self,
        study: Study,
        model: Model,
        rows: Sequence[TokenRow],
        source: str,
        position: str,
        heads: Sequence[Head],
    ) -> None:
        self.study, self.model, self.rows = study, model, rows
        self.source, self.position, self.heads = source, position, tuple(heads)
        self._layers = sorted({layer for layer, _ in heads})
        self._donated = self._read_sources()

    def _read_sources(self) -> dict[int, Float[Tensor, "N C"]]:
        """Head outputs of every row's source at its own word, by block."""
        texts = [row.sources[self.source] for row in self.rows]
        encoded = [encoded_text(text) for text in texts]
        sites = [HEAD.site(layer) for layer in self._layers]
        width = HEAD.n_channels(self.model.anatomy)
        found: dict[int, Tensor] = {}
        for rows in self.study.batches(encoded, self.model, 4 * len(sites) * width):
            batch = self._pad([texts[row].ids for row in rows])
            columns = padded_columns(
                [texts[row] for row in rows], self.position, batch.ids.shape[1]
            )
            run = self.study.engine.run(self.model, batch, reads=sites, keep=0)
            at = torch.arange(len(rows)), torch.tensor(columns)
            for layer, site in zip(self._layers, sites, strict=True):
                values = run.values[site][at]
                kept = found.setdefault(layer, values.new_zeros(len(texts), values.shape[-1]))
                kept[torch.tensor(rows, device=kept.device)] = values
        return found

    def _pad(self, ids: Sequence[Sequence[int]]) -> Batch:
        """A batch without a shared prefix: edits differ by row."""
        return replace(Batch.pad(ids, self.study.pad_id, device=self.model.device), prefix_length=0)

    def _batch(self, rows: Sequence[int]) -> tuple[Batch, Bool[Tensor, "B T"]]:
        texts = [self.rows[row].prompt for row in rows]
        batch = self._pad([text.ids for text in texts])
        columns = padded_columns(texts, self.position, batch.ids.shape[1])
        cells = torch.zeros_like(batch.mask)
        cells[torch.arange(len(rows)), torch.tensor(columns)] = True
        return batch, cells

    def _edits(
        self, sources: Sequence[int], cells: Bool[Tensor, "B T"], mask: Mapping[Head, float]
    ) -> dict[int, Edit]:
        """By block, the blend of the heads' own outputs with those of the sources of some rows."""
        index = torch.tensor(sources, device=self.model.device)
        width = self.model.anatomy.head_width
        edits: dict[int, Edit] = {}
        for layer in self._layers:
            donated = self._donated[layer][index]
            own = {head: m for (at, head), m in mask.items() if at == layer and m != 1}
            if not own:
                continue
            share = torch.ones(donated.shape[-1], dtype=torch.float64)
            for head, m in own.items():
                share[head * width : (head + 1) * width] = m
            edits[layer] = BlendUnits(HEAD.site(layer), donated[:, None], share, cells)
        return edits

    def predictions(
        self,
        rows: Sequence[int],
        heads: Sequence[Head] = (),
        sources: Sequence[int] | None = None,
    ) -> Int[np.ndarray, " R"]:
        """The most likely token after each of some rows with these heads patched from its source, or
        from the sources of other rows (``sources``).
        """
        found = np.zeros(len(rows), np.int64)
        encoded = [encoded_text(self.rows[row].prompt) for row in rows]
        mask = dict.fromkeys(heads, 0.0)
        width = HEAD.n_channels(self.model.anatomy)
        for places in self.study.batches(encoded, self.model, 8 * width):
            chosen = [rows[place] for place in places]
            batch, cells = self._batch(chosen)
            donors = chosen if sources is None else [sources[place] for place in places]
            edits = list(self._edits(donors, cells, mask).values())
            run = self.study.engine.run(self.model, batch, edits=edits, keep=1)
            found[places] = to_host(run.require_logits()[:, -1].argmax(-1))
        return found

    def targets(self, rows: Sequence[int]) -> Int[np.ndarray, " R"]:
        """The source's target token of some rows."""
        return np.array([self.rows[row].targets[self.source] for row in rows], np.int64)

    def accuracy(self, rows: Sequence[int], heads: Sequence[Head] = ()) -> float:
        """Share of some rows whose most likely token is the target."""
        return float((self.predictions(rows, heads) == self.targets(rows)).mean())

    def loss_and_gradient(
        self, rows: Sequence[int], mask: Mapping[Head, float], penalty: float
    ) -> tuple[float, dict[Head, float]]:
        """The loss of a batch at a mask, and its derivative by the mask of every head."""
        batch, cells = self._batch(rows)
        blends, own = self._edits(rows, cells, mask), {}
        sites = [HEAD.site(layer) for layer in self._layers]
        edits: list[Edit] = []
        for layer, site in zip(self._layers, sites, strict=True):
            edits.append(Observe(site, lambda value, site=site: own.__setitem__(site, value)))
            edits += [blends[layer]] if layer in blends else []
        targets = torch.tensor(self.targets(rows), device=self.model.device)[:, None]
        logits: list[Tensor] = []

        def objective(kept: Float[Tensor, "B kept V"]) -> Float[Tensor, " B"]:
            value = widen(kept[:, -1]).gather(1, targets.to(kept.device))[:, 0]
            logits.append(value.detach())
            return value

        run = self.study.engine.run(
            self.model, batch, edits=edits, gradients_at=sites, gradient_of=objective, keep=1
        )
        slopes = {
            layer: self._slope(run.gradients[site], own[site], layer, rows, cells)
            for layer, site in zip(self._layers, sites, strict=True)
        }
        patched = sum(1 - mask[head] for head in self.heads)
        loss = -float(to_host(logits[0].double().mean())) + penalty * patched
        return loss, {
            (layer, head): -float(slopes[layer][head]) / len(rows) - penalty
            for layer, head in self.heads
        }

    def _slope(
        self,
        gradient: Float[Tensor, "B T C"],
        own: Float[Tensor, "B T C"],
        layer: int,
        rows: Sequence[int],
        cells: Bool[Tensor, "B T"],
    ) -> Float[np.ndarray, " H"]:
        """Sum over rows of ``<gradient, own output - source's>``, by head."""
        donated = self._donated[layer][torch.tensor(rows, device=self.model.device)]
        difference = widen(own.detach()[cells]) - widen(donated)
        terms = (widen(gradient[cells]) * difference).double().sum(0)
        return to_host(HEAD.gather(self.model.anatomy, terms))


def fit_mask(
    masked: MaskedModel,
    train: Sequence[int],
    validation: Sequence[int],
    fitting: Fitting,
    seed: int,
    title: str,
) -> FittedMask:
    """Learn a mask with Adam from 1 for every head, clamped to [0, 1] before every step; the rounded
    mask with the best validation accuracy is kept, none being the first.
    """
    m = torch.ones(len(masked.heads), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([m], lr=fitting.learning_rate)
    generator = np.random.default_rng(seed)
    order = [train[at] for _ in range(fitting.epochs) for at in generator.permutation(len(train))]
    starts = range(0, len(order), fitting.batch)
    steps = [FitStep(0, 0, masked.accuracy(validation))]
    best: tuple[FitStep, tuple[Head, ...], dict[Head, float]] = steps[0], (), _by_head(masked, m)
    for step, start in enumerate(masked.study.progress(starts, title), 1):
        with torch.no_grad():
            m.clamp_(0, 1)
        rows = order[start : start + fitting.batch]
        _, gradient = masked.loss_and_gradient(rows, _by_head(masked, m), fitting.penalty)
        m.grad = torch.tensor([gradient[head] for head in masked.heads], dtype=m.dtype)
        optimiser.step()
        if step % fitting.validate_every and step < len(starts):
            continue
        values = _by_head(masked, m.detach().clamp(0, 1))
        heads = tuple(head for head, value in values.items() if value < 0.5)
        steps.append(FitStep(step, len(heads), masked.accuracy(validation, heads)))
        if _is_better(steps[-1], best[0], fitting.ties):
            best = steps[-1], heads, values
    return FittedMask(best[1], best[2], steps)


def _by_head(masked: MaskedModel, m: Tensor) -> dict[Head, float]:
    return dict(zip(masked.heads, to_host(m.detach()).tolist(), strict=True))


def _is_better(new: FitStep, old: FitStep, ties: str) -> bool:
    if new.accuracy != old.accuracy:
        return new.accuracy > old.accuracy
    return new.heads > old.heads if ties == "more" else new.heads < old.heads


def split_rows(clusters: Sequence[str], shares: Sequence[int], seed: int) -> list[list[int]]:
    """Rows in parts with these shares of the clusters, drawn at random; no cluster is in two."""
    names = sorted(set(clusters))
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.round(np.cumsum(shares) / sum(shares) * len(names)).astype(int)
    part = {}
    for place, at in enumerate(order):
        part[names[at]] = int(np.searchsorted(ends, place, side="right"))
    return [
        [row for row, cluster in enumerate(clusters) if part[cluster] == number]
        for number in range(len(shares))
    ]


__all__ = [
    "FitStep",
    "FittedMask",
    "Fitting",
    "MaskedModel",
    "fit_mask",
    "split_rows",
]
