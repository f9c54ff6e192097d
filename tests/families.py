"""Small random models of every proven family beside Llama and GPT-2, built from the families' own
configurations.
"""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests import tiny

_SIZES = dict(
    vocab_size=len(tiny.tokenizer()) + 11,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=96,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=1,
    initializer_range=0.1,
)
# Embeddings have spare rows, as those of real checkpoints do. Windows are shorter than the test
# prompts, and wide heads are not the width divided by their number.
_KINDS = {
    "mistral": (
        MistralForCausalLM,
        MistralConfig,
        {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {"num_key_value_heads": 2}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {"num_key_value_heads": 2}),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig,
        {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}
NAMES = tuple(_KINDS)
WITH_NEURONS = tuple(name for name in NAMES if name != "mixtral")
GATED = tuple(name for name in WITH_NEURONS if name != "neox")


def build(name: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A random model with biases and norms that are not at their start, so that nothing is right by
    accident.
    """
    architecture, configuration, special = _KINDS[name]
    torch.manual_seed(seed)
    settings = {**_SIZES, "tie_word_embeddings": False, **special, **changes}
    model = architecture(configuration(**settings)).eval()
    # as a checkpoint states it; TransformerLens goes by it
    model.config.architectures = [architecture.__name__]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter += 0.1 * torch.randn_like(parameter)
            elif key.endswith("bias"):
                parameter.normal_(std=0.05)
    model.generation_config.eos_token_id = 1
    return model


# What an adapter is put on, by family: (attention, MLP); fused projections among them.
TARGETS = {
    **dict.fromkeys(NAMES, (["q_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"])),
    "phi3": (["qkv_proj", "o_proj"], ["gate_up_proj", "down_proj"]),
    "neox": (["query_key_value", "attention.dense"], ["dense_h_to_4h", "dense_4h_to_h"]),
    "mixtral": (["q_proj", "k_proj", "v_proj", "o_proj"], []),
}
