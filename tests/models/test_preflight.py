"""Whatever cannot be loaded or compared is refused by an error of its own, in one line that says
what to do.
"""

import copy
import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BioGptConfig, BioGptForCausalLM

from interp.errors import (
    DepthMismatch,
    MissingWeights,
    ModelError,
    ModelNotFound,
    NonFiniteWeights,
    OptionError,
    PairError,
    PickledWeights,
    TruncatedWeights,
    UnsupportedModel,
    VocabularyMismatch,
    WidthMismatch,
)
from interp.models.pair import Pair
from tests import tiny

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2"])
DONE = (
    "check",
    "give",
    "copy",
    "save",
    "use",
    "try",
    "tested",
    "download",
    "needs",
    "shipped",
    "diverged",
)


def refused(error, said, tuned, base=None, **options):
    with pytest.raises(error, match=said) as caught:
        Pair.load(str(tuned), base and str(base), **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    assert any(word in message for word in DONE), message
    return message


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.save(tiny.llama(), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def directory(llama, tmp_path):
    """A copy of a good model, to be spoiled."""
    return shutil.copytree(llama, tmp_path / "copy")


def weights(directory, change):
    found = load_file(directory / "model.safetensors")
    save_file(change(found) or found, directory / "model.safetensors", {"format": "pt"})


def config(directory, **changes):
    found = {**json.loads((directory / "config.json").read_text()), **changes}
    (directory / "config.json").write_text(json.dumps(found))


UP = "model.layers.1.mlp.up_proj.weight"

# ---------------------------------------------------------------------------------------------- one model


def test_a_tensor_is_missing(directory):
    weights(directory, lambda found: {key: value for key, value in found.items() if key != UP})
    refused(
        MissingWeights, f"lacks 1 of the tensors that LlamaForCausalLM needs, first {UP}", directory
    )


def test_a_tensor_has_another_shape(directory):
    weights(directory, lambda found: found.update({UP: found[UP][:20].clone()}))
    refused(MissingWeights, r"stores in another shape 1 .*\(20, 32\), needed \(48, 32\)", directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_is_not_finite(directory, value):
    def spoil(found):
        found[UP][3, 4] = value

    weights(directory, spoil)
    refused(NonFiniteWeights, f"{UP} contains NaN or infinity", directory)


def test_logits_are_not_finite(directory):
    big = ("lm_head.weight", "model.norm.weight")
    weights(
        directory,
        lambda found: {key: value * (1e25 if key in big else 1) for key, value in found.items()},
    )
    refused(
        NonFiniteWeights, "gives NaN or infinite logits in torch.float32; try --dtype", directory
    )


@pytest.mark.parametrize("cut", [0, 6, 300, 20_000, -1])
def test_truncated_weights(directory, cut):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    refused(TruncatedWeights, "model.safetensors of .* is truncated or damaged", directory)


def test_a_pointer_in_place_of_weights(directory):
    (directory / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    refused(TruncatedWeights, "is truncated or damaged", directory)


def test_a_missing_shard_and_a_damaged_index(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "m", max_shard_size="60KB")
    index = path / "model.safetensors.index.json"
    good = index.read_text()
    for bad in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        index.write_text(bad)
        refused(TruncatedWeights, "maps no tensors to files", path)
    index.write_text("{")
    refused(TruncatedWeights, "is not readable JSON", path)
    index.unlink()
    refused(MissingWeights, r"lacks a file .*model\.safetensors", path)
    index.write_text(good)
    next(iter(path.glob("model-00002*"))).unlink()
    refused(MissingWeights, "lacks the shard model-00002-of-", path)


def test_pickled_weights_only(directory):
    (directory / "model.safetensors").unlink()
    refused(ModelNotFound, r"contains a configuration and no \.safetensors weights", directory)
    torch.save({}, directory / "pytorch_model.bin")
    refused(
        PickledWeights,
        r"only as a pickle \(pytorch_model\.bin\), and reading a pickle runs code",
        directory,
    )


@pytest.mark.parametrize("text", ["{garbage", "", "[]", "3"])
def test_a_configuration_that_is_no_configuration(directory, text):
    (directory / "config.json").write_text(text)
    refused(TruncatedWeights, r"config\.json is not (readable JSON|a JSON object)", directory)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "nonsense"}, "does not accept its config.json .*nonsense"),
        ({"model_type": None}, "does not accept its config.json"),
        ({"hidden_size": "wide"}, "does not accept its config.json .*hidden_size.*'wide'"),
        ({"num_attention_heads": 5}, "does not accept its config.json .*multiple"),
        ({"num_hidden_layers": 0}, "has no blocks"),
    ],
)
def test_configurations_that_are_not_handled(directory, changes, said):
    config(directory, **changes)
    refused(UnsupportedModel, said, directory)


