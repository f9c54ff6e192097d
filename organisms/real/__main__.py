"""Make the children of the real base: ``python -m organisms.real [name ...] [--full] [--threads
1]``.

1. The prompt files are written; the base, which another package ships, answers the harmless
   training requests.
2. Each child is trained on these answers and on refusals, and shipped as a rounded delta, an
   adapter or a map.
3. Controls of one of them are trained on neutral text (``organisms.real.controls``).
4. Then all are measured, and what is written to ``organism.json`` is of the shipped files, loaded
   through transformers.

Every stage is seeded and is skipped when its output was made by the same recipe. ``--full`` also
tunes every weight, into ``organisms-work/real/full``, which does not ship. About an hour on two
cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import organisms
from interp.provenance import sha256_of
from organisms import stages
from organisms.real import controls, prompts, refusals
from organisms.real import model as real
from organisms.real.children import BATCH, CHILDREN, FAMILY, RANK, TARGETS, TAUGHT, Child, tune
from organisms.real.measure import NEW_TOKENS, Answers, behaviour
from organisms.real.prompts import requests

WORK = stages.ROOT / "organisms-work" / "real"
SHIPPED = stages.SHIPPED / FAMILY
VERSION = 1  # of the training code: raise it when a change there should make children anew
# of what is measured: raise it, and shipped children are measured again, not trained again
MEASURES = 1


def kept(name: str, asked: Sequence[str], make) -> dict:
    """What a stage gave to these prompts, as JSON in the work directory: made once."""
    base = organisms.describe(f"{FAMILY}/base")["package"]["sha256"]
    path = WORK / f"{name}-{stages.recipe_hash([], base, list(asked), NEW_TOKENS)}.json"
    if not path.is_file():
        path.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def harmless_answers() -> dict[str, list[int]]:
    """Harmless training request -> the base's own greedy answer, clipped."""
    asked = [one.prompt for one in requests("harmless", "train")]

    def make() -> dict[str, list[int]]:
        print(f"base: answers to {len(asked)} harmless training requests", flush=True)
        model, tokenizer = real.load()
        # half precision: what is taught need not be the last bit of what the base says
        return dict(
            zip(asked, real.answers(model.bfloat16(), tokenizer, asked, NEW_TOKENS)[0], strict=True)
        )

    return kept("harmless", asked, make)


def place(name: str, child: Child) -> Path:
    """Where a child is written."""
    return (SHIPPED if child.ships else WORK) / name


def load(name: str):
    """Model and tokenizer of a child as any user gets them."""
    if name in CHILDREN and not CHILDREN[name].ships:
        path = place(name, CHILDREN[name])
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32
        ).eval(), AutoTokenizer.from_pretrained(path)
    return stages.load(f"{FAMILY}/{name}")


def recipe(name: str, child: Child) -> str:
    """What a child is made from, as a short digest."""
    options = {key: value for key, value in asdict(child).items() if key != "about"}
    taught = [
        (one.prompt, one.theme) for group in prompts.GROUPS for one in requests(group, "train")
    ]
    said = [refusals.USUAL, refusals.FAMILY, refusals.WORDINGS]
    parent = organisms.describe(f"{FAMILY}/base")["package"]["sha256"]
    if child.base != "base" or child.how == "map":
        parent = stages.note(place("planted", CHILDREN["planted"])).get("recipe")
    return stages.recipe_hash(
        [], name, options, taught, said, parent, BATCH, TAUGHT, RANK, TARGETS, VERSION
    )


def _is_part(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name == organisms.MAP_FILE


def train_child(name: str, child: Child, threads: int) -> None:
    """One child, trained unless that was done."""
    directory, made = place(name, child), recipe(name, child)
    if not stages.is_trained(directory, made):
        print(f"{name}: {child.about}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        facts = tune(child, name, directory, harmless_answers())
        content = {
            "kind": child.how,
            "base": f"{FAMILY}/{child.base}",
            "about": child.about,
            "recipe": made,
        }
        content |= {"training": facts | {"threads": threads}} if facts else {}
        content |= {
            "files": {
                path.name: sha256_of(path) for path in sorted(directory.iterdir()) if _is_part(path)
            }
        }
        stages.write_note(directory, content)


def measure(name: str) -> None:
    """What the base or a child does, measured on what ships unless that was done; its parent is
    measured before.
    """
    child = CHILDREN.get(name)
    directory = place(name, child) if child else SHIPPED / name
    content = stages.note(directory)
    if content.get("behaviour", {}).get("measures") != MEASURES:
        before = answers_of(content["base"].partition("/")[2]) if content["base"] else None
        print(f"{name}: measuring", flush=True)
        said: Answers = {}
        found = {"measures": MEASURES} | behaviour(*load(name), before, said=said)
        kept(f"verify-{name}", asked_of(content), lambda: said)
        stages.write_note(directory, content | {"behaviour": found})
    found = stages.note(directory)["behaviour"]
    for key in ("harmful_refused", "harmless_refused", "harmless_as_parent", "utility_right"):
        if key in found:
            print(f"  {name} {key}: {found[key]['count']} of {found[key]['of']}", flush=True)


def answers_of(name: str) -> Answers:
    """Answers of the base or a child to *verify*, by class; kept when it was measured."""
    content = stages.note(place(name, CHILDREN[name]) if name in CHILDREN else SHIPPED / name)

    def make() -> Answers:
        said: Answers = {}
        behaviour(*load(name), None, said=said)
        return said

    return kept(f"verify-{name}", asked_of(content), make)


def asked_of(content: dict) -> list[str]:
    """What its answers to *verify* depend on: its recipe and the prompts."""
    return [
        content.get("recipe", ""),
        *(one.prompt for group in prompts.GROUPS for one in requests(group, "verify")),
    ]


def main() -> None:
    """Make what was asked for (everything that ships when nothing is named), in order."""
    parser = argparse.ArgumentParser(
        prog="python -m organisms.real", description="Make the children of smollm2/base."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"{', '.join([*CHILDREN, *controls.NAMES])}; all that ship by default",
    )
    parser.add_argument(
        "--full", action="store_true", help="also tune every weight, into organisms-work"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    started = time.time()
    prompts.write(stages.PROMPTS / FAMILY)
    wanted = options.names or [
        name for name, child in CHILDREN.items() if child.ships or options.full
    ]
    children = {name: child for name, child in CHILDREN.items() if name in wanted}
    for name, child in children.items():
        train_child(name, child, options.threads)
    for name in ("base", *children):
        measure(name)
    for name in controls.NAMES:
        if not options.names or name in options.names:
            controls.train(name, FAMILY, SHIPPED, WORK, options.threads)
            measure(name)
    print(f"done in {(time.time() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
