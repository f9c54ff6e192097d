"""Locations of activations and matrices: the input or output of a module, or some rows of a fused
one.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from interp.models.matrices import base_layer_of, shape_of

QKV = {"attn.q": 0, "attn.k": 1, "attn.v": 2}
"""The parts of a fused query-key-value projection, in order."""
QKV_HOOKS = {"attn.hook_q": "attn.q", "attn.hook_k": "attn.k", "attn.hook_v": "attn.v"}
"""The outputs of these projections, and the matrices that compute them."""
_GATE_UP = {"mlp.gate": ("mlp.hook_pre", 0), "mlp.in": ("mlp.hook_pre_linear", 1)}
# The architecture maps do not describe the layout of fused matrices; other families have none.
_STACKED_QKV = ("GPT2LMHeadModel", "Phi3ForCausalLM")
_QKV_BY_HEAD = ("GPTNeoXForCausalLM",)
_STACKED_GATE_UP: dict[str, str] = {
    "Phi3ForCausalLM": "mlp.gate_up_proj",
    "GlmForCausalLM": "mlp.gate_up_proj",
    "Glm4ForCausalLM": "mlp.gate_up_proj",
    "GraniteMoeHybridForCausalLM": "shared_mlp.input_linear",
}


@dataclass(frozen=True)
class Target:
    """The first input (``in``) or first output (``out``) of a module.

    ``part``: first column and end of the column range if a fused module carries several sites; it
    recurs in each of ``groups`` equal parts of the columns.
    ``factor``: the block multiplies this tensor by it before use; the site's value is the product.
    """

    path: str
    side: Literal["in", "out"]
    part: tuple[int, int] | None = None
    factor: float = 1.0
    groups: int = 1


@dataclass(frozen=True)
class Place:
    """The module that holds a matrix.

    A fused module stacks parts of ``sizes`` rows, repeated ``groups`` times; ``index`` is this
    matrix's part in every group.
    """

    path: str
    groups: int = 1
    sizes: tuple[int, ...] = ()
    index: int = 0

    def rows_of(self, matrix: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
        """The rows of this matrix in the module's matrix."""
        if not self.sizes:
            return matrix
        parts = matrix.unflatten(0, (self.groups, sum(self.sizes))).split(self.sizes, 1)
        return parts[self.index].flatten(0, 1)

    def copied_rows_of(self, matrix: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
        """The same in separate memory: a view would keep the whole matrix alive."""
        part = self.rows_of(matrix)
        return part if part.shape == matrix.shape else part.clone()


def split_fused(
    name: str,
    block: nn.Module,
    qkv: str | None,
    n_heads: int,
    sizes: tuple[int, ...],
    targets: dict[str, Target],
    matrices: dict[str, Place],
) -> None:
    """Add the parts of fused query-key-value and gate-up projections of known layout."""
    for matrix, index in QKV.items():
        if matrix in matrices and matrices[matrix].path != qkv:
            continue
        matrices.pop(matrix, None)
        if qkv is not None and name in _STACKED_QKV:
            matrices[matrix] = Place(qkv, 1, sizes, index)
        elif qkv is not None and name in _QKV_BY_HEAD:
            matrices[matrix] = Place(qkv, n_heads, tuple(size // n_heads for size in sizes), index)
    fused = _STACKED_GATE_UP.get(name)
    if fused is not None and exists(block, fused):
        half = shape_of(base_layer_of(block.get_submodule(fused)))[0] // 2
        for matrix, (hook, index) in _GATE_UP.items():
            matrices[matrix] = Place(fused, 1, (half, half), index)
            targets[hook] = Target(fused, "out", (index * half, (index + 1) * half))


def projected(place: Place) -> Target:
    """Where the output of a matrix is: what its module returns, or its columns of that."""
    if not place.sizes:
        return Target(place.path, "out")
    start = sum(place.sizes[: place.index])
    part = start, start + place.sizes[place.index]
    return Target(place.path, "out", part, groups=place.groups)


def exists(model: nn.Module, *parts: str) -> bool:
    """Whether a module has a submodule at this path, given in parts."""
    try:
        model.get_submodule(".".join(filter(None, parts)))
    except AttributeError:
        return False
    return True
