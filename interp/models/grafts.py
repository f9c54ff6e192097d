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
from interp.models.merged_tensors import bare
from interp.models.model import Model
from interp.models.offload import spread
from interp.models.pair import Pair
from interp.models.parameter_pairs import ParameterPair, pieces_of_adapter

PARTS = ("blocks", "attention", "mlp", "embeddings", "head", "all")


@dataclass(frozen=True, eq=False)
class Scope:
    """The parameters whose weights can be grafted, in order; weights are numbered across all of
    them from 0.

    Parameters that fine-tuning did not change are excluded (unless none changed), tied ones count
    once.
    """

    model: Model
    pieces: tuple[ParameterPair, ...]
    parts: tuple[str, ...]
    left_out: int = 0

    @classmethod
    def of(cls, pair: Pair, parts: str = "blocks") -> Scope:
        """The scope of a pair by name, several joined by commas; raises OptionError or
        UnsupportedModel.
        """
        base, named = (
            pair.require_base("grafting"),
            tuple(part.strip() for part in parts.split(",")),
        )
        if unknown := [part for part in named if part not in PARTS]:
            raise OptionError(
                f"unknown --scope {unknown[0]!r}; use {', '.join(PARTS)}, or several joined by"
                " commas"
            )
        for model in (base, pair.tuned):
            if spread(model.module) or any(is_packed(part) for part in model.module.modules()):
                raise UnsupportedModel(
                    f"{model.name} is quantised or offloaded, so its weights cannot be exchanged; "
                    "load it on one device, or give the unquantised model"
                )
        alike: set[int] = set()
        if base.module is pair.tuned.module:
            every, alike = _of_one_matrix(base, pieces_of_adapter(base, pair.tuned))
        else:
            every = _apart(base, pair.tuned)
        inside = [
            candidate
            for candidate in every
            if any(_belongs(base, candidate.name, part) for part in named)
        ]
        if not inside:
            raise OptionError(
                f"--scope {parts} matches no parameter of {base.name} (a tied head belongs to the "
                "embeddings, and for an adapter only changed parameters count); use another scope"
            )
        _require_one_matrix(base, pair.tuned, inside, alike)
        moved = [
            member for member in inside if not torch.equal(member.base, member.tuned)
        ] or inside
        left = sum(member.size for member in inside) - sum(member.size for member in moved)
        return cls(base, tuple(moved), named, left)

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return sum(pair.size for pair in self.pieces)

    @property
    def moved(self) -> Float[Tensor, " P"]:
        """Change of each weight."""
        return torch.cat([pair.moved for pair in self.pieces])

    def split(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor over all weights ``[P]`` as one tensor per parameter, in its shape."""
        parts = flat.split([pair.size for pair in self.pieces])
        return [part.view(pair.base.shape) for part, pair in zip(parts, self.pieces, strict=True)]

    def indices(self, mask: Bool[Tensor, " P"]) -> dict[str, np.ndarray]:
        """A mask as sorted flat indices per parameter name, in C order of the base's layout, (k,)
        integers.
        """
        found = {}
        for pair, part in zip(self.pieces, self.split(mask), strict=True):
            where = to_host(part.flatten().nonzero().flatten())
            found[pair.name] = where.astype(np.int32 if pair.size < 2**31 else np.int64)
        return found

    def mask(self, indices: Mapping[str, np.ndarray]) -> Bool[Tensor, " P"]:
        """Inverse of ``indices``; raises OptionError for a parameter outside the scope."""
        flat = torch.zeros(self.size, dtype=torch.bool, device=self.model.device)
        starts = np.cumsum([0, *[pair.size for pair in self.pieces]])
        place = {
            pair.name: int(start) for pair, start in zip(self.pieces, starts[:-1], strict=True)
        }
        for name, where in indices.items():
            if len(where) and name not in place:
                raise OptionError(
                    f"{name} has grafted weights and is not in the scope {', '.join(self.parts)}; "
                    "use the scope of that mask"
                )
            if len(where):
                flat[torch.from_numpy(np.array(where, np.int64)).to(flat.device) + place[name]] = (
                    True
                )
        return flat

    def shuffled(self, seed: int) -> Scope:
        """The same base, with each parameter's change permuted among its own weights.

        Shuffled values have at least float32, and are rounded to the model's dtype when grafted.
        """
        generator = torch.Generator().manual_seed(seed)
        pieces = []
        for pair in self.pieces:
            order = torch.randperm(pair.size, generator=generator).to(pair.base.device)
            tuned = (widen(pair.base).flatten() + pair.moved[order]).view(pair.base.shape)
            pieces.append(replace(pair, tuned=tuned))
        return replace(self, pieces=tuple(pieces))

    def rounding(self) -> tuple[int, float]:
        """Effect of the model's dtype on the grafted change.

        Returns the number of changed weights that rounding leaves unchanged, and the norm of the
        rounded change as a share of the exact one's.
        """
        still, stood, own = 0, 0.0, 0.0
        for pair in self.pieces:
            moved = pair.moved
            seen = (widen(pair.tuned.to(pair.base.dtype)) - widen(pair.base)).flatten()
            still += int(to_host(((moved != 0) & (seen == 0)).sum()))
            stood, own = (
                stood + float(to_host(seen.square().sum())),
                own + float(to_host(moved.square().sum())),
            )
        return still, (stood / own) ** 0.5 if own else 1.0

    @contextmanager
    def grafted(self, mask: Bool[Tensor, " P"]) -> Iterator[Model]:
        """The base with the fine-tuned weights where the mask is true, until closed."""
        chosen = [
            torch.where(part, pair.tuned.to(pair.base.dtype), pair.base)
            for part, pair in zip(self.split(mask.to(self.model.device)), self.pieces, strict=True)
        ]
        with self.standing(chosen):
            yield self.model

    @contextmanager
    def standing(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Replace the scope's parameters by these tensors; the originals are restored, also after
        an error.
        """
        places = [self.model.module.get_parameter(pair.path) for pair in self.pieces]
        own = [parameter.data for parameter in places]
        try:
            for place, tensor in zip(places, tensors, strict=True):
                place.data = tensor.detach()
            yield
        finally:
            for place, tensor in zip(places, own, strict=True):
                place.data = tensor


def _belongs(model: Model, name: str, part: str) -> bool:
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
        return path is not None and name.startswith(f"{bare(path)}.")
    blocks = f"{anatomy.blocks_path}."
    if not name.startswith(blocks):
        return False
    if part == "blocks":
        return True
    # an MLP need not have a module of its own: in OPT its two matrices belong to the block
    kind = "attn." if part == "attention" else "mlp."
    paths = [place.path for matrix, place in anatomy.matrices.items() if matrix.startswith(kind)]
    inner = name.removeprefix(blocks).partition(".")[2]
    return any(inner.startswith(path.partition(".")[0] + ".") for path in paths)


def _apart(base: Model, tuned: Model) -> list[ParameterPair]:
    theirs = dict(tuned.module.named_parameters(remove_duplicate=False))
    return [
        ParameterPair(name, name, parameter.data, theirs[name].data)
        for name, parameter in base.module.named_parameters()
        if parameter.is_floating_point()
    ]


def _of_one_matrix(
    base: Model, pieces: Sequence[ParameterPair]
) -> tuple[list[ParameterPair], set[int]]:
    """Parameter pairs of an adapter, with the ends of a tied matrix counted once if the adapter
    makes them equal (peft's ensure_weight_tying).

    The second value contains these matrices, by ``id``. Ends are compared up to rounding, because
    each is merged separately.
    """
    paths, ends = _paths(base), dict[int, list[ParameterPair]]()
    for pair in pieces:
        ends.setdefault(id(base.module.get_parameter(pair.path)), []).append(pair)
    alike = {
        matrix
        for matrix, matrix_pairs in ends.items()
        if len(matrix_pairs) > 1 and _agree(matrix_pairs, set(paths[matrix]))
    }
    doubled = {id(pair) for place in alike for pair in ends[place][1:]}
    return [pair for pair in pieces if id(pair) not in doubled], alike


def _agree(ends: Sequence[ParameterPair], paths: set[str]) -> bool:
    first, rounding = widen(ends[0].tuned), 16 * torch.finfo(ends[0].base.dtype).eps
    off = [
        to_host((widen(pair.tuned) - first).abs().max() <= rounding * first.abs().max())
        for pair in ends[1:]
    ]
    return {pair.name for pair in ends} == paths and all(off)


def _paths(base: Model) -> dict[int, list[str]]:
    """All names of each parameter, by its ``id``; a tied one has several."""
    paths: dict[int, list[str]] = {}
    for path, value in base.module.named_parameters(remove_duplicate=False):
        paths.setdefault(id(value), []).append(bare(path))
    return paths


def _require_one_matrix(
    base: Model, tuned: Model, inside: Sequence[ParameterPair], alike: set[int]
) -> None:
    """Raise UnsupportedModel for a tied matrix whose two ends differ in the fine-tuned model: a
    graft would change both.

    ``alike``: matrices, by ``id``, whose ends are known to be equal.
    """
    paths = _paths(base)
    places = {id(base.module.get_parameter(pair.path)): pair.name for pair in inside}
    own = {place: name for place, name in places.items() if place not in alike}
    held = [name for place, name in own.items() if len(set(paths[place])) > 1]
    theirs = dict(tuned.module.named_parameters(remove_duplicate=False))
    if base.module is tuned.module:
        split, how = held, "its adapter changes one end of it"
    else:
        split = [
            name
            for place, name in own.items()
            if len({id(theirs[path]) for path in paths[place]}) > 1
        ]
        how = "has two matrices there"
    if split:
        raise UnsupportedModel(
            f"{base.name} ties {split[0]} to its other end, and {tuned.name} {how}, so no graft can "
            "equal the fine-tuned model; use --scope blocks"
        )
