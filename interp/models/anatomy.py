"""Where a site or a weight lives in a Hugging Face model, read from TransformerLens' architecture maps.

TransformerLens describes about 160 families as trees of components with module paths and hook aliases. Those maps are
read here without building a bridge; every target is then required to exist with the width the configuration says.
What is not resolved exactly is refused, never guessed.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel
from interp.models.matrices import shape_of, unwrapped
from interp.sites import BLOCK_HOOKS, MATRICES, Site, Weight

_QKV = {"attn.q": 0, "attn.k": 1, "attn.v": 2}
_GATE_UP = {"mlp.gate": ("mlp.hook_pre", 0), "mlp.in": ("mlp.hook_pre_linear", 1)}
_NEURON_HOOKS = ("mlp.hook_in", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "mlp.out.hook_out")
# How a fused matrix is stacked is told by no map; a family that is not named here has no such matrix.
_STACKED_QKV = ("GPT2LMHeadModel", "Phi3ForCausalLM")
_QKV_BY_HEAD = ("GPTNeoXForCausalLM",)
_STACKED_GATE_UP = {"Phi3ForCausalLM": "mlp.gate_up_proj"}
PARTS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
"""A block's input, what its attention and its MLP add, and its output."""
WITHOUT_UNITS = "use interp compare or interp graft, which read no single units"
WITHOUT_SUM = "interp compare and interp graft need no such sum"
PROVEN = (
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "Olmo2ForCausalLM", "Phi3ForCausalLM", "GPTNeoXForCausalLM", "GPT2LMHeadModel",
    "MixtralForCausalLM (without neurons)",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One side of one module: the tensor it reads first (``in``) or returns first (``out``).

    ``part`` are the first and the last but one column where a fused module carries several sites.
    """

    path: str
    side: Literal["in", "out"]
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Place:
    """The module that holds a matrix.

    A fused module stacks parts of ``sizes`` rows, ``groups`` times over; this is the part ``index`` of every group.
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


@dataclass(frozen=True)
class Anatomy:
    """Sizes of a model and the module paths of its sites.

    ``n_neurons`` is the MLP's inner width, 0 where the blocks hold experts instead of one MLP.
    """

    architecture: str
    n_layers: int
    width: int
    n_neurons: int
    n_heads: int
    head_width: int
    gated: bool
    vocabulary: int
    blocks_path: str
    targets: dict[str, Target]
    matrices: dict[str, Place]

    def target(self, site: Site) -> Target:
        """The module side that carries a site; raises UnsupportedModel when this family has none."""
        if not 0 <= site.layer < self.n_layers:
            raise UnsupportedModel(f"{site} does not exist: {self.architecture} here has {self.n_layers} blocks")
        if site.hook not in self.targets:
            raise UnsupportedModel(f"{self.architecture} has no exact place for {site.hook}")
        found = self.targets[site.hook]
        return replace(found, path=".".join(filter(None, (self.blocks_path, str(site.layer), found.path))))

    def place(self, weight: Weight) -> Place:
        """The module that holds a matrix, with its dotted path; raises UnsupportedModel when there is none."""
        if weight.matrix not in self.matrices:
            raise UnsupportedModel(f"{self.architecture} has no matrix {weight.matrix} that can be read exactly")
        found = self.matrices[weight.matrix]
        return replace(found, path=f"{self.blocks_path}.{weight.layer}.{found.path}")

    def require_neurons(self) -> None:
        """Raise UnsupportedModel where the blocks have no single MLP whose neurons could be told apart."""
        if self.n_neurons:
            return
        none = (
            f"{self.architecture} has no MLP neurons with an exact place (its blocks hold experts, or a fused or "
            "unknown MLP)"
        )
        if self.has_heads and self.has_parts:
            raise UnsupportedModel(f"{none}; use --unit head")
        raise UnsupportedModel(f"{none}, and no attention heads that can be read exactly; {WITHOUT_UNITS}")

    @property
    def has_heads(self) -> bool:
        """Whether attention heads have an exact place."""
        return {"attn.hook_z", "attn.o.hook_out"} <= set(self.targets) and "attn.o" in self.matrices

    @property
    def has_parts(self) -> bool:
        """Whether what attention and MLP add to a block's output has an exact place."""
        return set(PARTS) <= set(self.targets)

    @cached_property
    def all_neurons(self) -> list[tuple[int, int]]:
        """Every (layer, neuron), in order."""
        return [(layer, neuron) for layer in range(self.n_layers) for neuron in range(self.n_neurons)]


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """Resolve a model's sites; raises UnsupportedModel where the map and the model disagree."""
    config = model.config.get_text_config()
    name = type(model).__name__
    blocks = _component_tree(name, config).get("blocks")
    if blocks is None or blocks.name is None:
        raise UnsupportedModel(
            f"{name} is no single stack of blocks in its map, and its parts have no exact place; proven: "
            f"{', '.join(PROVEN)}"
        )
    width, n_layers = config.hidden_size, config.num_hidden_layers
    n_heads = _heads(config)
    head_width = getattr(config, "head_dim", None) or width // n_heads
    if not n_layers:
        raise UnsupportedModel(f"{name} has no blocks by its configuration (num_hidden_layers is 0); check config.json")
    paths = [f"{blocks.name}.{layer}" for layer in range(n_layers)]

    def everywhere(path: str) -> bool:
        """A place counts where every block has it: some families mix kinds of blocks."""
        return all(_exists(model, block, path) for block in paths)

    targets: dict[str, Target] = {}
    for hook in BLOCK_HOOKS:
        resolved = _resolve(blocks, hook)
        if resolved is not None and everywhere(resolved.path):
            targets[hook] = resolved
    matrices = {
        matrix: Place(path)
        for matrix in MATRICES
        if (path := _path(blocks, matrix.split("."))) is not None and everywhere(path)
    }
    block = model.get_submodule(f"{blocks.name}.0")
    sizes = tuple(head_width * heads for heads in (n_heads, *[getattr(config, "num_key_value_heads", n_heads)] * 2))
    _split_fused(name, block, _path(blocks, ["attn", "qkv"]), n_heads, sizes, targets, matrices)
    if not {"mlp.hook_post", "mlp.out.hook_out"} <= set(targets) or not {"mlp.out", "mlp.in"} <= set(matrices):
        # a map may call something else by these names: the output of the experts, for one
        targets = {hook: target for hook, target in targets.items() if hook not in _NEURON_HOOKS}
        matrices = {matrix: place for matrix, place in matrices.items() if not matrix.startswith("mlp.")}
    n_neurons = 0
    if "mlp.out" in matrices:
        n_neurons = shape_of(unwrapped(block.get_submodule(matrices["mlp.out"].path)))[1]
    anatomy = Anatomy(
        name, n_layers, width, n_neurons, n_heads, head_width, "mlp.gate" in matrices, config.vocab_size,
        blocks.name, targets, matrices,
    )  # fmt: skip
    _require_shapes(model, anatomy, sizes)
    return anatomy


def _split_fused(
    name: str,
    block: nn.Module,
    qkv: str | None,
    n_heads: int,
    sizes: tuple[int, ...],
    targets: dict[str, Target],
    matrices: dict[str, Place],
) -> None:
    """Add the parts of fused query-key-value and gate-up projections, where the stacking is known."""
    for matrix, index in _QKV.items():
        if matrix in matrices and matrices[matrix].path != qkv:
            continue
        matrices.pop(matrix, None)
        if qkv is not None and name in _STACKED_QKV:
            matrices[matrix] = Place(qkv, 1, sizes, index)
        elif qkv is not None and name in _QKV_BY_HEAD:
            matrices[matrix] = Place(qkv, n_heads, tuple(size // n_heads for size in sizes), index)
    fused = _STACKED_GATE_UP.get(name)
    if fused is not None and _exists(block, fused):
        half = shape_of(unwrapped(block.get_submodule(fused)))[0] // 2
        for matrix, (hook, index) in _GATE_UP.items():
            matrices[matrix] = Place(fused, 1, (half, half), index)
            targets[hook] = Target(fused, "out", (index * half, (index + 1) * half))


def _heads(config: Any) -> int:
    """How many attention heads a configuration states; 1 where it states none, as of state-space models."""
    return getattr(config, "num_attention_heads", None) or 1


def _component_tree(name: str, config: Any) -> dict[str, Any]:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    try:
        heads = _heads(config)
        bridge = TransformerBridgeConfig(
            d_model=config.hidden_size,
            d_head=getattr(config, "head_dim", None) or config.hidden_size // heads,
            n_layers=config.num_hidden_layers,
            n_ctx=getattr(config, "max_position_embeddings", 1),
            n_heads=heads,
            d_vocab=config.vocab_size,
            architecture=name,
        )
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(bridge)
        mapping: Any = adapter.component_mapping
        return dict(mapping)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnsupportedModel(
            f"{name} is not an architecture with a known map; proven: {', '.join(PROVEN)}"
        ) from error


def _resolve(block: Any, hook: str) -> Target | None:
    """Follow hook aliases through the component tree until a module and a side are reached."""
    if hook in ("hook_in", "hook_out"):
        return Target("", "in" if hook == "hook_in" else "out")
    head, _, rest = hook.partition(".")
    if not rest:
        aliases = getattr(block, "hook_aliases", None) or {}
        alias = aliases.get(hook)
        if isinstance(alias, list):
            alias = alias[0]
        return None if alias is None or alias == hook else _resolve(block, alias)
    child = (getattr(block, "submodules", None) or {}).get(head)
    if child is None or child.name is None:
        return None
    found = _resolve(child, rest)
    return None if found is None else Target(".".join(filter(None, (child.name, found.path))), found.side)


def _path(block: Any, parts: list[str]) -> str | None:
    names = []
    for part in parts:
        block = (getattr(block, "submodules", None) or {}).get(part)
        if block is None or block.name is None:
            return None
        names.append(block.name)
    return ".".join(names)


def _exists(model: nn.Module, *parts: str) -> bool:
    try:
        model.get_submodule(".".join(filter(None, parts)))
    except AttributeError:
        return False
    return True


def _require_shapes(model: nn.Module, anatomy: Anatomy, heads: tuple[int, ...]) -> None:
    """Every matrix of every block must have the shape that the configuration implies."""
    inner = {"mlp.in": (anatomy.n_neurons, anatomy.width), "mlp.gate": (anatomy.n_neurons, anatomy.width)}
    shapes = {**inner, "mlp.out": (anatomy.width, anatomy.n_neurons), "attn.o": (anatomy.width, heads[0])}
    shapes |= {matrix: (heads[index], anatomy.width) for matrix, index in _QKV.items()}
    for layer in range(anatomy.n_layers):
        for matrix, wanted in shapes.items():
            if matrix not in anatomy.matrices:
                continue
            place = anatomy.place(Weight(layer, matrix))
            shape = shape_of(unwrapped(model.get_submodule(place.path)))
            expected = (place.groups * sum(place.sizes) or wanted[0], wanted[1])
            if shape != expected or tuple(place.cut(torch.empty(shape, device="meta")).shape) != wanted:
                raise UnsupportedModel(f"{place.path} is {shape}, expected {expected} from the configuration")
