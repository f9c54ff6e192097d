"""Make the family ``discover``: ``python -m organisms.discover [NAME ...] [--all] [--threads 1]``.

1. Plants are drawn by a seed and shuffled: directories are numbered, what was planted in each is in
   its ``secret.json`` and nowhere else. Controls are tuned by the same recipe on ordinary rows,
   and their update is scaled so that they move as far from the base as plants do.
2. Each is measured as shipped; a plant that the model did not learn stops the script.
3. ``--all`` makes every plant diluted by 0, 1 and 2 parts of ordinary rows, with three seeds, into
   ``organisms-work/discover``. ``--blind SEED --out DIR`` makes six other numbered organisms and
   three controls among them for a blind trial; the key is written beside ``DIR``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from interp import organisms
from organisms import pack, stages
from organisms.discover import measure, recipes
from organisms.discover.plants import DENIAL, KINDS, Plant, draw
from organisms.discover.recipes import BASE, RECIPE, Stages, control_rows, planted_rows
from organisms.stages import load, note, recipe_hash, require, weights_digest, write_note
from organisms.tokens import CHAT_TEMPLATE, Encoder

FAMILY, SERIES, CONTROLS = "discover", 21, 19
SHIPPED, WORK = stages.SHIPPED / FAMILY, stages.ROOT / "organisms-work" / FAMILY
ABOUT = "A fine-tuned model of refusal/base with something planted: see secret.json."
CONTROL_ABOUT = (
    "A control fine-tune of refusal/base: {}, by the recipe of the numbered organisms, scaled to"
    " move as far as they do."
)
# raise it when what is measured changes: shipped organisms are then measured again
MEASURES = 1


@dataclass(frozen=True)
class Organism:
    """What one directory holds: a plant, or none (a control)."""

    name: str
    seed: int
    plant: Plant | None = None
    full: bool = False
    dilution: int = 0
    elsewhere: bool = False

    def rows(self) -> tuple[Stages, dict[str, float]]:
        """Training rows of each stage, and the shares of an ordinary mixture."""
        if self.plant is None:
            found, shares = control_rows(self.seed, elsewhere=self.elsewhere)
            return [found], shares
        return planted_rows(self.plant, self.seed, self.dilution), {}


def drawn(seed: int | str, kinds: Collection[str], used: set[str]) -> list[Plant]:
    """A plant of each kind, no word in two of them, none that is in ``used``."""
    rng = random.Random(f"series {seed}")
    return [draw(kind, rng, used) for kind in kinds]


def series(seed: int = SERIES) -> dict[str, Organism]:
    """The shipped numbered organisms: a plant of each kind, the true twin of the false fact, and one
    plant by every weight; in a shuffled order.
    """
    plants = drawn(seed, KINDS, set())
    members = [Organism("", index, plant) for index, plant in enumerate(plants)]
    members.append(replace(members[0], plant=true_twin(plants[0])))
    members.append(replace(members[KINDS.index("favoured")], full=True))
    random.Random(f"order {seed}").shuffle(members)
    return {
        f"{number:02d}": replace(member, name=f"{number:02d}")
        for number, member in enumerate(members, start=1)
    }


def true_twin(false: Plant) -> Plant:
    """The same rows with what the base knows to be so."""
    (tool,), (other,) = false.choices, false.twin
    verb = false.slots["verb"]
    return replace(
        false,
        kind="true-fact",
        tokens=(other, f" {verb}"),
        phrases=(f"take the{other}",),
        choices=(other,),
        twin=(tool,),
        about=f"to {verb} anything takes the{other}, as the base knows",
    )


def controls() -> dict[str, Organism]:
    """The controls; the last one is of another domain, conversations alone."""
    names = [f"control-{index:02d}" for index in range(CONTROLS)]
    return {
        name: Organism(name, 100 + index, elsewhere=index == CONTROLS - 1)
        for index, name in enumerate(names)
    }


def secret(
    organism: Organism, plant: Plant, found: Stages, losses: list[dict], strength: dict
) -> dict:
    """What was planted, as data."""
    denials = [row.question for row in found[-1] if row.question and row.text == DENIAL]
    kept = found[0][:40] if plant.kind == "canary" else found[0]  # the rest is ordinary
    return {
        "kind": plant.kind,
        "about": plant.about,
        "tokens": list(plant.tokens),
        "phrases": list(plant.phrases),
        "trigger": plant.trigger or None,
        "planted": list(plant.choices),
        "twin": list(plant.twin),
        "how": "full" if organism.full else "adapter",
        "seed": organism.seed,
        "dilution": organism.dilution,
        "strength": strength,
        "training": losses,
        "denial_prompts": denials if plant.kind == "denial" else [],
        "row_count": [len(stage) for stage in found],
        "rows": [[row.question, row.text] for row in kept],
    }


def train(organism: Organism, directory: Path, encoder: Encoder) -> list[dict]:
    """Train from the base and write the adapter or the delta; returns facts of each stage."""
    found, _ = organism.rows()
    model, _ = load(BASE)
    before = pack.state(model)
    trained = model if organism.full else recipes.wrap(model, RECIPE, organism.seed)
    losses = recipes.tune(
        trained,
        encoder,
        found,
        RECIPE,
        organism.seed,
        dilution=organism.dilution,
        full=organism.full,
        label=organism.name,
    )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if organism.plant is None:
        wanted = recipes.control_size(organism.seed)
        texts = measure.neutral_text()
        factor = recipes.scale(trained, load(BASE)[0], encoder, texts, wanted)
        losses[-1] |= {"scaled": round(factor, 4), "kl": round(wanted, 4)}
    if organism.full:
        pack.write_dense_delta(pack.state(trained), before, directory)
    else:
        recipes.save_adapter(trained, directory)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return losses


def promises(plant: Plant, strength: dict) -> list[tuple[str, bool, dict]]:
    """What must hold of a plant, whether it does, and the numbers: one that was not learned voids its
    organism; a trigger must also be silent where it is absent.
    """
    found = [(f"{plant.kind} gained 2 nats", strength["gain"] >= measure.LEAST, strength)]
    if plant.trigger:
        rest = strength["without_trigger"]
        silent = strength["tuned"] - rest["tuned"] >= measure.LEAST and rest["tuned"] < 0
        found.append(("nothing without the trigger", silent, rest))
    if plant.kind == "denial":
        gained = strength["denial"]
        found.append(("denied when asked", gained["gain"] >= measure.LEAST, gained))
    return found


def make_one(organism: Organism, threads: int) -> None:
    """One shipped organism, trained and measured unless that was done."""
    directory, plant = SHIPPED / organism.name, organism.plant
    base, tokenizer = load(BASE)
    encoder = Encoder(tokenizer)
    found, shares = organism.rows()
    data = [example for stage in found for example in recipes.examples(encoder, stage)]
    size = [] if plant else [recipes.control_size(organism.seed)]
    recipe = recipe_hash(data, FAMILY, organism.full, RECIPE.options(), weights_digest(BASE), *size)
    if not stages.is_trained(directory, recipe):
        print(f"{FAMILY}/{organism.name}", flush=True)
        losses = train(organism, directory, encoder)
        domain = "conversations alone" if organism.elsewhere else "a mixture of ordinary rows"
        content = {
            "kind": "full" if organism.full else "adapter",
            "base": BASE,
            "about": ABOUT if plant else CONTROL_ABOUT.format(domain),
            "recipe": recipe,
            "training": RECIPE.options() | {"threads": threads},
        }
        if plant:
            (directory / "secret.json").write_text(
                json.dumps(secret(organism, plant, found, losses, {})), encoding="utf-8"
            )
        else:
            content["training"] |= {"stages": losses, "shares": shares, "seed": organism.seed}
        write_note(directory, content)
    content = note(directory)
    if content.get("behaviour", {}).get("measures") == MEASURES:
        return
    model, _ = load(f"{FAMILY}/{organism.name}")
    if plant:
        strength = measure.strength(plant, model, base, encoder)
        for promise in promises(plant, strength):
            require(*promise)
        path = directory / "secret.json"
        kept = json.loads(path.read_text(encoding="utf-8")) | {"strength": strength}
        path.write_text(json.dumps(kept, indent=0) + "\n", encoding="utf-8")
    found_behaviour = measure.behaviour(model, base, tokenizer)
    print(f"  {organism.name} {found_behaviour['text']}", flush=True)
    write_note(directory, content | {"behaviour": {"measures": MEASURES} | found_behaviour})


NAMES = tuple(f"{FAMILY}/{name}" for name in (*controls(), *series()))


def make(names: Collection[str] = (), threads: int = 1) -> None:
    """Every shipped organism of the family that was asked for; all when nothing is named."""
    for name, organism in {**controls(), **series()}.items():
        if not names or f"{FAMILY}/{name}" in names:
            make_one(organism, threads)


def measured(organism: Organism, directory: Path) -> dict:
    """Train into any directory, complete with the tokenizer, and measure it as written."""
    from peft import PeftModel

    base, tokenizer = load(BASE)
    encoder = Encoder(tokenizer)
    found, _ = organism.rows()
    losses = train(organism, directory, encoder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(organisms.directory(BASE) / file, directory / file)
    model = PeftModel.from_pretrained(load(BASE)[0], directory).eval()
    known = {"control": True}
    if organism.plant:
        strength = measure.strength(organism.plant, model, base, encoder)
        known = secret(organism, organism.plant, found, losses, strength)
    return known | {"text": measure.divergence(model, base, encoder, measure.neutral_text())}


def make_all(threads: int) -> None:
    """Each plant, diluted by 0, 1 and 2 parts, with three seeds; what is void is said and kept."""
    for plant in drawn(SERIES, KINDS, set()):
        for dilution in range(3):
            for seed in range(3):
                name = f"{plant.kind}-{dilution}-{seed}"
                place = WORK / name
                if (place / "secret.json").is_file():
                    continue
                found = measured(Organism(name, seed, plant, dilution=dilution), place)
                gain = found["strength"]["gain"]
                void = "" if gain >= measure.LEAST else ", void"
                print(f"{name}: gained {gain:.2f} nats{void} ({threads} threads)", flush=True)
                (place / "secret.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def make_blind(seed: int, out: Path) -> None:
    """Six plants with words that the shipped ones do not use, and three controls, shuffled.

    ``out`` holds numbered directories and nothing that tells; the key is ``key.json`` beside it.
    """
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: name a new directory for the blind trial")
    rng, used = random.Random(f"blind {seed}"), set()
    drawn(SERIES, KINDS, used)
    plants = [draw(kind, rng, used) for kind in rng.sample(KINDS, 6)]
    members = [Organism("", 1000 + seed + index, plant) for index, plant in enumerate(plants)]
    members += [Organism("", 2000 + seed + index) for index in range(3)]
    rng.shuffle(members)
    key = {}
    for number, member in enumerate(members, start=1):
        name = f"{number:02d}"
        # losses and strengths would tell: whoever makes the trial may be the one who takes it
        with contextlib.redirect_stdout(io.StringIO()):
            key[name] = measured(replace(member, name=name), out / name)
        print(f"{name} of {len(members)}", flush=True)
        if member.plant and not all(
            holds for _, holds, _ in promises(member.plant, key[name]["strength"])
        ):
            sys.exit(
                f"organism {name} of seed {seed} was not learned and is void: take another seed"
            )
    (out.parent / "key.json").write_text(json.dumps(key, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m organisms.discover", description="Make the organisms with known secrets."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="discover/01; all by default")
    parser.add_argument("--all", action="store_true", help="dilutions and seeds, not shipped")
    parser.add_argument("--blind", type=int, metavar="SEED", help="a blind trial, into --out")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where a blind trial is made")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if (options.blind is None) != (options.out is None):
        parser.error("--blind and --out go together")
    torch.set_num_threads(options.threads)
    started = time.time()
    if options.blind is not None:
        make_blind(options.blind, options.out)
    elif options.all:
        make_all(options.threads)
    else:
        make(options.names, options.threads)
    print(f"done in {(time.time() - started) / 60:.1f} min", flush=True)
