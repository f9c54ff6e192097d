"""How much fine-tuning changed a pair's weights, by unit and by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.maths.host import to_host
from interp.models.anatomy import Anatomy
from interp.models.matrices import is_packed
from interp.models.merged_tensors import adapted, bare, merged_tensors
from interp.models.model import Model
from interp.models.offload import tensors
from interp.models.pair import Pair
from interp.models.precision import alike, rounded_to
from interp.models.units import HEAD, NEURON, Unit
from interp.sites import MATRICES, Weight


@dataclass(frozen=True)
class Change:
    """One tensor of both models: block (-1 outside blocks), name, size, Euclidean norms of the base
    and of the change, share of entries that differ.
    """

    layer: int
    part: str
    size: int
    norm: float
    change: float
    share: float


def tensor_changes(pair: Pair, unread: list[str] | None = None) -> Iterator[Change]:
    """Changes of every matrix with a known location (adapter applied, fused ones split), then of
    every other tensor by name.

    A tensor that an adapter changes in an unreadable way is left out and its name added to
    ``unread``. If only the fine-tuned model is stored in 16 bits, it is compared with the base
    rounded to them.
    """
    base, tuned = pair.require_base("weight changes"), pair.tuned
    anatomy, seen, half = tuned.anatomy, set(), rounded_to(base, tuned)
    for layer in range(anatomy.n_layers):
        for matrix in MATRICES:
            if matrix in anatomy.matrices:
                weight = Weight(layer, matrix)
                seen.add(f"{anatomy.place(weight).path}.weight")
                mine = tuned.weight(weight)
                yield _change(layer, matrix, alike(base.weight(weight), mine, half), mine)
    if base.module is not tuned.module:
        yield from _others(base, tuned, seen, half)
    else:
        yield from _of_adapter(tuned, seen, [] if unread is None else unread)


def _others(
    base: Model, tuned: Model, seen: set[str], half: torch.dtype | None
) -> Iterator[Change]:
    own, coded = dict(tensors(base.module)), (*_coded(base), *_coded(tuned))
    for name, value in tensors(tuned.module):
        if (
            name.startswith(coded)
            or name in seen
            or name not in own
            or not value.is_floating_point()
        ):
            continue
        yield _change(*_named(tuned, name), alike(own[name], value, half), value)


def _of_adapter(tuned: Model, seen: set[str], unread: list[str]) -> Iterator[Change]:
    """For one module with adapters: the tensors they change, then the unchanged rest."""
    layers, coded = dict(adapted(tuned.module)), _coded(tuned)
    for path, layer in layers.items():
        for one in merged_tensors(path, layer, seen):
            if (name := bare(one.path)) in seen:
                continue
            if one.now is None:
                unread.append(name)
            elif one.before.is_floating_point():
                yield _change(*_named(tuned, name), one.before, one.now)
    for name, value in tensors(tuned.module):
        parts = name.split(".")
        inside = any(".".join(parts[:end]) in layers for end in range(1, len(parts)))
        # the wrapper of trained rows contains such a layer and no tensors of its own
        if (
            not inside
            and not name.startswith(coded)
            and name not in seen
            and value.is_floating_point()
        ):
            yield _change(*_named(tuned, name), value, value)


def _coded(model: Model) -> tuple[str, ...]:
    """Name prefixes of the tensors that describe codes (scales, tables)."""
    return tuple(
        f"{path}.weight." for path, part in model.module.named_modules() if is_packed(part)
    )


def _named(model: Model, name: str) -> tuple[int, str]:
    """Block (-1 outside blocks) and name within it."""
    blocks = f"{model.anatomy.blocks_path}."
    layer, _, part = (
        name.removeprefix(blocks).partition(".") if name.startswith(blocks) else ("-1", "", name)
    )
    return int(layer), part


def _change(layer: int, part: str, base: Tensor, tuned: Tensor) -> Change:
    before, after = base.detach().double(), tuned.detach().to(base.device).double()
    moved = after - before
    numbers = torch.stack([before.norm(), moved.norm(), (moved != 0).double().mean()])
    return Change(layer, part, before.numel(), *map(float, to_host(numbers)))


def _reading(anatomy: Anatomy, unit: Unit) -> list[str]:
    """The matrices through which a unit reads."""
    return (
        ["attn.q", "attn.k", "attn.v"]
        if unit is HEAD
        else ["mlp.in", *(["mlp.gate"] if anatomy.gated else [])]
    )


def has_weights(anatomy: Anatomy, unit: Unit) -> bool:
    """Whether all weights of a unit can be read exactly: some families store what heads read
    through in one matrix.
    """
    return {*_reading(anatomy, unit), unit.matrix} <= set(anatomy.matrices)


def weight_change(pair: Pair, unit: Unit = NEURON) -> np.ndarray:
    """Euclidean norm ``[L, U]`` of the change of each unit's weights.

    For a neuron these are its gate and up rows and its down column; for a head its query rows, the
    key and value rows it uses (shared by a group of heads) and its columns of the output
    projection. If only the fine-tuned model is stored in 16 bits, it is compared with the base
    rounded to them.
    """
    base, tuned = pair.require_base("weight"), pair.tuned
    anatomy, half = tuned.anatomy, rounded_to(base, tuned)
    reading, norms = _reading(anatomy, unit), []
    for layer in range(anatomy.n_layers):
        total = np.zeros(unit.count(anatomy))
        for name in (*reading, unit.matrix):
            mine = tuned.weight(Weight(layer, name))
            change = (mine - alike(base.weight(Weight(layer, name)), mine, half)).double()
            squares = to_host(change.square().sum(0 if name == unit.matrix else 1))
            if unit is HEAD:
                squares = squares.reshape(-1, anatomy.head_width).sum(1)
            # one key-value head counts for every head of its group
            total += np.repeat(squares, len(total) // len(squares))
        norms.append(np.sqrt(total))
    return np.stack(norms)
