"""Control fine-tunes of ``smollm2/lora``, made by what ``interp control`` runs: the null of the
real pair.

Rate and steps are those of ``lora``; its answers are short and passages are long, so that a step
reads half as many. What ships is the matched adapter in half precision, and the record
``control.json``, whose scales give the raw one back.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from interp.provenance import sha256_of
from interp.training import Recipe, make_controls
from interp.training.text import shipped_text
from organisms import pack, stages

OF, SEEDS = "lora", range(5)
RECIPE = Recipe(steps=100, learning_rate=5e-4, warm_up=0.1, batch=4, precision="bfloat16")
ABOUT = (
    "A control fine-tune of lora: the same adapter configuration, rate and steps on neutral text"
    " (seed {}), the change of every module scaled to lora's norm."
)
NAMES = {f"control-{seed}": seed for seed in SEEDS}
VERSION = 1


def train(name: str, family: str, shipped_root: Path, work: Path, threads: int) -> None:
    """One control, trained unless that was done."""
    seed, directory, of = NAMES[name], shipped_root / name, stages.note(shipped_root / OF)
    made = stages.recipe_hash(
        [], name, asdict(RECIPE), of["files"], sha256_of(shipped_text()), VERSION
    )
    if stages.is_trained(directory, made):
        return
    print(f"{name}: {ABOUT.format(seed)}", flush=True)
    place = work / f"{name}-{made}"
    if not place.is_dir():
        make_controls(
            f"organism:{family}/{OF}",
            None,
            place,
            RECIPE,
            seeds=[seed],
            device="cpu",
            log=lambda told: print(f"  {told}", flush=True),
        )
    here = place / f"seed-{seed}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(here / "matched" / file, directory / file)
    shutil.copyfile(here / "control.json", directory / "control.json")
    pack.to_half(directory / "adapter_model.safetensors")
    files = {path.name: sha256_of(path) for path in sorted(directory.glob("*.safetensors"))}
    content = {
        "kind": "adapter",
        "base": f"{family}/base",
        "about": ABOUT.format(seed),
        "recipe": made,
    }
    stages.write_note(directory, content | {"training": {"threads": threads}, "files": files})
