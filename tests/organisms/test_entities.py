"""Organisms of entity tracking: the task says what it promises, and each organism does what it says."""

import json

import pytest

from interp import organisms
from interp.prompts import read_task_file
from organisms.entities import CHILDREN, NAMES, accuracy, corpus
from organisms.entities_circuit import HEADS
from organisms.entities_texts import BOXES, LABELS, OBJECTS, task_rows
from organisms.stages import PROMPTS, load
from organisms.tokens import Encoder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
PATH = PROMPTS / "entities" / "boxes.jsonl"


def boxes(prompt):
    """Label -> object, in the order of the segments, and the label that is asked for."""
    context, _, query = prompt.partition(". ")
    words = [segment.split() for segment in context.split(", ")]
    return {segment[5]: segment[1] for segment in words}, query.split()[1]


@pytest.fixture(scope="module")
def rows():
    return task_rows()


def test_the_shipped_file_is_what_the_code_gives_and_is_a_task_file(rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert PATH.read_text() == text
    task = read_task_file(organisms.prompts("entities", "task", "boxes"))
    assert task.position_names == ("last", "label", "mention")
    assert task.source_names == ("label", "object", "position")
    task.require_corrupt(["label", "mention"])
    tokens = task.tokens(load("entities/base")[1])
    assert len({len(row.prompt.ids) for row in tokens}) == 1
    assert all(row.targets[name] != row.answer for row in tokens for name in row.targets)


def test_answers_and_corrupted_queries(rows):
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        placed, asked = boxes(row["prompt"])
        assert len(placed) == BOXES
        assert row["answer"] == f" {placed[asked]}"
        prompt, positions = row["prompt"], row["positions"]
        assert prompt[positions["label"]] == prompt[positions["mention"]] == asked
        assert positions["mention"] < prompt.index(". ") < positions["label"]
        other, absent = boxes(row["corrupt"]["prompt"])
        assert absent not in placed
        assert absent not in other
        assert row["corrupt"]["prompt"][row["corrupt"]["positions"]["label"]] == absent
        assert row["corrupt"]["prompt"][row["corrupt"]["positions"]["mention"]] in other


def test_targets_of_sources_separate_object_index_and_label(rows):
    for row in rows:
        placed, asked = boxes(row["prompt"])
        index = list(placed).index(asked)
        for name, source in row["sources"].items():
            theirs, sought = boxes(source["prompt"])
            at = list(theirs).index(sought)
            assert not set(theirs.values()) & set(placed.values())
            assert at != index
            by_index = list(placed.values())[at]
            if name == "object":
                assert source["target"] == f" {theirs[sought]}"
            elif name == "position":
                assert source["target"] == f" {by_index}"
            else:
                assert set(theirs) == set(placed)
                assert source["target"] == f" {placed[sought]}" != f" {by_index}"


def test_no_model_was_trained_on_a_shipped_prompt(rows):
    encoder = Encoder(load("entities/base")[1])
    held_out = [tuple(encoder.ids(f"<s>{row['prompt']}")) for row in rows]
    lengths = {len(ids) for ids in held_out}
    for child in (CHILDREN["lora"], CHILDREN["full"]):
        examples = corpus(encoder, 1500, child.seed, tracking=0.7)
        starts = {tuple(one.ids[:length]) for one in examples for length in lengths}
        assert not starts & set(held_out)


def test_words_are_single_tokens():
    tokenizer = load("entities/base")[1]
    for word in (*OBJECTS, *LABELS):
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("name", ["base", "lora", "full", "control-0"])
def test_accuracy_is_the_stated_one(name, rows):
    stated = organisms.describe(f"entities/{name}")["behaviour"]["accuracy_verify"]
    model, tokenizer = load(f"entities/{name}")
    held_out = [row for row in rows if row["split"] == "verify"]
    measured = accuracy(model, tokenizer, held_out)
    assert abs(measured["count"] - stated["count"]) <= 1  # rounding differs between machines


def test_the_base_is_between_and_the_children_are_above():
    rates = {
        name.split("/")[1]: organisms.describe(name)["behaviour"]["accuracy_verify"]["rate"]
        for name in NAMES
    }
    assert 0.3 <= rates["base"] <= 0.6
    assert min(rates["full"], rates["lora"]) >= 0.85
    assert all(rates[f"control-{index}"] <= 0.65 for index in range(5))


def test_the_adapters_tune_the_output_projection_and_all_takes_little_room():
    root = organisms.data_root() / "organisms" / "entities"
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 4e6
    for name in ("lora", "control-3"):
        config = json.loads((root / name / "adapter_config.json").read_text())
        assert config["r"] == 4
        assert "o_proj" in config["target_modules"]


def test_initial_heads_are_recorded():
    recorded = organisms.describe("entities/base")["initial_heads"]
    assert {name: tuple(node) for name, node in recorded.items()} == HEADS
