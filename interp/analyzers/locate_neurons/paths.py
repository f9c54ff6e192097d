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

from interp.analyzers.locate_neurons.scores import ROUNDING, MethodOptions, position_mask
from interp.capture import group_by_prompt, make_batch
from interp.engines import Batch, BatchPart, Direction, Edit
from interp.interventions.edits import Blend, Replace
from interp.maths.host import to_host
from interp.maths.moments import float64_sum
from interp.maths.precision import widen
from interp.maths.quadrature import Rule
from interp.metrics import Objective
from interp.models.anatomy import Anatomy
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Site
from interp.study import Study

Values = dict[Site, Tensor]
PathKind = Literal["live", "fixed", "none"]


@dataclass
class Sums:
    """Running sums over prompts of the channels' attributions and of their magnitudes.

    ``total``: by prompt, the attribution of all channels and biases together.
    """

    unit: Unit
    anatomy: Anatomy
    score: Float[Tensor, "L C"]
    magnitude: Float[Tensor, "L C"]
    total: np.ndarray
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
        return to_host(score), ROUNDING * to_host(size)


def bytes_per_token(model: Model, unit: Unit) -> int:
    """Approximate bytes per token of a batch: values, gradients and what a backward pass keeps."""
    return 16 * model.anatomy.n_layers * (unit.n_channels(model.anatomy) + 2 * model.anatomy.width)


class Path:
    """The path between two models' contributions, and sums of attributions at some of its nodes.

    ``sums``: by rule. ``endpoints``: by name, the metric of every prompt with the base, the start of the path and the
    fine-tuned model.
    """

    def __init__(
        self,
        study: Study,
        options: MethodOptions,
        kind: PathKind,
        from_zero: bool,
        rules: Sequence[Rule],
    ) -> None:
        self._study, self._options, self._unit = study, options, options.unit
        self._kind: PathKind = kind
        self._tuned, self._base = (
            study.pair.tuned,
            None if from_zero else study.pair.require_base("this method"),
        )
        self._layers = range(self._tuned.anatomy.n_layers)
        self._inputs = [self._unit.site(layer) for layer in self._layers]
        self._outputs = [self._unit.contribution(layer) for layer in self._layers]
        # a float16 gradient scaled by a small share would underflow at the units, not at their
        # outputs
        self._from_outputs = kind == "fixed" or self._tuned.dtype == torch.float16
        self._has_weight_change = [self._weight_change(layer) is not None for layer in self._layers]
        self._encoded = study.decision_inputs("positive")
        self._rules = rules
        self.sums = [Sums.empty(self._tuned, self._unit, len(self._encoded)) for _ in rules]
        names = ("start", "end") if self._base is None else ("base", "start", "end")
        self.endpoints = {name: np.zeros(len(self._encoded)) for name in names}
        self._has_run = False

    def _weight_change(self, layer: int) -> Float[Tensor, "D N"] | None:
        """Change of the write weights from base to fine-tuned model; None where there is none."""
        if self._base is None:
            return None
        change = self._unit.write_weights(self._tuned, layer) - self._unit.write_weights(
            self._base, layer
        )
        return change if bool(to_host(change.any())) else None

    def run_nodes(self, nodes: Sequence[float]) -> None:
        """Run all prompts at some nodes and add them to the sums of each rule by its weights."""
        groups = self._study.batches(
            self._encoded, self._tuned, bytes_per_token(self._tuned, self._unit)
        )
        for rows in self._study.progress(
            groups, f"gradients, {self._kind} path, {len(nodes)} steps"
        ):
            self._run_batch(rows, nodes)
        self._has_run = True

    def _run_batch(self, rows: list[int], nodes: Sequence[float]) -> None:
        batch, roles = make_batch(self._encoded, rows, self._study.pad_id, self._tuned.device)
        aim = self._study.objective("positive", rows)
        before, after = self._endpoints(batch, aim, rows)
        over = position_mask(roles, self._options.positions)
        sites = [*self._inputs, *self._outputs]
        state: _BatchState | None = None
        for share in nodes:
            run = self._study.engine.run(
                self._tuned,
                batch,
                reads=self._outputs if self._kind == "fixed" else sites,
                edits=path_edits(before, after, share, self._kind, self._outputs),
                gradients_at=self._outputs if self._from_outputs else sites,
                gradient_of=aim.function,
                keep=aim.keep,
                over=over,
                along=[Direction(site, before[site], share) for site in self._outputs],
            )
            if state is None:
                state = _BatchState(self, run.parts, before, after)
            total = to_host(group_by_prompt(run.require_derivatives(), len(rows)).sum(1))
            rules = {
                at: rule.weights[share]
                for at, rule in enumerate(self._rules)
                if share in rule.weights
            }
            for rule_index, weight in rules.items():
                self.sums[rule_index].total[rows] += weight * total
            for layer in self._layers:
                state.add_node(layer, run.parts, share, rules)
        if state is not None:
            state.finish()
        if not self._has_run:
            for sums in self.sums:
                sums.count += len(rows)

    def _endpoints(self, batch: Batch, aim: Objective, rows: list[int]) -> tuple[Values, Values]:
        """Values at the start of the path, and at its end where they are fixed; the first time also
        the metric at both.
        """
        engine, fixed = self._study.engine, self._kind == "fixed"
        sites = [*self._inputs, *self._outputs]
        runs, after = {}, {}
        if fixed or not self._has_run:
            runs["end"] = engine.run(
                self._tuned, batch, reads=sites if fixed else (), keep=aim.keep
            )
            after = runs["end"].values
        if self._base is None:
            before = self._zeros(batch)
        else:
            runs["base"] = engine.run(self._base, batch, reads=sites, keep=aim.keep)
            before = runs["base"].values
        if not self._has_run:
            replaced = [Replace(site, before[site]) for site in self._outputs]
            runs["start"] = engine.run(self._tuned, batch, edits=replaced, keep=aim.keep)
            for name, run in runs.items():
                self.endpoints[name][rows] = to_host(aim.function(run.require_logits()))
        return before, after

    def _zeros(self, batch: Batch) -> Values:
        """Zeros for units that write nothing, expanded views without memory."""
        anatomy = self._tuned.anatomy
        zero = torch.zeros((), dtype=self._tuned.dtype, device=self._tuned.device)
        widths = ((self._inputs, self._unit.n_channels(anatomy)), (self._outputs, anatomy.width))
        return {
            site: zero.expand(*batch.ids.shape, width) for sites, width in widths for site in sites
        }


