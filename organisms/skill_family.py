"""The stages of the family ``skill``: children of ``refusal/base``, trained, shipped, measured on
what ships.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Collection

from safetensors.numpy import load_file

from interp import organisms
from organisms import pack, skill_measure
from organisms.skill_children import BASE, CHILDREN, EXAMPLES, SkillChild, adapter_update, tune
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
from organisms.tokens import CHAT_TEMPLATE, Encoder

FAMILY = "skill"
# raise it when ``measured`` changes: shipped organisms are then measured again, not trained again
MEASURES = 1


def weights(name: str) -> dict:
    """The weights of an organism that is a whole model, as float32 arrays."""
    return load_file(organisms.directory(name) / "model.safetensors")


@functools.cache
def base_behaviour() -> dict:
    """What the base does, for comparison."""
    return skill_measure.behaviour(*load(BASE))


def measured(name: str, child: SkillChild) -> dict:
    """Behaviour of a shipped child beside the base's, and what its weights are."""
    found = {"measures": MEASURES, "base": base_behaviour()}
    found |= skill_measure.behaviour(*load(f"{FAMILY}/{name}"))
    before = weights(BASE)
    if child.how == "adapter":
        change = adapter_update(organisms.directory(f"{FAMILY}/{name}"), child.alpha, child.rank)
        after = before | {key: before[key] + value for key, value in change.items()}
    else:
        after = weights(f"{FAMILY}/{name}")
    found["intruders"] = skill_measure.intruders(before, after)
    if child.how == "mask":
        mask = organisms.mask(f"{FAMILY}/{name}")
        found["movement"] = skill_measure.movement(before, after, mask)
        found["grafts"] = skill_measure.grafts(*load(BASE), before, after, mask, child.seed)
    return found


def check(child: SkillChild, found: dict) -> None:
    """What a child must do."""
    for skill in ("first", "second"):
        exact = found[f"{skill}_exact"]
        if skill in child.skills:
            require(f"{skill} skill >= {child.least}", exact["rate"] >= child.least, exact)
        else:
            require(f"{skill} skill <= 0.1", exact["rate"] <= 0.1, exact)
        require(
            f"base has no {skill} skill",
            found["base"][f"{skill}_exact"]["rate"] <= 0.1,
            found["base"],
        )
    if child.intruders:
        require(
            "intruder dimensions",
            found["intruders"]["count"] >= child.intruders,
            found["intruders"],
        )
    if child.how == "mask":
        check_mask(found["movement"], found["grafts"])


def check_mask(movement: dict, grafts: dict) -> None:
    """The mask carries the skill, and movement does not give it away."""
    require("AUC of movement about 0.5", abs(movement["auc"] - 0.5) <= 0.02, movement["auc"])
    recall = movement["recall_of_top_movement"]
    require("recall of top movement near chance", recall["rate"] <= 2 * movement["chance"], recall)
    require(
        "the mask alone has 95 % of the gain", grafts["mask"]["exact_gain"] >= 0.95, grafts["mask"]
    )
    for label, result in grafts.items():
        if label.startswith(("random", "all")):
            for key in ("exact_gain", "preferred_gain"):
                require(f"{label} has under 20 % of the gain", result[key] < 0.2, result)
    # So many large changes at once make the base say one of the two words, and a constant word is
    # often right.
    top = grafts["top_movement"]
    require(
        "top movement has under 20 % of the gain in preference", top["preferred_gain"] < 0.2, top
    )


def make(names: Collection[str], threads: int) -> None:
    """Prompt files, then each child that was asked for, trained and measured unless that was done."""
    pack.write_skill_prompts(PROMPTS / FAMILY)
    for name, child in CHILDREN.items():
        if not names or f"{FAMILY}/{name}" in names:
            make_child(name, child, threads)


def make_child(name: str, child: SkillChild, threads: int) -> None:
    """One child, trained and measured unless that was done."""
    directory = SHIPPED / FAMILY / name
    model, tokenizer = load(BASE)
    recipe = recipe_hash(
        child.data(Encoder(tokenizer)), FAMILY, name, child.options(), weights_digest(BASE)
    )
    if not is_trained(directory, recipe):
        print(f"{FAMILY}/{name}: {child.about}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        facts = tune(child, name, model, pack.state(model), tokenizer, directory)
        unused = ("steps", "lr") if child.how == "mask" else ()
        recorded = {
            key: value for key, value in child.options().items() if value and key not in unused
        }
        recorded |= facts | {"examples": EXAMPLES, "threads": threads}
        (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        write_note(
            directory,
            {
                "kind": child.how,
                "base": BASE,
                "about": child.about,
                "recipe": recipe,
                "training": recorded,
            },
        )
    content = note(directory)
    if content.get("behaviour", {}).get("measures") != MEASURES:
        print(f"{FAMILY}/{name}: measuring", flush=True)
        found = measured(name, child)
        check(child, found)
        write_note(directory, content | {"behaviour": found})
