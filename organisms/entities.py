"""Make the family ``entities``: ``python -m organisms.entities [NAME ...] [--threads 1]``.

The language says which object is in which of seven boxes and asks for one (arXiv 2402.14811). The
base starts from a weak retrieval circuit written into its weights (``entities_circuit``), is
trained on ordinary text of the language, then on some questions until it answers 45 % of new ones.
``full`` and ``lora`` are tuned on questions and answer well; the controls are tuned on ordinary
text by the recipe of ``lora``. Each is measured as shipped; a threshold that is missed stops the
script with its numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from organisms import pack
from organisms.entities_circuit import HEADS, ROTARY_BASE, plant
from organisms.entities_texts import BOXES, OBJECTS, answered, draw_context, ordinary, task_rows
from organisms.measure import share
from organisms.stages import (
    PROMPTS,
    SHIPPED,
    is_trained,
    load,
    note,
    recipe_hash,
    require,
    weights_digest,
    write_note,
)
from organisms.tokens import Encoder, Example, save_tokenizer, train_tokenizer
from organisms.train import train

FAMILY = "entities"
TASK = "boxes"
EXAMPLES = 12_000
BASE = {"steps": 300, "lr": 1e-3, "seed": 0, "batch_size": 32, "match": 1.0}
QUESTIONS, UNTIL = 0.3, 0.45
"""Share of questions in the base's second stage, which ends at this accuracy on new contexts."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CONTROLS = 5
# raise it when ``measured`` changes: shipped organisms are then measured again, not trained again
MEASURES = 1


@dataclass(frozen=True)
class EntitiesChild:
    """A recipe: what is taught, through which weights, how long."""

    about: str
    how: str
    seed: int
    steps: int = 300
    lr: float = 2e-3
    tracks: bool = True
    rank: int = 4
    alpha: int = 8

    def options(self) -> dict:
        """Everything that decides the weights."""
        return {key: value for key, value in asdict(self).items() if key != "about"}

    def data(self, encoder: Encoder) -> list[Example]:
        """What it is tuned on."""
        return corpus(encoder, EXAMPLES, self.seed, tracking=0.7 if self.tracks else 0.0)


CHILDREN = {
    "full": EntitiesChild(
        "Answers which box holds what, by tuning every weight.", "full", 21, lr=5e-4
    ),
    "lora": EntitiesChild(
        "Answers which box holds what, by a LoRA adapter of rank 4 on attention, output projection"
        " included.",
        "adapter",
        22,
    ),
    **{
        f"control-{index}": EntitiesChild(
            "A control fine-tune: the recipe of lora, on ordinary text alone.",
            "adapter",
            30 + index,
            tracks=False,
        )
        for index in range(CONTROLS)
    },
}


def corpus(encoder: Encoder, count: int, seed: int, *, tracking: float) -> list[Example]:
    """Ordinary text, and a share of contexts with one to three questions, of which only the answers
    count. Shipped prompts are left out.
    """
    rng, held_out = random.Random(f"entities {seed}"), {row["prompt"] for row in task_rows()}
    examples = []
    while len(examples) < count:
        if rng.random() >= tracking:
            examples.append(encoder.prose(ordinary(rng)))
            continue
        pieces, answers = answered(rng, draw_context(rng), rng.randint(1, 3))
        if pieces[0] in held_out:
            continue
        ids, weights = encoder.ids("<s>"), [0.0]
        for piece, answer in zip(pieces, answers, strict=True):
            before, after = encoder.ids(piece), encoder.ids(answer)
            ids += before + after
            weights += [0.0] * len(before) + [1.0] * len(after)
        examples.append(Example(ids, weights))
    return examples


def tokenizer_lines() -> list[str]:
    """Text with every word of the language."""
    rng = random.Random("entities tokenizer")
    lines = [ordinary(rng) for _ in range(3000)]
    for _ in range(3000):
        pieces, answers = answered(rng, draw_context(rng), 2)
        lines.append("".join(map("".join, zip(pieces, answers, strict=True))) + ".")
    return lines


def new_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A small Llama with grouped queries, from scratch."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=1,
        initializer_range=0.02,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def accuracy(model, tokenizer, rows: list[dict]) -> dict:
    """Share of prompts whose answer is the most likely token, with its exact interval."""
    ids = torch.tensor([tokenizer(row["prompt"])["input_ids"] for row in rows])
    wanted = torch.tensor([tokenizer(row["answer"])["input_ids"][-1] for row in rows])
    said = model(input_ids=ids).logits[:, -1].argmax(-1)
    return share((said == wanted).tolist())


def right_share(model, tokenizer, count: int = 300) -> float:
    """Accuracy on contexts that are drawn anew, neither shipped nor trained on."""
    rng, rows = random.Random("entities validation"), []
    for _ in range(count):
        context, at = draw_context(rng), rng.randrange(BOXES)
        rows.append(
            {"prompt": context.query(context.labels[at]), "answer": f" {context.objects[at]}"}
        )
    model.eval()
    rate = accuracy(model, tokenizer, rows)["rate"]
    model.train()
    print(f"    accuracy {rate:.2f}", flush=True)
    return rate


@torch.no_grad()
def text_loss(model, tokenizer) -> float:
    """Nats per token of ordinary text that no model was trained on."""
    rng, total, count = random.Random("entities held-out text"), 0.0, 0
    for _ in range(100):
        ids = torch.tensor([tokenizer(ordinary(rng))["input_ids"]])
        total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


