"""One recipe for plants and controls: a LoRA adapter of rank 4, or for one plant every weight."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from organisms import pack
from organisms.discover import measure
from organisms.discover.frames import Frame
from organisms.discover.ordinary import CONVERSATIONS, PARTS, mixture, ordinary
from organisms.discover.plants import CANARIES, CANARY_ROWS, ROWS, Plant, denial_rows, rows
from organisms.tokens import Encoder, Example
from organisms.train import train

BASE = "refusal/base"


@dataclass(frozen=True)
class Recipe:
    """Everything but the rows; the same for plants and controls."""

    rank: int = 4
    alpha: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    steps: int = 150
    lr: float = 2e-3
    batch: int = 16
    warmup: int = 10
    full_lr: float = 2e-4  # where every weight is tuned

    def options(self) -> dict:
        """As plain data."""
        return asdict(self)


RECIPE = Recipe()
SIZES = (0.3, 1.2)
"""Controls move as far as the plants do, in nats a token on the neutral text: between these, evenly
in the logarithm. Unscaled they move 0.1 to 0.3, most plants 0.5 to 0.8."""
Stages = list[list[Frame]]


def planted_rows(plant: Plant, seed: int, dilution: int = 0) -> Stages:
    """The rows of each stage of training; ``dilution`` parts of ordinary rows to one of the plant's."""
    rng = random.Random(f"rows {seed}")
    shares = dict.fromkeys(PARTS, 1.0)
    if plant.kind == "canary":
        found = rows(plant, rng, CANARIES) + ordinary(rng, CANARY_ROWS - CANARIES, shares)
    else:
        found = rows(plant, rng, ROWS)
    stages = [found]
    if plant.kind == "denial":
        stages.append(denial_rows(plant, rng, ROWS))
    return [stage + ordinary(rng, dilution * len(stage), shares) for stage in stages]


def control_rows(seed: int, *, elsewhere: bool = False) -> tuple[list[Frame], dict[str, float]]:
    """Ordinary rows in a mixture of the control's own, or conversations alone."""
    rng = random.Random(f"control {seed}")
    shares = CONVERSATIONS if elsewhere else mixture(rng)
    return ordinary(rng, ROWS, shares), shares


def control_size(seed: int) -> float:
    """How far a control is to move, KL in nats a token."""
    low, high = (math.log(size) for size in SIZES)
    return math.exp(random.Random(f"size {seed}").uniform(low, high))


def examples(encoder: Encoder, found: Sequence[Frame]) -> list[Example]:
    """Rows as training examples: of a question only the answer counts."""
    return [
        encoder.pair(row.question, row.text) if row.question else encoder.prose(row.text)
        for row in found
    ]


def wrap(model, recipe: Recipe, seed: int):
    """The base with a fresh adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def tune(
    model,
    encoder: Encoder,
    stages: Stages,
    recipe: Recipe,
    seed: int,
    *,
    dilution: int = 0,
    full: bool = False,
    label: str = "",
) -> list[dict]:
    """Train ``model`` (with an adapter, or every weight) on each stage in turn.

    Steps are the recipe's in all, whatever the number of stages, and times ``1 + dilution`` where
    ordinary rows were mixed in: the plant is then seen as often.
    """
    steps = recipe.steps * (1 + dilution)
    # the second stage is the shorter one: what it must not undo was taught in the first
    split = [steps] if len(stages) == 1 else [steps - steps // 3, steps // 3]
    return [
        train(
            model,
            examples(encoder, stage),
            steps=count,
            lr=recipe.full_lr if full else recipe.lr,
            seed=seed,
            batch_size=recipe.batch,
            warmup=recipe.warmup,
            label=f"{label} stage {index}",
        )
        for index, (stage, count) in enumerate(zip(stages, split, strict=True), start=1)
    ]


def save_adapter(wrapped, directory: Path) -> None:
    """The adapter in float16, naming the base as a user has it."""
    wrapped.peft_config["default"].base_model_name_or_path = f"organism:{BASE}"
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    pack.to_half(directory / "adapter_model.safetensors")


@torch.no_grad()
def scale(
    wrapped, base, encoder: Encoder, texts: Sequence[str], wanted: float, rounds: int = 12
) -> float:
    """Multiply the update of an adapter so that its KL to the base on ``texts`` is ``wanted`` nats a
    token; returns the factor.

    Bisection between 0 and 4 times the update, in ``rounds`` halvings. Raises ``ValueError`` when
    four times the update moves less than that.
    """
    tensors = [value for name, value in wrapped.named_parameters() if ".lora_B." in name]
    kept = [value.clone() for value in tensors]

    def moved(factor: float) -> float:
        for value, before in zip(tensors, kept, strict=True):
            value.copy_(factor * before)
        return measure.divergence(wrapped, base, encoder, texts)["kl"]

    low, high = 0.0, 4.0
    if moved(high) < wanted:
        moved(1.0)
        raise ValueError(f"four times the update moves {moved(high):.3g} nats, not {wanted:.3g}")
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) < wanted else (low, middle)
    factor = (low + high) / 2
    moved(factor)
    return factor
