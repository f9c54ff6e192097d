"""Training of a few weights of a model: values that are added to chosen entries of frozen matrices.

For every parameter there are sorted flat indices and float32 values; a forward pass uses
``W + scatter(values)``. The parameter itself never requires a gradient, so weight decay, clipping
and the optimiser act on the values alone and no other weight can move. (Masked gradients alone are
not enough: AdamW's weight decay moves weights without a gradient.)

Units of a cluster share their values: ``delta_c`` is one row of trained values that is added to the
row of every unit of the cluster (GoodVibe, and NeST, arXiv 2602.16835), so that the change of the
matrix has at most as many different rows as there are clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from interp.errors import OptionError
from interp.maths.host import to_host
from interp.models.sparse_delta import Entries, SparseDelta, require_entries


@dataclass(frozen=True, eq=False)
class Places:
    """Entries of a parameter that are trained: sorted flat indices [K].

    ``shared``: for each index the number of its value [K], where several share one; None where each
    has its own. Raises OptionError for indices that are not sorted or not unique.
    """

    indices: Int[Tensor, " K"]
    shared: Int[Tensor, " K"] | None = None

    def __post_init__(self) -> None:
        if len(self.indices) and not to_host((self.indices.diff() > 0).all()):
            raise OptionError("indices of trained weights have to be sorted, each of them once")
        if self.shared is not None and self.shared.shape != self.indices.shape:
            raise OptionError("every trained weight needs the number of its value")

    @classmethod
    def of_rows(
        cls, rows: Sequence[Int[Tensor, " n"]], groups: Sequence[Hashable] | None
    ) -> Places:
        """The entries of some rows or columns, given as flat indices each; ``groups``: for each the
        cluster whose values it shares.
        """
        if not rows:
            return cls(torch.zeros(0, dtype=torch.int64))
        indices = torch.cat([row.to(torch.int64) for row in rows])
        order = indices.argsort()
        if groups is None:
            return cls(indices[order])
        names = {group: at for at, group in enumerate(dict.fromkeys(groups))}
        shared = torch.cat(
            [
                names[group] * len(row) + torch.arange(len(row))
                for row, group in zip(rows, groups, strict=True)
            ]
        )
        return cls(indices[order], shared[order])

    @property
    def n_values(self) -> int:
        """Number of trained values."""
        if self.shared is None:
            return len(self.indices)
        return int(to_host(self.shared.max())) + 1 if len(self.shared) else 0


class _Addition(nn.Module):
    """``W`` with the values added at the indices."""

    indices: Tensor
    shared: Tensor | None

    def __init__(self, places: Places, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("indices", places.indices.to(device), persistent=False)
        shared = None if places.shared is None else places.shared.to(device)
        self.register_buffer("shared", shared, persistent=False)
        # x + -0.0 has the bits of x for every x; -0.0 + 0.0 has not
        start = torch.full((places.n_values,), -0.0, dtype=torch.float32, device=device)
        self.values = nn.Parameter(start)

    def expanded(self) -> Float[Tensor, " K"]:
        """The value of every index."""
        return self.values if self.shared is None else self.values[self.shared]

    def forward(self, weight: Tensor) -> Tensor:
        added = weight.reshape(-1).index_add(0, self.indices, self.expanded().to(weight.dtype))
        return added.view(weight.shape)


class SparseTraining:
    """A model of which only chosen entries can be trained, until ``remove`` is called.

    ``places``: parameter -> its trained entries; parameters without any are left out. The module's
    own parameters stop requiring gradients. Raises WrongBase or UnsupportedModel for entries that
    the module does not have, OptionError where two parameters are one tied tensor or nothing is
    trained.
    """

    def __init__(self, module: nn.Module, places: Mapping[str, Places]) -> None:
        self.module = module.requires_grad_(False)
        self.places = {name: each for name, each in places.items() if len(each.indices)}
        if not self.places:
            raise OptionError("there is no weight to train: the set of neurons or entries is empty")
        parameters = dict(module.named_parameters(remove_duplicate=False))
        tied = {name: id(parameters[name]) for name in self.places if name in parameters}
        if len(set(tied.values())) < len(tied):
            raise OptionError(f"{' and '.join(tied)} share one tensor; train one of them")
        for name, each in self.places.items():
            require_entries("the set", name, each.indices, parameters)
        self._additions: dict[str, _Addition] = {}
        for name, each in self.places.items():
            path, _, own_name = name.rpartition(".")
            addition = _Addition(each, parameters[name].device)
            parametrize.register_parametrization(
                module.get_submodule(path), own_name, addition, unsafe=True
            )
            self._additions[name] = addition

    @property
    def n_trained(self) -> int:
        """Number of trained values."""
        return sum(each.n_values for each in self.places.values())

    @property
    def values(self) -> dict[str, nn.Parameter]:
        """The trained values by parameter."""
        return {name: addition.values for name, addition in self._additions.items()}

    @torch.no_grad()
    def entries(self) -> dict[str, Entries]:
        """The trained change as it is now, a copy: what a sparse delta's file contains."""
        return {
            name: Entries(addition.indices.clone(), addition.expanded().detach().clone())
            for name, addition in self._additions.items()
        }

    def delta(self, base: str, base_digest: str, mode: str) -> SparseDelta:
        """The trained change as a sparse delta of a base."""
        return SparseDelta(base, base_digest, mode, self.entries())

    def remove(self) -> None:
        """Put the frozen parameters back as they were; the values are lost."""
        for name in self._additions:
            path, _, own_name = name.rpartition(".")
            parametrize.remove_parametrizations(
                self.module.get_submodule(path), own_name, leave_parametrized=False
            )
        self._additions = {}

    @torch.no_grad()
    def merge(self) -> None:
        """Add the values to the parameters, and remove the parametrisation."""
        entries = self.entries()
        self.remove()
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        for name, each in entries.items():
            parameters[name].data = each.add_to(parameters[name].data)
