"""A tiny model written as a ``.gguf`` file, as converters of llama.cpp write it."""

import json
from pathlib import Path

import gguf
import numpy as np
from transformers import LlamaForCausalLM

from tests import tiny

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write(model: LlamaForCausalLM, path: Path) -> Path:
    """The model and the tokenizer of ``tests.tiny``, weights in float32."""
    config, out = model.config, gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    _tokenizer(out)
    for name, value in model.state_dict().items():
        for ours, theirs in _names(config.num_hidden_layers).items():
            if name == f"{ours}.weight":
                array = value.detach().numpy().astype(np.float32)
                heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
                out.add_tensor(
                    f"{theirs}.weight", _interleaved(array, heads.get(theirs.split(".")[-1]))
                )
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _tokenizer(out: gguf.GGUFWriter) -> None:
    tokenizer = tiny.tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = set(tokenizer.all_special_tokens) | {"<|user|>", "<|assistant|>"}
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokens)
    out.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    )
    out.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    )
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_chat_template(tokenizer.chat_template)


def _names(layers: int) -> dict[str, str]:
    found = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(layers):
        found |= {
            f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}"
            for ours, theirs in PARTS.items()
        }
    return found


def _interleaved(array: np.ndarray, heads: int | None) -> np.ndarray:
    """llama.cpp rotates neighbouring rows of a head where transformers rotates its halves."""
    if heads is None:
        return array
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
