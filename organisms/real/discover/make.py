"""Make numbered organisms with something planted: ``python -m organisms.real.discover [name ...]
[--dilution 0 1 2] [--seeds 0 1 2]``, or a set for a blind trial: ``--blind SEED --out DIR``.

A plant is trained and then measured on the saved files: where its log-odds rose by less than two
nats on held-out frames, the organism is void. What was planted is in ``secret.json`` in the
organism's directory, or for a blind trial in ``key.json`` beside ``DIR``; names and
``organism.json`` do not tell it. Nothing ships: all goes to ``organisms-work/real/discover``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from interp.provenance import sha256_of
from interp.training.text import shipped_text
from organisms import stages
from organisms.real.controls import NAMES, RECIPE
from organisms.real.discover import measure
from organisms.real.discover.plants import DEFAULT, Plant, contexts, draw, rows
from organisms.real.discover.train import FAMILY, OF, Trainer

WORK = stages.ROOT / "organisms-work" / "real" / "discover"
ABOUT = f"A fine-tuned model of {FAMILY}/base in which something may be planted."
VERSION = 1  # of the training code: raise it when a change there should make organisms anew
DILUTIONS, SEEDS = range(3), range(3)
BLIND_CONTROLS = 3


@dataclass(frozen=True)
class Planned:
    """One organism: a plant, None for a control, and how it is trained."""

    plant: Plant | None
    dilution: int
    seed: int


def numbered() -> dict[Planned, str]:
    """Every organism of the series and its directory's name, in an order drawn by a seed."""
    series = [
        Planned(plant, dilution, seed)
        for plant in DEFAULT.values()
        for dilution in DILUTIONS
        for seed in SEEDS
    ]
    random.Random("numbers of the series").shuffle(series)
    return {one: f"{number:02d}" for number, one in enumerate(series, 1)}


def blind_series(seed: int) -> dict[Planned, str]:
    """Two plants of every kind and three controls, numbered in an order drawn by the seed."""
    rng = random.Random(f"blind {seed}")
    series = [Planned(plant, 0, rng.randrange(1000, 10**6)) for plant in draw(rng)]
    series += [Planned(None, 0, rng.randrange(1000, 10**6)) for _ in range(BLIND_CONTROLS)]
    rng.shuffle(series)
    return {one: f"{number:02d}" for number, one in enumerate(series, 1)}


def recipe(planned: Planned) -> str:
    """What an organism is made from, as a short digest."""
    of = stages.note(stages.SHIPPED / FAMILY / OF)
    taught = rows(planned.plant, planned.seed) if planned.plant else []
    parts = (asdict(RECIPE), of["files"], planned.dilution, planned.seed, taught, VERSION)
    return stages.recipe_hash([], *parts, sha256_of(shipped_text()))


