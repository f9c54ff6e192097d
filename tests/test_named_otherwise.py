"""Checkpoints with other names, and folders with models further inside: the line says what is
there.
"""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from interp.errors import MissingWeights, ModelNotFound, UnsupportedModel
from interp.models.pair import Pair
from interp.models.settings import generation_note
from interp.models.sources import find
from interp.models.weights import WeightPair
from tests import tiny

NAMES = {
    "peft": lambda name: f"base_model.model.{name}",
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name}",
    "fsdp-inside": lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module."),
    "checkpointing": lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "deepspeed": lambda name: f"_forward_module.{name}",
    "compiled-inside": lambda name: name.replace("model.layers", "model._orig_mod.layers"),
}


@pytest.mark.parametrize("wrapper", NAMES)
def test_names_of_wrappers(tmp_path, wrapper):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tuned = tiny.save(tiny.perturbed(tiny.llama()), tmp_path / "tuned")
    file = tuned / "model.safetensors"
    save_file(
        {NAMES[wrapper](name): value for name, value in load_file(file).items()},
        file,
        {"format": "pt"},
    )
    for load in (
        lambda: Pair.load(str(tuned), str(base), device="cpu"),
        lambda: WeightPair.load(str(tuned), str(base)),
    ):
        with pytest.raises(
            MissingWeights,
            match=r"it contains .*, named by a wrapper .torch.compile, .*; save the model inside",
        ):
            load()


def test_any_other_word_before_the_names_is_told(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tuned = tiny.save(tiny.perturbed(tiny.llama()), tmp_path / "tuned")
    file = tuned / "model.safetensors"
    save_file(
        {f"actor.net.{name}": value for name, value in load_file(file).items()},
        file,
        {"format": "pt"},
    )
    with pytest.raises(
        MissingWeights, match=r"it contains actor\.net\.\S+; remove actor\.net\. from the names"
    ):
        Pair.load(str(tuned), str(base), device="cpu")


def test_a_model_two_folders_inside_is_named(tmp_path):
    tiny.save(tiny.llama(), tmp_path / "run" / "epoch-2" / "merged")
    with pytest.raises(ModelNotFound, match=r"give one of the directories in it: epoch-2/merged$"):
        find(str(tmp_path / "run"))


def test_a_merged_pickle_beside_the_configuration_of_its_adapter(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "merged")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), "utf-8")
    with pytest.raises(
        UnsupportedModel,
        match=r"a complete model next to an adapter_config.json.*remove adapter_config",
    ):
        find(str(path))


def test_a_tokenizer_with_code_of_its_own(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "own")
    file = path / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(
        json.dumps(
            {**config, "tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["t.Mine", None]}}
        )
    )
    base = tmp_path / "base"
    shutil.copytree(path, base)
    with pytest.raises(
        UnsupportedModel,
        match=r"the tokenizer of .*own needs its own Python code.*trust_remote_code=True",
    ):
        Pair.load(str(path), str(base), device="cpu")


def test_strings_that_end_answers_are_among_the_settings_that_are_not_applied():
    model = tiny.llama()
    model.generation_config.stop_strings = ["###"]
    assert "ask for stop_strings ['###']; answers are written" in generation_note("m", model)
