"""The change of fine-tuning, divided into modules: the matrices of every block, each on its own.

A state of a pair is the base with some modules as fine-tuned, in memory only: the tensors of the
base's module are replaced for a moment and restored exactly. With an adapter they are its merged
matrices, each switched on its own. Fused projections are divided by their rows, and a bias goes
with its matrix. The division ``matrices`` keeps norm gains of a branch apart (``attn.norm``), since
one gain is read by several matrices; ``groups`` puts them with what reads them, or with the matrix
after which they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from interp.errors import UnsupportedModel
from interp.maths.host import to_host
from interp.maths.null_updates import permuted_update, rotated_update
from interp.maths.precision import widen
from interp.models.anatomy import Anatomy
from interp.models.grafts import Scope
from interp.models.matrices import base_layer_of
from interp.models.merged_tensors import base_name
from interp.models.model import AdapterSwitch, Model
from interp.models.pair import Pair
from interp.models.parameter_pairs import ParameterPair
from interp.models.unexamined_changes import changed_settings
from interp.sites import Weight

Role = Literal["base", "tuned"]
Values = Sequence[Tensor]
DIVISIONS = ("matrices", "groups")
OUTSIDE = -1
"""The block of modules outside the blocks."""
_GROUPS = {
    **dict.fromkeys(("attn.q", "attn.k", "attn.v", "attn.norm"), "attn.reads"),
    **dict.fromkeys(("attn.o", "attn.post-norm"), "attn.writes"),
    **dict.fromkeys(("mlp.gate", "mlp.in", "mlp.norm"), "mlp.reads"),
    **dict.fromkeys(("mlp.out", "mlp.post-norm"), "mlp.writes"),
}
_MLP_NORMS = ("feedforward", "ffn", "mlp", "ln_2", "norm2", "final_layer_norm")


@dataclass(frozen=True, eq=False)
class ParameterPart:
    """A parameter of the scope, or some rows of a fused one.

    ``rows`` are along ``axis``, that of the outputs. ``by_token``: a row per token, as in an
    embedding, whose rows stay apart in a rotation.
    """

    pair: ParameterPair
    index: int
    rows: Int[Tensor, " rows"] | None = None
    axis: int = 0
    by_token: bool = False

    def take(self, tensor: Tensor) -> Tensor:
        """These entries of a tensor of the parameter's shape."""
        return tensor if self.rows is None else tensor.index_select(self.axis, self.rows)

    def put(self, tensor: Tensor, values: Tensor) -> Tensor:
        """A tensor of the parameter's shape with these entries replaced, in new memory."""
        values = values.to(tensor.dtype)
        return values if self.rows is None else tensor.index_copy(self.axis, self.rows, values)

    @property
    def change(self) -> Float[Tensor, ...]:
        """Its change, in at least float32."""
        return self.take(widen(self.pair.tuned)) - self.take(widen(self.pair.base))


@dataclass(frozen=True, eq=False)
class WeightModule:
    """A part of the change: block (-1 outside the blocks), name, and its parameters, of fused ones
    some rows.
    """

    layer: int
    part: str
    parameters: tuple[ParameterPart, ...]

    @property
    def name(self) -> str:
        """``blocks.3.attn.q``, or the name of the part outside the blocks."""
        return self.part if self.layer == OUTSIDE else f"blocks.{self.layer}.{self.part}"

    @property
    def changes(self) -> list[Tensor]:
        """The change of every parameter."""
        return [parameter.change for parameter in self.parameters]

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return sum(change.numel() for change in self.changes)

    @cached_property
    def norm(self) -> float:
        """Euclidean norm of the change."""
        squares = [change.double().square().sum() for change in self.changes]
        return float(to_host(torch.stack(squares).sum())) ** 0.5

    def values(self, role: Role) -> list[Tensor]:
        """Its weights in one of the models."""
        return [parameter.take(getattr(parameter.pair, role)) for parameter in self.parameters]

    def shifted(self, role: Role, changes: Values, factor: float = 1.0) -> list[Tensor]:
        """Its weights in one of the models plus ``factor`` times some change of theirs."""
        return [
            widen(value) + factor * change
            for value, change in zip(self.values(role), changes, strict=True)
        ]

    def permuted(self, generator: torch.Generator) -> list[Tensor]:
        """Its change with the entries of every parameter permuted."""
        return [permuted_update(change, generator) for change in self.changes]

    def rotated(self, generator: torch.Generator) -> list[Tensor]:
        """Its change with the singular vectors of every parameter rotated at random: all singular
        values stay.
        """
        return [
            rotated_update(parameter.change, generator, left=not parameter.by_token)
            for parameter in self.parameters
        ]


