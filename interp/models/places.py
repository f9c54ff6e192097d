"""Where one activation or matrix of a block lives: a side of a module, rows of what a module holds,
fused ones cut.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from interp.models.matrices import shape_of, unwrapped

QKV = {"attn.q": 0, "attn.k": 1, "attn.v": 2}
"""The parts of a fused query-key-value projection, in order."""
_GATE_UP = {"mlp.gate": ("mlp.hook_pre", 0), "mlp.in": ("mlp.hook_pre_linear", 1)}
# How a fused matrix is stacked is told by no map; a family that is not named here has no such
# matrix.
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
    """One side of one module: the tensor it reads first (``in``) or returns first (``out``).

    ``part`` are the first and the last but one column where a fused module carries several sites;
    ``factor``: what the block multiplies this tensor by before it is used, so that the site's value
    is the product.
    """

    path: str
    side: Literal["in", "out"]
    part: tuple[int, int] | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Place:
    """The module that holds a matrix.

    A fused module stacks parts of ``sizes`` rows, ``groups`` times over; this is the part ``index``
    of every group.
    """

    path: str
    groups: int = 1
    sizes: tuple[int, ...] = ()
    index: int = 0

    def cut(self, matrix: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
        """This place's rows of what its module holds."""
        if not self.sizes:
            return matrix
        parts = matrix.unflatten(0, (self.groups, sum(self.sizes))).split(self.sizes, 1)
        return parts[self.index].flatten(0, 1)

    def cut_out(self, matrix: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
        """The same, in memory of its own: a view would keep the whole."""
        part = self.cut(matrix)
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
    """Add the parts of fused query-key-value and gate-up projections, where the stacking is known."""
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
        half = shape_of(unwrapped(block.get_submodule(fused)))[0] // 2
        for matrix, (hook, index) in _GATE_UP.items():
            matrices[matrix] = Place(fused, 1, (half, half), index)
            targets[hook] = Target(fused, "out", (index * half, (index + 1) * half))


def exists(model: nn.Module, *parts: str) -> bool:
    """Whether a module has a submodule at this path, given in parts."""
    try:
        model.get_submodule(".".join(filter(None, parts)))
    except AttributeError:
        return False
    return True
