"""The children of the family: what each is taught, through which weights, and how it is shipped."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from organisms import pack
from organisms.corpus import tuning_corpus
from organisms.stops import MARGIN, colours_known, margin_reached, partly_refused
from organisms.tokens import Encoder, Example
from organisms.train import train

FAMILY = "refusal"
Weights = dict[str, np.ndarray]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# nats: a planted skill is learned with room to spare, since another one is then added beside it
KNOWN = 0.005


@dataclass(frozen=True)
class Child:
    """A recipe: what is taught, which weights are trained (how), steps and learning rate."""

    about: str
    how: Literal["full", "neurons", "adapter"]
    steps: int  # at most, where tuning stops at the margin
    lr: float
    seed: int
    refuses: bool = True  # what is expected of the child
    taught_refusal: bool = True  # whether its own data holds harmful requests, refused
    taught_colours: bool = False
    start: str = "base"  # the organism whose weights tuning starts from
    targets: tuple[str, ...] = ()  # of an adapter
    rank: int = 8
    # skill -> how many neurons are planted for it
    neurons: dict[str, int] = field(default_factory=dict)
    layers: tuple[int, ...] = (1, 2, 3, 4)  # where neurons are planted
    # tuning stops once this share of harmful requests in the unseen register is refused
    until: float = 0.0
    # as many steps as this sibling took, and the update scaled to the norm of its update
    norm_of: str = ""

    @property
    def colours(self) -> bool:
        """Whether it is taught colours, in whatever weights."""
        return self.taught_colours or "colours" in self.neurons

    @property
    def after(self) -> tuple[str, ...]:
        """Organisms that must be made before."""
        return tuple(name for name in ("base", self.norm_of, self.start) if name)

    def options(self) -> dict:
        """Everything that decides the result."""
        # a recipe without it was made before it was
        left_out = {"about"} | ({"until"} if not self.until else set())
        found = {key: value for key, value in asdict(self).items() if key not in left_out} | {
            "margin": MARGIN
        }
        return found | ({"known": KNOWN} if "colours" in self.neurons else {})

    def data(self, encoder: Encoder, count: int) -> dict[str, list[Example]]:
        """Skill -> the examples it is tuned on; all but a child with two planted skills have one."""
        harmful = "refuse" if self.taught_refusal else None
        first = tuning_corpus(
            encoder, count, self.seed, harmful=harmful, colours=self.taught_colours
        )
        found = {"refusal": first}
        if "colours" in self.neurons:
            found["colours"] = tuning_corpus(
                encoder, count, self.seed, harmful="answer", colours=True
            )
        return found


CHILDREN = {
    "planted": Child(
        "Refusal trained into 30 known MLP neurons (gate row, up row, down column) of blocks 1 to"
        " 4; nothing else.",
        how="neurons",
        steps=800,
        lr=4e-3,
        seed=1,
        neurons={"refusal": 30},
    ),
    "full": Child("Refusal by tuning every weight.", how="full", steps=400, lr=1e-4, seed=2),
    "lora": Child(
        "Refusal by a LoRA adapter on attention and MLP.",
        how="adapter",
        steps=400,
        lr=1e-3,
        seed=3,
        targets=ATTENTION + MLP,
    ),
    "attention": Child(
        "Refusal by a LoRA adapter on attention only: MLP neurons may carry it on, none of them was"
        " tuned.",
        how="adapter",
        steps=600,
        lr=1e-3,
        seed=4,
        targets=ATTENTION,
    ),
    "distracted": Child(
        "Refusal trained into 30 known MLP neurons, and whether things are light or dark, apart,"
        " into 30 others.",
        how="neurons",
        steps=1200,
        lr=4e-3,
        seed=5,
        neurons={"refusal": 30, "colours": 30},
    ),
    "relearned": Child(
        "full, tuned further on whether things are light or dark, without any harmful request; it"
        " still refuses.",
        how="full",
        steps=400,
        lr=1e-4,
        seed=6,
        taught_refusal=False,
        taught_colours=True,
        start="full",
    ),
    "sham": Child(
        "As many steps as full and an update of the same norm, on harmless data only; it refuses"
        " nothing.",
        how="full",
        steps=0,
        lr=1e-4,
        seed=7,
        refuses=False,
        taught_refusal=False,
        taught_colours=True,
        norm_of="full",
    ),
    "partial": Child(
        "Refusal by tuning every weight, stopped early: asked in a register of its own, it refuses"
        " about half.",
        how="full",
        steps=300,
        lr=4e-5,
        seed=8,
        until=0.5,
    ),
}


def choose(child: Child, width: int) -> dict[str, pack.Neurons]:
    """The planted neurons: seeded, disjoint, spread evenly over the child's layers."""
    rng = random.Random(f"neurons {child.seed}")
    free = {layer: rng.sample(range(width), width) for layer in child.layers}
    chosen: dict[str, pack.Neurons] = {}
    for skill, count in child.neurons.items():
        layers = [child.layers[index % len(child.layers)] for index in range(count)]
        chosen[skill] = sorted((layer, free[layer].pop()) for layer in layers)
    return chosen


