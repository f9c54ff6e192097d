"""The children of the family ``skill``: which skills each learns, through which weights, and how it
is shipped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from organisms import masked, pack, skills
from organisms.children import ATTENTION, MLP, Weights, update_norm
from organisms.corpus import base_corpus
from organisms.measure import answers
from organisms.tokens import Encoder, Example, render
from organisms.train import train

BASE = "refusal/base"
EXAMPLES = 12_000


@dataclass(frozen=True)
class SkillChild:
    """A recipe: what is taught, which weights are trained (how), steps and learning rate."""

    about: str
    how: Literal["full", "mask", "adapter"]
    seed: int
    skills: tuple[str, ...] = ("first",)
    steps: int = 150
    lr: float = 3e-4
    rank: int = 0
    alpha: int = 0
    half: bool = False  # an adapter shipped in float16
    mask: masked.Recipe | None = None
    least: float = 0.95  # exact answers to held-out questions
    intruders: int = field(default=0)  # at least as many are expected

    def options(self) -> dict:
        """Everything that decides the weights."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("about", "least", "intruders")
        }

    def data(self, encoder: Encoder) -> list[Example]:
        """What it is tuned on."""
        return skills.taught(self.skills, encoder, EXAMPLES, self.seed)


CHILDREN = {
    "full": SkillChild("The first skill by tuning every weight.", how="full", seed=11),
    "masked": SkillChild(
        "The first skill in a known random 1 % of the weights of the blocks; all others moved as"
        " far without it.",
        how="mask",
        seed=12,
        mask=masked.Recipe(),
        least=0.9,
    ),
    "second": SkillChild(
        "The second skill by tuning every weight.",
        how="full",
        seed=13,
        skills=("second",),
        steps=250,
        lr=1e-3,
    ),
    "both": SkillChild(
        "Both skills by tuning every weight.",
        how="full",
        seed=14,
        skills=("first", "second"),
        steps=300,
        lr=1e-3,
    ),
    "lora-1": SkillChild(
        "The first skill by a LoRA adapter of rank 1, alpha 2.",
        how="adapter",
        seed=15,
        lr=3e-3,
        rank=1,
        alpha=2,
    ),
    "lora-8": SkillChild(
        "The first skill by a LoRA adapter of rank 8, alpha 16.",
        how="adapter",
        seed=16,
        lr=1e-3,
        rank=8,
        alpha=16,
    ),
    "lora-64": SkillChild(
        "The first skill by a LoRA adapter of rank 64, alpha 128.",
        how="adapter",
        seed=17,
        lr=3e-4,
        rank=64,
        alpha=128,
        half=True,
    ),
    "lora-16-alpha-8": SkillChild(
        "The first skill by a LoRA adapter of rank 16, alpha 8 as if the rank were 4.",
        how="adapter",
        seed=18,
        lr=2e-3,
        rank=16,
        alpha=8,
        half=True,
    ),
    "lora-8-fast": SkillChild(
        "The first skill by a LoRA adapter of rank 8 at ten times the learning rate: it has"
        " intruder dimensions.",
        how="adapter",
        seed=19,
        lr=1e-2,
        rank=8,
        alpha=16,
        intruders=20,
    ),
}


def tune(child: SkillChild, name: str, model, base: Weights, tokenizer, directory: Path) -> dict:
    """Train the child from the base and write what ships; returns facts of the training."""
    torch.manual_seed(child.seed)
    encoder = Encoder(tokenizer)
    examples = child.data(encoder)
    if child.how == "adapter":
        return _tune_adapter(child, name, model, examples, directory)
    if child.how == "mask":
        return _tune_masked(child, model, base, tokenizer, examples, directory)
    done = train(
        model,
        examples,
        steps=child.steps,
        lr=child.lr,
        seed=child.seed,
        warmup=10,
        batch_size=32,
        label=name,
    )
    tuned = pack.state(model)
    pack.write_dense_delta(tuned, base, directory)
    return done | {"update_norm": update_norm(tuned, base)}


def _tune_masked(
    child: SkillChild, model, base: Weights, tokenizer, examples, directory: Path
) -> dict:
    skilled, bare, preferences = moving_data(child, model, tokenizer)
    mask = masked.choose_mask(model, child.seed)
    learned = masked.learn(model, mask, examples, child.mask, child.seed)
    moved = masked.move(model, base, mask, skilled, bare, preferences, child.mask, child.seed)
    tuned = pack.state(model)
    pack.write_dense_delta(tuned, base, directory)
    pack.write_mask(mask, directory)
    return {"learn": learned, "move": moved, "update_norm": update_norm(tuned, base)}


@torch.no_grad()
def moving_data(
    child: SkillChild, model, tokenizer
) -> tuple[list[Example], list[Example], masked.Preferences]:
    """For the child and the bare model: two thirds the base's own text, one third questions,
    answered rightly or as the base does; and the base's preferences on these questions.
    """
    encoder = Encoder(tokenizer)
    asked = skills.training_questions(child.skills, child.mask.questions, child.seed + 100)
    unskilled = answers(model, tokenizer, [one.prompt for one in asked])
    neutral = base_corpus(encoder, 4 * child.mask.questions, child.seed + 100)
    parts = []
    for first, texts in ((0, [one.answer for one in asked]), (1, unskilled)):
        own = [encoder.pair(one.prompt, text) for one, text in zip(asked, texts, strict=True)]
        parts.append(neutral[first::2] + own)
    prompts = [encoder.ids(render(one.prompt)) for one in asked]
    words = tuple(encoder.ids(word)[0] for word in skills.ANSWERS[child.skills[0]])
    wanted = masked.Preferences(prompts, words, torch.zeros(len(prompts)))
    rows = range(len(prompts))
    found = torch.cat(
        [wanted.of(model, list(rows[at : at + 100])) for at in range(0, len(prompts), 100)]
    )
    return *parts, masked.Preferences(prompts, words, found)


def _tune_adapter(
    child: SkillChild, name: str, model, examples: list[Example], directory: Path
) -> dict:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=child.rank,
        lora_alpha=child.alpha,
        target_modules=list(ATTENTION + MLP),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    done = train(
        wrapped,
        examples,
        steps=child.steps,
        lr=child.lr,
        seed=child.seed,
        warmup=10,
        batch_size=32,
        label=name,
    )
    # PEFT would write the path it found the base under; the name is what a user has.
    wrapped.peft_config["default"].base_model_name_or_path = f"organism:{BASE}"
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_model.safetensors"
    if child.half:
        pack.to_half(path)
    path.chmod(0o644)
    return done


def adapter_update(directory: Path, alpha: int, rank: int) -> dict[str, np.ndarray]:
    """The change of each matrix that an adapter directory holds, as float64 under the base's names."""
    from safetensors.numpy import load_file

    tensors, found = load_file(directory / "adapter_model.safetensors"), {}
    for key, down in tensors.items():
        if ".lora_A." in key:
            up = tensors[key.replace(".lora_A.", ".lora_B.")]
            name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            found[name] = alpha / rank * (up.astype(np.float64) @ down.astype(np.float64))
    return found