@dataclass(frozen=True, eq=False)
class WeightModules:
    """All changed modules of a pair, and the states that can be made of them, in the base's
    module.
    """

    scope: Scope
    modules: tuple[WeightModule, ...]

    @classmethod
    def from_pair(cls, pair: Pair, division: str = "matrices") -> WeightModules:
        """The changed modules, outside the blocks first, then block by block.

        Raises UnsupportedModel for models whose settings differ, whose weights cannot be exchanged
        (quantised, offloaded), or of which only one ties its head.
        """
        base = pair.require_base("patching weights")
        if differing := changed_settings(pair):
            raise UnsupportedModel(
                f"{pair.tuned.name} and {base.name} differ in {', '.join(differing)}, which no"
                " exchange of weights changes; give a pair of equal settings"
            )
        scope = Scope.from_pair(pair, "all")
        places = _places(base, division)
        found: dict[tuple[int, str], list[ParameterPart]] = {}
        for index, each in enumerate(scope.pairs):
            for parameter, layer, part in _parameter_parts(base, each, index, places, division):
                if not torch.equal(*(parameter.take(value) for value in (each.base, each.tuned))):
                    found.setdefault((layer, part), []).append(parameter)
        order = {part: at for at, part in enumerate(base.anatomy.matrices)}
        keys = sorted(found, key=lambda key: (key[0], order.get(key[1], len(order)), key[1]))
        return cls(scope, tuple(WeightModule(*key, tuple(found[key])) for key in keys))

    def tensors(self, start: Role, values: Mapping[int, Values]) -> list[Tensor]:
        """The scope's parameters as in one model, but for some modules, which have these values."""
        tensors = [
            each.base if start == "base" else each.tuned.to(each.base.dtype)
            for each in self.scope.pairs
        ]
        for number, module_values in values.items():
            for parameter, value in zip(
                self.modules[number].parameters, module_values, strict=True
            ):
                tensors[parameter.index] = parameter.put(tensors[parameter.index], value)
        return tensors

    @contextmanager
    def state(self, start: Role, values: Mapping[int, Values] | None = None) -> Iterator[Model]:
        """The base's module with the weights of ``tensors``, until closed."""
        with self.scope.weights_replaced(self.tensors(start, values or {})):
            yield self.scope.model

    def rotated_model(self, name: str, generator: torch.Generator) -> Model:
        """The base plus the whole change, rotated module by module, as a model of its own."""
        values = {
            number: module.shifted("base", module.rotated(generator))
            for number, module in enumerate(self.modules)
        }
        base = self.scope.model
        switch = WeightSwitch(base, self.scope, self.tensors("base", values))
        return Model(name, base.module, base.anatomy, switch, True, base.resized)


class WeightSwitch(AdapterSwitch):
    """Weights in place of the base's in its module, switched on and off as an adapter is."""

    def __init__(self, base: Model, scope: Scope, tensors: Sequence[Tensor]) -> None:
        """Keep the weights; they are switched off at first."""
        self._base, self._scope, self._tensors = base, scope, tensors
        self._context = None
        self.enabled = False

    def set(self, enabled: bool) -> None:
        """Put the weights in place, or the base's back."""
        if enabled == self.enabled:
            return
        if enabled:
            self._context = self._replaced()
            self._context.__enter__()
        elif self._context is not None:
            self._context.__exit__(None, None, None)
        self.enabled = enabled

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        with self._base.active(), self._scope.weights_replaced(self._tensors):
            yield


