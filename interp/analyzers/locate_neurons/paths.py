"""Sums of attributions along a path, for each quadrature rule; shared by the ``gradients``
methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.locate_neurons.scores import MethodOptions, chosen
from interp.capture import by_prompt, make_batch
from interp.engines import Batch, Direction, Edit, Part
from interp.interventions.edits import Blend, Replace
from interp.maths.host import to_host
from interp.maths.moments import sum_of
from interp.maths.precision import widen
from interp.maths.quadrature import Rule
from interp.metrics import Objective
from interp.models.anatomy import Anatomy
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Site
from interp.study import Study

EPSILON = float(np.finfo(np.float32).eps)
Values = dict[Site, Tensor]
Way = Literal["live", "fixed", "none"]


@dataclass
class Sums:
    """Running sums over prompts of the channels' attributions and of their magnitudes.

    ``whole``: by prompt, the attribution of all channels and biases together.
    """

    unit: Unit
    anatomy: Anatomy
    score: Float[Tensor, "L C"]
    magnitude: Float[Tensor, "L C"]
    whole: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, model: Model, unit: Unit, prompts: int) -> "Sums":
        """Sums over no prompts."""
        shape = (model.anatomy.n_layers, unit.n_channels(model.anatomy))
        zero = torch.zeros(shape, dtype=torch.float64, device=model.device)
        return cls(unit, model.anatomy, zero, zero.clone(), np.zeros(prompts))

    def add(
        self,
        layer: int,
        terms: Float[Tensor, " N"],
        sizes: Float[Tensor, " N"],
        weight: float = 1.0,
    ) -> None:
        """Add sums over the cells of a batch."""
        self.score[layer] += weight * terms.to(self.score.device)
        self.magnitude[layer] += weight * sizes.to(self.score.device)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean score of each unit, ``[L, U]``, and the rounding error to expect of it."""
        scale = 1 / max(self.count, 1)
        score, size = (
            self.unit.gather(self.anatomy, part * scale) for part in (self.score, self.magnitude)
        )
        return to_host(score), 8 * EPSILON * to_host(size)


def bytes_of(model: Model, unit: Unit) -> int:
    """Approximate bytes per token of a batch: values, gradients and what a backward pass keeps."""
    return 16 * model.anatomy.n_layers * (unit.n_channels(model.anatomy) + 2 * model.anatomy.width)


class Path:
    """The path between two models' contributions, and sums of attributions at some of its nodes.

    ``ends``: by name, the metric of every prompt with the base, the start of the path and the
    fine-tuned model.
    """

    def __init__(
        self, study: Study, asked: MethodOptions, way: Way, from_zero: bool, rules: Sequence[Rule]
    ) -> None:
        self._study, self._asked, self._unit = study, asked, asked.unit
        self._way: Way = way
        self._tuned, self._base = (
            study.pair.tuned,
            None if from_zero else study.pair.require_base("this method"),
        )
        self._layers = range(self._tuned.anatomy.n_layers)
        self._inputs = [self._unit.site(layer) for layer in self._layers]
        self._outputs = [self._unit.contribution(layer) for layer in self._layers]
        # a float16 gradient scaled by a small share would underflow at the units, not at their
        # outputs
        self._pulled = way == "fixed" or self._tuned.dtype == torch.float16
        self._rewritten = [self._moved(layer) is not None for layer in self._layers]
        self._encoded = study.decision_inputs("positive")
        self.sums = [
            (rule, Sums.empty(self._tuned, self._unit, len(self._encoded))) for rule in rules
        ]
        names = ("start", "end") if self._base is None else ("base", "start", "end")
        self.ends = {name: np.zeros(len(self._encoded)) for name in names}
        self._swept = False

    def _moved(self, layer: int) -> Float[Tensor, "D N"] | None:
        """Change of the write weights from base to fine-tuned model; None where there is none."""
        if self._base is None:
            return None
        moved = self._unit.write_weights(self._tuned, layer) - self._unit.write_weights(
            self._base, layer
        )
        return moved if bool(to_host(moved.any())) else None

    def sweep(self, nodes: Sequence[float]) -> None:
        """Run all prompts at some nodes and add them to the sums of each rule by its weights."""
        groups = self._study.batches(self._encoded, self._tuned, bytes_of(self._tuned, self._unit))
        for rows in self._study.progress(
            groups, f"gradients, {self._way} path, {len(nodes)} steps"
        ):
            self._walk(rows, nodes)
        self._swept = True

    def _walk(self, rows: list[int], nodes: Sequence[float]) -> None:
        batch, roles = make_batch(self._encoded, rows, self._study.pad_id, self._tuned.device)
        aim = self._study.objective("positive", rows)
        before, after = self._ends(batch, aim, rows)
        over = chosen(roles, self._asked.positions)
        sites = [*self._inputs, *self._outputs]
        seen: _Seen | None = None
        for share in nodes:
            run = self._study.engine.run(
                self._tuned,
                batch,
                reads=self._outputs if self._way == "fixed" else sites,
                edits=between(before, after, share, self._way, self._outputs),
                gradients_at=self._outputs if self._pulled else sites,
                gradient_of=aim.of,
                keep=aim.keep,
                over=over,
                along=[Direction(site, before[site], share) for site in self._outputs],
            )
            if seen is None:
                seen = _Seen(self, run.parts, before, after)
            whole = to_host(by_prompt(run.require_along(), len(rows)).sum(1))
            rules = {
                at: rule.weights[share]
                for at, (rule, _) in enumerate(self.sums)
                if share in rule.weights
            }
            for at, weight in rules.items():
                self.sums[at][1].whole[rows] += weight * whole
            for layer in self._layers:
                seen.take(layer, run.parts, share, rules)
        if seen is not None:
            seen.finish()
        if not self._swept:
            for _, sums in self.sums:
                sums.count += len(rows)

    def _ends(self, batch: Batch, aim: Objective, rows: list[int]) -> tuple[Values, Values]:
        """Values at the start of the path, and at its end where they are fixed; the first time also
        the metric at both.
        """
        engine, fixed = self._study.engine, self._way == "fixed"
        sites = [*self._inputs, *self._outputs]
        runs, after = {}, {}
        if fixed or not self._swept:
            runs["end"] = engine.run(
                self._tuned, batch, reads=sites if fixed else (), keep=aim.keep
            )
            after = runs["end"].values
        if self._base is None:
            before = self._silent(batch)
        else:
            runs["base"] = engine.run(self._base, batch, reads=sites, keep=aim.keep)
            before = runs["base"].values
        if not self._swept:
            silenced = [Replace(site, before[site]) for site in self._outputs]
            runs["start"] = engine.run(self._tuned, batch, edits=silenced, keep=aim.keep)
            for name, run in runs.items():
                self.ends[name][rows] = to_host(aim.of(run.require_logits()))
        return before, after

    def _silent(self, batch: Batch) -> Values:
        """Zeros for units that write nothing, expanded views without memory."""
        anatomy = self._tuned.anatomy
        zero = torch.zeros((), dtype=self._tuned.dtype, device=self._tuned.device)
        widths = ((self._inputs, self._unit.n_channels(anatomy)), (self._outputs, anatomy.width))
        return {
            site: zero.expand(*batch.ids.shape, width) for sites, width in widths for site in sites
        }


