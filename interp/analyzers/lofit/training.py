"""Training of scales and offsets of attention heads, in memory: no weight of the model changes.

A head's output z before the output projection becomes ``(1 + A) z + v`` at all positions. Gradients
with respect to A and v are sums over positions of those with respect to z; positions of padding
have none, since no token of an answer reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines import Batch, Edit
from interp.errors import OptionError
from interp.experiments.base_answers import BYTES_PER_LOGIT
from interp.interventions.edits import Add, AddScaled, Observe
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.metrics import token_losses
from interp.models.model import Model
from interp.models.units import HEAD
from interp.prompts import Encoded
from interp.sites import Site
from interp.study import Study

SPREAD = 1e-3
"""Standard deviation of the start of scales and offsets."""
Head = tuple[int, int]


@dataclass(frozen=True)
class Recipe:
    """How one set of parameters is trained: AdamW at a constant rate without weight decay.

    ``l1``: factor of the sum of absolute values in the loss. ``batch``: prompts per step.
    """

    rate: float
    l1: float
    epochs: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Examples:
    """Prompts and the answers that are learned."""

    encoded: Sequence[Encoded]
    answers: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.encoded)

    def select(self, rows: Sequence[int]) -> Examples:
        """Some of them."""
        return Examples([self.encoded[row] for row in rows], [self.answers[row] for row in rows])

    def groups(self, study: Study, model: Model) -> list[list[int]]:
        """Rows in batches of similar length, as the study's batch size says."""
        texts = [
            coded.with_completion(answer[:-1])
            for coded, answer in zip(self.encoded, self.answers, strict=True)
        ]
        shortest = min(len(text.ids) for text in texts)
        longest = max(map(len, self.answers))
        bytes_per_token = BYTES_PER_LOGIT * model.anatomy.vocabulary * longest // shortest
        return study.batches(texts, model, bytes_per_token)

    def batch(self, rows: Sequence[int], pad_id: int, model: Model) -> tuple[Batch, Batch]:
        """Texts without their last tokens, and answers, both padded on the left."""
        answers = [self.answers[row] for row in rows]
        texts = [
            [*self.encoded[row].ids, *answer[:-1]]
            for row, answer in zip(rows, answers, strict=True)
        ]
        pad = partial(Batch.pad, pad_id=pad_id, device=model.device)
        return pad(texts), pad(answers)


@dataclass(frozen=True)
class Gradient:
    """Summed loss of answers, nats, and its gradients with respect to scales and offsets, by layer
    [C].
    """

    loss: float
    scales: dict[int, Float[Tensor, " C"]]
    offsets: dict[int, Float[Tensor, " C"]]


def summed_gradient(
    study: Study,
    model: Model,
    examples: Examples,
    layers: Sequence[int],
    edits: Sequence[Edit] = (),
) -> Gradient:
    """Loss of the answers under edits of heads, and its gradients at the heads of some layers."""
    loss = torch.zeros((), dtype=torch.float64)
    scales: dict[int, Tensor] = {}
    offsets: dict[int, Tensor] = {}
    for rows in examples.groups(study, model):
        texts, answers = examples.batch(rows, study.pad_id, model)
        before: dict[int, Tensor] = {}
        losses: list[Tensor] = []

        def objective(
            logits: Tensor, answers: Batch = answers, losses: list[Tensor] = losses
        ) -> Tensor:
            each = token_losses(logits, answers.ids, answers.mask).double().sum(1)
            losses.append(each.detach().sum())
            return each

        observed = [Observe(HEAD.site(layer), _keep(before, layer)) for layer in layers]
        run = study.engine.run(
            model,
            texts,
            edits=[*observed, *edits],
            gradients_at=[HEAD.site(layer) for layer in layers],
            gradient_of=objective,
            keep=answers.ids.shape[1],
        )
        loss = loss + losses[0].to(loss.device)
        for layer in layers:
            gradient = widen(run.gradients[HEAD.site(layer)]).double()
            value = widen(before[layer]).double()
            for total, part in ((scales, gradient * value), (offsets, gradient)):
                summed = part.sum((0, 1))
                total[layer] = total[layer] + summed if layer in total else summed
    return Gradient(float(to_host(loss)), scales, offsets)


