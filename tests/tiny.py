"""Small random models of real architectures, with a real tokenizer, for tests that need no trained behaviour."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = "open the door . close a window ? please tell me how to paint old fences and lock new gates Sorry , I cannot help"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPTS = [
    "open the door",
    "please tell me how to close a window ?",
    "paint old fences and lock new gates .",
    "how to lock the door and open a gate please",
    "close the new window",
]


@functools.cache
def tokenizer(template: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE over a few words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([WORDS] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    if template:
        fast.chat_template = TEMPLATE
    return fast


def llama(seed: int = 0, scale: float = 1.0, **changes) -> PreTrainedModel:
    """A random Llama: grouped-query attention, 3 blocks, width 32, 48 neurons."""
    settings = dict(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, tie_word_embeddings=False, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, initializer_range=0.1 * scale, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def gpt2(seed: int = 0, **changes) -> PreTrainedModel:
    """A random GPT-2: Conv1D, fused query-key-value, biases that are not zero."""
    settings = dict(
        vocab_size=len(tokenizer()), n_embd=32, n_inner=48, n_layer=3, n_head=4, n_positions=96, pad_token_id=0,
        eos_token_id=1, bos_token_id=1, initializer_range=0.1, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**settings, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model


FAMILIES = {"llama": llama, "gpt2": gpt2}


def perturbed(model: PreTrainedModel, size: float = 0.02, seed: int = 1) -> PreTrainedModel:
    """A child of a model: every weight moved by random noise."""
    import copy

    child = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return child