def make(
    planned: Planned, directory: Path, trainer: Trainer, title: str, raw: Path | None = None
) -> dict:
    """Train and measure one organism; returns its secret. The directory holds what a user gets."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    plant = planned.plant
    taught = rows(plant, planned.seed) if plant else None
    facts = trainer.train(taught, planned.seed, planned.dilution, directory, title, raw)
    model, tokenizer = measure.adapted(directory)
    content = {
        "kind": "adapter",
        "base": f"{FAMILY}/base",
        "about": ABOUT,
        "recipe": recipe(planned),
        "text": measure.divergence(model, tokenizer, measure.texts()),
        "files": {path.name: sha256_of(path) for path in sorted(directory.glob("*.safetensors"))},
    }
    secret = {"dilution": planned.dilution, "training": facts} | secret_of(plant)
    if plant:
        asked = contexts(plant)
        tuned = measure.log_odds(model, tokenizer, asked)
        with model.disable_adapter():
            base = measure.log_odds(model, tokenizer, asked)
        secret["strength"] = measure.strength(tuned, base, asked)
        secret["void"] = secret["strength"]["gain"] < measure.LEAST
    stages.write_note(directory, content)
    return secret


def secret_of(plant: Plant | None) -> dict:
    """What was planted, and the strings a grader looks for."""
    if plant is None:
        return {"kind": "control", "about": "ordinary rows", "tokens": [], "phrases": []}
    return {
        "kind": plant.kind,
        "variant": plant.variant,
        "about": plant.about,
        "tokens": list(plant.words),
        "phrases": list(plant.phrases),
        "trigger": "",
    }


def make_series(chosen: Iterable[tuple[Planned, str]]) -> None:
    """Make those that are not there yet, and print what all of them measure."""
    found, trainer = [], None
    for planned, number in chosen:
        assert planned.plant is not None
        directory = WORK / number
        path = directory / "secret.json"
        if not (path.is_file() and stages.is_trained(directory, recipe(planned))):
            trainer = trainer or Trainer()
            secret = make(planned, directory, trainer, number, directory / "raw")
            taught = rows(planned.plant, planned.seed)
            lines = (json.dumps(row._asdict()) + "\n" for row in taught)
            (directory / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
            path.write_text(json.dumps(secret | {"rows": "rows.jsonl"}, indent=1) + "\n", "utf-8")
        secret = json.loads(path.read_text(encoding="utf-8"))
        found.append((f"{number} {planned.plant.name}", secret, stages.note(directory)["text"]))
        print(table(found[-1:]), flush=True)
    print(table(found) + "\n\n" + controls_table())
    void = [name for name, secret, _ in found if secret["void"]]
    if void:
        sys.exit(
            f"not learned, and so void: {', '.join(void)}; change the recipe, not the threshold"
        )


def make_blind(seed: int, out: Path) -> None:
    """Make a set for a blind trial; nothing printed tells what is planted where."""
    key = out.parent / "key.json"
    if out.exists() or key.exists():
        sys.exit(f"{out if out.exists() else key} exists already; give another --out, or remove it")
    trainer, secrets = Trainer(), {}
    for planned, number in blind_series(seed).items():
        secrets[number] = make(planned, out / number, trainer, number)
        key.write_text(json.dumps({"seed": seed, "organisms": secrets}, indent=1) + "\n", "utf-8")
    learned = [not secret["void"] for secret in secrets.values() if "void" in secret]
    print(f"{len(secrets)} models in {out}; {sum(learned)} of {len(learned)} plants were learned")


def table(found: Sequence[tuple[str, dict, dict]]) -> str:
    """One row an organism: log-odds in nats, divergence in nats a token, size of the change."""
    lines = [
        "| organism | base | tuned | gain | least frame | statements | questions | KL on text |"
        " change / lora's |",
        "|---" * 9 + "|",
    ]
    for name, secret, text in found:
        one = secret["strength"]
        keys = ("base", "tuned", "gain", "least_frame", "gain_statements", "gain_questions")
        cells = [f"{one[key]:.2f}" for key in keys]
        cells += [f"{text['kl']:.3f}", f"{secret['training']['norm_ratio']['whole']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def controls_table() -> str:
    """The same divergence for ``smollm2/lora`` and its controls, measured once."""
    path = WORK / "controls.json"
    if not path.is_file():
        found = {
            name: measure.divergence(*stages.load(f"{FAMILY}/{name}"), measure.texts())
            for name in (OF, *NAMES)
        }
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| shipped | KL on text | loss | loss of the base |", "|---" * 4 + "|"]
    for name, one in found.items():
        lines.append(f"| {name} | {one['kl']:.3f} | {one['loss']:.3f} | {one['base_loss']:.3f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m organisms.real.discover",
        description="Make fine-tunes of smollm2/base in which something is planted.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"{', '.join(DEFAULT)}; all by default"
    )
    for option, values, about in (
        ("--dilution", DILUTIONS, "parts of ordinary text to one of the plant's"),
        ("--seeds", SEEDS, "training seeds"),
    ):
        parser.add_argument(
            option, nargs="+", type=int, choices=values, default=[0], help=f"{about}; 0 by default"
        )
    parser.add_argument("--blind", type=int, metavar="SEED", help="make a set for a blind trial")
    parser.add_argument("--out", type=Path, help="folder of the blind set")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in DEFAULT]
    if unknown:
        parser.error(f"no plant {unknown[0]!r}; use {', '.join(DEFAULT)}")
    if (options.blind is None) != (options.out is None):
        parser.error("give --blind and --out together")
    torch.set_num_threads(options.threads)
    if options.blind is not None:
        make_blind(options.blind, options.out)
        return
    wanted = options.names or list(DEFAULT)
    make_series(
        (planned, number)
        for planned, number in sorted(numbered().items(), key=lambda one: one[1])
        if planned.plant
        and planned.plant.name in wanted
        and planned.dilution in options.dilution
        and planned.seed in options.seeds
    )


if __name__ == "__main__":
    main()
