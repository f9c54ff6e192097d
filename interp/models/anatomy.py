"""Which module of a Hugging Face model computes a site or holds a weight, from TransformerLens'
architecture maps.

TransformerLens describes about 160 families as trees of components with module paths and hook
aliases. These maps are read here without building a bridge. Every module must then exist with the
width that the configuration states. Whatever cannot be resolved exactly is an error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from interp.errors import UnsupportedModel
from interp.models.matrices import base_layer_of, shape_of
from interp.models.places import (
    QKV,
    QKV_HOOKS,
    Place,
    Target,
    exists,
    projected,
    split_fused,
)
from interp.models.settings import differs_between_blocks, setting
from interp.sites import BLOCK_HOOKS, MATRICES, Site, Weight

_HEAD_HOOKS = ("attn.hook_z", "attn.o.hook_out")
_NEURON_HOOKS = (
    "mlp.hook_in",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "mlp.out.hook_out",
)
_MLP_MATRICES = ("mlp.in", "mlp.out")
# Token mixers of blocks without attention, as the maps name them.
_MIXERS = ("linear_attn", "mamba", "mixer", "ssm", "conv")
_MAP_SETTINGS = ("residual_multiplier", "num_local_experts")
_SCALED_PARTS = {"hook_attn_out": "scaled_attn_submodule", "hook_mlp_out": "scaled_mlp_submodule"}
BLOCK_PARTS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
"""A block's input, the contributions of its attention and its MLP, and its output."""
UNITS_REMEDY = "use interp compare or interp graft, which do not need single units"
SUM_REMEDY = "interp compare and interp graft do not need it"
TESTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Olmo2ForCausalLM",
    "Phi3ForCausalLM",
    "GPTNeoXForCausalLM",
    "GPT2LMHeadModel",
    "MixtralForCausalLM (without neurons)",
)


