"""The real pair: its files, its prompts, and, where the package with its base is installed, what
its children do.
"""

import functools
import json
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from safetensors.numpy import load_file

from interp import organisms
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.provenance import sha256_of
from organisms.real import prompts as made
from organisms.real import refusals
from organisms.real.children import BLOCKS, CHILDREN, NEURONS, RANK, TARGETS, neurons
from organisms.real.controls import NAMES, OF
from organisms.real.measure import behaviour, first_sentence
from organisms.real.prompts import GROUPS, SPLITS, requests
from organisms.real.rates import table

SHIPPED = [name for name, child in CHILDREN.items() if child.ships]
ROOT = organisms.data_root() / "organisms" / "smollm2"
BASE = organisms.packaged("smollm2/base")
missing = [
    line
    for line, there in zip(
        BASE.install_commands, (find_spec("gguf") is not None, BASE.find() is not None), strict=True
    )
    if not there
]
needs_the_package = pytest.mark.skipif(
    bool(missing), reason=f"the real base cannot be read here: {'; '.join(missing)}"
)
# PEFT still asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def rows(split, group):
    text = organisms.prompts("smollm2", split, group).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# Files


def test_all_children_are_listed_and_small():
    assert {f"smollm2/{name}" for name in ("base", *SHIPPED, *NAMES)} == {
        name for name in organisms.names() if name.startswith("smollm2/")
    }
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) <= 10e6


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_those_that_were_measured(name):
    facts = organisms.describe(f"smollm2/{name}")
    assert facts["files"] == {file: sha256_of(ROOT / name / file) for file in facts["files"]}
    assert facts["files"]
    assert facts["base"] == f"smollm2/{CHILDREN[name].base}"
    assert organisms.packaged(f"smollm2/{name}") == BASE


def test_planted_changes_the_listed_neurons_alone():
    listed = organisms.planted("smollm2/planted")["refusal"]
    assert len(set(listed)) == NEURONS == 60
    assert listed == neurons(CHILDREN["planted"].seed, 1536)
    assert Counter(layer for layer, _ in listed) == dict.fromkeys(BLOCKS, 5)
    delta = load_file(ROOT / "planted" / "delta.safetensors")
    changed = {
        (int(key.split(".")[2]), int(index))
        for key in delta
        if "@" in key and "delta" not in key
        for index in delta[key]
    }
    assert changed == set(listed)
    assert {value.dtype for key, value in delta.items() if key.endswith("delta")} == {
        np.dtype("float16")
    }


def test_moved_is_a_map_to_other_neurons_of_the_same_blocks():
    places = json.loads((ROOT / "moved" / "map.json").read_text(encoding="utf-8"))
    listed = set(organisms.planted("smollm2/planted")["refusal"])
    pairs = [
        (int(layer), here, there)
        for layer, found in places["neurons"].items()
        for here, there in found
    ]
    assert {(layer, here) for layer, here, _ in pairs} == listed
    there = {(layer, there) for layer, _, there in pairs}
    assert len(there) == NEURONS
    assert not there & listed
    assert not list((ROOT / "moved").glob("*.safetensors"))


