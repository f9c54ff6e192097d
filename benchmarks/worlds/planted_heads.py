"""A random GPT-2 of 12 blocks of 12 heads in which ten heads write a known direction on positive
prompts: the truth for circuits of heads.

A prompt is a fixed frame with two words of many and one marker, of three for positive prompts and
three for negative ones; twins differ in the marker alone. The value projection of a planted head is
changed so that it reads each positive marker (ridge regression on what the block's attention reads)
and writes one of three directions of its own, in dimensions of the stream that no later block
reads, so that no other head changes. All heads read markers as random weights do.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.study import Study

LAYERS, HEADS, WIDTH = 12, 12, 96
PLANTED = 10
WORDS = tuple(f"w{number}" for number in range(60))
MARKERS = {"positive": ("p0", "p1", "p2"), "negative": ("n0", "n1", "n2")}
LENGTH, PLACE, SLOTS = 9, 2, (4, 6)
EMBEDDING, ATTENTION = 8.0, 0.3
UNREAD = 12


@dataclass(frozen=True)
class PlantedHeads:
    """The model without and with the planted heads, its tokenizer and prompts, and the heads."""

    base: PreTrainedModel
    tuned: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    contrast: Contrast
    heads: tuple[tuple[int, int], ...]

    def study(self, **options: Any) -> Study:
        """A study of both models on the two classes."""
        pair = Pair.from_modules(self.tuned, self.base, self.tokenizer)
        return Study(pair, self.contrast, None, **options)


def planted_heads(pairs: int = 48, strength: float = 10.0, seed: int = 0) -> PlantedHeads:
    """The world of this seed. ``strength``: what a planted head adds at the marker, over the root
    mean square of what it writes there anyway.
    """
    generator = np.random.default_rng(seed)
    tokenizer = _tokenizer()
    contrast = _contrast(generator, pairs)
    torch.manual_seed(seed)
    base: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            initializer_range=0.3,
        )
    ).eval()
    with torch.no_grad():
        # so that later blocks can still read which token they are at
        base.transformer.wte.weight *= EMBEDDING
        for block in base.transformer.h:
            # random queries and keys of this width attend to one token each, never to the marker
            block.attn.c_attn.weight[:, : 2 * WIDTH] *= ATTENTION
            # what planted heads write is read by no later block: else others would change too
            for matrix in (block.attn.c_attn.weight, block.mlp.c_fc.weight):
                matrix[-UNREAD:] = 0
    chosen = np.sort(generator.choice(LAYERS * HEADS, PLANTED, replace=False))
    heads = tuple((int(at) // HEADS, int(at) % HEADS) for at in chosen)
    tuned = copy.deepcopy(base)
    for head in heads:
        _plant(tuned, tokenizer, contrast, head, strength, generator)
    return PlantedHeads(base, tuned, tokenizer, contrast, heads)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<end>", "<unk>", *WORDS, *(m for own in MARKERS.values() for m in own)]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def _contrast(generator: np.random.Generator, pairs: int) -> Contrast:
    sides: dict[str, list[Prompt]] = {"positive": [], "negative": []}
    for pair in range(pairs):
        words = list(WORDS[:LENGTH])
        for place in SLOTS:
            words[place] = str(generator.choice(WORDS[LENGTH:]))
        for name, markers in MARKERS.items():
            text = " ".join([*words[:PLACE], markers[pair % len(markers)], *words[PLACE:]])
            sides[name].append(Prompt(pair, text, f"twin{pair}", f"twin{pair}"))
    return Contrast(*(PromptSet(tuple(own), name) for name, own in sides.items()))


@torch.no_grad()
def _plant(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    contrast: Contrast,
    head: tuple[int, int],
    strength: float,
    generator: np.random.Generator,
) -> None:
    layer, number = head
    attention = model.transformer.h[layer].attn
    texts = [*contrast.positive.texts, *contrast.negative.texts]
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
    found: list[Tensor] = []
    hook = attention.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    model(input_ids=ids)
    hook.remove()
    read = found[0].flatten(0, 1)
    width = WIDTH // HEADS
    start = 2 * WIDTH + number * width
    values = read @ attention.c_attn.weight[:, start : start + width]
    size = strength * values.square().mean().sqrt() * width**0.5
    directions = torch.tensor(np.linalg.qr(generator.standard_normal((width, width)))[0]).to(read)
    write = attention.c_proj.weight[number * width : (number + 1) * width]
    own = directions[: len(MARKERS["positive"])]
    # these channels write to dimensions of the stream that nothing reads, as much as before
    target = torch.tensor(generator.standard_normal((len(own), UNREAD))).to(read)
    target *= ((own @ write).norm(dim=1) / target.norm(dim=1))[:, None]
    write -= own.T @ (own @ write)
    write[:, -UNREAD:] += own.T @ target
    for marker, direction in zip(MARKERS["positive"], own, strict=True):
        at_marker = ids.eq(int(tokenizer(marker)["input_ids"][0])).flatten().to(read)
        reader = _ridge(read, at_marker)
        attention.c_attn.weight[:, start : start + width] += size * torch.outer(reader, direction)


def _ridge(x: Float[Tensor, "N D"], y: Float[Tensor, " N"]) -> Float[Tensor, " D"]:
    """The direction that reads 1 at some rows and 0 at the others; the few rows count as much."""
    weight = torch.where(y > 0, (1 - y).sum() / y.sum(), 1.0)
    gram = x.T @ (weight[:, None] * x)
    ridge = 1e-3 * torch.trace(gram) / len(gram) * torch.eye(len(gram)).to(x)
    return torch.linalg.solve(gram + ridge, x.T @ (weight * y))