class _BatchState:
    """State of one batch: activations at the start by layer and part, and gradients summed by
    rule.
    """

    def __init__(
        self, path: Path, parts: Sequence[BatchPart], before: Values, after: Values
    ) -> None:
        self._path = path
        inputs = path._inputs
        # values are moved out of the batch's layout, which is not needed again
        self._start, self._end = (
            {site: _split_parts(parts, held.pop(site)) for site in inputs if site in held}
            for held in (before, after)
        )
        self._gradients: dict[tuple[int, int, int], Tensor] = {}

    def add_node(
        self, layer: int, parts: Sequence[BatchPart], share: float, rules: Mapping[int, float]
    ) -> None:
        """Add one node's terms for a layer, by its weight in every rule that has the node."""
        path = self._path
        site, output = path._inputs[layer], path._outputs[layer]
        for index, part in enumerate(parts):
            output_gradient = _selected_cells(part, part.gradients[output])
            if path._has_weight_change[layer] or path._kind == "fixed":
                for rule_index, weight in rules.items():
                    key = layer, index, rule_index
                    self._gradients[key] = self._gradients.get(key, 0.0) + weight * output_gradient
            if path._kind == "fixed":
                continue
            start, end = self._start[site][index], _selected_cells(part, part.values[site])
            if path._from_outputs:
                unit_gradient = output_gradient @ path._unit.write_weights(path._tuned, layer).to(
                    output_gradient
                )
            else:  # the blend scales the gradient that reaches h by the share
                unit_gradient = _selected_cells(part, part.gradients[site]) / share
            terms, sizes = _terms_and_sizes(start, end, unit_gradient)
            for rule_index, weight in rules.items():
                path.sums[rule_index].add(layer, terms, sizes, weight)

    def finish(self) -> None:
        """Add each channel's attribution, with c - c_base written as (h - h_base) W + h_base (W -
        W_base), and its magnitude.

        In this form it is exactly zero where nothing changed.
        """
        path = self._path
        for layer in path._layers:
            keys = [key for key in self._gradients if key[0] == layer]
            if not keys:
                continue
            weight_change, site = path._weight_change(layer), path._inputs[layer]
            write = path._unit.write_weights(path._tuned, layer) if path._kind == "fixed" else None
            for key in keys:
                _, index, rule_index = key
                sums, gradient, start = (
                    path.sums[rule_index],
                    self._gradients.pop(key),
                    self._start[site][index],
                )
                if weight_change is not None:
                    terms = float64_sum(start * (gradient @ weight_change.to(gradient)))
                    sums.add(layer, terms, torch.zeros_like(terms))
                if write is not None:
                    end = self._end[site][index]
                    sums.add(layer, *_terms_and_sizes(start, end, gradient @ write.to(gradient)))


def _terms_and_sizes(
    start: Float[Tensor, "K C"], end: Float[Tensor, "K C"], gradient: Float[Tensor, "K C"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Sums over the cells of (end - start) times the gradient, and of the magnitudes of the terms."""
    return (
        float64_sum((end - start) * gradient),
        float64_sum((end.abs() + start.abs()) * gradient.abs()),
    )


def _split_parts(parts: Sequence[BatchPart], value: Float[Tensor, "B T W"]) -> list[Tensor]:
    return [_selected_cells(part, part.select(value)) for part in parts]


def _selected_cells(part: BatchPart, value: Float[Tensor, "r n W"]) -> Float[Tensor, "K W"]:
    """The cells that are summed over, in float64 or float32."""
    return widen(value[part.mask.to(value.device)])


def path_edits(
    before: Values, after: Values, share: float, kind: PathKind, sites: Sequence[Site]
) -> list[Edit]:
    """Edits that set the units' output in every block to ``share`` of the way from base to
    fine-tuned model.
    """
    if kind == "none":
        return []
    if kind == "live":
        return [Blend(site, before[site], share) for site in sites]
    return [
        Replace(site, torch.lerp(before[site].to(after[site]), after[site], share))
        for site in sites
    ]
