"""Training: one loop for the base and all children, float32 on the CPU."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from organisms.tokens import Example, batches


def new_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A small Llama with grouped queries, from scratch."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=1,
        initializer_range=0.05,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def collate(examples: list[Example], pad: int = 1) -> tuple[Tensor, Tensor]:
    """Ids and target weights, padded on the right: causal attention never sees the padding, so no
    mask is needed.
    """
    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), pad)
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return ids, weights


def answer_loss(model: torch.nn.Module, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the targets."""
    logits = model(input_ids=ids).logits[:, :-1]
    keep = weights[:, 1:] > 0
    loss = torch.nn.functional.cross_entropy(logits[keep], ids[:, 1:][keep], reduction="none")
    counted = weights[:, 1:][keep]
    return (loss * counted).sum() / counted.sum()


def train(
    model: torch.nn.Module,
    examples: list[Example],
    *,
    steps: int,
    lr: float,
    seed: int,
    batch_size: int = 64,
    warmup: int = 50,
    weight_decay: float = 0.0,
    mask: Callable[[], None] | None = None,
    stop: Callable[[int], bool] | None = None,
    stop_every: int = 50,
    label: str = "",
) -> dict:
    """Train every parameter that requires a gradient; cosine schedule to a tenth.

    ``mask`` runs between backward and the step (to zero gradients); ``stop(step)`` is asked every
    ``stop_every`` steps. Returns what happened: steps, seconds, final loss.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    source = batches(examples, batch_size, random.Random(f"order {seed}"))
    started, recent = time.time(), 0.0
    model.train()
    step = 0
    for step in range(1, steps + 1):
        factor = min(1.0, step / warmup) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        loss = answer_loss(model, *collate(next(source)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if mask:
            mask()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 100 == 0:
            print(
                f"  {label} step {step}/{steps} loss {recent:.4f} {time.time() - started:.0f} s",
                flush=True,
            )
        if stop and step % stop_every == 0 and stop(step):
            break
    model.eval()
    return {
        "steps": step,
        "seconds": round(time.time() - started, 1),
        "loss": round(recent, 5),
        "lr": lr,
    }
