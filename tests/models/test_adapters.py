"""Adapters: the base held once and switched, every tensor proven to have landed, matrices as the
model applies them.
"""

import copy
import json
import shlex
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file

from interp.engines import Batch, TorchEngine
from interp.errors import (
    AdapterNotLanded,
    MissingWeights,
    ModelNotFound,
    NonFiniteWeights,
    OptionError,
    PickledWeights,
    TruncatedWeights,
    UnsupportedModel,
    WrongBase,
)
from interp.interventions.generation import Text, generate
from interp.interventions.intervention import Intervention
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import encode
from interp.sites import MATRICES, Weight, contribution, neurons
from tests import tiny

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2"])
IDS = torch.tensor([[2, 40, 41, 42, 1, 3]])


def logits(model):
    with torch.no_grad(), model.active() as module:
        return module(input_ids=IDS).logits


def merged(wrapped):
    """The tuned model as peft itself merges it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a tied head is no longer tied
        return Model.wrap("merged", copy.deepcopy(wrapped).merge_and_unload())


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.save(build(), root / family) for family, build in tiny.FAMILIES.items()}


KINDS = {
    "all": {},
    "attention": {"part": "attention"},
    "mlp": {"part": "mlp"},
    "rslora": {"use_rslora": True, "r": 3},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"c_fc": 2, "up_proj": 2},
        "alpha_pattern": {"c_attn": 3, "q_proj": 3},
    },
    "head": {"part": "attention", "modules_to_save": ["lm_head"]},
}


@FAMILIES
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("dora", "patterns")))
        for kind in KINDS
    ],
)
def test_switched_is_merged_and_off_is_the_base(bases, tmp_path, family, kind):
    base = tiny.FAMILIES[family]()
    wrapped = tiny.lora(family, base, tmp_path, bases[family], **KINDS[kind])
    pair = Pair.load(str(tmp_path))
    reference, alone = merged(wrapped), Model.wrap("b", base)
    assert torch.equal(logits(pair.base), logits(alone))
    torch.testing.assert_close(logits(pair.tuned), logits(reference), rtol=1e-4, atol=2e-5)
    assert not torch.equal(logits(pair.tuned), logits(pair.base))
    for layer in range(3):
        for matrix in MATRICES:
            if matrix not in pair.tuned.anatomy.matrices:
                continue
            weight = Weight(layer, matrix)
            torch.testing.assert_close(
                pair.tuned.weight(weight), reference.weight(weight), rtol=1e-4, atol=1e-6
            )
            assert torch.equal(pair.base.weight(weight), alone.weight(weight))


@FAMILIES
def test_matrices_without_an_adapter_are_exactly_the_bases(bases, tmp_path, family):
    tiny.lora(family, tiny.FAMILIES[family](), tmp_path, bases[family], "attention")
    pair = Pair.load(str(tmp_path))
    untouched = ["mlp.in", "mlp.out"]
    moved = ["attn.q", "attn.v", "attn.o"]
    for matrix in untouched:
        assert torch.equal(
            pair.tuned.weight(Weight(0, matrix)), pair.base.weight(Weight(0, matrix))
        )
    for matrix in moved:
        assert not torch.equal(
            pair.tuned.weight(Weight(0, matrix)), pair.base.weight(Weight(0, matrix))
        )


@FAMILIES
def test_a_neuron_that_the_adapter_leaves_alone_does_not_move(bases, tmp_path, family):
    """Bit for bit, also where the layer has a bias: the change is measured, not the sum."""
    up = {"llama": "up_proj", "gpt2": "c_fc"}[family]
    tiny.adapter(
        tiny.FAMILIES[family](),
        tmp_path,
        bases[family],
        target_modules=[up],
        fan_in_fan_out=family == "gpt2",
    )
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    for key, value in weights.items():
        if "lora_B" in key:
            value[5:] = 0
    save_file(weights, file, {"format": "pt"})
    pair = Pair.load(str(tmp_path))
    change = (
        (pair.tuned.weight(Weight(1, "mlp.in")) - pair.base.weight(Weight(1, "mlp.in")))
        .abs()
        .amax(1)
    )
    assert (change[:5] > 1e-3).all()
    assert not change[5:].any()


def test_a_module_kept_in_two_versions(bases, tmp_path):
    wrapped = tiny.adapter(
        tiny.llama(),
        tmp_path,
        bases["llama"],
        target_modules=["q_proj"],
        modules_to_save=["down_proj", "lm_head"],
    )
    pair = Pair.load(str(tmp_path))
    torch.testing.assert_close(logits(pair.tuned), logits(merged(wrapped)), rtol=1e-4, atol=1e-5)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    down = saved["base_model.model.model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(pair.tuned.write_weights(1), down)
    assert torch.equal(
        pair.base.write_weights(1), tiny.llama().model.layers[1].mlp.down_proj.weight
    )
    # and what is read at that module's sides is what it applies
    run = TorchEngine().run(
        pair.tuned, Batch.pad(IDS.tolist(), 0), reads=[neurons(1), contribution(1)]
    )
    torch.testing.assert_close(run.values[neurons(1)] @ down.T, run.values[contribution(1)])


@FAMILIES
def test_contributions_are_activations_times_the_adapted_matrix(bases, tmp_path, family):
    tiny.lora(family, tiny.FAMILIES[family](), tmp_path, bases[family], "mlp")
    pair = Pair.load(str(tmp_path), dtype="float64")
    for model in (pair.base, pair.tuned):
        run = TorchEngine().run(
            model, Batch.pad(IDS.tolist(), 0), reads=[neurons(1), contribution(1)]
        )
        out = run.values[neurons(1)] @ model.write_weights(1).T
        if family == "gpt2":
            out = out + pair.base.module.transformer.h[1].mlp.c_proj.bias
        torch.testing.assert_close(out, run.values[contribution(1)])


@FAMILIES
def test_donor_and_receiver_may_share_a_module(bases, tmp_path, family):
    """Tuned model with all of the base's contributions, adapter on MLPs only: the base, at every
    step of an answer.
    """
    tiny.lora(family, tiny.FAMILIES[family](), tmp_path, bases[family], "mlp", fill=0.3)
    pair = Pair.load(str(tmp_path), dtype="float64")
    prompts = [encode(tiny.tokenizer(), text).ids for text in tiny.PROMPTS[:3]]
    text = Text(prompts, None, 0, (1,))
    units = {layer: torch.arange(48) for layer in range(3)}
    answers = {
        model.name: generate(TorchEngine(), model, text, 6) for model in (pair.base, pair.tuned)
    }
    assert answers[pair.base.name] != answers[pair.tuned.name]
    for receiver, donor in ((pair.tuned, pair.base), (pair.base, pair.tuned)):
        write = {layer: donor.write_weights(layer) for layer in units}
        graft = Intervention("all", units, "donor", donor=donor, write_weights=write)
        assert generate(TorchEngine(), receiver, text, 6, graft) == answers[donor.name]


def test_the_base_is_held_once(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path, bases["llama"])
    pair = Pair.load(str(tmp_path))
    assert pair.base.module is pair.tuned.module
    places = [parameter.data_ptr() for parameter in pair.tuned.module.parameters()]
    assert len(set(places)) == len(places)
    extra = sum(
        parameter.numel()
        for name, parameter in pair.tuned.module.named_parameters()
        if "lora_" in name
    )
    total = sum(parameter.numel() for parameter in pair.tuned.module.parameters())
    assert total - extra == sum(parameter.numel() for parameter in tiny.llama().parameters())


def test_switching_nests_and_comes_back_after_an_exception(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path, bases["llama"])
    pair = Pair.load(str(tmp_path))
    off, on = logits(pair.base), logits(pair.tuned)
    with pair.base.active():
        assert torch.equal(logits(pair.tuned), on)
        assert torch.equal(pair.base.module(input_ids=IDS).logits, off)
    with pytest.raises(ZeroDivisionError), pair.base.active():
        raise ZeroDivisionError
    for _ in range(3):
        assert torch.equal(logits(pair.tuned), on)
        assert torch.equal(logits(pair.base), off)
    assert not any(parameter.requires_grad for parameter in pair.tuned.module.parameters())


def test_bfloat16(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path, bases["llama"])
    pair = Pair.load(str(tmp_path), dtype="bfloat16")
    exact = Pair.load(str(tmp_path))
    assert pair.tuned.dtype == torch.bfloat16
    assert pair.tuned.write_weights(0).dtype == torch.float32
    torch.testing.assert_close(
        pair.tuned.write_weights(0), exact.tuned.write_weights(0), rtol=2e-2, atol=2e-3
    )


def test_base_by_option_and_by_configuration(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path / "a", "nowhere/at-all")
    by_option = Pair.load(str(tmp_path / "a"), str(bases["llama"]))
    assert by_option.base.name == str(bases["llama"])
    tiny.lora("llama", tiny.llama(), tmp_path / "b", bases["llama"])
    assert torch.equal(logits(Pair.load(str(tmp_path / "b")).tuned), logits(by_option.tuned))
    with pytest.raises(
        ModelNotFound,
        match=r"named in adapter_config.json of .* was not found; .* --base MODEL",
    ):
        Pair.load(str(tmp_path / "a"))
    tiny.lora("llama", tiny.llama(), tmp_path / "c", "")
    with pytest.raises(
        OptionError, match="is an adapter whose configuration names no base; add --base MODEL"
    ):
        Pair.load(str(tmp_path / "c"))


def test_the_adapters_tokenizer_comes_first(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path, bases["llama"])
    chat = copy.deepcopy(tiny.tokenizer())
    chat.chat_template = "<|user|>{{ messages[0].content }}<|assistant|>"
    chat.save_pretrained(tmp_path)
    assert Pair.load(str(tmp_path)).tokenizer.chat_template == chat.chat_template


def test_an_embedding_saved_with_its_adapter(bases, tmp_path):
    """peft writes the base's embedding beside a LoRA on it: the same one is fine, another would
    replace the base's.
    """
    tiny.adapter(tiny.llama(), tmp_path, bases["llama"], target_modules=["embed_tokens", "q_proj"])
    pair = Pair.load(str(tmp_path))
    assert torch.equal(logits(pair.base), logits(Model.wrap("b", tiny.llama())))
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    weights[key] = weights[key] + 1
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        UnsupportedModel, match=r"contains a changed copy of the base's .*embed_tokens"
    ):
        Pair.load(str(tmp_path))


def test_another_kind_of_adapter(bases, tmp_path):
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        wrapped = get_peft_model(
            tiny.llama(),
            IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        )
    for name, parameter in wrapped.named_parameters():
        if "ia3" in name:
            parameter.data += 0.3
    wrapped.save_pretrained(tmp_path)
    pair = Pair.load(str(tmp_path), str(bases["llama"]))
    torch.testing.assert_close(pair.tuned.write_weights(0), 1.3 * pair.base.write_weights(0))
    assert torch.equal(logits(pair.base), logits(Model.wrap("b", tiny.llama())))


# ---------------------------------------------------------------------------------------------- refusals


def edit_weights(path, change):
    file = path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit_config(path, **changes):
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(error, said, path, base=None):
    with pytest.raises(error, match=said) as caught:
        Pair.load(str(path), base and str(base))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.fixture
def adapter(bases, tmp_path):
    tiny.lora("llama", tiny.llama(), tmp_path / "adapter", bases["llama"])
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace("lora_A", "lora_X"),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace("model.layers", "model.blocks"),
        lambda key: key.replace("layers.1.", "layers.7."),
    ],
)
def test_renamed_tensors(adapter, rename):
    edit_weights(adapter, lambda weights: {rename(key): value for key, value in weights.items()})
    refused(
        AdapterNotLanded,
        r"adapter tensors matched no module, first .*names do not match this base",
        adapter,
    )


def test_missing_tensors(adapter):
    edit_weights(adapter, lambda weights: dict(list(weights.items())[1:]))
    refused(
        AdapterNotLanded,
        "1 adapter tensors are missing from its file and stay at their initial values, first",
        adapter,
    )


@FAMILIES
def test_an_adapter_at_its_start(bases, tmp_path, family):
    tiny.lora(family, tiny.FAMILIES[family](), tmp_path, bases[family], fill=0.0)
    refused(AdapterNotLanded, "changes no logit of", tmp_path)


def test_an_adapter_whose_tensors_are_all_zero(adapter):
    edit_weights(
        adapter, lambda weights: {key: torch.zeros_like(value) for key, value in weights.items()}
    )
    refused(AdapterNotLanded, "changes no logit of", adapter)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"hidden_size": 16, "head_dim": 8},
            WrongBase,
            r"does not fit the base .*size mismatch.*\[4, 32\]",
        ),
        ({"intermediate_size": 64}, WrongBase, r"size mismatch.*\[48, 4\]"),
        ({"num_hidden_layers": 2}, AdapterNotLanded, "12 of 36 .*matched no module.*layers.2"),
        ({"num_hidden_layers": 4}, AdapterNotLanded, "12 adapter tensors are missing.*layers.3"),
    ],
)
def test_the_wrong_base(adapter, tmp_path, changes, error, said):
    refused(error, said, adapter, tiny.save(tiny.llama(**changes), tmp_path / "other"))


def test_a_base_of_another_family(bases, adapter):
    refused(WrongBase, "Target modules .*not found in the base model", adapter, bases["gpt2"])


def test_a_base_that_is_an_adapter(bases, adapter):
    edit_config(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(OptionError, match="is itself an adapter"):
        Pair.load(str(adapter))
    with pytest.raises(OptionError, match="is an adapter; give the model that was fine-tuned"):
        Pair.load(str(bases["llama"]), str(adapter))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_of_the_base_cannot_be_switched_off(bases, tmp_path, bias):
    tiny.lora("gpt2", tiny.gpt2(), tmp_path, bases["gpt2"], bias=bias)
    refused(
        UnsupportedModel,
        "changes tensors of .* itself .*cannot be switched off; merge it",
        tmp_path,
    )


def test_not_a_number(adapter):
    def spoil(weights):
        next(iter(weights.values()))[0, 0] = float("nan")
        return weights

    edit_weights(adapter, spoil)
    refused(NonFiniteWeights, "contains NaN or infinity; the adapter is damaged", adapter)


def test_an_adapter_that_overflows(adapter):
    edit_weights(adapter, lambda weights: {key: value * 1e19 for key, value in weights.items()})
    refused(NonFiniteWeights, "gives NaN or infinite logits", adapter)


def test_truncated_missing_and_pickled(adapter):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    refused(TruncatedWeights, "truncated or damaged", adapter)
    file.rename(adapter / "other.safetensors")
    (adapter / "other.safetensors").write_bytes(b"")
    refused(TruncatedWeights, "truncated or damaged", adapter)
    save_file({"a": torch.zeros(1)}, adapter / "other.safetensors")
    refused(MissingWeights, "contains no adapter_model.safetensors", adapter)
    (adapter / "other.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    refused(PickledWeights, "only as a pickle", adapter)


@pytest.mark.parametrize("kind", ["adapter", pytest.param("model", marks=pytest.mark.slow)])
def test_the_command_that_converts_a_pickle_works(kind, bases, tmp_path):
    folder = tmp_path / "given"
    if kind == "adapter":
        tiny.lora("llama", tiny.llama(), folder, bases["llama"])
    else:
        shutil.copytree(bases["llama"], folder)
    name = "adapter_model" if kind == "adapter" else "model"
    right = logits(Pair.load(str(folder)).tuned)
    torch.save(
        load_file(folder / f"{name}.safetensors"),
        folder / f"{'pytorch_' * (kind == 'model')}{name}.bin",
    )
    (folder / f"{name}.safetensors").unlink()
    with pytest.raises(PickledWeights, match="convert it: python -c") as said:
        Pair.load(str(folder))
    _, *words = shlex.split(str(said.value).partition("convert it: ")[2])
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert torch.equal(logits(Pair.load(str(folder)).tuned), right)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"peft_type": "NOVEL"},
            UnsupportedModel,
            "peft .* does not accept its adapter_config.json .*NOVEL",
        ),
        (
            {"peft_type": "PREFIX_TUNING"},
            UnsupportedModel,
            "is a PREFIX_TUNING adapter, which changes no weight",
        ),
        ({"r": 8}, WrongBase, "size mismatch"),
        ({"r": "four"}, WrongBase, "does not fit the base"),
        ({"target_modules": ["nowhere"]}, WrongBase, "Target modules .*not found"),
    ],
)
def test_configurations_that_do_not_fit(adapter, changes, error, said):
    edit_config(adapter, **changes)
    refused(error, said, adapter)


def test_a_configuration_that_is_garbage(adapter):
    (adapter / "adapter_config.json").write_text("{")
    refused(TruncatedWeights, "adapter_config.json is not readable JSON", adapter)
    (adapter / "adapter_config.json").write_text("[]")
    refused(TruncatedWeights, "is not a JSON object", adapter)
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(OptionError, match="names no base"):
        Pair.load(str(adapter))


def test_nothing_asks_the_network(adapter, monkeypatch):
    """peft looks for the base's configuration on the Hub when it lists an adapter's tensors; here
    it must not.
    """
    import peft.utils.save_and_load as listing

    def asked(*_, **__):
        raise AssertionError("the Hub was asked")

    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    edit_config(adapter, base_model_name_or_path="someone/else")
    monkeypatch.setattr(listing, "check_file_exists_on_hf_hub", asked)
    Pair.load(str(adapter), base)


def test_an_adapter_on_another_base_than_it_names_is_remarked(bases, tmp_path):
    """Shapes agree, so nothing else can tell."""
    tiny.lora("llama", tiny.llama(), tmp_path / "adapter", bases["llama"], "mlp")
    assert Pair.load(str(tmp_path / "adapter")).notes == ()
    assert Pair.load(str(tmp_path / "adapter"), str(bases["llama"])).notes == ()
    other = tiny.save(tiny.llama(seed=3), tmp_path / "other")
    (note,) = Pair.load(str(tmp_path / "adapter"), str(other)).notes
    assert f"was trained on {bases['llama']} by its configuration" in note
    assert f"is attached to {other}: check that" in note
    # the same model kept elsewhere goes by the same last name
    again = tiny.save(tiny.llama(), tmp_path / "elsewhere" / bases["llama"].name)
    assert Pair.load(str(tmp_path / "adapter"), str(again)).notes == ()