@dataclass(frozen=True)
class Anatomy:
    """Sizes of a model and the module paths of its sites.

    ``n_neurons`` is the MLP's inner width, 0 if the blocks contain experts instead of one MLP.
    ``layer_overrides``: locations of sites in single blocks that differ from the first block's.
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
    layer_overrides: dict[tuple[int, str], Target] = field(default_factory=dict)

    def target(self, site: Site) -> Target:
        """The module and side at which a site is; raises UnsupportedModel if the family has none."""
        if not 0 <= site.layer < self.n_layers:
            raise UnsupportedModel(
                f"{site} does not exist: {self.architecture} here has {self.n_layers} blocks"
            )
        if site.hook not in self.targets:
            raise UnsupportedModel(f"{self.architecture} has no exact module for {site.hook}")
        target = self.layer_overrides.get((site.layer, site.hook), self.targets[site.hook])
        return replace(
            target, path=".".join(filter(None, (self.blocks_path, str(site.layer), target.path)))
        )

    def place(self, weight: Weight) -> Place:
        """The module that holds a matrix, with its dotted path; raises UnsupportedModel if there is
        none.
        """
        if weight.matrix not in self.matrices:
            raise UnsupportedModel(
                f"{self.architecture} has no matrix {weight.matrix} that can be read exactly"
            )
        place = self.matrices[weight.matrix]
        return replace(place, path=f"{self.blocks_path}.{weight.layer}.{place.path}")

    def require_neurons(self) -> None:
        """Raise UnsupportedModel if the blocks have no single MLP with identifiable neurons."""
        if self.n_neurons:
            return
        reason = (
            f"{self.architecture} has no MLP neurons with an exact module (its blocks contain "
            "experts, or a fused or unknown MLP)"
        )
        if self.has_heads and self.has_parts:
            raise UnsupportedModel(f"{reason}; use --unit head")
        raise UnsupportedModel(
            f"{reason}, and no attention heads that can be read exactly; {UNITS_REMEDY}"
        )

    @property
    def has_heads(self) -> bool:
        """Whether attention heads have an exact module."""
        return {"attn.hook_z", "attn.o.hook_out"} <= set(self.targets) and "attn.o" in self.matrices

    @property
    def has_parts(self) -> bool:
        """Whether the contributions of attention and MLP to a block's output have an exact module."""
        return set(BLOCK_PARTS) <= set(self.targets)

    @cached_property
    def all_neurons(self) -> list[tuple[int, int]]:
        """Every (layer, neuron), in order."""
        return [
            (layer, neuron) for layer in range(self.n_layers) for neuron in range(self.n_neurons)
        ]


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """Locate all sites of a model; raises UnsupportedModel if the map and the model disagree."""
    config = model.config.get_text_config()
    name = type(model).__name__
    blocks = _component_tree(name, config).get("blocks")
    if blocks is None or blocks.name is None:
        raise UnsupportedModel(
            f"{name} is not a single stack of blocks in its map, and its parts have no exact "
            f"module; tested: {', '.join(TESTED_ARCHITECTURES)}"
        )
    width, n_layers = config.hidden_size, config.num_hidden_layers
    n_heads = _n_heads(config)
    head_width = _head_width(config)
    if not n_layers:
        raise UnsupportedModel(
            f"{name} has no blocks by its configuration (num_hidden_layers is 0); check config.json"
        )
    paths = [f"{blocks.name}.{layer}" for layer in range(n_layers)]

    # only locations that every block has are used: some families mix kinds of blocks
    targets: dict[str, Target] = {}
    layer_overrides: dict[tuple[int, str], Target] = {}
    for hook in BLOCK_HOOKS:
        if hook in QKV_HOOKS:
            continue  # names of modules that fused families do not have; see below
        block_targets = [_resolve_in(model, path, blocks, hook) for path in paths]
        if block_targets[0] is not None and None not in block_targets:
            targets[hook] = block_targets[0]
            overrides = {
                (layer, hook): target
                for layer, target in enumerate(block_targets)
                if target not in (None, block_targets[0])
            }
            layer_overrides |= {
                key: target for key, target in overrides.items() if target is not None
            }
    matrices = {
        matrix: Place(path)
        for matrix in MATRICES
        if (path := _path(blocks, matrix.split("."))) is not None
        and all(exists(model, block_path, path) for block_path in paths)
    }
    block = model.get_submodule(f"{blocks.name}.0")
    kv_heads = setting(config, "num_key_value_heads", n_heads)
    sizes = (head_width * n_heads, head_width * kv_heads, head_width * kv_heads)
    split_fused(name, block, _path(blocks, ["attn", "qkv"]), n_heads, sizes, targets, matrices)
    if any(
        differs_between_blocks(config, size)
        for size in ("head_dim", "num_attention_heads", "num_key_value_heads")
    ):
        targets, matrices = _without(targets, _HEAD_HOOKS), _without(matrices, QKV, ("attn.o",))
    targets |= {
        hook: projected(matrices[matrix])
        for hook, matrix in QKV_HOOKS.items()
        if matrix in matrices
    }
    # a map may use these names for something else, such as the output of the experts
    has_mlp = {"mlp.hook_post", "mlp.out.hook_out"} <= set(targets) and {
        "mlp.out",
        "mlp.in",
    } <= set(matrices)
    n_neurons = _inner_width(model, paths, matrices) if has_mlp else 0
    if not n_neurons:
        targets, matrices = (
            _without(targets, _NEURON_HOOKS),
            _without(matrices, ("mlp.gate", "mlp.in", "mlp.out")),
        )
    anatomy = Anatomy(
        name,
        n_layers,
        width,
        n_neurons,
        n_heads,
        head_width,
        "mlp.gate" in matrices,
        config.vocab_size,
        blocks.name,
        targets,
        matrices,
        {key: target for key, target in layer_overrides.items() if key[1] in targets},
    )
    _require_shapes(model, anatomy, sizes)
    return anatomy


def _without(entries: dict[str, Any], *names: Iterable[str]) -> dict[str, Any]:
    removed = {name for group in names for name in group}
    return {name: place for name, place in entries.items() if name not in removed}


def _inner_width(model: nn.Module, blocks: list[str], matrices: dict[str, Place]) -> int:
    """Number of neurons of the MLPs; 0 if blocks differ, or if an MLP computes more values than it
    reads back (a fused gate whose layout is unknown).
    """
    widths = set()
    for block in blocks:
        input_shape, output_shape = (
            shape_of(base_layer_of(model.get_submodule(f"{block}.{matrices[m].path}")))
            for m in _MLP_MATRICES
        )
        widths |= {output_shape[1], sum(matrices["mlp.in"].sizes[:1]) or input_shape[0]}
    return widths.pop() if len(widths) == 1 else 0


def _n_heads(config: Any) -> int:
    """Number of attention heads in the configuration; 1 if it states none, as for state-space
    models.
    """
    return setting(config, "num_attention_heads") or 1


def _head_width(config: Any) -> int:
    """Output width of a head; with compressed queries and keys (MLA) these have another width."""
    stated = setting(config, "v_head_dim") or setting(config, "head_dim")
    return stated or config.hidden_size // _n_heads(config)