def _keep(values: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def callback(value: Tensor) -> None:
        values[layer] = value.detach()

    return callback


def _start(shape: tuple[int, ...], model: Model, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(model.device, torch.promote_types(model.dtype, torch.float32))


def _steps(count: int, recipe: Recipe) -> list[list[int]]:
    """Rows of every step: all rows in random order in every epoch, the same for every set."""
    generator = np.random.default_rng(recipe.seed)
    steps = []
    for _ in range(recipe.epochs):
        order = [int(row) for row in generator.permutation(count)]
        steps += [order[at : at + recipe.batch] for at in range(0, count, recipe.batch)]
    return steps


def _descend(
    study: Study,
    model: Model,
    examples: Examples,
    recipe: Recipe,
    value: Tensor,
    step: Callable[[Examples], tuple[float, Tensor]],
    title: str,
) -> None:
    """Change ``value`` in place; ``step`` gives summed loss and gradient of one batch."""
    optimizer = torch.optim.AdamW([value.requires_grad_()], lr=recipe.rate, weight_decay=0.0)
    for rows in study.progress(_steps(len(examples), recipe), title):
        batch = examples.select(rows)
        n_tokens = sum(map(len, batch.answers))
        loss, gradient = step(batch)
        if not np.isfinite(loss):
            raise OptionError(
                "the training diverged, its loss is not finite; give a lower learning rate"
            )
        value.grad = (gradient / n_tokens + recipe.l1 * value.detach().sign()).to(value)
        optimizer.step()
    value.requires_grad_(False)


def train_scales(
    study: Study, model: Model, examples: Examples, recipe: Recipe, title: str
) -> Float[Tensor, "L C"]:
    """Scales A of all heads, trained under L1; stage 1 of LoFiT."""
    anatomy = model.anatomy
    layers = range(anatomy.n_layers)
    scales = _start((anatomy.n_layers, HEAD.n_channels(anatomy)), model, recipe.seed)

    def step(batch: Examples) -> tuple[float, Tensor]:
        edits = [AddScaled(HEAD.site(layer), scales[layer].detach().clone()) for layer in layers]
        found = summed_gradient(study, model, batch, layers, edits)
        return found.loss, torch.stack([found.scales[layer] for layer in layers])

    _descend(study, model, examples, recipe, scales, step, title)
    return scales


@dataclass(frozen=True, eq=False)
class Offsets:
    """Offsets v of some heads [K, head width]; no other parameter exists."""

    heads: tuple[Head, ...]
    values: Float[Tensor, "K d"]

    @property
    def by_layer(self) -> dict[int, list[tuple[int, int]]]:
        """By layer the heads of the set, each with its row in ``values``."""
        found: dict[int, list[tuple[int, int]]] = {}
        for row, (layer, head) in enumerate(self.heads):
            found.setdefault(layer, []).append((head, row))
        return dict(sorted(found.items()))

    def vector(self, layer: int, n_channels: int) -> Float[Tensor, " C"]:
        """The offsets of a layer, 0 at other heads."""
        width = self.values.shape[1]
        vector = self.values.detach().new_zeros(n_channels)
        for head, row in self.by_layer[layer]:
            vector[head * width : (head + 1) * width] = self.values[row].detach()
        return vector

    def edits(self, model: Model) -> list[Add]:
        """The edits that add them at every position."""
        n_channels = HEAD.n_channels(model.anatomy)
        return [Add(HEAD.site(layer), self.vector(layer, n_channels)) for layer in self.by_layer]

    def intervention(self, model: Model) -> Intervention:
        """The same as an intervention, to read answers under."""
        return Intervention("head offsets", {}, "edits", unit=HEAD, edits=self.edits(model))

    def biases(self, model: Model) -> dict[Site, Float[Tensor, " D"]]:
        """What they add to the output of every output projection: ``sum_h W_O[:, h] v[h]``."""
        n_channels = HEAD.n_channels(model.anatomy)
        found = {}
        for layer in self.by_layer:
            columns = HEAD.write_weights(model, layer)
            found[HEAD.contribution(layer)] = columns @ self.vector(layer, n_channels).to(columns)
        return found


def train_offsets(
    study: Study,
    model: Model,
    examples: Examples,
    recipe: Recipe,
    heads: Sequence[Head],
    title: str,
) -> Offsets:
    """Offsets of some heads, trained alone; stage 2 of LoFiT."""
    width = HEAD.width(model.anatomy)
    offsets = Offsets(tuple(heads), _start((len(heads), width), model, recipe.seed + 1))
    layers = list(offsets.by_layer)

    def step(batch: Examples) -> tuple[float, Tensor]:
        found = summed_gradient(study, model, batch, layers, offsets.edits(model))
        rows = [
            found.offsets[layer][head * width : (head + 1) * width] for layer, head in offsets.heads
        ]
        return found.loss, torch.stack(rows)

    _descend(study, model, examples, recipe, offsets.values, step, title)
    return offsets
