"""How much fine-tuning changed a pair's weights, by unit and by tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.errors import UnsupportedModel
from interp.maths.host import to_host
from interp.models.anatomy import Anatomy
from interp.models.matrices import is_packed
from interp.models.merged_tensors import adapter_layers, base_name, merged_tensors
from interp.models.model import Model
from interp.models.offload import named_tensors
from interp.models.pair import Pair
from interp.models.precision import rounded_like, rounding_dtype
from interp.models.units import HEAD, NEURON, Unit
from interp.sites import MATRICES, Weight

CHUNK = 1 << 22
"""Entries of a tensor that are compared at a time."""


@dataclass(frozen=True)
class TensorChange:
    """One tensor of both models: block (-1 outside blocks), name, size, Euclidean norms of the base
    and of the change, share of entries that differ.
    """

    layer: int
    part: str
    size: int
    norm: float
    change: float
    share: float


def tensor_changes(pair: Pair, unreadable: list[str] | None = None) -> Iterator[TensorChange]:
    """Changes of every matrix with a known location (adapter applied, fused ones split), then of
    every other tensor by name.

    A tensor that an adapter changes in an unreadable way is left out and its name added to
    ``unreadable``. If only the fine-tuned model is stored in 16 bits, it is compared with the base
    rounded to them.
    """
    base, tuned = pair.require_base("weight changes"), pair.tuned
    anatomy, done, stored_dtype = tuned.anatomy, set(), rounding_dtype(base, tuned)
    for layer in range(anatomy.n_layers):
        for matrix in MATRICES:
            if matrix in anatomy.matrices:
                weight = Weight(layer, matrix)
                done.add(f"{anatomy.place(weight).path}.weight")
                tuned_weight = tuned.weight(weight)
                yield _measured(
                    layer,
                    matrix,
                    rounded_like(base.weight(weight), tuned_weight, stored_dtype),
                    tuned_weight,
                )
    if base.module is not tuned.module:
        yield from _changes_of_modules(base, tuned, done, stored_dtype)
    else:
        yield from _changes_of_adapter(tuned, done, [] if unreadable is None else unreadable)


def _changes_of_modules(
    base: Model, tuned: Model, done: set[str], stored_dtype: torch.dtype | None
) -> Iterator[TensorChange]:
    base_tensors, code_prefixes = (
        dict(named_tensors(base.module)),
        (*_code_prefixes(base), *_code_prefixes(tuned)),
    )
    for name, value in named_tensors(tuned.module):
        if (
            name.startswith(code_prefixes)
            or name in done
            or name not in base_tensors
            or not value.is_floating_point()
        ):
            continue
        yield _measured(
            *_block_and_name(tuned, name),
            rounded_like(base_tensors[name], value, stored_dtype),
            value,
        )


def _changes_of_adapter(
    tuned: Model, done: set[str], unreadable: list[str]
) -> Iterator[TensorChange]:
    """For one module with adapters: the tensors they change, then the unchanged rest."""
    layers, code_prefixes = dict(adapter_layers(tuned.module)), _code_prefixes(tuned)
    for path, layer in layers.items():
        for merged in merged_tensors(path, layer, done):
            if (name := base_name(merged.path)) in done:
                continue
            if merged.after is None:
                unreadable.append(name)
            elif merged.before.is_floating_point():
                yield _measured(*_block_and_name(tuned, name), merged.before, merged.after)
    for name, value in named_tensors(tuned.module):
        parts = name.split(".")
        in_adapter = any(".".join(parts[:end]) in layers for end in range(1, len(parts)))
        # the wrapper of trained rows contains such a layer and no tensors of its own
        if (
            not in_adapter
            and not name.startswith(code_prefixes)
            and name not in done
            and value.is_floating_point()
        ):
            yield _measured(*_block_and_name(tuned, name), value, value)


def _code_prefixes(model: Model) -> tuple[str, ...]:
    """Name prefixes of the tensors that describe codes (scales, tables)."""
    return tuple(
        f"{path}.weight." for path, part in model.module.named_modules() if is_packed(part)
    )


def _block_and_name(model: Model, name: str) -> tuple[int, str]:
    """Block (-1 outside blocks) and name within it."""
    blocks = f"{model.anatomy.blocks_path}."
    layer, _, part = (
        name.removeprefix(blocks).partition(".") if name.startswith(blocks) else ("-1", "", name)
    )
    return int(layer), part


def _measured(layer: int, part: str, base: Tensor, tuned: Tensor) -> TensorChange:
    """Norms in float64, a part of the rows at a time: a copy of an embedding is large."""
    if base.shape != tuned.shape:
        raise UnsupportedModel(
            f"{part} is {tuple(base.shape)} in the base and {tuple(tuned.shape)} in the fine-tuned"
            " model; their change is not defined"
        )
    sums = torch.zeros(3, dtype=torch.float64, device=base.device)
    for base_rows, tuned_rows in zip(_chunks(base), _chunks(tuned), strict=True):
        values = base_rows.double()
        difference = tuned_rows.to(base.device).double() - values
        sums += torch.stack(
            [values.square().sum(), difference.square().sum(), (difference != 0).sum()]
        )
    norm, change, changed = map(float, to_host(sums))
    return TensorChange(
        layer, part, base.numel(), norm**0.5, change**0.5, changed / max(1, base.numel())
    )


def _chunks(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.detach().flatten().split(CHUNK)


def _input_matrices(anatomy: Anatomy, unit: Unit) -> list[str]:
    """The matrices through which a unit reads."""
    return (
        ["attn.q", "attn.k", "attn.v"]
        if unit is HEAD
        else ["mlp.in", *(["mlp.gate"] if anatomy.gated else [])]
    )


def can_read_weights(anatomy: Anatomy, unit: Unit) -> bool:
    """Whether all weights of a unit can be read exactly: some families store what heads read
    through in one matrix.
    """
    return {*_input_matrices(anatomy, unit), unit.matrix} <= set(anatomy.matrices)


def weight_change(pair: Pair, unit: Unit = NEURON) -> np.ndarray:
    """Euclidean norm ``[L, U]`` of the change of each unit's weights.

    For a neuron these are its gate and up rows and its down column; for a head its query rows, the
    key and value rows it uses (shared by a group of heads) and its columns of the output
    projection. If only the fine-tuned model is stored in 16 bits, it is compared with the base
    rounded to them.
    """
    base, tuned = pair.require_base("weight"), pair.tuned
    anatomy, stored_dtype = tuned.anatomy, rounding_dtype(base, tuned)
    input_matrices, norms = _input_matrices(anatomy, unit), []
    for layer in range(anatomy.n_layers):
        total = np.zeros(unit.count(anatomy))
        for name in (*input_matrices, unit.matrix):
            tuned_weight = tuned.weight(Weight(layer, name))
            change = (
                tuned_weight
                - rounded_like(base.weight(Weight(layer, name)), tuned_weight, stored_dtype)
            ).double()
            squares = to_host(change.square().sum(0 if name == unit.matrix else 1))
            if unit is HEAD:
                squares = squares.reshape(-1, anatomy.head_width).sum(1)
            # one key-value head counts for every head of its group
            total += np.repeat(squares, len(total) // len(squares))
        norms.append(np.sqrt(total))
    return np.stack(norms)