def _component_tree(name: str, config: Any) -> dict[str, Any]:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    try:
        heads = _n_heads(config)
        bridge = TransformerBridgeConfig(
            d_model=config.hidden_size,
            d_head=_head_width(config),
            n_layers=config.num_hidden_layers,
            n_ctx=getattr(config, "max_position_embeddings", 1),
            n_heads=heads,
            d_vocab=config.vocab_size,
            architecture=name,
        )
        # some maps need these for the factor on a block's contributions, or to tell whether the MLP
        # is one of several parts
        vars(bridge).update(
            {name: value for name in _MAP_SETTINGS if (value := setting(config, name)) is not None}
        )
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(bridge)
        mapping: Any = adapter.component_mapping
        return dict(mapping)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnsupportedModel(
            f"{name} is not an architecture with a known map; tested:"
            f" {', '.join(TESTED_ARCHITECTURES)}"
        ) from error


def _resolve_in(model: nn.Module, path: str, block: Any, hook: str) -> Target | None:
    """Location of a site in one block: by the map, or at the token mixer in place of attention."""
    target = _resolve(block, hook)
    if target is not None and exists(model, path, target.path):
        return target
    if hook != "hook_attn_out" or "attn" not in block.submodules:
        return None
    candidates = [_scaled_output(block, mixer) for mixer in _MIXERS]
    existing = [
        target for target in candidates if target is not None and exists(model, path, target.path)
    ]
    return existing[0] if len(existing) == 1 else None


def _scaled_output(block: Any, part: str) -> Target | None:
    """The output of a part of a block, with the factor applied before it is added to the stream."""
    target = _resolve(block, f"{part}.hook_out")
    return (
        None
        if target is None
        else replace(target, factor=getattr(block, "residual_contribution_scale", 1.0))
    )


def _resolve(block: Any, hook: str) -> Target | None:
    """Follow hook aliases through the component tree to a module and a side."""
    if hook in ("hook_in", "hook_out"):
        # a component that only groups others has no input and output
        return Target("", "in" if hook == "hook_in" else "out") if block.name is not None else None
    head, _, remainder = hook.partition(".")
    if not remainder:
        aliases = getattr(block, "hook_aliases", None) or {}
        alias = aliases.get(hook)
        if isinstance(alias, list):
            alias = alias[0]
        if (
            alias is None
            and (part := getattr(block, _SCALED_PARTS.get(hook, ""), None)) is not None
        ):
            return _scaled_output(block, part)
        return None if alias is None or alias == hook else _resolve(block, alias)
    child = _child(block, head)
    if child is None or not _is_named(child):
        return None
    target = _resolve(child, remainder)
    return (
        None
        if target is None
        else replace(target, path=".".join(filter(None, (child.name, target.path))))
    )


def _child(block: Any, name: str) -> Any:
    """A part of a block by name; also the MLP if the map has it only under another name."""
    parts = getattr(block, "submodules", None) or {}
    return parts.get(name) or (
        parts.get(getattr(block, _SCALED_PARTS["hook_mlp_out"], None)) if name == "mlp" else None
    )


def _is_named(part: Any) -> bool:
    """Whether a part of a map is a module, or groups modules that have no common parent module."""
    return part.name is not None or bool(getattr(part, "submodules", None))


def _path(block: Any, parts: list[str]) -> str | None:
    names = []
    for part in parts:
        block = _child(block, part)
        if block is None or not _is_named(block):
            return None
        names.append(block.name)
    return ".".join(filter(None, names)) if names[-1] else None


def _require_shapes(model: nn.Module, anatomy: Anatomy, head_sizes: tuple[int, ...]) -> None:
    """Check that every matrix of every block has the shape implied by the configuration."""
    inner = {
        "mlp.in": (anatomy.n_neurons, anatomy.width),
        "mlp.gate": (anatomy.n_neurons, anatomy.width),
    }
    shapes = {
        **inner,
        "mlp.out": (anatomy.width, anatomy.n_neurons),
        "attn.o": (anatomy.width, head_sizes[0]),
    }
    shapes |= {matrix: (head_sizes[index], anatomy.width) for matrix, index in QKV.items()}
    for layer in range(anatomy.n_layers):
        for matrix, matrix_shape in shapes.items():
            if matrix not in anatomy.matrices:
                continue
            place = anatomy.place(Weight(layer, matrix))
            shape = shape_of(base_layer_of(model.get_submodule(place.path)))
            expected = (place.groups * sum(place.sizes) or matrix_shape[0], matrix_shape[1])
            if (
                shape != expected
                or tuple(place.rows_of(torch.empty(shape, device="meta")).shape) != matrix_shape
            ):
                raise UnsupportedModel(
                    f"{place.path} is {shape}, expected {expected} from the configuration"
                )
