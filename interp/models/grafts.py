"""Grafts: a base with some weights of its tuned child, in memory only and exactly undone.

``theta(m) = theta_base + m * (theta_tuned - theta_base)`` for a mask ``m`` of zeros and ones
(Panigrahi et al. 2023, arXiv 2302.06600). A mask is a choice between two tensors, not a sum: with
all ones it is the tuned model bit for bit, with none the base. Nothing here writes into a weight: a
grafted tensor stands in a parameter's place for a while, and the parameter's own comes back.
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
    """The parameters whose weights can be grafted, in order; weights are numbered through all of
    them from 0.

    Parameters that tuning left as they were are no part of it (unless all were), tied ones are
    counted once.
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
                    f"{model.name} is quantised or kept in parts, its weights cannot be exchanged;"
                    " load it whole, or give it as it was before quantisation"
                )
        alike: set[int] = set()
        if base.module is pair.tuned.module:
            every, alike = _of_one_matrix(base, pieces_of_adapter(base, pair.tuned))
        else:
            every = _apart(base, pair.tuned)
        inside = [
            piece for piece in every if any(_belongs(base, piece.name, part) for part in named)
        ]
        if not inside:
            raise OptionError(
                f"--scope {parts} names no parameter of {base.name} (a tied head is among the"
                " embeddings, and of an adapter only what it changes counts); use another scope"
            )
        _require_one_matrix(base, pair.tuned, inside, alike)
        moved = [piece for piece in inside if not torch.equal(piece.base, piece.tuned)] or inside
        left = sum(piece.size for piece in inside) - sum(piece.size for piece in moved)
        return cls(base, tuple(moved), named, left)

    @cached_property
    def size(self) -> int:
        """How many weights there are."""
        return sum(piece.size for piece in self.pieces)

    @property
    def moved(self) -> Float[Tensor, " P"]:
        """How far each weight went."""
        return torch.cat([piece.moved for piece in self.pieces])

    def split(self, flat: Tensor) -> list[Tensor]:
        """Numbers per weight ``[P]`` as one tensor per parameter, in its shape."""
        parts = flat.split([piece.size for piece in self.pieces])
        return [part.view(piece.base.shape) for part, piece in zip(parts, self.pieces, strict=True)]

    def indices(self, mask: Bool[Tensor, " P"]) -> dict[str, np.ndarray]:
        """A mask as sorted flat indices per parameter name, in C order of the base's own layout,
        (k,) integers.
        """
        found = {}
        for piece, part in zip(self.pieces, self.split(mask), strict=True):
            where = to_host(part.flatten().nonzero().flatten())
            found[piece.name] = where.astype(np.int32 if piece.size < 2**31 else np.int64)
        return found

    def mask(self, indices: Mapping[str, np.ndarray]) -> Bool[Tensor, " P"]:
        """Inverse of ``indices``; raises OptionError for a parameter that is not in the scope."""
        flat = torch.zeros(self.size, dtype=torch.bool, device=self.model.device)
        starts = np.cumsum([0, *[piece.size for piece in self.pieces]])
        place = {
            piece.name: int(start) for piece, start in zip(self.pieces, starts[:-1], strict=True)
        }
        for name, where in indices.items():
            if len(where) and name not in place:
                raise OptionError(
                    f"{name} has grafted weights and is not in the scope {', '.join(self.parts)}"
                )
            if len(where):
                flat[torch.from_numpy(np.array(where, np.int64)).to(flat.device) + place[name]] = (
                    True
                )
        return flat

    def shuffled(self, seed: int) -> Scope:
        """The same base, with the movement of every parameter shuffled among its own weights.

        The moved values are kept in at least float32, and rounded to the model's dtype where they
        are grafted.
        """
        generator = torch.Generator().manual_seed(seed)
        pieces = []
        for piece in self.pieces:
            order = torch.randperm(piece.size, generator=generator).to(piece.base.device)
            tuned = (widen(piece.base).flatten() + piece.moved[order]).view(piece.base.shape)
            pieces.append(replace(piece, tuned=tuned))
        return replace(self, pieces=tuple(pieces))

    def rounding(self) -> tuple[int, float]:
        """What the model's dtype does to the movement where it is stood in.

        How many weights that moved stand still, and the length of the movement that stands as a
        share of its own.
        """
        still, stood, own = 0, 0.0, 0.0
        for piece in self.pieces:
            moved = piece.moved
            seen = (widen(piece.tuned.to(piece.base.dtype)) - widen(piece.base)).flatten()
            still += int(to_host(((moved != 0) & (seen == 0)).sum()))
            stood, own = (
                stood + float(to_host(seen.square().sum())),
                own + float(to_host(moved.square().sum())),
            )
        return still, (stood / own) ** 0.5 if own else 1.0

    @contextmanager
    def grafted(self, mask: Bool[Tensor, " P"]) -> Iterator[Model]:
        """The base with the tune's weights where the mask is true, for the time of the context."""
        chosen = [
            torch.where(part, piece.tuned.to(piece.base.dtype), piece.base)
            for part, piece in zip(self.split(mask.to(self.model.device)), self.pieces, strict=True)
        ]
        with self.standing(chosen):
            yield self.model

    @contextmanager
    def standing(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """These tensors in the places of the scope's parameters; the parameters' own come back,
        also on an error.
        """
        places = [self.model.module.get_parameter(piece.path) for piece in self.pieces]
        own = [place.data for place in places]
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
        path = next((path for path, one in module.named_modules() if one is owner), None)
        return path is not None and name.startswith(f"{bare(path)}.")
    blocks = f"{anatomy.blocks_path}."
    if not name.startswith(blocks):
        return False
    if part == "blocks":
        return True
    # an MLP need not have a module of its own: in OPT its two matrices stand in the block
    kind = "attn." if part == "attention" else "mlp."
    paths = [place.path for matrix, place in anatomy.matrices.items() if matrix.startswith(kind)]
    inner = name.removeprefix(blocks).partition(".")[2]
    return any(inner.startswith(path.partition(".")[0] + ".") for path in paths)


def _apart(base: Model, tuned: Model) -> list[ParameterPair]:
    theirs = dict(tuned.module.named_parameters(remove_duplicate=False))
    return [
        ParameterPair(name, name, mine.data, theirs[name].data)
        for name, mine in base.module.named_parameters()
        if mine.is_floating_point()
    ]


def _of_one_matrix(
    base: Model, pieces: Sequence[ParameterPair]
) -> tuple[list[ParameterPair], set[int]]:
    """Pieces of an adapter, once where it makes the same of every end of a tied matrix (peft's
    ensure_weight_tying).

    The second are the matrices, by ``id``, of which it does: up to rounding, since each end is
    merged in its own way.
    """
    paths, ends = _paths(base), dict[int, list[ParameterPair]]()
    for piece in pieces:
        ends.setdefault(id(base.module.get_parameter(piece.path)), []).append(piece)
    alike = {
        place for place, held in ends.items() if len(held) > 1 and _agree(held, set(paths[place]))
    }
    doubled = {id(piece) for place in alike for piece in ends[place][1:]}
    return [piece for piece in pieces if id(piece) not in doubled], alike


def _agree(ends: Sequence[ParameterPair], paths: set[str]) -> bool:
    first, rounding = widen(ends[0].tuned), 16 * torch.finfo(ends[0].base.dtype).eps
    off = [
        to_host((widen(piece.tuned) - first).abs().max() <= rounding * first.abs().max())
        for piece in ends[1:]
    ]
    return {piece.name for piece in ends} == paths and all(off)


def _paths(base: Model) -> dict[int, list[str]]:
    """Every name of each parameter, by its ``id``: a tied one has several."""
    paths: dict[int, list[str]] = {}
    for path, value in base.module.named_parameters(remove_duplicate=False):
        paths.setdefault(id(value), []).append(bare(path))
    return paths


def _require_one_matrix(
    base: Model, tuned: Model, inside: Sequence[ParameterPair], alike: set[int]
) -> None:
    """Refuse a tied matrix whose two ends are not the same in the fine-tuned model: what stands in
    it stands in both.

    ``alike``: matrices, by ``id``, whose ends are known to be.
    """
    paths = _paths(base)
    places = {id(base.module.get_parameter(piece.path)): piece.name for piece in inside}
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
            f"{base.name} ties {split[0]} to its other end, and {tuned.name} {how}, so that no"
            " graft is the tune; use --scope blocks"
        )
