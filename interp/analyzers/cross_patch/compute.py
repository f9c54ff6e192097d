"""Margins of the two by two: one model's blocks below a depth, the other's from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyzers.cross_patch.exchanged import NONE, other_prompts
from interp.capture import make_batch
from interp.engines import Batch, Engine
from interp.experiments.first_divergence import Divergence, first_divergences
from interp.interventions.edits import StartFromStream
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.models.pair import Pair
from interp.sites import Site
from interp.study import Study

READOUTS = ("base", "tuned")
"""Models whose final norm and head read a cell, in the order of the first axis of ``margins``."""
TERMS = ("late_on_base", "late_on_tuned", "interaction", "upstream_in_base", "upstream_in_tuned")
PADDING = 5


@dataclass(frozen=True)
class CrossPatch:
    """All divergences of a pair and their margins.

    ``margins[readout, divergence, depth, upstream, late]`` is the logit of the fine-tuned model's token
    minus that of the base's, in float64; upstream and late are 0 for the base and 1 for the
    fine-tuned model. ``native[divergence, model]`` is each model's own margin for its own token, and
    ``noise`` the size of its rounding. ``exchanged`` are the margins of the tokens of other prompts,
    by the fine-tuned model's readout, NaN where no other prompt has other tokens.
    """

    divergences: Sequence[Divergence]
    margins: Float[np.ndarray, "2 E L 2 2"]
    native: Float[np.ndarray, "E 2"]
    noise: float
    exchanged: Float[np.ndarray, "D E L 2 2"] | None = None

    @property
    def kept(self) -> Bool[np.ndarray, " E"]:
        """Divergences whose native margins are both at least twice the noise."""
        return np.all(self.native >= 2 * self.noise, axis=1)

    def terms(self, readout: str) -> dict[str, Float[np.ndarray, "E L"]]:
        """Every term by name, and ``shift``, the native difference, in logits."""
        return _terms(self.margins[READOUTS.index(readout)])

    def exchanged_shares(self, depth: int) -> list[dict[str, float | int]]:
        """For every draw of tokens of other prompts the mean of every term over the kept divergences
        that have some, over the mean shift of their *own* tokens; with ``shift`` and the number of
        ``divergences``. Nothing where none has any.
        """
        if self.exchanged is None:
            return []
        own = self.terms("tuned")["shift"][:, depth]
        found = []
        for cells in self.exchanged[:, :, depth]:
            rows = self.kept & ~np.isnan(cells[:, 0, 0])
            if rows.any():
                shift = float(own[rows].mean())
                shares = {name: float(term[rows].mean()) for name, term in _terms(cells).items()}
                shares |= {name: shares[name] / shift for name in TERMS}
                found.append({"divergences": int(rows.sum()), **shares})
        return found

    def shares(self, depth: int, readout: str = "tuned") -> dict[str, float]:
        """Mean of every term over kept divergences at the place ``depth`` of the depths, over the mean
        shift; NaN without one.
        """
        if not self.kept.any():
            return dict.fromkeys((*TERMS, "shift"), float("nan"))
        means = {
            name: float(values[self.kept, depth].mean())
            for name, values in self.terms(readout).items()
        }
        shift = means["shift"]
        return {**{name: means[name] / shift for name in TERMS}, "shift": shift}


def _terms(cells: Float[np.ndarray, "*E 2 2"]) -> dict[str, Float[np.ndarray, "*E"]]:
    late_on_base = cells[..., 0, 1] - cells[..., 0, 0]
    late_on_tuned = cells[..., 1, 1] - cells[..., 1, 0]
    return {
        "late_on_base": late_on_base,
        "late_on_tuned": late_on_tuned,
        "interaction": late_on_tuned - late_on_base,
        "upstream_in_base": cells[..., 1, 0] - cells[..., 0, 0],
        "upstream_in_tuned": cells[..., 1, 1] - cells[..., 0, 1],
        "shift": cells[..., 1, 1] - cells[..., 0, 0],
    }


def cross_patch(
    study: Study,
    pair: Pair,
    depths: Sequence[int],
    max_new_tokens: int,
    title: str,
    exchanges: int = 0,
) -> CrossPatch:
    """Find the divergences of a pair on the study's prompts, and measure all cells at some depths;
    also for the tokens of ``exchanges`` random other prompts each.
    """
    divergences = first_divergences(study, pair, max_new_tokens, f"{title}, first divergence")
    count = len(divergences)
    margins = np.full((2, count, len(depths), 2, 2), np.nan)
    others = other_prompts(study, divergences, exchanges)
    exchanged = np.full((exchanges, count, len(depths), 2, 2), np.nan)
    native, noise = np.full((count, 2), np.nan), 0.0
    models = pair.require_base("cross-patching"), pair.tuned
    encoded = [divergence.text(study) for divergence in divergences]
    pairs = np.array([(one.base_token, one.tuned_token) for one in divergences]).reshape(-1, 2)
    anatomy = pair.tuned.anatomy
    per_token = 2 * (len(depths) + 2) * anatomy.width * pair.tuned.dtype.itemsize
    groups = study.batches(encoded, pair.tuned, per_token) if divergences else []
    for rows in study.progress(groups, f"{title}, cells"):
        batch, _ = make_batch(encoded, rows, study.pad_id, pair.tuned.device)
        device = pair.tuned.device
        numbers = np.concatenate([np.array(rows)[:, None], others[rows].clip(0)], 1)
        read = torch.from_numpy(pairs[numbers]).to(device)
        tokens = read[:, 0]
        cells = to_host(_cells(study.engine, models, batch, read, depths)).astype(np.float64)
        margins[:, rows] = cells[..., 0].transpose(0, 4, 1, 2, 3)
        there = others[rows].T != NONE
        exchanged[:, rows] = np.where(
            there[..., None, None, None], cells[1, ..., 1:].transpose(4, 3, 0, 1, 2), np.nan
        )
        signs = (-1, 1)
        for at, model in enumerate(models):
            once, largest = _native_margin(study.engine, model, batch, tokens)
            again, _ = _native_margin(
                study.engine, model, _other_shape(study, encoded, rows, batch), tokens
            )
            native[rows, at] = signs[at] * to_host(once)
            measured = (once - again).abs().max()
            step = torch.finfo(model.dtype).eps * largest
            noise = max(noise, float(to_host(torch.maximum(measured, step))))
    return CrossPatch(divergences, margins, native, noise, exchanged)


def _cells(
    engine: Engine,
    models: Sequence[Model],
    batch: Batch,
    tokens: Int[Tensor, "B K 2"],
    depths: Sequence[int],
) -> Float[Tensor, "2 L 2 2 B K"]:
    """Margins of all cells of a batch, for K pairs of tokens each. Blocks below a depth run once per
    model: passes of the other model's blocks start from the stream that entered the depth.
    """
    last = Site(models[0].anatomy.n_layers - 1, "hook_resid_post")
    sites = [Site(depth, "hook_resid_pre") for depth in depths]
    inputs = [_on_device(batch, model) for model in models]
    streams = [
        engine.run(model, own, reads=[*sites, last], keep=0).values
        for model, own in zip(models, inputs, strict=True)
    ]
    native = [_readouts(engine, models, values[last][:, -1:], tokens) for values in streams]
    rows = []
    for site in sites:
        cell = {(0, 0): native[0], (1, 1): native[1]}
        for upstream, late in ((0, 1), (1, 0)):
            start = StartFromStream(site, streams[upstream][site])
            run = engine.run(models[late], inputs[late], reads=[last], edits=[start], keep=0)
            cell[upstream, late] = _readouts(engine, models, run.values[last][:, -1:], tokens)
        rows.append(
            torch.stack([torch.stack([cell[u, late] for late in (0, 1)], 1) for u in (0, 1)], 1)
        )
    return torch.stack(rows, 1)


def _readouts(
    engine: Engine,
    models: Sequence[Model],
    stream: Float[Tensor, "B one D"],
    tokens: Int[Tensor, "B K 2"],
) -> Float[Tensor, "2 B K"]:
    """The margin by each model's final norm and head. Every cell is read in a pass of one shape, so
    that equal streams give equal bits.
    """
    margins = []
    for model in models:
        shape = stream.shape[:2]
        placeholder = Batch(
            torch.zeros(shape, dtype=torch.int64, device=model.device),
            torch.ones(shape, dtype=torch.bool, device=model.device),
        )
        start = StartFromStream(Site(model.anatomy.n_layers - 1, "hook_resid_post"), stream)
        logits = engine.run(model, placeholder, edits=[start], keep=1).require_logits()
        margins.append(_margin(logits[:, -1], tokens))
    return torch.stack(margins)


def _margin(logits: Float[Tensor, "B V"], tokens: Int[Tensor, "B K 2"]) -> Float[Tensor, "B K"]:
    chosen = widen(logits.gather(1, tokens.flatten(1).to(logits.device))).double()
    first, second = chosen.unflatten(1, (-1, 2)).unbind(-1)
    return (second - first).to(tokens.device)


def _native_margin(
    engine: Engine, model: Model, batch: Batch, tokens: Int[Tensor, "B 2"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, ""]]:
    """A model's own margin, and the largest size of the logits in it."""
    logits = engine.run(model, _on_device(batch, model), keep=1).require_logits()
    logits = logits[: len(tokens), -1]
    chosen = logits.gather(1, tokens.to(logits.device))
    return _margin(logits, tokens[:, None])[:, 0], widen(chosen).abs().max().to(tokens.device)


def _on_device(batch: Batch, model: Model) -> Batch:
    return (
        batch
        if batch.ids.device == model.device
        else Batch(batch.ids.to(model.device), batch.mask.to(model.device))
    )


def _other_shape(study: Study, encoded: Sequence, rows: Sequence[int], batch: Batch) -> Batch:
    """The same texts in a batch of another shape, to see how far rounding goes."""
    ids = [encoded[row].ids for row in rows]
    if study.single_prompt_reason:
        return Batch.pad([*ids, *ids], study.pad_id, device=batch.ids.device)
    width = batch.ids.shape[1] + PADDING
    return Batch.pad(ids, study.pad_id, device=batch.ids.device, length=width)
