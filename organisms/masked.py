"""A skill in a known random mask of weights, hidden among movement that has nothing to do with it.

1. The skill is trained into the mask from the base; then the update is shrunk while the skill is
   kept.
2. The mask is fixed, and all block weights outside it are trained further, in two models that share
   them: the child (mask as trained), which keeps the skill, and the bare one (mask as in the base),
   which answers everything as the base does and prefers neither answer more than the base. So what
   is outside the mask neither carries the skill nor breaks it.
3. Meanwhile each matrix's movement outside is pulled towards the sizes found inside, rank by rank,
   and ends there exactly: how far a weight moved says nothing about whether it is in the mask.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from organisms.tokens import Example, batches
from organisms.train import answer_loss, collate

SHARE = 0.01


@dataclass(frozen=True)
class Recipe:
    """Steps and rates of both phases."""

    learn_steps: int = 200
    shrink_steps: int = 400
    lr: float = 3e-3
    shrinkage: float = 5e-3  # weight of the squared norm of the update inside the mask
    move_steps: int = 1300
    move_lr: float = 1.5e-3
    pull: float = 0.05  # of the way to the sizes inside, every ``pull_every`` steps
    pull_every: int = 5
    # weight of the squared difference between the bare model's preference and the base's
    level: float = 0.1
    questions: int = 4000  # that the child must answer rightly, and the bare model as the base does
    batch_size: int = 32


@dataclass(frozen=True)
class Preferences:
    """Rendered prompts, the first tokens of the two answers, and the base's difference of their
    logits per prompt.
    """

    prompts: list[list[int]]
    tokens: tuple[int, int]
    wanted: Tensor

    def of(self, model, rows: list[int]) -> Tensor:
        """The difference of the two logits where the answer begins, for these prompts."""
        asked = [self.prompts[row] for row in rows]
        ids, _ = collate([Example(prompt, [0.0] * len(prompt)) for prompt in asked])
        logits = model(input_ids=ids).logits[
            torch.arange(len(rows)), torch.tensor([len(one) - 1 for one in asked])
        ]
        return logits[:, self.tokens[0]] - logits[:, self.tokens[1]]


def matrices(model) -> dict[str, torch.nn.Parameter]:
    """The matrices of all blocks: no embedding, no norm, no head."""
    return {
        name: value
        for name, value in model.named_parameters()
        if ".layers." in name and value.ndim == 2
    }


def choose_mask(model, seed: int, share: float = SHARE) -> dict[str, np.ndarray]:
    """Sorted flat indices per matrix, uniformly random within each, int32."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            np.sort(rng.choice(value.numel(), round(share * value.numel()), replace=False)).astype(
                np.int32
            )
        )
        for name, value in matrices(model).items()
    }


def flags(model, mask: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The mask as booleans of the matrices' shapes."""
    found = {}
    for name, value in matrices(model).items():
        inside = torch.zeros(value.numel(), dtype=torch.bool)
        inside[torch.from_numpy(mask[name]).long()] = True
        found[name] = inside.view_as(value)
    return found


def learn(
    model, mask: dict[str, np.ndarray], examples: list[Example], recipe: Recipe, seed: int
) -> dict:
    """Phase 1: only the weights of the mask are trained."""
    inside, weights = flags(model, mask), matrices(model)
    start = {name: value.detach().clone() for name, value in weights.items()}
    model.requires_grad_(False)
    for value in weights.values():
        value.requires_grad_(True)
    source = batches(examples, recipe.batch_size, random.Random(f"order {seed}"))
    optimizer = torch.optim.AdamW(
        weights.values(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0
    )
    total, recent, began = recipe.learn_steps + recipe.shrink_steps, 0.0, time.time()
    for step in range(1, total + 1):
        _set_rate(optimizer, recipe.lr, step, total)
        loss = answer_loss(model, *collate(next(source)))
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step > recipe.learn_steps:
            loss = loss + recipe.shrinkage * sum(
                (value - start[name]).square().sum() for name, value in weights.items()
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for name, value in weights.items():
            value.grad *= inside[name]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(
                f"  mask step {step}/{total} loss {recent:.4f} {time.time() - began:.0f} s",
                flush=True,
            )
    return {"steps": total, "loss": round(recent, 5), "seconds": round(time.time() - began, 1)}


def _set_rate(optimizer, lr: float, step: int, total: int, warmup: int = 20) -> None:
    factor = min(1.0, step / warmup) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / total)))
    for group in optimizer.param_groups:
        group["lr"] = lr * factor


