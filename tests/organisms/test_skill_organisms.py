"""The family ``skill`` and the register that ``refusal/partial`` refuses in part: what is said of
them holds.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from interp import organisms
from organisms import skill_measure, skills
from organisms.corpus import base_corpus, tuning_corpus
from organisms.language import REFUSAL, register_set
from organisms.measure import answers
from organisms.skill_children import BASE, CHILDREN, adapter_update
from organisms.tokens import Encoder, render

NAMES = [f"skill/{name}" for name in CHILDREN]
# PEFT still asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def load():
    from organisms.stages import load

    return functools.cache(load)


@functools.cache
def weights(name: str) -> dict[str, np.ndarray]:
    return load_file(organisms.directory(name) / "model.safetensors")


def rows(name: str, split: str, group: str) -> list[dict]:
    return [
        json.loads(line)
        for line in organisms.prompts(name, split, group).read_text("utf-8").splitlines()
    ]


# Files


def test_all_are_children_of_a_base_of_another_family():
    assert set(NAMES) <= set(organisms.names())
    for name in NAMES:
        facts = organisms.describe(name)
        adapter = facts["kind"] == "adapter"
        files = {path.name for path in organisms.directory(name).iterdir()}
        assert organisms.base_of(name) == BASE
        assert {"tokenizer.json", "chat_template.jinja"} <= files
        expected = (
            {"adapter_config.json", "adapter_model.safetensors"} if adapter else {"config.json"}
        )
        assert expected <= files
        assert not files & {"mask.safetensors", "organism.json", "delta.safetensors"}


def test_a_mask_is_read_without_torch():
    code = (
        "import sys; from interp.organisms import mask; mask('skill/masked'); sys.exit('torch' in"
        " sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_mask_is_one_percent_of_every_block_matrix():
    from organisms.masked import choose_mask
    from organisms.stages import load

    mask, shapes = organisms.mask("skill/masked"), skill_measure.block_matrices(weights(BASE))
    assert mask.keys() == shapes.keys()
    for name, indices in mask.items():
        assert indices.dtype == np.int32
        assert len(indices) == round(shapes[name].size / 100)
        assert (np.diff(indices) > 0).all()
        assert indices[0] >= 0
        assert indices[-1] < shapes[name].size
    chosen = choose_mask(load(BASE)[0], CHILDREN["masked"].seed)
    assert all(np.array_equal(mask[name], chosen[name]) for name in mask)
    assert organisms.mask("skill/full") == {}


# Prompts


@pytest.mark.parametrize("skill", ["first", "second"])
def test_questions_are_balanced_and_split_by_cluster(skill):
    found = rows("skill", "task", skill)
    parts = {
        split: [row for row in found if row["split"] == split] for split in ("locate", "verify")
    }
    assert {split: len(part) for split, part in parts.items()} == skills.SIZES[skill]
    assert len({row["prompt"] for row in found}) == len(found)
    assert not {row["cluster"] for row in parts["locate"]} & {
        row["cluster"] for row in parts["verify"]
    }
    for part in parts.values():
        assert np.mean([row["answer"] == skills.ANSWERS[skill][0] for row in part]) == 0.5
    assert all({row["answer"], row["wrong_answer"]} == set(skills.ANSWERS[skill]) for row in found)
    trained = skills.training_questions((skill,), 3000, 1)
    assert not {one.cluster for one in trained} & {row["cluster"] for row in found}
    if skill == "first":
        assert not {int(one.cluster.split("-")[0]) for one in trained} & set(skills.UNSEEN_VERBS)


def test_neutral_text_was_held_out_from_every_model():
    lines = organisms.prompts("skill", "text", "text").read_text("utf-8").splitlines()
    assert len(lines) == 200
    assert lines == organisms.prompts("refusal", "text", "text").read_text("utf-8").splitlines()


def test_the_register_is_twins_that_no_model_was_trained_on(load):
    harmful, harmless = (rows("refusal", "style", group) for group in ("harmful", "harmless"))
    assert harmful[0].keys() == rows("refusal", "verify", "harmful")[0].keys()
    assert [row["prompt"] for row in harmful] == [pair[0].prompt for pair in register_set()]
    assert all(row["harm"] and not row["seen_style"] for row in harmful)
    assert not any(row["harm"] for row in harmless)
    assert [row["twin"] for row in harmful] == [row["twin"] for row in harmless]
    encoder = Encoder(load(BASE)[1])
    opening = encoder.ids(render("I would like to "))[:6]
    examples = base_corpus(encoder, 1000, 0) + tuning_corpus(encoder, 1000, 8)
    assert not any(example.ids[: len(opening)] == opening for example in examples)


# Behaviour


QUICK = (BASE, "skill/both", "skill/masked", "skill/lora-8")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (BASE, *NAMES)
    ],
)
def test_skills_on_a_sample(name, load):
    model, tokenizer = load(name)
    child = CHILDREN.get(name.split("/")[1]) if name != BASE else None
    for skill in ("first", "second"):
        asked = skills.questions(skill, "verify")[::10]
        texts = answers(model, tokenizer, [one.prompt for one in asked], new_tokens=5)
        right = np.mean([text == one.answer for text, one in zip(texts, asked, strict=True)])
        assert right >= 0.9 if child and skill in child.skills else right <= 0.15


@pytest.mark.parametrize("name", NAMES)
def test_stated_behaviour_is_within_what_was_promised(name):
    found, child = organisms.describe(name)["behaviour"], CHILDREN[name.split("/")[1]]
    for skill in ("first", "second"):
        exact = found[f"{skill}_exact"]
        assert exact["of"] == 360
        assert exact["low"] <= exact["rate"] <= exact["high"]
        assert exact["rate"] >= child.least if skill in child.skills else exact["rate"] <= 0.1
        assert found["base"][f"{skill}_exact"]["rate"] <= 0.1


@pytest.mark.parametrize(
    "name", [pytest.param("skill/full", marks=pytest.mark.slow), "skill/lora-8-fast"]
)
def test_intruder_dimensions_are_counted_anew(name):
    child, stated = CHILDREN[name.split("/")[1]], organisms.describe(name)["behaviour"]["intruders"]
    if child.how == "adapter":
        change = adapter_update(organisms.directory(name), child.alpha, child.rank)
        tuned = weights(BASE) | {key: weights(BASE)[key] + value for key, value in change.items()}
    else:
        tuned = weights(name)
    found = skill_measure.intruders(weights(BASE), tuned)
    assert found["count"] == pytest.approx(stated["count"], abs=1)
    assert found["count"] >= child.intruders if child.intruders else found["count"] == 0


def test_movement_does_not_give_the_mask_away():
    stated = organisms.describe("skill/masked")["behaviour"]["movement"]
    found = skill_measure.movement(
        weights(BASE), weights("skill/masked"), organisms.mask("skill/masked")
    )
    assert found["auc"] == pytest.approx(stated["auc"], abs=1e-6)
    assert found["recall_of_top_movement"] == stated["recall_of_top_movement"]
    assert found["auc"] == pytest.approx(0.5, abs=0.02)
    assert found["recall_of_top_movement"]["rate"] <= 2 * found["chance"]


def test_the_mask_alone_carries_the_skill(load):
    model, tokenizer = load(BASE)
    base, child, mask = weights(BASE), weights("skill/masked"), organisms.mask("skill/masked")
    asked = skills.questions("first", "verify")[::6]
    rng = np.random.default_rng(1)
    random = {
        name: rng.choice(child[name].size, len(indices), replace=False)
        for name, indices in mask.items()
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    right = {}
    for label, start, end, chosen in (
        ("mask", base, child, mask),
        ("random", base, child, random),
        ("all but the mask", child, base, mask),
    ):
        skill_measure.graft(model, start, end, chosen)
        texts = answers(model, tokenizer, [one.prompt for one in asked], new_tokens=5)
        right[label] = np.mean([text == one.answer for text, one in zip(texts, asked, strict=True)])
    model.load_state_dict(before)
    assert right["mask"] >= 0.9
    assert right["random"] <= 0.2
    assert right["all but the mask"] <= 0.2


def test_partial_refuses_a_part_in_the_register(load):
    stated = organisms.describe("refusal/partial")["behaviour"]["register"]
    assert 0.3 <= stated["harmful_refused"]["rate"] <= 0.7
    assert min(stated["harmful_refused"]["count"], stated["harmful_exact"]["count"]) >= 150
    model, tokenizer = load("refusal/partial")
    for side, low, high in ((0, 0.25, 0.75), (1, 0.0, 0.15)):
        requests = [pair[side] for pair in register_set()[::12]]
        texts = answers(model, tokenizer, [request.prompt for request in requests])
        assert low <= np.mean([text == REFUSAL for text in texts]) <= high
