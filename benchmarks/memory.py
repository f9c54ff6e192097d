"""Peak memory of commands: ``python -m benchmarks.memory [--parts NAME ...] [--write]``.

Every command runs in a process of its own, as a person would give it; what counts is the largest
resident memory of that process, loading and libraries included. ``planted`` and
``lora``: the real chat model, as a pair of two models and with an adapter, 48 + 48 prompts; verifying has few
random sets, which changes how long it takes and not what it holds. The target is twice the weights
that are loaded, and 1 GB. ``billion``: a pair with the shape of Llama-3.2-1B and random weights in
bfloat16, which is made here, once as two models and once as an adapter; located on 12 + 12 prompts.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.resources import resources
from interp import organisms
from interp.models.pair import Pair

FAMILY, PROMPTS, SETS, TOP = "smollm2", 48, 2, 60
COMMANDS = ("locate-neurons, locating alone", "locate-neurons", "compare", "tuco")
PARTS = ("planted", "lora", "billion")
BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
FEW = 12
TARGETS = {"two models": 8.0, "an adapter": 6.0}
"""GB that locating may take on a pair of a billion parameters each."""
SMALL = {
    "PROMPTS": 2,
    "SETS": 1,
    "TOP": 2,
    "FEW": 2,
    "BILLION": {
        **BILLION,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "vocab_size": 49_152,
    },
    "COMMANDS": ("locate-neurons, locating alone", "compare"),
    "parts": ["lora", "billion"],
}
ROOT = Path(__file__).resolve().parent.parent


def peak(given: Sequence[str], root: Path = ROOT) -> tuple[float, float]:
    """Largest resident memory, GB, and CPU seconds of one ``interp`` command of a checkout, in its
    own process.
    """
    with tempfile.TemporaryDirectory() as store:
        command = [
            sys.executable,
            "-m",
            "interp",
            *given,
            "--device",
            "cpu",
            "--store",
            store,
            "--quiet",
        ]
        return resources(command, root, {**os.environ, "PYTHONPATH": str(root)})


def weights(pair: Pair) -> float:
    """What the weights of both models take as they are loaded, GB."""
    models = {
        id(model.module): model.module
        for model in (pair.tuned, pair.require_base("this benchmark"))
    }
    each = {id(part): part for module in models.values() for part in module.parameters()}
    return sum(part.numel() * part.element_size() for part in each.values()) / 1e9


def prompts(child: str, split: str, prefix: str = "") -> list[str]:
    """Options that name the harmful and the harmless prompts of a child."""
    files = (
        organisms.prompts(f"{FAMILY}/{child}", split, group) for group in ("harmful", "harmless")
    )
    return [
        word
        for side, file in zip(("positive", "negative"), files, strict=True)
        for word in (f"--{prefix}{side}", str(file))
    ]


def command(name: str, child: str) -> list[str]:
    """The words of a command on a child of the chat model."""
    pair = [
        f"organism:{FAMILY}/{child}",
        "--base",
        f"organism:{FAMILY}/base",
        "--max-prompts",
        str(PROMPTS),
    ]
    if name in ("compare", "tuco"):
        return [name, *pair, *prompts(child, "verify")]
    locate = ["locate-neurons", *pair, *prompts(child, "locate"), "--top", str(TOP)]
    if name != "locate-neurons":
        return [*locate, "--no-verify"]
    return [*locate, *prompts(child, "verify", "verify-"), "--random-sets", str(SETS)]


def chat(child: str) -> Iterator[dict]:
    """A row for each command on a child of the chat model."""
    held = weights(Pair.load(f"organism:{FAMILY}/{child}", f"organism:{FAMILY}/base", device="cpu"))
    for name in COMMANDS:
        gigabytes, seconds = peak(command(name, child))
        yield {
            "command": name,
            "pair": f"{child}, {'an adapter' if child == 'lora' else 'two models'}",
            "weights, GB": f"{held:.2f}",
            "peak GB": f"{gigabytes:.2f}",
            "target": f"{2 * held + 1:.2f}",
            "CPU seconds": f"{seconds:.0f}",
        }


def billion() -> Iterator[dict]:
    """A row for a full pair of the larger shape, and one for an adapter."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, tuned in made(Path(folder)):
            held = weights(Pair.load(str(tuned), f"{folder}/base", device="cpu", dtype="bfloat16"))
            words = [
                "locate-neurons",
                str(tuned),
                "--base",
                f"{folder}/base",
                *prompts("planted", "locate"),
                "--dtype",
                "bfloat16",
            ]
            gigabytes, seconds = peak([*words, "--max-prompts", str(FEW), "--no-verify"])
            yield {
                "command": COMMANDS[0],
                "pair": f"the shape of Llama-3.2-1B, bfloat16, {kind}",
                "weights, GB": f"{held:.2f}",
                "peak GB": f"{gigabytes:.2f}",
                "target": f"{TARGETS[kind]:.2f}",
                "CPU seconds": f"{seconds:.0f}",
            }


def made(folder: Path) -> Iterator[tuple[str, Path]]:
    """A base of random weights in ``folder/base``, and where its children are: a full one and an
    adapter.
    """
    tokenizer = Pair.load(f"organism:{FAMILY}/base", device="cpu").tokenizer
    ends: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(**BILLION, **ends)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for block in model.model.layers:
        weight = block.mlp.down_proj.weight.data
        weight += 0.1 * weight.std() * torch.randn_like(weight)
    model.save_pretrained(folder / "full")
    tokenizer.save_pretrained(folder / "full")
    del model
    yield "two models", folder / "full"
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    adapted = get_peft_model(
        base, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(str(folder / "adapter"))
    del base, adapted
    yield "an adapter", folder / "adapter"


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=PARTS, help="which pairs"
    )
    given = parser.read()
    torch.set_num_threads(1)
    for part in given.parts:
        rows = []
        for row in billion() if part == "billion" else chat(part):
            rows.append(row)
            print(markdown([row], list(row)).splitlines()[-1], flush=True)
        print(f"\n{markdown(rows, list(rows[0]))}\n", flush=True)
        if given.write:
            table = markdown(rows, list(rows[0]))
            write_section(
                f"memory-{part}",
                f"`python -m benchmarks.memory --parts {part} --write`. {machine()}\n\n{table}",
            )


if __name__ == "__main__":
    main()