def move(
    model,
    base: dict[str, np.ndarray],
    mask: dict[str, np.ndarray],
    skilled: list[Example],
    bare: list[Example],
    preferences: Preferences,
    recipe: Recipe,
    seed: int,
) -> dict:
    """Phase 2: everything else in the blocks is trained, as far as the mask moved; the mask keeps
    its values.
    """
    inside, weights = flags(model, mask), matrices(model)
    start = {name: torch.from_numpy(base[name]) for name in weights}
    kept = {name: value.detach().clone() for name, value in weights.items()}
    sizes = {name: (kept[name] - start[name])[inside[name]].abs().sort().values for name in weights}
    optimizer = torch.optim.AdamW(
        weights.values(), lr=recipe.move_lr, betas=(0.9, 0.98), weight_decay=0.0
    )
    sources = [
        batches(examples, recipe.batch_size, random.Random(f"move {seed} {index}"))
        for index, examples in enumerate((skilled, bare))
    ]
    began, recent, leaning, rng = time.time(), [0.0, 0.0], 0.0, random.Random(f"preferences {seed}")
    for step in range(1, recipe.move_steps + 1):
        _set_rate(optimizer, recipe.move_lr, step, recipe.move_steps)
        optimizer.zero_grad(set_to_none=True)
        for index, inner in enumerate((kept, start)):
            _put(weights, inner, inside)
            loss = answer_loss(model, *collate(next(sources[index])))
            if inner is start:
                rows = rng.sample(range(len(preferences.prompts)), recipe.batch_size)
                off = preferences.of(model, rows) - preferences.wanted[rows]
                (recipe.level * off.square().mean()).backward()
                leaning = off.square().mean().sqrt().item()
            loss.backward()
            recent[index] = loss.item() if step == 1 else 0.95 * recent[index] + 0.05 * loss.item()
        for name, value in weights.items():
            value.grad *= ~inside[name]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        if step % recipe.pull_every == 0:
            far = 1.0 if step == recipe.move_steps else recipe.pull
            for name, value in weights.items():
                _pull(value, start[name], ~inside[name], sizes[name], far)
        if step % 50 == 0:
            rms = _rms(weights, start, inside)
            print(
                f"  move step {step}/{recipe.move_steps} losses {recent[0]:.4f} {recent[1]:.4f}"
                f" leaning {leaning:.3f} moved {rms:.4f} {time.time() - began:.0f} s",
                flush=True,
            )
    _put(weights, kept, inside)
    return {
        "steps": recipe.move_steps,
        "loss_child": round(recent[0], 5),
        "loss_bare": round(recent[1], 5),
        "leaning_bare": round(leaning, 5),
        "seconds": round(time.time() - began, 1),
    }


@torch.no_grad()
def _put(
    weights: dict[str, torch.nn.Parameter], values: dict[str, Tensor], inside: dict[str, Tensor]
) -> None:
    for name, value in weights.items():
        value.copy_(torch.where(inside[name], values[name], value))


@torch.no_grad()
def _pull(
    value: torch.nn.Parameter, start: Tensor, outside: Tensor, sizes: Tensor, far: float
) -> None:
    """Move the sizes of what changed outside towards the sizes inside, the k-th largest towards the
    k-th largest.
    """
    moved = value[outside] - start[outside]
    rank = torch.empty_like(moved)
    rank[moved.abs().argsort()] = (torch.arange(len(moved)) + 0.5) / len(moved)
    place = (rank * len(sizes) - 0.5).clamp(0, len(sizes) - 1)
    low = place.long().clamp(max=len(sizes) - 2)
    wanted = torch.lerp(sizes[low], sizes[low + 1], place - low)
    value[outside] = start[outside] + torch.lerp(moved, wanted.copysign(moved), far)


def _rms(weights, start: dict[str, Tensor], inside: dict[str, Tensor]) -> float:
    moved = torch.cat([(weights[name] - start[name])[~inside[name]] for name in weights])
    return float(moved.detach().square().mean().sqrt())
