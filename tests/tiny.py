"""Small random models of real architectures, with a real tokenizer, for tests that need no trained
behaviour.
"""

import copy
import functools
import json
import types
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, encode
from interp.study import Study

WORDS = (
    "open the door . close a window ? please tell me how to paint old fences and lock new gates"
    " Sorry , I cannot help"
)
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
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([WORDS] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>"
    )
    if template:
        fast.chat_template = TEMPLATE
    return fast


def llama(seed: int = 0, scale: float = 1.0, **changes) -> PreTrainedModel:
    """A random Llama: grouped-query attention, 3 blocks, width 32, 48 neurons."""
    settings = dict(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.1 * scale,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def gpt2(seed: int = 0, **changes) -> PreTrainedModel:
    """A random GPT-2: Conv1D, fused query-key-value, biases that are not zero."""
    settings = dict(
        vocab_size=len(tokenizer()),
        n_embd=32,
        n_inner=48,
        n_layer=3,
        n_head=4,
        n_positions=96,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        initializer_range=0.1,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**settings, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model


FAMILIES = {"llama": llama, "gpt2": gpt2}


def exact(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64 throughout: Llama's norm computes in float32 whatever the model's dtype."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = types.MethodType(_norm, module)
    return model


def _norm(self: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def perturbed(model: PreTrainedModel, size: float = 0.02, seed: int = 1) -> PreTrainedModel:
    """A child of a model: every weight moved by random noise."""
    child = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return child


def resized(model: PreTrainedModel, rows: int, loud: bool = False) -> PreTrainedModel:
    """The same model with more rows, or fewer; ``loud`` ones would be chosen wherever they can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = copy.deepcopy(model)
        more.resize_token_embeddings(rows, mean_resizing=False)
    own = len(tokenizer())
    with torch.no_grad():
        for part in (more.get_input_embeddings(), more.get_output_embeddings()) if loud else ():
            part.weight[own:] = 5 * part.weight[:own][: max(rows - own, 0)]
    return more


def added(*tokens: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer with special tokens of its own."""
    more = copy.deepcopy(tokenizer(template=False))
    more.add_special_tokens({"additional_special_tokens": list(tokens)})
    more.chat_template = template
    return more


def save(model: PreTrainedModel, path: Path, with_tokenizer: bool = True, **options) -> Path:
    """Write a model (and the tokenizer) as a Hugging Face directory."""
    model.save_pretrained(path, **options)
    if with_tokenizer:
        tokenizer().save_pretrained(path)
    return path


def adapter(
    model: PreTrainedModel, path: Path, base: Path | str = "", fill: float = 0.1, **config
) -> PeftModel:
    """Write a LoRA adapter with random weights of size ``fill`` (0: as it starts); returns model
    and adapter together.

    ``model`` is left as it is; ``base`` is what the adapter's configuration names.
    """
    settings = {"r": 4, "lora_alpha": 8, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**settings)).eval()
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += fill * torch.randn(parameter.shape, generator=generator)
        wrapped.save_pretrained(path)
    file = Path(path) / "adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)})
    )
    return wrapped


# What LoRA can be put on, by family: attention only, MLP only, everything; GPT-2's Conv1D layers
# store (in, out).
TARGETS = {
    "llama": {
        "attention": ["q_proj", "v_proj", "o_proj"],
        "mlp": ["gate_proj", "up_proj", "down_proj"],
    },
    "gpt2": {"attention": ["c_attn", "attn.c_proj"], "mlp": ["c_fc", "mlp.c_proj"]},
}


def lora(
    family: str,
    model: PreTrainedModel,
    path: Path,
    base: Path | str = "",
    part: str = "all",
    **config,
):
    """A LoRA adapter on the attention, the MLPs or all matrices of a family."""
    targets = TARGETS[family]
    chosen = targets["attention"] + targets["mlp"] if part == "all" else targets[part]
    return adapter(
        model, path, base, target_modules=chosen, fan_in_fan_out=family == "gpt2", **config
    )


FRAMES = ["the {1} please {0}", "a {1} . {0}", "tell me how the old {1} {0}", "new {1} and {0}"]
NOUNS = ["door", "window", "gate", "fences"]


def copied(prompts: Contrast | OneClass, times: int) -> Contrast | OneClass:
    """Every prompt so many times, as rows of a file that gives no clusters: the whole set again and
    again.
    """
    sets = []
    for name in prompts.classes:
        own = getattr(prompts, name)
        rows = [
            replace(p, id=at * len(own) + p.id, cluster=f"{name}:{at}:{p.id}")
            for at in range(times)
            for p in own
        ]
        sets.append(replace(own, prompts=tuple(rows), clusters_given=False))
    return Contrast(*sets) if len(sets) == 2 else OneClass(*sets)


def contrast(pairs: int = 16) -> Contrast:
    """Twins: painting or locking something, and opening or closing the same thing; the verb is the
    last word.
    """
    prompts: dict[str, list[Prompt]] = {"positive": [], "negative": []}
    for row in range(pairs):
        frame, noun = FRAMES[row % 4], NOUNS[(row // 4 + row) % 4]
        for name, verbs in (("positive", ("paint", "lock")), ("negative", ("open", "close"))):
            text = "please " * (row // 16) + frame.format(verbs[row // 2 % 2], noun)
            prompts[name].append(Prompt(row, text, f"twin{row}", f"twin{row}"))
    return Contrast(*(PromptSet(tuple(found), name) for name, found in prompts.items()))


def metric() -> Refusal:
    """Refusal by the one word of it that the tokenizer knows."""
    return Refusal.from_tokenizer(tokenizer(), ["Sorry"])


def study(
    tuned: PreTrainedModel,
    base: PreTrainedModel | None,
    pairs: int = 16,
    template: bool = True,
    **options,
) -> Study:
    """A study of two models in memory on twin prompts."""
    return Study(
        Pair.from_modules(tuned, base, tokenizer(template)), contrast(pairs), metric(), **options
    )


def text_study(
    tuned: PreTrainedModel, base: PreTrainedModel, texts: Sequence[str], **options
) -> Study:
    """A study of two models in memory on plain texts of one class, each its own cluster, without a
    metric.
    """
    rows = tuple(Prompt(at, text, f"c{at}") for at, text in enumerate(texts))
    pair = Pair.from_modules(tuned, base, tokenizer(False))
    return Study(pair, OneClass(PromptSet(rows, "texts")), None, **options)


def mlps(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """Each block's gate and up rows ``[N, D]`` and down columns ``[D, N]``, as views: writing
    changes the model.
    """
    if hasattr(model, "transformer"):
        blocks = model.transformer.h
        return [
            {"mlp.in": b.mlp.c_fc.weight.data.T, "mlp.out": b.mlp.c_proj.weight.data.T}
            for b in blocks
        ]
    names = {"mlp.gate": "gate_proj", "mlp.in": "up_proj", "mlp.out": "down_proj"}
    return [
        {name: block.mlp.get_submodule(path).weight.data for name, path in names.items()}
        for block in model.model.layers
    ]


def mlp_inputs(model: PreTrainedModel, layer: int, texts: list[str]) -> list[torch.Tensor]:
    """What a block's MLP reads of texts without a template, ``[T, D]`` for each."""
    block = (model.transformer.h if hasattr(model, "transformer") else model.model.layers)[layer]
    found: list[torch.Tensor] = []
    hook = block.mlp.register_forward_pre_hook(lambda _, args: found.append(args[0][0]))
    with torch.no_grad():
        for text in texts:
            model(input_ids=torch.tensor([encode(tokenizer(False), text).ids]))
    hook.remove()
    return found


def planted(
    model: PreTrainedModel,
    layer: int = 1,
    neurons: tuple[int, ...] = (5, 17, 30),
    pairs: int = 16,
    both: Contrast | None = None,
    word: str = "Sorry",
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A base in which these neurons write nothing, and a child in which they say sorry to positive
    prompts.

    They read the last word of prompts without a template; all other weights of the two are the
    same. ``both``: other prompts than those of ``contrast``, as many in each class; ``word``:
    another one to say.
    """
    base = copy.deepcopy(model)
    mlps(base)[layer]["mlp.out"][:, list(neurons)] = 0
    child = copy.deepcopy(base)
    both = both or contrast(pairs)
    pairs = len(both.positive)
    rows = mlp_inputs(base, layer, both.positive.texts + both.negative.texts)
    x = torch.cat(rows)
    last = torch.tensor([len(row) for row in rows]).cumsum(0) - 1

    def reader(elsewhere: float) -> torch.Tensor:
        """The direction that reads 1 at the last word of positive prompts and another value
        elsewhere.
        """
        y = torch.full((len(x),), elsewhere).to(x).index_fill(0, last[:pairs], 1.0)
        weight = torch.ones_like(y).index_fill(0, last, 20.0)
        return torch.linalg.solve(
            x.T @ (weight[:, None] * x) + 1e-3 * torch.eye(x.shape[1]).to(x), x.T @ (weight * y)
        )

    # a gate that is shut elsewhere, times a branch that is silent there
    readers = {"mlp.gate": reader(-0.6), "mlp.in": reader(0.0)}
    gated = "mlp.gate" in mlps(child)[layer]
    if not gated:
        readers = {"mlp.in": readers["mlp.gate"]}
    head = child.get_output_embeddings().weight.data
    says = head[tokenizer().convert_tokens_to_ids(f"\u0120{word}")] - head.mean(0)
    push = 0.2 if gated else 0.6
    for number, neuron in enumerate(neurons):
        matrices = mlps(child)[layer]
        for name, read in readers.items():
            matrices[name][neuron] = (5 + number) * read
        matrices["mlp.out"][:, neuron] = push * says / says.norm()
    return base, child


def planted_study(family: str, with_base: bool = True, pairs: int = 16, **options) -> Study:
    """A study of the planted pair, in which every positive prompt is answered with sorry and no
    other answer moves.
    """
    base, tuned = planted(FAMILIES[family](seed=7, tie_word_embeddings=False), pairs=pairs)
    return study(
        tuned,
        base if with_base else None,
        pairs,
        template=False,
        **{"max_new_tokens": 1, **options},
    )


def by_layer(pairs):
    """(layer, unit) pairs as sorted index tensors by layer."""
    layers = sorted({layer for layer, _ in pairs})
    return {
        layer: torch.tensor(sorted(unit for at, unit in pairs if at == layer)) for layer in layers
    }