class _Seen:
    """State of one batch: activations at the start by layer and part, and gradients summed by
    rule.
    """

    def __init__(self, path: Path, parts: Sequence[Part], before: Values, after: Values) -> None:
        self._path = path
        inputs = path._inputs
        # values are moved out of the batch's layout, which is not needed again
        self._then, self._now = (
            {site: _cut(parts, held.pop(site)) for site in inputs if site in held}
            for held in (before, after)
        )
        self._gradients: dict[tuple[int, int, int], Tensor] = {}

    def take(
        self, layer: int, parts: Sequence[Part], share: float, rules: Mapping[int, float]
    ) -> None:
        """Add one node's terms for a layer, by its weight in every rule that has the node."""
        path = self._path
        site, output = path._inputs[layer], path._outputs[layer]
        for index, part in enumerate(parts):
            pulled = _rows(part, part.gradients[output])
            if path._rewritten[layer] or path._way == "fixed":
                for at, weight in rules.items():
                    key = layer, index, at
                    self._gradients[key] = self._gradients.get(key, 0.0) + weight * pulled
            if path._way == "fixed":
                continue
            then, now = self._then[site][index], _rows(part, part.values[site])
            if path._pulled:
                reached = pulled @ path._unit.write_weights(path._tuned, layer).to(pulled)
            else:  # the blend scales the gradient that reaches h by the share
                reached = _rows(part, part.gradients[site]) / share
            terms, sizes = (
                sum_of((now - then) * reached),
                sum_of((now.abs() + then.abs()) * reached.abs()),
            )
            for at, weight in rules.items():
                path.sums[at][1].add(layer, terms, sizes, weight)

    def finish(self) -> None:
        """Add each channel's attribution, with c - c_base written as (h - h_base) W + h_base (W -
        W_base), and its magnitude.

            In this form it is exactly zero where nothing changed.
        """
        path = self._path
        for layer in path._layers:
            held = [key for key in self._gradients if key[0] == layer]
            if not held:
                continue
            moved, site = path._moved(layer), path._inputs[layer]
            write = path._unit.write_weights(path._tuned, layer) if path._way == "fixed" else None
            for key in held:
                _, index, at = key
                sums, gradient, then = (
                    path.sums[at][1],
                    self._gradients.pop(key),
                    self._then[site][index],
                )
                if moved is not None:
                    terms = sum_of(then * (gradient @ moved.to(gradient)))
                    sums.add(layer, terms, torch.zeros_like(terms))
                if write is not None:
                    now, reached = self._now[site][index], gradient @ write.to(gradient)
                    sums.add(
                        layer,
                        sum_of((now - then) * reached),
                        sum_of((now.abs() + then.abs()) * reached.abs()),
                    )


def _cut(parts: Sequence[Part], value: Float[Tensor, "B T W"]) -> list[Tensor]:
    return [_rows(part, part.cells(value)) for part in parts]


def _rows(part: Part, value: Float[Tensor, "r n W"]) -> Float[Tensor, "K W"]:
    """The cells that are summed over, in float64 or float32."""
    return widen(value[part.at.to(value.device)])


def between(
    before: Values, after: Values, share: float, way: Way, sites: Sequence[Site]
) -> list[Edit]:
    """Edits that set the units' output in every block to ``share`` of the way from base to
    fine-tuned model.
    """
    if way == "none":
        return []
    if way == "live":
        return [Blend(site, before[site], share) for site in sites]
    return [
        Replace(site, torch.lerp(before[site].to(after[site]), after[site], share))
        for site in sites
    ]