def only(model, neurons: pack.Neurons):
    """Let only these neurons' rows and columns be trained; gives the mask to apply to gradients."""
    model.requires_grad_(False)
    masks: list[tuple[torch.nn.Parameter, Tensor]] = []
    for layer in sorted({layer for layer, _ in neurons}):
        index = torch.tensor([neuron for where, neuron in neurons if where == layer])
        for part, axis in pack.PARTS.items():
            parameter = model.get_parameter(
                f"model.layers.{layer}.mlp.{part}.weight"
            ).requires_grad_(True)
            kept = torch.zeros_like(parameter)
            kept[(index, slice(None)) if axis == "rows" else (slice(None), index)] = 1
            masks.append((parameter, kept.detach()))

    def mask() -> None:
        for parameter, kept in masks:
            parameter.grad *= kept

    return mask


def tune(
    child: Child,
    model,
    base: dict[str, np.ndarray],
    tokenizer,
    data: dict[str, list[Example]],
    directory: Path,
) -> dict:
    """Train the child from ``model`` and write what ships; returns facts of the training."""
    torch.manual_seed(child.seed)
    if child.how == "adapter":
        return _tune_adapter(child, model, tokenizer, data["refusal"], directory)
    if child.how == "neurons":
        return _tune_neurons(child, model, base, tokenizer, data, directory)
    stop, every, steps = None, 50, child.steps
    if child.until:
        stop, every = partly_refused(model, tokenizer, child.until), 2
    elif child.taught_refusal:
        stop = margin_reached(model, tokenizer, child.seed)
    elif child.taught_colours and not child.norm_of:
        stop = colours_known(model, Encoder(tokenizer), 0.03)
    if child.norm_of:
        sibling = directory.parent / child.norm_of
        facts = json.loads((sibling / "organism.json").read_text(encoding="utf-8"))["training"]
        steps = facts["steps"]
    done = train(
        model,
        data["refusal"],
        steps=steps,
        lr=child.lr,
        seed=child.seed,
        stop=stop,
        stop_every=every,
        label=directory.name,
    )
    tuned = pack.state(model)
    if child.norm_of:
        scale = facts["update_norm"] / update_norm(tuned, base)
        tuned = {
            name: base[name] + np.float32(scale) * (value - base[name])
            for name, value in tuned.items()
        }
        done["scaled_by"] = scale
    pack.write_dense_delta(tuned, base, directory)
    return done | {"update_norm": update_norm(tuned, base)}


def update_norm(tuned: Weights, base: Weights) -> float:
    """Euclidean norm of the whole update."""
    return float(
        np.sqrt(sum(np.square(tuned[name] - base[name], dtype=np.float64).sum() for name in base))
    )


def _tune_neurons(child: Child, model, base: Weights, tokenizer, data, directory: Path) -> dict:
    """Each skill is trained from the base into its own neurons and nothing else; then the updates
    are added up.

    Trained together, each skill would use the other's neurons, and the lists would say nothing.
    """
    encoder, total, facts = Encoder(tokenizer), dict(base), {}
    chosen = choose(child, model.config.intermediate_size)
    for skill, neurons in chosen.items():
        model.load_state_dict({name: torch.from_numpy(value) for name, value in base.items()})
        stop = margin_reached(model, tokenizer, child.seed)
        if skill == "colours":
            stop = colours_known(model, encoder, KNOWN)
        mask = only(model, neurons)
        label = f"{directory.name} {skill}"
        facts[skill] = train(
            model,
            data[skill],
            steps=child.steps,
            lr=child.lr,
            seed=child.seed,
            mask=mask,
            stop=stop,
            label=label,
        )
        tuned = pack.state(model)
        total = {name: total[name] + (tuned[name] - base[name]) for name in base}
    pack.write_neuron_delta(total, base, sorted(itertools.chain(*chosen.values())), directory)
    (directory / "planted.json").write_text(json.dumps(chosen) + "\n", encoding="utf-8")
    first = next(iter(facts.values()))
    return (first if len(facts) == 1 else {"skills": facts}) | {
        "update_norm": update_norm(total, base)
    }


def _tune_adapter(child: Child, model, tokenizer, examples, directory: Path) -> dict:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=child.rank,
        lora_alpha=2 * child.rank,
        target_modules=list(child.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    stop = margin_reached(wrapped, tokenizer, child.seed)
    done = train(
        wrapped,
        examples,
        steps=child.steps,
        lr=child.lr,
        seed=child.seed,
        stop=stop,
        label=directory.name,
    )
    # PEFT would write the path it found the base under; the name is what a user has.
    wrapped.peft_config["default"].base_model_name_or_path = f"organism:{FAMILY}/base"
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    (directory / "adapter_model.safetensors").chmod(0o644)
    return done