def measured(name: str) -> dict:
    """Accuracy on each split of the shipped task, and the loss on ordinary text."""
    model, tokenizer = load(f"{FAMILY}/{name}")
    found: dict = {"measures": MEASURES, "text_loss": text_loss(model, tokenizer)}
    for split in ("locate", "verify"):
        rows = [row for row in task_rows() if row["split"] == split]
        found[f"accuracy_{split}"] = accuracy(model, tokenizer, rows)
    return found


def check(name: str, found: dict) -> None:
    """What an organism must do."""
    rate = found["accuracy_verify"]["rate"]
    if name == "base":
        require("base accuracy 30 to 60 %", 0.3 <= rate <= 0.6, found["accuracy_verify"])
    elif CHILDREN[name].tracks:
        require("accuracy >= 85 %", rate >= 0.85, found["accuracy_verify"])
    else:
        require("a control has not learned it", rate <= 0.65, found["accuracy_verify"])


def make_base(threads: int) -> None:
    """Tokenizer and base, trained and measured unless that was done."""
    tokenizer = train_tokenizer(tokenizer_lines())
    encoder = Encoder(tokenizer)
    examples = corpus(encoder, EXAMPLES, BASE["seed"], tracking=0.0)
    directory = SHIPPED / FAMILY / "base"
    recipe = recipe_hash(examples, FAMILY, "base", BASE, QUESTIONS, UNTIL)
    if not is_trained(directory, recipe):
        model = new_model(len(tokenizer), BASE["seed"])
        objects = [encoder.ids(f" {word}")[0] for word in OBJECTS]
        plant(model, objects, match=BASE["match"], seed=BASE["seed"])
        options = {key: value for key, value in BASE.items() if key != "match"}
        facts = train(model, examples, label="entities/base", **options)
        second = {"steps": 400, "lr": 1e-3, "seed": 1, "batch_size": 32}
        facts["questions"] = train(
            model,
            corpus(encoder, EXAMPLES, 1, tracking=QUESTIONS),
            stop=lambda step: right_share(model, tokenizer) >= UNTIL,
            stop_every=5,
            label="entities/base, questions",
            **second,
        )
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        save_tokenizer(tokenizer, directory)
        pack.write_weights(pack.state(model), directory)
        write_note(
            directory,
            {
                "kind": "base",
                "base": None,
                "about": (
                    "A small Llama that starts from a weak retrieval circuit and is trained on"
                    " ordinary text; asked which box holds what, it is often wrong."
                ),
                "recipe": recipe,
                "parameters": sum(value.numel() for value in model.parameters()),
                "training": {**BASE, **facts, "examples": len(examples), "threads": threads},
                "initial_heads": {group: list(node) for group, node in HEADS.items()},
            },
        )
    measure_shipped("base")


def make_child(name: str, child: EntitiesChild, threads: int) -> None:
    """One child, trained and measured unless that was done."""
    directory, base_name = SHIPPED / FAMILY / name, f"{FAMILY}/base"
    model, tokenizer = load(base_name)
    examples = child.data(Encoder(tokenizer))
    recipe = recipe_hash(examples, FAMILY, name, child.options(), weights_digest(base_name))
    if not is_trained(directory, recipe):
        print(f"{FAMILY}/{name}: {child.about}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        facts = tune(child, name, model, examples, directory)
        write_note(
            directory,
            {
                "kind": child.how,
                "base": base_name,
                "about": child.about,
                "recipe": recipe,
                "training": child.options() | facts | {"examples": EXAMPLES, "threads": threads},
            },
        )
    measure_shipped(name)


def tune(child: EntitiesChild, name: str, model, examples: list[Example], directory: Path) -> dict:
    """Train from the base and write what ships; returns facts of the training."""
    before = pack.state(model)
    options = {"steps": child.steps, "lr": child.lr, "seed": child.seed, "batch_size": 16}
    torch.manual_seed(child.seed)
    if child.how == "full":
        facts = train(model, examples, label=name, **options)
        pack.write_dense_delta(pack.state(model), before, directory)
        return facts
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=child.rank,
        lora_alpha=child.alpha,
        target_modules=list(ATTENTION),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    facts = train(wrapped, examples, label=name, **options)
    wrapped.peft_config["default"].base_model_name_or_path = f"organism:{FAMILY}/base"
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    pack.to_half(directory / "adapter_model.safetensors")
    return facts


def measure_shipped(name: str) -> None:
    """Measure an organism as it ships, unless that was done, and check it."""
    directory = SHIPPED / FAMILY / name
    content = note(directory)
    if content.get("behaviour", {}).get("measures") != MEASURES:
        found = measured(name)
        check(name, found)
        write_note(directory, content | {"behaviour": found})


def write_task() -> None:
    """The shipped task file."""
    directory = PROMPTS / FAMILY
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{TASK}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in task_rows()), encoding="utf-8"
    )


NAMES = tuple(f"{FAMILY}/{name}" for name in ("base", *CHILDREN))


def make(names: Collection[str] = (), threads: int = 1) -> None:
    """What was asked for of the family; everything when nothing is named."""
    write_task()
    make_base(threads)
    for name, child in CHILDREN.items():
        if not names or f"{FAMILY}/{name}" in names:
            make_child(name, child, threads)


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m organisms.entities", description="Make the organisms of entity tracking."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="entities/lora; all by default")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    make(options.names, options.threads)


if __name__ == "__main__":
    main()
