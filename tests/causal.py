"""A tiny random model of every causal class of transformers that a small configuration can build."""

import copy
import inspect
import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests import tiny


def _kinds() -> dict[str, str]:
    """One kind of configuration per class: the one that is named as the class is, and of the text
    alone.
    """
    found: dict[str, str] = {}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        kinds = [kind for kind, other in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if other == name]
        found[name] = min(
            kinds, key=lambda kind: (not kind.endswith("_text"), not _is_named(kind, name))
        )
    return found


def _is_named(kind: str, name: str) -> bool:
    return name.lower().startswith(kind.replace("_", "").replace("-", ""))


_LAYERS, _WIDTH, _INNER, _HEADS, _WINDOW = 3, 32, 48, 4, 6
# What configurations call their sizes; one that states none of a name is not given it.
_SIZES = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "emb_dim"),
        _WIDTH,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "n_inner",
            "ffn_dim",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
            "d_inner",
            "dff",
            "shared_intermediate_size",
            "dim_ff",
        ),
        _INNER,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "num_layers"), _LAYERS
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "attention_heads",
            "num_heads",
            "linear_num_value_heads",
        ),
        _HEADS,
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        (
            "num_experts_per_tok",
            "moe_k",
            "num_key_value_heads",
            "linear_num_key_heads",
            "index_n_heads",
            "attention_chunk_size",
            "num_kv_heads",
        ),
        2,
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"),
        16,
    ),
    **dict.fromkeys(
        (
            "head_dim",
            "dim_head",
            "global_head_dim",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "index_head_dim",
            "index_topk",
            "mamba_n_heads",
            "mamba_d_head",
            "mamba_d_state",
            "hidden_size_per_layer_input",
            "kv_channels",
        ),
        8,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 96),
    **dict.fromkeys(("sliding_window", "local_attention", "window_size"), _WINDOW),
    **dict.fromkeys(
        (
            "encoder_layers",
            "n_shared_experts",
            "n_group",
            "topk_group",
            "first_k_dense_replace",
            "num_dense_layers",
            "bos_token_id",
            "eos_token_id",
        ),
        1,
    ),
    "state_size": 4,
    "num_kv_shared_layers": 0,
    "pad_token_id": 0,
}
# Sizes that a configuration leaves to be derived and that have to be stated here all the same.
_STATED = ("head_dim", "num_key_value_heads")
_HYBRID = ["linear_attention", "full_attention", "linear_attention"]
_SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cpmant": {"prompt_length": 4},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "dbrx": {
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 48,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 8},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_groups": 1},
    "gemma3n_text": {
        "intermediate_size": [48] * 3,
        "activation_sparsity_pattern": [0.0] * 3,
        "laurel_rank": 4,
        "vocab_size_per_layer_input": 336,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 8},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "num_layers": 2,
        "intermediate_size": 48,
    },
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba"],
        "residual_multiplier": 0.5,
    },
    **{kind: {"rotary_dim": 4} for kind in ("gptj", "codegen")},
    "granite": {
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "logits_scaling": 3.0,
    },
    "inkling_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "d_rel": 4,
    },
    "inkling2_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "d_rel": 4,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_d_state": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4, "layer_types": _HYBRID},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "moe_shared_expert_intermediate_size": 16,
        "layers_block_type": ["mamba", "attention", "moe"],
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "mpt": {"expansion_ratio": 2},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "num_hidden_layers": 2,
        "axial_pos_shape": [8, 12],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": 48,
        "attention_head_size": 8,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 40,
        "shape_embed_dim": 8,
        "shape_vocab_size": 40,
    },
    "qwen4_exp_text": {
        "layer_types": _HYBRID,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "ple_embed_dim": 8,
        "hc_lowrank": 4,
        "ngram_vocab_size_base": 64,
        "split_ngram_parts": 1,
        "heads_per_ngram": 2,
        "make_ngram_vocab_size_divisible_by": 8,
    },
    "rwkv": {"attention_hidden_size": 32},
    "stablelm": {"use_parallel_residual": False},
    "xlm": {"emb_dim": 32},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"],
    },
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


KINDS = _kinds()


def configuration(kind: str, **changes: Any) -> PreTrainedConfig:
    """A small configuration of a kind of model; raises what transformers raises where there is
    none.
    """
    default = CONFIG_MAPPING[kind]
    return _small(default, kind, **{**_SPECIAL.get(kind, {}), **changes})


def _small(default: type[PreTrainedConfig], kind: str, **stated: Any) -> PreTrainedConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = default(
            **{
                name: value
                for name, value in stated.items()
                if name == "hidden_size_per_layer_input"
            }
        )
        fields = {
            **vars(full),
            **{name: None for name in inspect.signature(default.__init__).parameters},
        }
        known = {name for name in fields if not isinstance(getattr(default, name, None), property)}
        settings = {
            name: size for name, size in _SIZES.items() if name in known and _is_size(full, name)
        }
        if "qk_rope_head_dim" in settings:  # compressed queries and keys
            settings |= {"v_head_dim": 12, "num_key_value_heads": _HEADS}
            settings.pop("head_dim", None)
        settings |= {"is_decoder": True} if "is_decoder" in known else {}
        settings |= {"vocab_size": _vocabulary()} if "vocab_size" in known else {}
        for name in {"layer_types", "mlp_layer_types"} & known:
            if isinstance(kinds := getattr(full, name, None), (list, tuple)) and kinds:
                each = list(dict.fromkeys(kinds))
                settings[name] = [each[layer % len(each)] for layer in range(_LAYERS)]
        for name in full.sub_configs:
            if name not in stated and isinstance(getattr(full, name, None), PreTrainedConfig):
                settings[name] = _small(type(getattr(full, name)), kind).to_dict()
        return default(**{**settings, **stated})


def _is_size(config: PreTrainedConfig, name: str) -> bool:
    # layers of one configuration may differ in a size
    value = config.__dict__.get(name)
    return (
        name in _STATED
        or name.endswith("_id")
        or (isinstance(value, int) and not isinstance(value, bool))
    )


def _vocabulary() -> int:
    return len(tiny.tokenizer()) + 11


def copied(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in memory of its own, with experts that multiply any dtype."""
    child = copy.deepcopy(model)
    child.config._experts_implementation = "eager"
    return child


def build(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model with biases and norms that are not at their start, so that nothing is right by
    accident.
    """
    config = configuration(kind, **changes)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, attn_implementation=None).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.12 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.05 * noise)
            else:
                parameter.add_(0.1 * noise)
    model.config._experts_implementation = "eager"  # the others multiply no float64
    model.config.architectures = [type(model).__name__]
    model.generation_config.eos_token_id = 1
    return model
