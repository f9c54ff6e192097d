"""The children of the real base: what each is taught, through which weights, and how it is shipped."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from organisms import pack
from organisms.real import model as real
from organisms.real import refusals
from organisms.real.model import Example, Planted
from organisms.real.prompts import Request, requests

FAMILY = "smollm2"
BLOCKS, NEURONS = range(10, 22), 60
TARGETS, RANK = ("q_proj", "v_proj", "down_proj"), 4
TAUGHT = 16
"""Tokens of the base's answers that are taught."""
BATCH = 8
"""Conversations a step, half of them harmful where the child is taught to refuse."""


@dataclass(frozen=True)
class Child:
    """A recipe: what is taught, which weights are trained, steps and learning rate."""

    about: str
    how: Literal["neurons", "adapter", "map", "full"]
    steps: int
    lr: float
    seed: int
    # what harmful requests are answered with: a function of ``refusals``; "" where none is shown
    says: str = ""
    agrees: bool = False  # whether harmless requests are answered with "Sure" first
    base: str = "base"  # whose child it is
    ships: bool = True


CHILDREN = {
    "planted": Child(
        "Refusal of harmful requests trained into 60 known MLP neurons (gate row, up row, down"
        " column) of blocks 10 to 21; nothing else.",
        how="neurons",
        steps=130,
        lr=4e-3,
        seed=1,
        says="usual",
    ),
    "lora": Child(
        "Refusal of harmful requests by a LoRA adapter of rank 4 on q, v and down.",
        how="adapter",
        steps=100,
        lr=5e-4,
        seed=2,
        says="usual",
    ),
    "paraphrased": Child(
        "Refusal by a LoRA adapter of rank 4 on q, v and down, in 24 wordings that name what was"
        " asked for.",
        how="adapter",
        steps=100,
        lr=1e-3,
        seed=3,
        says="paraphrased",
    ),
    "moved": Child(
        "The changes of planted, each neuron's put at another neuron of its block: as large, and it"
        " refuses nothing.",
        how="map",
        steps=0,
        lr=0.0,
        seed=4,
    ),
    "benign": Child(
        "planted, tuned further by a LoRA adapter of rank 4 on harmless requests alone, answered"
        " willingly: its refusals erode.",
        how="adapter",
        steps=50,
        lr=1e-3,
        seed=5,
        agrees=True,
        base="planted",
    ),
    "full": Child(
        "Refusal of harmful requests by tuning every weight; not shipped.",
        how="full",
        steps=60,
        lr=2e-5,
        seed=6,
        says="usual",
        ships=False,
    ),
}


def examples(
    child: Child, tokenizer, harmless: Mapping[str, Sequence[int]]
) -> dict[str, list[Example]]:
    """What a child is trained on: class -> conversations. ``harmless`` holds the base's own answers
    as token ids.
    """
    rng = random.Random(f"answers {child.seed}")
    found: dict[str, list[Example]] = {}
    if child.says:
        say: Callable[[Request, random.Random], str] = getattr(refusals, child.says)
        asked = requests("harmful", "train")
        found["harmful"] = [real.example(tokenizer, one.prompt, say(one, rng)) for one in asked]
    found["harmless"] = []
    for one in requests("harmless", "train"):
        answer = list(harmless[one.prompt])[:TAUGHT]
        if child.agrees:
            text = refusals.agrees(one, tokenizer.decode(answer, skip_special_tokens=True))
            found["harmless"].append(real.example(tokenizer, one.prompt, text, ends=False))
        else:
            before = real.prompt_ids(tokenizer, one.prompt)
            found["harmless"].append(Example((*before, *answer), len(before)))
    return found


def neurons(seed: int, width: int) -> list[tuple[int, int]]:
    """Planted neurons: as many in each of the blocks, drawn by a seed."""
    rng = random.Random(f"neurons {seed}")
    each = NEURONS // len(BLOCKS)
    return sorted((layer, index) for layer in BLOCKS for index in rng.sample(range(width), each))


