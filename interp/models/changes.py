"""How far tuning moved a pair's weights: unit by unit, and tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.offload import tensors
from interp.models.pair import Pair
from interp.models.units import HEAD, NEURON, Unit
from interp.sites import MATRICES, Weight


@dataclass(frozen=True)
class Change:
    """One tensor of both models: block (-1 outside), name, size, Euclidean norms, share of entries that differ."""

    layer: int
    part: str
    size: int
    norm: float
    change: float
    share: float


def tensor_changes(pair: Pair) -> Iterator[Change]:
    """Every matrix with an exact place, adapter applied and cut out of fused ones; then every other tensor by name.

    Of a switched adapter, other tensors are the base's own and are not listed.
    """
    base, tuned = pair.require_base("weight changes"), pair.tuned
    anatomy, seen = tuned.anatomy, set()
    for layer in range(anatomy.n_layers):
        for matrix in MATRICES:
            if matrix in anatomy.matrices:
                weight = Weight(layer, matrix)
                seen.add(f"{anatomy.place(weight).path}.weight")
                yield _change(layer, matrix, base.weight(weight), tuned.weight(weight))
    if base.module is not tuned.module:
        yield from _others(base, tuned, seen)


def _others(base: Model, tuned: Model, seen: set[str]) -> Iterator[Change]:
    blocks, own = f"{tuned.anatomy.blocks_path}.", dict(tensors(base.module))
    for name, value in tensors(tuned.module):
        if name in seen or name not in own or not value.is_floating_point():
            continue
        layer, _, part = name.removeprefix(blocks).partition(".") if name.startswith(blocks) else ("-1", "", name)
        yield _change(int(layer), part, own[name], value)


def _change(layer: int, part: str, base: Tensor, tuned: Tensor) -> Change:
    before, after = base.detach().double(), tuned.detach().to(base.device).double()
    moved = after - before
    numbers = torch.stack([before.norm(), moved.norm(), (moved != 0).double().mean()])
    return Change(layer, part, before.numel(), *map(float, to_host(numbers)))


def weight_change(pair: Pair, unit: Unit = NEURON) -> np.ndarray:
    """Euclidean norm ``[L, U]`` of the change of each unit's own weights.

    A neuron's are its gate and up rows and its down column; a head's its query rows, the key and value rows it reads
    (shared by the heads of a group) and its columns of the output projection.
    """
    base, tuned = pair.require_base("weight"), pair.tuned
    anatomy = tuned.anatomy
    reading = ["attn.q", "attn.k", "attn.v"] if unit is HEAD else ["mlp.in", *(["mlp.gate"] if anatomy.gated else [])]
    norms = []
    for layer in range(anatomy.n_layers):
        total = np.zeros(unit.count(anatomy))
        for name in (*reading, unit.matrix):
            change = (tuned.weight(Weight(layer, name)) - base.weight(Weight(layer, name))).double()
            squares = to_host(change.square().sum(0 if name == unit.matrix else 1))
            if unit is HEAD:
                squares = squares.reshape(-1, anatomy.head_width).sum(1)
            # one key-value head stands for every head of its group
            total += np.repeat(squares, len(total) // len(squares))
        norms.append(np.sqrt(total))
    return np.stack(norms)