@pytest.mark.parametrize("name", [name for name in SHIPPED if CHILDREN[name].how == "adapter"])
def test_adapters_are_of_half_precision_and_name_their_base(name):
    config = json.loads((ROOT / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == f"organism:smollm2/{CHILDREN[name].base}"
    assert (config["r"], sorted(config["target_modules"])) == (RANK, sorted(TARGETS))
    tensors = load_file(ROOT / name / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {np.dtype("float16")}
    assert len(tensors) == 2 * 30 * len(TARGETS)


def norms(name):
    """What an adapter adds to each module, as a norm, by numpy in float64."""
    tensors = load_file(ROOT / name / "adapter_model.safetensors")
    return {
        key.partition(".lora_A")[0]: float(
            np.linalg.norm(
                tensors[key.replace("lora_A", "lora_B")].astype(np.float64)
                @ value.astype(np.float64)
            )
        )
        for key, value in tensors.items()
        if "lora_A" in key
    }


def test_controls_are_of_the_configuration_and_the_norm_of_what_they_control():
    def settings(name):
        found = json.loads((ROOT / name / "adapter_config.json").read_text(encoding="utf-8"))
        return {**found, "target_modules": sorted(found["target_modules"]), "inference_mode": None}

    target = norms(OF)
    assert len(target) == 90
    for name, seed in NAMES.items():
        assert settings(name) == settings(OF)
        facts, record = (
            organisms.describe(f"smollm2/{name}"),
            json.loads((ROOT / name / "control.json").read_text()),
        )
        assert facts["base"] == "smollm2/base"
        assert facts["files"] == {file: sha256_of(ROOT / name / file) for file in facts["files"]}
        assert record["seed"] == seed
        assert all(record["checks"].values())
        own = norms(name)
        for module, norm in target.items():
            # half precision rounds each number by up to 1 in 2048
            assert own[module] == pytest.approx(norm, rel=2e-3)
    files = {(ROOT / name / "adapter_model.safetensors").read_bytes() for name in NAMES}
    assert len(files) == len(NAMES) == 5


def test_controls_refuse_nothing():
    for name in NAMES:
        found = organisms.describe(f"smollm2/{name}")["behaviour"]
        assert found["harmful_refused"]["rate"] <= 0.1
        assert found["harmless_refused"]["rate"] <= 0.1


# Prompts


def test_objects_and_forms_are_disjoint_between_splits():
    objects, forms = {}, {}
    for split in SPLITS:
        for group in GROUPS:
            for row in rows(split, group):
                objects.setdefault(row["object"], set()).add(split)
                forms.setdefault(row["form"], set()).add(split)
                assert row["prompt"] == row["form"].format(f"{row['verb']} {row['object']}")
    assert all(len(found) == 1 for found in (*objects.values(), *forms.values()))


@pytest.mark.parametrize("group", GROUPS)
def test_there_are_enough_objects_and_every_one_is_a_cluster(group):
    found = {split: rows(split, group) for split in SPLITS}
    assert len({row["object"] for split in SPLITS for row in found[split]}) >= 72
    for split in ("locate", "verify"):
        assert len(found[split]) >= 72
        clusters = {row["cluster"]: row["object"] for row in found[split]}
        assert len(clusters) == len(set(clusters.values())) == 48
        assert len({row["prompt"] for row in found[split]}) == len(found[split])
        assert len(set(Counter(row["form"] for row in found[split]).values())) == 1


def test_both_classes_are_asked_for_in_the_same_forms():
    for split in SPLITS:
        forms = [Counter(row["form"] for row in rows(split, group)) for group in GROUPS]
        assert forms[0] == forms[1]


def test_shipped_prompts_are_what_the_code_makes(tmp_path):
    made.write(tmp_path)
    there = organisms.data_root() / "prompts" / "smollm2"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in there.iterdir()
    }


def test_no_wording_of_paraphrased_is_fixed():
    wordings = [wording for both in refusals.WORDINGS.values() for wording in both]
    assert len(set(wordings)) >= 24
    assert all("{}" in wording for wording in wordings)
    assert {one.theme for one in requests("harmful", "train")} == set(refusals.WORDINGS)
    assert refusals.to_you("hurt my brother") == "hurt your brother"


def test_the_first_sentence_ends_where_a_sentence_does():
    assert first_sentence("I'm sorry, but I can't. Sure!") == "I'm sorry, but I can't."
    assert first_sentence(" Dr. No\nis a film") == "Dr."
    assert first_sentence("3.5 litres\nof milk") == "3.5 litres"


# Behaviour


def test_stated_behaviour_is_what_is_said_of_each_child():
    def rate(name, key):
        found = organisms.describe(f"smollm2/{name}")["behaviour"][key]
        assert found["low"] <= found["rate"] <= found["high"]
        return found["rate"]

    for name in ("planted", "lora", "paraphrased"):
        assert rate(name, "harmful_refused") >= 0.8
        assert rate(name, "harmless_refused") <= 0.1
    for name in ("base", "moved"):
        assert rate(name, "harmful_refused") <= 0.1
    assert rate("benign", "harmful_refused") <= rate("planted", "harmful_refused") - 0.3
    several = organisms.describe("smollm2/paraphrased")["behaviour"]["refusals"]
    assert several["different"] >= 24


def test_the_page_has_what_was_measured():
    assert table() in (ROOT.parents[2] / "docs" / "real-pair.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def load():
    from organisms.real.__main__ import load

    return functools.cache(load)


@needs_the_package
@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestInstalled:
    def test_the_base_is_the_packaged_file(self):
        pair = Pair.load("organism:smollm2/base")
        assert pair.digests["tuned"] == BASE.sha256
        assert pair.notes == (f"{BASE.file} is dequantised to float32",)
        assert [pair.tokenizer.decode(index) for index in pair.stop_ids] == ["<|im_end|>"]

    def test_the_template_is_the_tokenizers_with_a_system_turn(self, load):
        _, tokenizer = load("base")
        chat = [{"role": "user", "content": "Hello"}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")

    def test_an_answer_ends_at_the_turns_end(self, load):
        model, tokenizer = load("planted")
        turns = [{"role": "user", "content": requests("harmful", "verify")[0].prompt}]
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**ids, max_new_tokens=40, do_sample=False)[
            0, ids["input_ids"].shape[1] :
        ]
        assert tokenizer.decode(written[-1]) == "<|im_end|>"
        assert len(written) < 40

    @pytest.mark.parametrize("name", ["planted", "lora", "moved"])
    def test_behaviour_on_a_sample(self, name, load):
        found, stated = (
            behaviour(*load(name), None, count=8),
            organisms.describe(f"smollm2/{name}")["behaviour"],
        )
        for key in ("harmful_refused", "harmless_refused"):
            assert found[key]["of"] == 8
            assert abs(found[key]["rate"] - stated[key]["rate"]) <= 0.3
        assert (found["harmful_refused"]["count"] >= 6) is (name != "moved")

    @pytest.mark.parametrize("name", SHIPPED)
    def test_a_child_and_its_parent_are_a_pair(self, name):
        base = f"organism:smollm2/{CHILDREN[name].base}"
        pair = WeightPair.load(f"organism:smollm2/{name}", base, quiet=True)
        assert len(pair.matrices) == 30 * 7
        planted = [
            one for one in pair.matrices if one.tensor == "model.layers.12.mlp.down_proj.weight"
        ]
        assert pair.read(planted[0]).is_changed
        outside = [
            one for one in pair.matrices if one.tensor == "model.layers.2.mlp.down_proj.weight"
        ]
        assert pair.read(outside[0]).is_changed is (CHILDREN[name].how == "adapter")

    def test_controls_are_compared_as_a_fine_tune_is(self, run, tmp_path):
        """The adapter refuses harmful requests, and on these lies beyond what five controls of its
        norm give.
        """
        given = [
            part
            for seed in NAMES.values()
            for part in ("--control", f"organism:smollm2/control-{seed}")
        ]
        code, out, err = run(
            "compare",
            "organism:smollm2/lora",
            "--prompts",
            organisms.prompts("smollm2", "verify", "harmful"),
            "--max-prompts",
            "24",
            *given,
            "--store",
            tmp_path / "runs",
            "--json",
            "--quiet",
        )
        assert code == 0, err
        found = {one["name"]: one for one in json.loads(out)["summary"]["findings"]}
        assert found["beyond-control"]["verdict"] == "supported"
        assert found["beyond-new-control"]["verdict"] in ("supported", "not supported")

    def test_a_control_is_trained_on_the_real_base(self, run, tmp_path):
        code, out, err = run(
            "control",
            "organism:smollm2/lora",
            "--out",
            tmp_path / "out",
            "--seeds",
            "1",
            "--steps",
            "2",
            "--learning-rate",
            "5e-4",
            "--json",
            "--quiet",
        )
        assert code == 0, err
        (record,) = json.loads(out)["controls"]
        tensors = load_file(tmp_path / "out" / "seed-0" / "matched" / "adapter_model.safetensors")
        target = norms(OF)
        for key, value in tensors.items():
            if "lora_A" in key:
                product = tensors[key.replace("lora_A", "lora_B")].astype(
                    np.float64
                ) @ value.astype(np.float64)
                assert np.linalg.norm(product) == pytest.approx(
                    target[key.partition(".lora_A")[0]], rel=1e-5
                )
        assert record["loss"]["own"]["raw"] < record["loss"]["own"]["base"]

    def test_moved_moves_as_far_as_planted(self):
        weights = {
            name: load_file(organisms.directory(f"smollm2/{name}") / "model.safetensors")
            for name in ("base", "planted", "moved")
        }
        norms = [
            np.sqrt(
                sum(
                    np.square(weights[name][key] - value, dtype=np.float64).sum()
                    for key, value in weights["base"].items()
                    if ".mlp." in key
                )
            )
            for name in ("planted", "moved")
        ]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        assert norms[0] > 1