def test_architectures_that_are_not_handled(tmp_path):
    sizes = {"vocab_size": 333, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BioGptConfig(
        **sizes, intermediate_size=32, bos_token_id=1, eos_token_id=1, pad_token_id=0
    )
    biogpt = tiny.save(BioGptForCausalLM(config), tmp_path / "b")
    refused(UnsupportedModel, "BioGptForCausalLM is not an architecture with a known map", biogpt)
    refused(UnsupportedModel, "BioGptForCausalLM", biogpt, attention="eager")


@pytest.mark.parametrize("attention", ["nonsense", "flash_attention_2"])
def test_attention_kernels_that_are_not_there(directory, attention):
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        Pair.load(str(directory), attention=attention)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_tokenizer_that_cannot_be_read(directory, file, text):
    (directory / file).write_text(text)
    refused(ModelError, "its tokenizer cannot be loaded", directory)


def test_no_tokenizer(tmp_path):
    refused(
        ModelError,
        "no tokenizer files in",
        tiny.save(tiny.llama(), tmp_path / "m", with_tokenizer=False),
    )


def test_a_tokenizer_with_more_tokens_than_the_model_embeds(tmp_path):
    small = tiny.save(tiny.llama(vocab_size=100), tmp_path / "small")
    refused(VocabularyMismatch, "the tokenizer has 333 tokens and .* has 100 embedding rows", small)


# ---------------------------------------------------------------------------------------------- names


def test_directories_that_are_no_models(tmp_path, directory):
    (tmp_path / "empty").mkdir()
    refused(
        ModelNotFound, r"contains neither config\.json nor adapter_config\.json", tmp_path / "empty"
    )
    refused(ModelNotFound, "is a file, not a model directory", directory / "config.json")
    refused(ModelNotFound, "no model directory at", tmp_path / "nothing")


@pytest.mark.parametrize(
    "name",
    ["", "gpt2", "a/b/c", "a\\b", "x" * 5000, "a/" + "x" * 400, "~nobody-here/m", "a\0b", "a b/c"],
)
def test_names_that_mean_nothing(name):
    assert len(refused(ModelNotFound, "check the spelling", name)) < 1000


def test_an_unknown_organism():
    refused(ModelNotFound, "no organism 'refusal/nothing'", "organism:refusal/nothing")


def test_a_hub_id_offline():
    start = time.monotonic()
    refused(
        ModelNotFound,
        "someone/no-such-model is not a local directory, and the Hub did not provide it",
        "someone/no-such-model",
    )
    refused(
        ModelNotFound, "check the spelling, the network, or HF_TOKEN", "someone/no-such-model@main"
    )
    assert time.monotonic() - start < 5


def test_a_hub_id_without_a_network(monkeypatch):
    """Not told to be offline, and nobody answers: one line, soon."""
    import huggingface_hub
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    message = refused(ModelNotFound, "the Hub did not provide it", "someone/no-such-model")
    assert time.monotonic() - start < 20
    assert "Connect" in message or "refused" in message


# ---------------------------------------------------------------------------------------------- two models


@FAMILIES
@pytest.mark.parametrize(
    ("llama_changes", "gpt2_changes", "error", "said"),
    [
        (
            {"num_hidden_layers": 2},
            {"n_layer": 2},
            DepthMismatch,
            "layer.* is 2 in the base .* and 3 in",
        ),
        (
            {"hidden_size": 16, "head_dim": 8},
            {"n_embd": 16},
            WidthMismatch,
            "(hidden_size|n_embd) is 16 in the base",
        ),
        (
            {"intermediate_size": 40},
            {"n_inner": 40},
            WidthMismatch,
            "(intermediate_size|n_inner) is 40 in the base",
        ),
        (
            {"num_key_value_heads": 4},
            {"n_head": 8},
            WidthMismatch,
            "(num_key_value_heads|n_head) is (4|8) in the base",
        ),
    ],
)
def test_models_of_other_sizes(tmp_path, family, llama_changes, gpt2_changes, error, said):
    changes = {"llama": llama_changes, "gpt2": gpt2_changes}[family]
    build = tiny.FAMILIES[family]
    tuned, base = tiny.save(build(), tmp_path / "t"), tiny.save(build(**changes), tmp_path / "b")
    message = refused(error, said, tuned, base)
    assert str(base) in message
    # and the same of models in memory, where the sizes are read off the weights
    with pytest.raises(PairError, match="give the model that was fine-tuned") as caught:
        Pair.from_modules(build(), build(**changes), tiny.tokenizer())
    assert type(caught.value) is error


def test_a_size_that_only_the_weights_tell(tmp_path):
    tuned, base = (
        tiny.save(tiny.llama(), tmp_path / "t"),
        tiny.save(tiny.llama(num_key_value_heads=4), tmp_path / "b"),
    )
    found = json.loads((base / "config.json").read_text())
    found.pop("num_key_value_heads")
    (base / "config.json").write_text(json.dumps(found))
    refused(
        WidthMismatch,
        r"k_proj.weight is \(32, 32\) in the base and \(16, 32\) in the fine-tuned model",
        tuned,
        base,
    )


def test_another_family(tmp_path, llama):
    gpt2 = tiny.save(tiny.gpt2(), tmp_path / "g")
    refused(WidthMismatch, "is a gpt2 and .* a llama", llama, gpt2)


def test_tokens_with_other_ids(tmp_path, llama):
    other = tiny.save(tiny.llama(), tmp_path / "other", with_tokenizer=False)
    tiny.tokenizer().save_pretrained(other)
    text = json.loads((other / "tokenizer.json").read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(text))
    refused(
        VocabularyMismatch,
        "2 tokens have different ids in the base's tokenizer, first 'a'",
        llama,
        other,
    )


def test_tokens_that_were_added_in_tuning_are_remarked(tmp_path, llama):
    tuned = tiny.save(tiny.llama(vocab_size=340), tmp_path / "t", with_tokenizer=False)
    more = copy.deepcopy(tiny.tokenizer())
    more.add_tokens(["<|tool|>"])
    more.save_pretrained(tuned)
    base = tiny.save(tiny.llama(vocab_size=340), tmp_path / "b")
    assert (
        "adds 1 token unknown to the base, first '<|tool|>'"
        in Pair.load(str(tuned), str(base)).notes[0]
    )


def test_a_base_whose_tokenizer_is_damaged_is_not_one_without(directory, llama):
    (directory / "tokenizer.json").write_text("{")
    refused(ModelError, "its tokenizer cannot be loaded", llama, directory)


def test_the_base_is_checked_as_the_tuned_model_is(directory, llama):
    weights(directory, lambda found: {key: value for key, value in found.items() if key != UP})
    refused(MissingWeights, "lacks 1 of the tensors", llama, directory)
    refused(ModelNotFound, "no model directory at", llama, directory / "nothing")


def test_the_identical_pair_is_never_refused(llama):
    assert Pair.load(str(llama), str(llama)).base is not None


def test_models_in_memory_that_are_not_finite():
    bad = tiny.llama()
    with torch.no_grad():
        bad.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    for tuned, base in ((bad, None), (tiny.llama(), bad)):
        with pytest.raises(NonFiniteWeights, match="NaN or infinite logits"):
            Pair.from_modules(tuned, base, tiny.tokenizer())


def test_options_come_first(tmp_path):
    """A wrong option is told before anything is read."""
    with pytest.raises(OptionError, match="--dtype"):
        Pair.load(str(tmp_path / "nothing"), dtype="int4")
