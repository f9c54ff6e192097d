"""Which weights are trained: neurons, entries of matrices chosen in several ways, LoRA, or all.

Sets of entries have as many trained values as they are asked for, so that arms can be compared at
equal numbers of trained parameters. Matrices are those of the blocks; embeddings, head, norms and
biases are trained by ``full`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from interp.errors import OptionError
from interp.maths.host import in_host_memory
from interp.maths.null_updates import seeded
from interp.maths.precision import widen
from interp.models.matrices import base_layer_of, is_packed, weight_of
from interp.models.model import Model
from interp.sites import Weight
from interp.training.sparse_delta import Places

LOCATED, CLUSTERS, RANDOM = "located", "located-clusters", "random"
MAGNITUDE, PRINCIPAL, PER_ROW, ENTRIES = (
    "top-magnitude",
    "principal",
    "per-row",
    "random-entries",
)
LORA, FULL = "lora", "full"
OTHER = "other-run"
ARMS = {
    LOCATED: "the located neurons: rows of gate and up, columns of down",
    CLUSTERS: "the same, of which those with like activations share one update",
    RANDOM: "as many random neurons of each block, matched on the norm of their contributions",
    OTHER: "as many neurons of another locating run, such as one with permuted labels",
    MAGNITUDE: "the largest weights of every matrix",
    PRINCIPAL: "the largest entries of a low-rank approximation of every matrix (LIFT)",
    PER_ROW: "the largest weights of every row of every matrix (NeuroAda)",
    ENTRIES: "random entries of every matrix",
    LORA: "a LoRA adapter on every matrix",
    FULL: "all weights",
}
SPARSE = (LOCATED, CLUSTERS, RANDOM, OTHER, MAGNITUDE, PRINCIPAL, PER_ROW, ENTRIES)
"""Arms whose result is a sparse delta."""
ROWS, COLUMNS = ("mlp.gate", "mlp.in"), ("mlp.out",)
TOLERANCE = 0.05
"""Largest difference between numbers of trained parameters that are called equal, as a share."""
FILTER_RANK = 32
"""Rank of the approximation of which LIFT takes the largest entries; 16 to 128 in the paper."""


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """The parameter of a linear module of a block; a fused one counts as one matrix.

    ``transposed``: stored as (in, out).
    """

    name: str
    weight: Tensor
    transposed: bool

    @property
    def matrix(self) -> Float[Tensor, "out in"]:
        """Its weights."""
        return widen(self.weight.detach().T if self.transposed else self.weight.detach())

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        rows, columns = self.weight.T.shape if self.transposed else self.weight.shape
        return rows, columns

    def flat(self, chosen: Int[Tensor, " K"]) -> Int[Tensor, " K"]:
        """Sorted indices into the parameter, from indices into the flat ``matrix``."""
        if self.transposed:
            rows, columns = self.shape
            chosen = (chosen % columns) * rows + chosen // columns
        return in_host_memory(chosen.sort().values)


def block_matrices(model: Model) -> list[BlockMatrix]:
    """Every matrix of the blocks, each parameter once, in order.

    Raises OptionError for a model without weights to train.
    """
    found: dict[str, BlockMatrix] = {}
    anatomy = model.anatomy
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            path = anatomy.place(Weight(layer, part)).path
            module = base_layer_of(model.module.get_submodule(path))
            if is_packed(module):
                raise OptionError(
                    f"{model.name} is quantised, and single weights cannot be added to codes; give"
                    " the unquantised model"
                )
            name = f"{path}.weight"
            found[name] = BlockMatrix(name, weight_of(module), isinstance(module, Conv1D))
    if not found:
        raise OptionError(f"{model.name} has no matrix that can be identified exactly")
    return list(found.values())


def neuron_places(
    model: Model,
    neurons: Sequence[tuple[int, int]],
    clusters: Mapping[tuple[int, int], Hashable] | None = None,
) -> dict[str, Places]:
    """The weights of neurons: row j of the gate and of the up projection, column j of the down
    projection, so three times the width for each neuron of a gated MLP. Biases are left out.

    ``clusters``: neuron -> cluster, of which the neurons of a block share their values; a cluster
    never crosses matrices.
    """
    model.anatomy.require_neurons()
    chosen: dict[str, list[Tensor]] = {}
    groups: dict[str, list[Hashable]] = {}
    layers = sorted({layer for layer, _ in neurons})
    for layer in layers:
        units = sorted({unit for at, unit in neurons if at == layer})
        for part in (*ROWS, *COLUMNS):
            if part not in model.anatomy.matrices:
                continue
            place = model.anatomy.place(Weight(layer, part))
            module = base_layer_of(model.module.get_submodule(place.path))
            numbers = torch.arange(weight_of(module).numel()).view(weight_of(module).shape)
            numbers = place.rows_of((numbers.T if isinstance(module, Conv1D) else numbers).double())
            numbers = numbers.long() if part in ROWS else numbers.long().T
            name = f"{place.path}.weight"
            chosen.setdefault(name, []).extend(numbers[unit] for unit in units)
            groups.setdefault(name, []).extend(
                (part, clusters[layer, unit] if clusters else unit) for unit in units
            )
    return {
        name: Places.of_rows(rows, groups[name] if clusters else None)
        for name, rows in chosen.items()
    }


def top_magnitude(matrices: Sequence[BlockMatrix], budget: int) -> dict[str, Places]:
    """The largest weights by absolute value, as many of every matrix as its share of all."""
    return _largest(matrices, budget, lambda one: one.matrix.abs(), _n_weights)


def principal(
    matrices: Sequence[BlockMatrix], budget: int, rank: int = FILTER_RANK
) -> dict[str, Places]:
    """The largest entries of the best approximation of rank ``rank``, in proportion to rows plus
    columns (LIFT, arXiv 2506.00772). Unlike there, entries are chosen once.
    """
    return _largest(
        matrices,
        budget,
        lambda one: low_rank_part(one.matrix, rank).abs(),
        lambda one: sum(one.shape),
    )


def low_rank_part(matrix: Float[Tensor, "out in"], rank: int) -> Float[Tensor, "out in"]:
    """The best approximation of a rank; the matrix itself where its rank is not larger."""
    if rank >= min(matrix.shape):
        return matrix
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def per_row(matrices: Sequence[BlockMatrix], budget: int) -> dict[str, Places]:
    """The k largest weights by absolute value of every row (NeuroAda, arXiv 2510.18940).

    k is the same for all rows; what is left of the budget goes to the rows whose next weight is
    largest, so that a budget below one weight per row trains some rows only.
    """
    k, rest = divmod(budget, sum(one.shape[0] for one in matrices))
    if k >= min(one.shape[1] for one in matrices):
        raise OptionError(f"{budget} trained weights are {k} per row, as many as a matrix has")
    orders = [one.matrix.abs().sort(dim=1, descending=True, stable=True) for one in matrices]
    following = torch.cat([order.values[:, k] for order in orders])
    more = torch.zeros_like(following, dtype=torch.int64)
    more[following.sort(descending=True, stable=True).indices[:rest]] = 1
    places, start = {}, 0
    for one, order in zip(matrices, orders, strict=True):
        rows, columns = one.shape
        counts = k + more[start : start + rows]
        start += rows
        taken = torch.arange(columns, device=counts.device) < counts[:, None]
        row_starts = torch.arange(rows, device=counts.device)[:, None] * columns
        places[one.name] = Places(one.flat((order.indices + row_starts)[taken]))
    return places


def random_entries(
    matrices: Sequence[BlockMatrix], budget: int, seed: int, draw: int = 0
) -> dict[str, Places]:
    """Random entries, as many of every matrix as its share of all weights."""
    places = {}
    for one, count in zip(matrices, shares(budget, [_n_weights(m) for m in matrices]), strict=True):
        generator = seeded(seed, ENTRIES, one.name, draw)
        drawn = torch.randperm(one.weight.numel(), generator=generator)[:count]
        places[one.name] = Places(one.flat(drawn))
    return places


def lora_ranks(matrices: Sequence[BlockMatrix], budget: int) -> dict[str, int] | None:
    """Rank of a LoRA by module, with at most as many parameters as the budget, but for 5 %; None
    where rank 1 of every module has more.

    Every module has the same rank, and some, spread over the model, one more.
    """
    sizes = [sum(one.shape) for one in matrices]
    rank = int((1 + TOLERANCE) * budget) // sum(sizes)
    if rank == 0:
        return None
    ranks, left = [rank] * len(matrices), budget - rank * sum(sizes)
    for at in _spread(len(matrices)):
        if sizes[at] <= left:
            ranks[at], left = ranks[at] + 1, left - sizes[at]
    return {
        one.name.removesuffix(".weight"): rank for one, rank in zip(matrices, ranks, strict=True)
    }


def n_lora(matrices: Sequence[BlockMatrix], ranks: Mapping[str, int]) -> int:
    """Trained parameters of a LoRA."""
    return sum(sum(one.shape) * ranks[one.name.removesuffix(".weight")] for one in matrices)


def n_values(places: Mapping[str, Places]) -> int:
    """Trained values of a set of entries."""
    return sum(each.n_values for each in places.values())


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """``total`` divided in proportion to sizes, in whole numbers (largest remainders, ties by
    order).
    """
    exact = [total * size / sum(sizes) for size in sizes]
    counts = [int(one) for one in exact]
    order = sorted(range(len(sizes)), key=lambda at: (counts[at] - exact[at], at))
    for at in order[: total - sum(counts)]:
        counts[at] += 1
    return counts


def _n_weights(one: BlockMatrix) -> int:
    return one.weight.numel()


def _largest(
    matrices: Sequence[BlockMatrix],
    budget: int,
    score: Callable[[BlockMatrix], Tensor],
    size: Callable[[BlockMatrix], int],
) -> dict[str, Places]:
    """The entries of the largest scores; of equal ones the first."""
    if budget > sum(_n_weights(one) for one in matrices):
        raise OptionError(f"{budget} weights to train, more than the blocks have; take fewer")
    places = {}
    counts = shares(budget, [size(one) for one in matrices])
    for one, count in zip(matrices, counts, strict=True):
        order = score(one).flatten().sort(descending=True, stable=True).indices
        places[one.name] = Places(one.flat(order[: min(count, _n_weights(one))]))
    return places


def _spread(count: int) -> list[int]:
    """0 to count - 1, in an order of which every beginning is spread evenly."""
    width = max(1, (count - 1).bit_length())
    reverse = [int(format(at, f"0{width}b")[::-1], 2) for at in range(2**width)]
    return [at for at in reverse if at < count]
