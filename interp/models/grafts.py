"""Grafts: a base with some of the fine-tuned model's weights, in memory only and exactly undone.

``theta(m) = theta_base + m * (theta_tuned - theta_base)`` for a mask ``m`` of zeros and ones
(Panigrahi et al. 2023, arXiv 2302.06600). A mask selects between two tensors instead of adding: a
full mask gives the fine-tuned model bit for bit, an empty one the base. No weight is written to: a
grafted tensor temporarily replaces a parameter's data, which is restored afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import OptionError, UnsupportedModel
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.matrices import is_packed
from interp.models.merged_tensors import base_name
from interp.models.model import Model
from interp.models.offload import is_dispatched
from interp.models.pair import Pair
from interp.models.parameter_pairs import ParameterPair, adapter_parameter_pairs

SCOPES = ("blocks", "attention", "mlp", "embeddings", "head", "all")


def scope_parts(scope: str) -> tuple[str, ...]:
    """The names in ``scope``, joined by commas there; OptionError for one that is not a scope."""
    parts = tuple(part.strip() for part in scope.split(","))
    if unknown := [part for part in parts if part not in SCOPES]:
        raise OptionError(
            f"unknown --scope {unknown[0]!r}; use {', '.join(SCOPES)}, or several joined by commas"
        )
    return parts


@dataclass(frozen=True, eq=False)
class Scope:
    """The parameters whose weights can be grafted, in order; weights are numbered across all of
    them from 0.

    Parameters that fine-tuning did not change are excluded (unless none changed), tied ones count
    once.
    """

    model: Model
    pairs: tuple[ParameterPair, ...]
    parts: tuple[str, ...]
    n_unchanged: int = 0

    @classmethod
    def from_pair(cls, pair: Pair, parts: str = "blocks") -> Scope:
        """The scope of a pair by name, several joined by commas; raises OptionError or
        UnsupportedModel.
        """
        base, names = pair.require_base("grafting"), scope_parts(parts)
        for model in (base, pair.tuned):
            if is_dispatched(model.module) or any(
                is_packed(part) for part in model.module.modules()
            ):
                raise UnsupportedModel(
                    f"{model.name} is quantised or offloaded, so its weights cannot be exchanged; "
                    "load it on one device, or give the unquantised model"
                )
        equal_ends: set[int] = set()
        if base.module is pair.tuned.module:
            all_pairs, equal_ends = _count_tied_once(
                base, adapter_parameter_pairs(base, pair.tuned)
            )
        else:
            all_pairs = _pairs_of_modules(base, pair.tuned)
        in_scope = [
            candidate
            for candidate in all_pairs
            if any(_is_in_part(base, candidate.name, part) for part in names)
        ]
        if not in_scope:
            raise OptionError(
                f"--scope {parts} matches no parameter of {base.name} (a tied head belongs to the "
                "embeddings, and for an adapter only changed parameters count); use another scope"
            )
        _require_tied_ends_equal(base, pair.tuned, in_scope, equal_ends)
        changed = [
            member for member in in_scope if not torch.equal(member.base, member.tuned)
        ] or in_scope
        n_unchanged = sum(member.size for member in in_scope) - sum(
            member.size for member in changed
        )
        return cls(base, tuple(changed), names, n_unchanged)

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return sum(pair.size for pair in self.pairs)

    @property
    def changes(self) -> Float[Tensor, " P"]:
        """Change of each weight."""
        return torch.cat([pair.changes for pair in self.pairs])

    def split(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor over all weights ``[P]`` as one tensor per parameter, in its shape."""
        parts = flat.split([pair.size for pair in self.pairs])
        return [part.view(pair.base.shape) for part, pair in zip(parts, self.pairs, strict=True)]

    def indices(self, mask: Bool[Tensor, " P"]) -> dict[str, np.ndarray]:
        """A mask as sorted flat indices per parameter name, in C order of the base's layout, (k,)
        integers.
        """
        result = {}
        for pair, part in zip(self.pairs, self.split(mask), strict=True):
            flat_indices = to_host(part.flatten().nonzero().flatten())
            result[pair.name] = flat_indices.astype(np.int32 if pair.size < 2**31 else np.int64)
        return result

    def mask(self, indices: Mapping[str, np.ndarray]) -> Bool[Tensor, " P"]:
        """Inverse of ``indices``; raises OptionError for a parameter outside the scope."""
        flat = torch.zeros(self.size, dtype=torch.bool, device=self.model.device)
        starts = np.cumsum([0, *[pair.size for pair in self.pairs]])
        offsets = {
            pair.name: int(start) for pair, start in zip(self.pairs, starts[:-1], strict=True)
        }
        for name, flat_indices in indices.items():
            if len(flat_indices) and name not in offsets:
                raise OptionError(
                    f"{name} has grafted weights and is not in the scope {', '.join(self.parts)}; "
                    "use the scope of that mask"
                )
            if len(flat_indices):
                flat[
                    torch.from_numpy(np.array(flat_indices, np.int64)).to(flat.device)
                    + offsets[name]
                ] = True
        return flat

    def shuffled(self, seed: int) -> Scope:
        """The same base, with each parameter's change permuted among its own weights.

        Shuffled values have at least float32, and are rounded to the model's dtype when grafted.
        """
        generator = torch.Generator().manual_seed(seed)
        pairs = []
        for pair in self.pairs:
            order = torch.randperm(pair.size, generator=generator).to(pair.base.device)
            tuned = (widen(pair.base).flatten() + pair.changes[order]).view(pair.base.shape)
            pairs.append(replace(pair, tuned=tuned))
        return replace(self, pairs=tuple(pairs))

    def rounding(self) -> tuple[int, float]:
        """Effect of the model's dtype on the grafted change.

        Returns the number of changed weights that rounding leaves unchanged, and the norm of the
        rounded change as a share of the exact one's.
        """
        n_unchanged, rounded_square, exact_square = 0, 0.0, 0.0
        for pair in self.pairs:
            change = pair.changes
            rounded_change = (widen(pair.tuned.to(pair.base.dtype)) - widen(pair.base)).flatten()
            n_unchanged += int(to_host(((change != 0) & (rounded_change == 0)).sum()))
            rounded_square, exact_square = (
                rounded_square + float(to_host(rounded_change.square().sum())),
                exact_square + float(to_host(change.square().sum())),
            )
        return n_unchanged, (rounded_square / exact_square) ** 0.5 if exact_square else 1.0

    @contextmanager
    def grafted(self, mask: Bool[Tensor, " P"]) -> Iterator[Model]:
        """The base with the fine-tuned weights where the mask is true, until closed."""
        tensors = [
            torch.where(part, pair.tuned.to(pair.base.dtype), pair.base)
            for part, pair in zip(self.split(mask.to(self.model.device)), self.pairs, strict=True)
        ]
        with self.weights_replaced(tensors):
            yield self.model

    @contextmanager
    def weights_replaced(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Replace the scope's parameters by these tensors; the originals are restored, also after
        an error.
        """
        parameters = [self.model.module.get_parameter(pair.path) for pair in self.pairs]
        originals = [parameter.data for parameter in parameters]
        try:
            for parameter, tensor in zip(parameters, tensors, strict=True):
                parameter.data = tensor.detach()
            yield
        finally:
            for parameter, tensor in zip(parameters, originals, strict=True):
                parameter.data = tensor


def _is_in_part(model: Model, name: str, part: str) -> bool:
    if part == "all":
        return True
    anatomy, module = model.anatomy, model.module
    if part in ("embeddings", "head"):
        owner = (
            module.get_input_embeddings()
            if part == "embeddings"
            else module.get_output_embeddings()
        )
        path = next(
            (path for path, candidate in module.named_modules() if candidate is owner), None
        )
        return path is not None and name.startswith(f"{base_name(path)}.")
    blocks = f"{anatomy.blocks_path}."
    if not name.startswith(blocks):
        return False
    if part == "blocks":
        return True
    # an MLP need not have a module of its own: in OPT its two matrices belong to the block
    kind = "attn." if part == "attention" else "mlp."
    paths = [place.path for matrix, place in anatomy.matrices.items() if matrix.startswith(kind)]
    name_in_block = name.removeprefix(blocks).partition(".")[2]
    return any(name_in_block.startswith(path.partition(".")[0] + ".") for path in paths)


def _pairs_of_modules(base: Model, tuned: Model) -> list[ParameterPair]:
    tuned_parameters = dict(tuned.module.named_parameters(remove_duplicate=False))
    return [
        ParameterPair(name, name, parameter.data, tuned_parameters[name].data)
        for name, parameter in base.module.named_parameters()
        if parameter.is_floating_point()
    ]


def _count_tied_once(
    base: Model, pairs: Sequence[ParameterPair]
) -> tuple[list[ParameterPair], set[int]]:
    """Parameter pairs of an adapter, with the ends of a tied matrix counted once if the adapter
    makes them equal (peft's ensure_weight_tying).

    The second value contains these matrices, by ``id``. Ends are compared up to rounding, because
    each is merged separately.
    """
    paths, pairs_by_matrix = _names_by_parameter(base), dict[int, list[ParameterPair]]()
    for pair in pairs:
        pairs_by_matrix.setdefault(id(base.module.get_parameter(pair.path)), []).append(pair)
    equal_matrices = {
        matrix
        for matrix, matrix_pairs in pairs_by_matrix.items()
        if len(matrix_pairs) > 1 and _ends_equal(matrix_pairs, set(paths[matrix]))
    }
    duplicates = {id(pair) for place in equal_matrices for pair in pairs_by_matrix[place][1:]}
    return [pair for pair in pairs if id(pair) not in duplicates], equal_matrices


def _ends_equal(pairs: Sequence[ParameterPair], paths: set[str]) -> bool:
    reference, rounding = widen(pairs[0].tuned), 16 * torch.finfo(pairs[0].base.dtype).eps
    agreement = [
        to_host((widen(pair.tuned) - reference).abs().max() <= rounding * reference.abs().max())
        for pair in pairs[1:]
    ]
    return {pair.name for pair in pairs} == paths and all(agreement)


def _names_by_parameter(base: Model) -> dict[int, list[str]]:
    """All names of each parameter, by its ``id``; a tied one has several."""
    paths: dict[int, list[str]] = {}
    for path, value in base.module.named_parameters(remove_duplicate=False):
        paths.setdefault(id(value), []).append(base_name(path))
    return paths


def _require_tied_ends_equal(
    base: Model, tuned: Model, pairs: Sequence[ParameterPair], equal_matrices: set[int]
) -> None:
    """Raise UnsupportedModel for a tied matrix whose two ends differ in the fine-tuned model: a
    graft would change both.

    ``equal_matrices``: matrices, by ``id``, whose ends are known to be equal.
    """
    paths = _names_by_parameter(base)
    names = {id(base.module.get_parameter(pair.path)): pair.name for pair in pairs}
    unverified = {place: name for place, name in names.items() if place not in equal_matrices}
    tied_names = [name for place, name in unverified.items() if len(set(paths[place])) > 1]
    tuned_parameters = dict(tuned.module.named_parameters(remove_duplicate=False))
    if base.module is tuned.module:
        split, problem = tied_names, "its adapter changes one end of it"
    else:
        split = [
            name
            for place, name in unverified.items()
            if len({id(tuned_parameters[path]) for path in paths[place]}) > 1
        ]
        problem = "has two matrices there"
    if split:
        raise UnsupportedModel(
            f"{base.name} ties {split[0]} to its other end, and {tuned.name} {problem}, so no graft"
            " can equal the fine-tuned model; use --scope blocks"
        )