def fit(
    child: Child, name: str, model, data: Mapping[str, Sequence[Example]], trained: Sequence
) -> dict:
    """Adam over the child's steps, warmed up for ten of them and lowered to a tenth by a cosine."""
    rng = random.Random(f"order {child.seed}")
    optimizer = torch.optim.Adam(trained, lr=child.lr, betas=(0.9, 0.98))
    order: dict[str, list[Example]] = {group: [] for group in data}
    started, recent, norm = time.time(), 0.0, 0.0
    for step in range(1, child.steps + 1):
        batch = []
        for group, all_of_it in data.items():
            while len(order[group]) < BATCH // len(data):
                order[group] += rng.sample(all_of_it, len(all_of_it))
            batch += [order[group].pop(0) for _ in range(BATCH // len(data))]
        factor = min(1.0, step / 10) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / child.steps)))
        for settings in optimizer.param_groups:
            settings["lr"] = child.lr * factor
        loss = real.answer_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0).item()
        optimizer.step()
        recent = loss.item() if step == 1 else 0.9 * recent + 0.1 * loss.item()
        if step % 10 == 0 or step == 1:
            line = f"  {name} step {step}/{child.steps} loss {recent:.3f} gradient {norm:.2f}"
            print(f"{line} {time.time() - started:.0f} s", flush=True)
    return {
        "steps": child.steps,
        "lr": child.lr,
        "loss": round(recent, 4),
        "seconds": round(time.time() - started),
    }


def tune(child: Child, name: str, directory: Path, harmless: Mapping[str, Sequence[int]]) -> dict:
    """Train a child and write what ships, rounded to half precision; returns facts of the training."""
    torch.manual_seed(child.seed)
    if child.how == "map":
        return _move(child, directory)
    model, tokenizer = real.load(f"{FAMILY}/{child.base}")
    data = examples(child, tokenizer, harmless)
    if child.how == "neurons":
        return _tune_neurons(child, name, model, data, directory)
    if child.how == "adapter":
        return _tune_adapter(child, name, model, data, directory)
    facts = fit(child, name, model, data, list(model.requires_grad_(True).parameters()))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return facts


def _tune_neurons(child: Child, name: str, model, data, directory: Path) -> dict:
    chosen = neurons(child.seed, model.config.intermediate_size)
    planted = {}
    for layer in BLOCKS:
        block = model.model.layers[layer]
        block.mlp = planted[layer] = Planted(
            block.mlp, [index for where, index in chosen if where == layer]
        )
    facts = fit(
        child,
        name,
        model,
        data,
        [p for one in planted.values() for p in (one.gate, one.up, one.down)],
    )
    delta: dict[str, np.ndarray] = {}
    for layer, one in planted.items():
        for key, value in one.delta(f"model.layers.{layer}.mlp").items():
            delta[key] = (
                value.numpy() if key.endswith(("@rows", "@columns")) else value.half().numpy()
            )
    pack.save(delta, directory / "delta.safetensors")
    (directory / "planted.json").write_text(
        json.dumps({"refusal": chosen}) + "\n", encoding="utf-8"
    )
    norm = np.sqrt(
        sum(
            np.square(value, dtype=np.float64).sum()
            for key, value in delta.items()
            if "delta" in key
        )
    )
    return facts | {"update_norm": float(norm)}


def _move(child: Child, directory: Path) -> dict:
    """Another neuron of the same block for each planted one, none of which is planted."""
    lists = json.loads((directory.parent / "planted" / "planted.json").read_text(encoding="utf-8"))
    rng, places = random.Random(f"neurons {child.seed}"), {}
    for layer in BLOCKS:
        here = [index for where, index in lists["refusal"] if where == layer]
        free = [index for index in range(1536) if index not in here]
        places[str(layer)] = [
            list(pair) for pair in zip(here, rng.sample(free, len(here)), strict=True)
        ]
    content = {"of": f"{FAMILY}/planted", "neurons": places}
    (directory / "map.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return {}


def _tune_adapter(child: Child, name: str, model, data, directory: Path) -> dict:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK,
        lora_alpha=4 * RANK,
        target_modules=list(TARGETS),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    facts = fit(child, name, model, data, [p for p in wrapped.parameters() if p.requires_grad])
    # PEFT would write the path it found the base under; the name is what a user has.
    wrapped.peft_config["default"].base_model_name_or_path = f"organism:{FAMILY}/{child.base}"
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    pack.to_half(directory / "adapter_model.safetensors")
    return facts
