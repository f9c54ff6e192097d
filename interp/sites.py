"""Addresses inside a model in TransformerLens names: ``Site`` for activations, ``Weight`` for
matrices.

A site is written as in TransformerLens, ``blocks.3.mlp.hook_post``. This module handles only the
names; ``interp.models.anatomy`` finds the module of a Hugging Face model that computes a site.
"""

import re
from dataclasses import dataclass

from interp.errors import OptionError

BLOCK_HOOKS: dict[str, str] = {
    "hook_resid_pre": "residual stream entering the block, width D",
    "hook_resid_post": "residual stream leaving the block, width D",
    "hook_attn_out": (
        "what attention (or the token mixer in its place) adds to the residual stream, after any "
        "post-norm or scale factor, width D"
    ),
    "hook_mlp_out": (
        "what the MLP adds to the residual stream, after any post-norm or scale factor, width D"
    ),
    "mlp.hook_in": "input of the MLP, width D",
    "mlp.hook_pre": "gate (or only) pre-activation of the MLP, width N",
    "mlp.hook_pre_linear": "linear (up) branch of a gated MLP, width N",
    "mlp.hook_post": "MLP neurons: input of the down projection, width N",
    "mlp.out.hook_out": (
        "output of the down projection, before any post-norm or scale factor, width D"
    ),
    "attn.hook_q": "queries as projected, before any norm or rotation, width H * head width",
    "attn.hook_k": (
        "keys as projected, before any norm or rotation, width of the key-value heads together"
    ),
    "attn.hook_v": "values as projected, width of the key-value heads together",
    "attn.hook_z": (
        "outputs of the attention heads, input of the output projection, width H * head width"
    ),
    "attn.o.hook_out": (
        "output of the attention output projection, before any post-norm or scale factor, width D"
    ),
}

MATRICES: dict[str, str] = {
    "attn.q": "query projection",
    "attn.k": "key projection",
    "attn.v": "value projection",
    "attn.o": "attention output projection",
    "mlp.gate": "gate projection of a gated MLP",
    "mlp.in": "up (or only input) projection of the MLP",
    "mlp.out": "down projection of the MLP",
}

HOOK_ORDER = (
    "hook_resid_pre",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "attn.o.hook_out",
    "hook_attn_out",
    "mlp.hook_in",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "mlp.out.hook_out",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Hooks of a block in the order of the forward pass; parallel blocks also run attention first."""
_SITE = re.compile(r"blocks\.([0-9]+)\.(.+)")


@dataclass(frozen=True, order=True)
class Site:
    """One activation of one block, e.g. ``Site(3, "mlp.hook_post")``; prints as
    ``blocks.3.mlp.hook_post``.
    """

    layer: int
    hook: str

    def __post_init__(self) -> None:
        if self.hook not in BLOCK_HOOKS:
            raise OptionError(f"unknown site {self.hook!r}; known: {', '.join(BLOCK_HOOKS)}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.hook}"

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Read ``blocks.<layer>.<hook>``; raises OptionError for any other text."""
        match = _SITE.fullmatch(name)
        if match is None:
            raise OptionError(
                f"{name!r} is not a site; write it as blocks.<layer>.<hook>, e.g."
                " blocks.0.mlp.hook_post"
            )
        return cls(int(match.group(1)), match.group(2))


@dataclass(frozen=True, order=True)
class Weight:
    """One matrix of one block, e.g. ``Weight(3, "mlp.out")``; always in the layout ``(out, in)``."""

    layer: int
    matrix: str

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise OptionError(f"unknown matrix {self.matrix!r}; known: {', '.join(MATRICES)}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.matrix}"


def neurons(layer: int) -> Site:
    """The MLP neurons of a block, ``blocks.<layer>.mlp.hook_post``."""
    return Site(layer, "mlp.hook_post")


def contribution(layer: int) -> Site:
    """The output of a block's down projection, to which neuron j adds ``h_j W_down[:, j]``."""
    return Site(layer, "mlp.out.hook_out")
