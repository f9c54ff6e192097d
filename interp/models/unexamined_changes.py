"""Changes that a comparison of blocks cannot see: embeddings, final norm, head, and settings."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PretrainedConfig

from interp.models.model import Model
from interp.models.offload import named_tensors
from interp.models.pair import Pair
from interp.models.settings import setting

# Settings of a configuration, other than sizes, that determine how a block computes.
_SETTINGS = (
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "max_position_embeddings",
    "sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "hidden_act",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "use_parallel_residual",
    "scale_attn_by_inverse_layer_idx",
    "attention_multiplier",
    "residual_multiplier",
)


def changed_settings(pair: Pair) -> tuple[str, ...]:
    """Names of settings of attention, positions and norms that differ between the two
    configurations.
    """
    base = pair.require_base("settings")
    if base.module is pair.tuned.module:
        return ()
    base_config, tuned_config = (
        model.module.config.get_text_config() for model in (base, pair.tuned)
    )
    return tuple(
        name for name in _SETTINGS if _setting(base_config, name) != _setting(tuned_config, name)
    )


def _setting(config: PretrainedConfig, name: str) -> object:
    return setting(config, name)


def changed_outside_blocks(pair: Pair) -> tuple[str, ...]:
    """Names of tensors outside the blocks that fine-tuning changed."""
    base, tuned = pair.require_base("tensors outside the blocks"), pair.tuned
    blocks = f"{tuned.anatomy.blocks_path}."
    if base.module is tuned.module:
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        named = tuned.module.named_modules()
        return tuple(
            name for name, part in named if isinstance(part, kinds) and not name.startswith(blocks)
        )
    tuned_tensors = {
        name: value for name, value in named_tensors(tuned.module) if not name.startswith(blocks)
    }
    changed = []
    for name, value in named_tensors(base.module):
        if name in tuned_tensors and not torch.equal(
            value.to(tuned_tensors[name]), tuned_tensors[name]
        ):
            changed.append(name)
    return tuple(changed)


def unexamined_change_notes(pair: Pair) -> tuple[str, ...]:
    """Notes on this pair that a reader of numbers about blocks needs, one line each."""
    notes = []
    if outside := changed_outside_blocks(pair):
        notes.append(
            f"fine-tuning also changed {len(outside)} tensors outside the blocks "
            f"({', '.join(outside[:4])}), which a decomposition of block updates does not include"
        )
    if settings := changed_settings(pair):
        notes.append(
            f"base and fine-tuned model differ in {', '.join(settings)}: each uses its own, and the"
            " effect counts as fine-tuning"
        )
    if not pair.tuned.anatomy.n_neurons:
        notes.append(
            "the blocks contain experts or an unknown MLP: on the fine-tuned model's residual "
            "stream the base's router may choose other experts, and the effect counts as "
            "fine-tuning"
        )
    return tuple(notes)


def blocks_of(model: Model) -> list[torch.nn.Module]:
    """The blocks of a model, in order."""
    path = model.anatomy.blocks_path
    return [
        model.module.get_submodule(f"{path}.{layer}") for layer in range(model.anatomy.n_layers)
    ]