_Places = dict[str, list[tuple[int, str, Int[Tensor, " rows"] | None, int]]]


def _places(base: Model, division: str) -> _Places:
    """Parameter -> the matrices in it: block, part, rows of a fused one, axis of the rows."""
    places: _Places = {}
    anatomy = base.anatomy
    for layer in range(anatomy.n_layers):
        for part in anatomy.matrices:
            place = anatomy.place(Weight(layer, part))
            module = base_layer_of(base.module.get_submodule(place.path))
            rows = None
            if place.sizes:
                count = place.groups * sum(place.sizes)
                numbers = torch.arange(count, dtype=torch.float64)[:, None]
                rows = place.rows_of(numbers)[:, 0].long().to(base.device)
            label = _GROUPS.get(part, part) if division == "groups" else part
            for name, axis in (("weight", int(isinstance(module, Conv1D))), ("bias", 0)):
                places.setdefault(f"{place.path}.{name}", []).append((layer, label, rows, axis))
    return places


def _parameter_parts(
    base: Model, pair: ParameterPair, index: int, places: _Places, division: str
) -> Iterator[tuple[ParameterPart, int, str]]:
    if pair.name in places:
        for layer, part, rows, axis in places[pair.name]:
            yield ParameterPart(pair, index, rows, axis), layer, part
        return
    layer, part = _part_of_rest(base, pair.name)
    if division == "groups":
        part = _GROUPS.get(part, part)
    elif part.endswith(".post-norm"):
        part = part.replace("post-norm", "norm")
    yield ParameterPart(pair, index, by_token=layer == OUTSIDE and pair.base.ndim == 2), layer, part


def _part_of_rest(base: Model, name: str) -> tuple[int, str]:
    """Block and part of a parameter that is no known matrix."""
    anatomy = base.anatomy
    blocks = f"{anatomy.blocks_path}."
    if not name.startswith(blocks):
        return OUTSIDE, _end_of(base, name)
    number, _, inner = name.removeprefix(blocks).partition(".")
    layer, inner = int(number), inner.rsplit(".", 1)[0] or inner
    own = [each for each in base.module.get_submodule(f"{blocks}{number}")._modules]
    sandwich = any("feedforward" in each for each in own)
    if "norm" not in inner and "ln_" not in inner:
        # a router of experts can have the name of another family's matrix
        return layer, f"{inner}.module" if inner in _GROUPS else inner
    if inner.startswith("post_") and sandwich:
        return layer, "mlp.post-norm" if "feedforward" in inner else "attn.post-norm"
    branch = _branch_of(anatomy, inner)
    if branch is None:
        is_mlp = any(word in inner for word in _MLP_NORMS) or inner.startswith("post_attention")
        branch = "mlp" if is_mlp else "attn"
    return layer, f"{branch}.norm"


def _branch_of(anatomy: Anatomy, inner: str) -> str | None:
    """The branch in whose module a parameter of a block is, such as a norm of queries."""
    for part, place in anatomy.matrices.items():
        holder, _, last = place.path.partition(".")
        if last and inner.startswith(f"{holder}."):
            return part.partition(".")[0]
    return None


def _end_of(base: Model, name: str) -> str:
    """``embed`` or ``head``, which is the same module where both share a matrix; the final norm
    goes with the head.
    """
    module = base.module
    ends = [module.get_input_embeddings(), module.get_output_embeddings()]
    tied = ends[1] is None or base_layer_of(ends[0]).weight is base_layer_of(ends[1]).weight
    paths = {
        base_name(path)
        for path, each in module.named_modules()
        if each is ends[0] or each is base_layer_of(ends[0])
    }
    is_embedding = any(name.startswith(f"{path}.") for path in paths)
    is_position = "wpe" in name or "embed_positions" in name or "position_embeddings" in name
    return "embed" if tied or is_embedding or is_position else "head"
