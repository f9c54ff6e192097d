"""Where a site or a weight lives in a Hugging Face model, read from TransformerLens' architecture maps.

TransformerLens describes about 160 families as trees of components with module paths and hook aliases. Those maps are
read here without building a bridge; every target is then required to exist with the width the configuration says.
What is not resolved exactly is refused, never guessed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from interp.errors import UnsupportedModel
from interp.sites import BLOCK_HOOKS, MATRICES, Site, Weight

_QKV = {"attn.q": 0, "attn.k": 1, "attn.v": 2}
PROVEN = ("LlamaForCausalLM", "GPT2LMHeadModel")


@dataclass(frozen=True)
class Target:
    """One side of one module: the tensor it reads first (``in``) or returns first (``out``)."""

    path: str
    side: Literal["in", "out"]


@dataclass(frozen=True)
class Anatomy:
    """Sizes of a model and the module paths of its sites; ``n_neurons`` is the MLP's inner width."""

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
    matrices: dict[str, str]

    def target(self, site: Site) -> Target:
        """The module side that carries a site; raises UnsupportedModel when this family has none."""
        if not 0 <= site.layer < self.n_layers:
            raise UnsupportedModel(f"{site} does not exist: {self.architecture} here has {self.n_layers} blocks")
        if site.hook not in self.targets:
            raise UnsupportedModel(f"{self.architecture} has no exact place for {site.hook}")
        found = self.targets[site.hook]
        return Target(".".join(filter(None, (self.blocks_path, str(site.layer), found.path))), found.side)

    def module_path(self, weight: Weight) -> str:
        """The dotted path of the module that holds a matrix; raises UnsupportedModel when there is none."""
        if weight.matrix not in self.matrices:
            raise UnsupportedModel(f"{self.architecture} has no matrix {weight.matrix} that can be read exactly")
        return f"{self.blocks_path}.{weight.layer}.{self.matrices[weight.matrix]}"

    @cached_property
    def all_neurons(self) -> list[tuple[int, int]]:
        """Every (layer, neuron), in order."""
        return [(layer, neuron) for layer in range(self.n_layers) for neuron in range(self.n_neurons)]


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """Resolve a model's sites; raises UnsupportedModel where the map and the model disagree."""
    config = model.config.get_text_config()
    name = type(model).__name__
    blocks = _component_tree(name, config)["blocks"]
    width, n_layers = config.hidden_size, config.num_hidden_layers
    n_heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // n_heads
    targets, matrices = {}, {}
    for hook in BLOCK_HOOKS:
        resolved = _resolve(blocks, hook)
        if resolved is not None and _exists(model, f"{blocks.name}.0", resolved.path):
            targets[hook] = resolved
    for matrix in MATRICES:
        path = _path(blocks, matrix.split("."))
        if path is not None and _exists(model, f"{blocks.name}.0", path):
            matrices[matrix] = path
        elif matrix in _QKV and (fused := _path(blocks, ["attn", "qkv"])) is not None:
            matrices[matrix] = fused
    if "mlp.hook_post" not in targets or "mlp.out" not in matrices or "mlp.in" not in matrices:
        raise UnsupportedModel(
            f"{name}: its MLP neurons have no exact place (experts, or a fused or unknown MLP); "
            f"proven: {', '.join(PROVEN)}"
        )
    block = model.get_submodule(f"{blocks.name}.0")
    down = _unwrap(block.get_submodule(matrices["mlp.out"]))
    n_neurons = matrix_of(down).shape[1]
    anatomy = Anatomy(
        name, n_layers, width, n_neurons, n_heads, head_width, "mlp.gate" in matrices, config.vocab_size,
        blocks.name, targets, matrices,
    )  # fmt: skip
    _require_shapes(model, anatomy)
    return anatomy


def matrix_of(module: nn.Module) -> Float[Tensor, "out in"]:
    """A linear module's own matrix as ``(out, in)``; GPT-2's Conv1D stores ``(in, out)``."""
    weight = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def _component_tree(name: str, config: Any) -> dict[str, Any]:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    try:
        heads = config.num_attention_heads
        bridge = TransformerBridgeConfig(
            d_model=config.hidden_size,
            d_head=getattr(config, "head_dim", None) or config.hidden_size // heads,
            n_layers=config.num_hidden_layers,
            n_ctx=config.max_position_embeddings,
            n_heads=heads,
            d_vocab=config.vocab_size,
            architecture=name,
        )
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(bridge)
        return dict(adapter.component_mapping)
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


def _unwrap(module: nn.Module) -> nn.Module:
    return module.base_layer if hasattr(module, "base_layer") else module


def _require_shapes(model: nn.Module, anatomy: Anatomy) -> None:
    """Every matrix of every block must have the shape that the configuration implies."""
    shapes = {
        "mlp.in": (anatomy.n_neurons, anatomy.width),
        "mlp.gate": (anatomy.n_neurons, anatomy.width),
        "mlp.out": (anatomy.width, anatomy.n_neurons),
        "attn.o": (anatomy.width, anatomy.n_heads * anatomy.head_width),
    }
    for layer in range(anatomy.n_layers):
        for matrix, wanted in shapes.items():
            if matrix not in anatomy.matrices:
                continue
            path = anatomy.module_path(Weight(layer, matrix))
            seen = tuple(matrix_of(_unwrap(model.get_submodule(path))).shape)
            if seen != wanted:
                raise UnsupportedModel(f"{path} is {seen}, expected {wanted} from the configuration")
