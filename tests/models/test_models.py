"""Models: loaded from wherever, addressed by site, their matrices as the model applies them."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp.engines import Batch, TorchEngine
from interp.errors import OptionError, UnsupportedModel
from interp.models.anatomy import Target, read_anatomy
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.sources import find
from interp.sites import MATRICES, Site, Weight
from tests import tiny

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2"])
IDS = [[2, 40, 41, 42, 1, 3], [2, 50, 51, 1, 3]]


def logits(model):
    with torch.no_grad(), model.active() as module:
        return [module(input_ids=torch.tensor([row])).logits for row in IDS]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---------------------------------------------------------------------------------------------- loading


@FAMILIES
def test_a_directory_gives_the_models_own_logits(tmp_path, family):
    base = tiny.FAMILIES[family]()
    tuned = tiny.perturbed(base)
    pair = Pair.load(
        str(tiny.save(tuned, tmp_path / "t")), str(tiny.save(base, tmp_path / "b", False))
    )
    assert same(logits(pair.tuned), logits(Model.wrap("x", tuned)))
    assert same(logits(pair.base), logits(Model.wrap("x", base)))
    assert pair.notes == (
        f"{tmp_path / 'b'} ships no tokenizer; the fine-tuned model's is used for both",
    )
    assert pair["base"] is pair.base
    assert pair["tuned"] is pair.tuned
    assert pair.identity == {"tuned": str(tmp_path / "t"), "base": str(tmp_path / "b")}


def test_one_model_twice_and_models_that_look_exchanged_are_remarked(tmp_path):
    base = tiny.llama()
    plain, chat = tmp_path / "plain", tmp_path / "chat"
    tiny.save(base, plain, False)
    tiny.tokenizer(template=False).save_pretrained(plain)
    tiny.save(tiny.perturbed(base), chat)
    assert Pair.load(str(chat), str(plain)).notes == ()
    assert Pair.load(str(plain), str(plain)).notes == (
        "base and fine-tuned model have the same weights: every difference is zero",
    )
    assert Pair.load(str(plain), str(chat)).notes == (
        (
            f"{chat} has a chat template and the fine-tuned model has none: check that the two are"
            " not swapped"
        ),
    )


def test_sharded_weights_are_the_same_model(tmp_path):
    model = tiny.llama()
    whole = Pair.load(str(tiny.save(model, tmp_path / "one")))
    parted = Pair.load(str(tiny.save(model, tmp_path / "many", max_shard_size="60KB")))
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert same(logits(whole.tuned), logits(parted.tuned))


def test_a_checkpoint_in_half_precision_is_read_as_float32_on_a_cpu(tmp_path):
    path = str(tiny.save(tiny.llama().bfloat16(), tmp_path / "m"))
    assert Pair.load(path).tuned.dtype == torch.float32
    assert Pair.load(path, dtype="bfloat16").tuned.dtype == torch.bfloat16
    assert Pair.load(path, dtype="float64").tuned.dtype == torch.float64


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_kernel_is_the_one_asked_for(tmp_path, attention):
    pair = Pair.load(str(tiny.save(tiny.gpt2(), tmp_path / "m")), attention=attention)
    assert pair.tuned.module.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dtype": "int8"}, "--dtype int8 is unknown; use auto"),
        ({"device": "gpu"}, "--device gpu is unknown; use auto"),
        ({"device": "mps"}, "--device mps is not supported; use auto"),
        ({"device": "cuda:77"}, "--device cuda:77: . CUDA devices are visible"),
    ],
)
def test_settings_that_this_machine_does_not_have(tmp_path, option, said):
    with pytest.raises(OptionError, match=said):
        Pair.load(str(tmp_path), **option)


def test_from_memory_freezes_and_keeps_what_it_is_given():
    base, tuned = tiny.llama(), tiny.perturbed(tiny.llama())
    tuned.train()
    pair = Pair.from_modules(tuned, base, tiny.tokenizer(), "mine")
    assert pair.tuned.module is tuned
    assert not tuned.training
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    assert pair.identity == {"tuned": "mine:tuned", "base": "mine:base"}
    assert Pair.from_modules(tuned, None, tiny.tokenizer()).base is None


def test_without_a_base_what_needs_one_says_so():
    pair = Pair.from_modules(tiny.llama(), None, tiny.tokenizer())
    with pytest.raises(
        OptionError, match="this method needs a base model and none was given; add --base"
    ):
        pair.require_base("this method")
    with pytest.raises(OptionError, match="--base"):
        pair["base"]


def test_loading_says_nothing(tmp_path, capfd):
    """No bars, no reports, no warnings: what matters in them is refused by name."""
    model = tiny.llama()
    weights = tiny.save(model, tmp_path / "m") / "model.safetensors"
    save_file({**load_file(weights), "stranger": torch.zeros(2)}, weights, {"format": "pt"})
    tiny.lora("llama", model, tmp_path / "a", tmp_path / "m")
    capfd.readouterr()
    Pair.load(str(tmp_path / "a"))
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------- fingerprints


def test_digests_follow_content(tmp_path):
    model = tiny.llama()
    one = Pair.load(str(tiny.save(model, tmp_path / "one"))).digests
    assert one == Pair.load(str(tiny.save(model, tmp_path / "two"))).digests
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    other = Pair.load(str(tiny.save(model, tmp_path / "three"))).digests
    assert {key for key in one if one[key] != other[key]} == {"tuned"}


def test_digests_of_models_in_memory():
    def digest(model):
        return Pair.from_modules(model, None, tiny.tokenizer()).digests["tuned"]

    first = digest(tiny.llama())
    assert first == digest(tiny.llama()) == digest(copy.deepcopy(tiny.llama()))
    assert first != digest(tiny.llama(seed=1))
    assert first != digest(tiny.llama().bfloat16())
    # the same weights are another model under another configuration
    assert first != digest(tiny.llama(rms_norm_eps=1e-3))


def test_the_tokenizers_digest_is_of_the_tokenizer_not_of_its_last_call():
    chat = copy.deepcopy(tiny.tokenizer())
    before = Pair.from_modules(tiny.llama(), None, chat).digests
    chat(["a b c", "a"], padding=True, truncation=True, max_length=2)
    assert Pair.from_modules(tiny.llama(), None, chat).digests == before
    chat.chat_template = "{{ messages[0].content }}"
    after = Pair.from_modules(tiny.llama(), None, chat).digests
    assert after["template"] != before["template"]
    assert after["tokenizer"] == before["tokenizer"]


def test_special_tokens_and_how_answers_are_read_count_in_the_digest():
    """A template that begins with the tokenizer's bos token is read as other ids with another one."""
    chat = copy.deepcopy(tiny.tokenizer())
    seen = [Pair.from_modules(tiny.llama(), None, chat).digests]
    chat.bos_token = "the"
    seen.append(Pair.from_modules(tiny.llama(), None, chat).digests)
    chat.clean_up_tokenization_spaces = not chat.clean_up_tokenization_spaces
    seen.append(Pair.from_modules(tiny.llama(), None, chat).digests)
    assert seen[0]["template"] != seen[1]["template"]
    assert seen[1]["tokenizer"] != seen[2]["tokenizer"]


# ---------------------------------------------------------------------------------------------- anatomy

RESOLVED = {
    "llama": {
        "hook_resid_pre": Target("", "in"),
        "hook_resid_post": Target("", "out"),
        "hook_attn_out": Target("self_attn", "out"),
        "hook_mlp_out": Target("mlp", "out"),
        "mlp.hook_in": Target("mlp", "in"),
        "mlp.hook_pre": Target("mlp.gate_proj", "out"),
        "mlp.hook_pre_linear": Target("mlp.up_proj", "out"),
        "mlp.hook_post": Target("mlp.down_proj", "in"),
        "mlp.out.hook_out": Target("mlp.down_proj", "out"),
        "attn.hook_z": Target("self_attn.o_proj", "in"),
        "attn.o.hook_out": Target("self_attn.o_proj", "out"),
        "attn.hook_q": Target("self_attn.q_proj", "out"),
        "attn.hook_k": Target("self_attn.k_proj", "out"),
        "attn.hook_v": Target("self_attn.v_proj", "out"),
    },
    "gpt2": {
        "hook_resid_pre": Target("", "in"),
        "hook_resid_post": Target("", "out"),
        "hook_attn_out": Target("attn", "out"),
        "hook_mlp_out": Target("mlp", "out"),
        "mlp.hook_in": Target("mlp", "in"),
        "mlp.hook_pre": Target("mlp.c_fc", "out"),
        "mlp.hook_post": Target("mlp.c_proj", "in"),
        "mlp.out.hook_out": Target("mlp.c_proj", "out"),
        "attn.hook_z": Target("attn.c_proj", "in"),
        "attn.o.hook_out": Target("attn.c_proj", "out"),
        "attn.hook_q": Target("attn.c_attn", "out", (0, 32)),
        "attn.hook_k": Target("attn.c_attn", "out", (32, 64)),
        "attn.hook_v": Target("attn.c_attn", "out", (64, 96)),
    },
}


@FAMILIES
def test_the_resolved_map_is_as_it_was(family):
    assert read_anatomy(tiny.FAMILIES[family]()).targets == RESOLVED[family]


@FAMILIES
def test_sizes(family):
    anatomy = read_anatomy(tiny.FAMILIES[family]())
    sizes = (
        anatomy.n_layers,
        anatomy.width,
        anatomy.n_neurons,
        anatomy.n_heads,
        anatomy.head_width,
    )
    assert sizes == (3, 32, 48, 4, 8)
    assert anatomy.gated is (family == "llama")
    assert anatomy.vocabulary == len(tiny.tokenizer())
    assert len(anatomy.all_neurons) == 3 * 48
    assert anatomy.all_neurons[48] == (1, 0)


def test_what_a_family_lacks_is_refused():
    anatomy = read_anatomy(tiny.gpt2())
    with pytest.raises(
        UnsupportedModel,
        match=r"blocks\.9\.mlp\.hook_post does not exist: GPT2LMHeadModel here has 3",
    ):
        anatomy.target(Site(9, "mlp.hook_post"))
    with pytest.raises(UnsupportedModel, match=r"has no exact module for mlp\.hook_pre_linear"):
        anatomy.target(Site(0, "mlp.hook_pre_linear"))
    with pytest.raises(UnsupportedModel, match=r"has no matrix mlp\.gate"):
        anatomy.place(Weight(0, "mlp.gate"))


# ---------------------------------------------------------------------------------------------- what was captured


def everything(model, layer, sequences=IDS):
    sites = [Site(layer, hook) for hook in model.anatomy.targets]
    batch = Batch.pad(sequences, 0)
    run = TorchEngine().run(model, batch, reads=sites)
    return {site.hook: value[batch.mask] for site, value in run.values.items()}


@FAMILIES
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_parts_of_a_block_add_up_to_its_output(family, dtype, tolerance):
    model = Model.wrap("m", tiny.FAMILIES[family]().to(dtype))
    for layer in range(3):
        read = {hook: value.double() for hook, value in everything(model, layer).items()}
        total = read["hook_resid_pre"] + read["hook_attn_out"] + read["hook_mlp_out"]
        torch.testing.assert_close(total, read["hook_resid_post"], rtol=tolerance, atol=tolerance)


@FAMILIES
def test_matrices_are_those_that_the_block_applies(family):
    model = Model.wrap("m", tiny.exact(tiny.FAMILIES[family]()))
    block = model.module.get_submodule(model.anatomy.blocks_path)[1]
    read = everything(model, 1)
    bias = block.mlp.c_proj.bias if family == "gpt2" else 0.0
    out = read["mlp.hook_post"] @ model.weight(Weight(1, "mlp.out")).T + bias
    torch.testing.assert_close(out, read["hook_mlp_out"])
    torch.testing.assert_close(out, read["mlp.out.hook_out"])
    assert torch.equal(model.write_weights(1), model.weight(Weight(1, "mlp.out")))
    bias = block.attn.c_proj.bias if family == "gpt2" else 0.0
    torch.testing.assert_close(
        read["attn.hook_z"] @ model.weight(Weight(1, "attn.o")).T + bias, read["hook_attn_out"]
    )
    # the pre-activations from the normed input of the MLP
    norm = block.ln_2 if family == "gpt2" else block.post_attention_layernorm
    x = norm(read["hook_resid_pre"] + read["hook_attn_out"])
    if family == "gpt2":
        torch.testing.assert_close(
            x @ model.weight(Weight(1, "mlp.in")).T + block.mlp.c_fc.bias, read["mlp.hook_pre"]
        )
        torch.testing.assert_close(block.mlp.act(read["mlp.hook_pre"]), read["mlp.hook_post"])
    else:
        torch.testing.assert_close(x @ model.weight(Weight(1, "mlp.gate")).T, read["mlp.hook_pre"])
        torch.testing.assert_close(
            x @ model.weight(Weight(1, "mlp.in")).T, read["mlp.hook_pre_linear"]
        )
        gated = block.mlp.act_fn(read["mlp.hook_pre"]) * read["mlp.hook_pre_linear"]
        torch.testing.assert_close(gated, read["mlp.hook_post"])


def expected(family, block, matrix):
    """A block's matrices by the names and layouts that each family itself uses."""
    if family == "llama":
        path = {
            "mlp.in": "mlp.up_proj",
            "mlp.gate": "mlp.gate_proj",
            "mlp.out": "mlp.down_proj",
        }.get(matrix)
        return block.get_submodule(path or f"self_attn.{matrix[-1]}_proj").weight
    fused = block.attn.c_attn.weight
    return {
        "attn.q": fused[:, :32].T,
        "attn.k": fused[:, 32:64].T,
        "attn.v": fused[:, 64:].T,
        "attn.o": block.attn.c_proj.weight.T,
        "mlp.in": block.mlp.c_fc.weight.T,
        "mlp.out": block.mlp.c_proj.weight.T,
    }[matrix]


@pytest.mark.parametrize(
    ("family", "matrix"),
    [(f, m) for f in tiny.FAMILIES for m in MATRICES if (f, m) != ("gpt2", "mlp.gate")],
)
def test_every_matrix_as_out_in(family, matrix):
    model = Model.wrap("m", tiny.FAMILIES[family]())
    blocks = model.module.get_submodule(model.anatomy.blocks_path)
    for layer in range(3):
        assert torch.equal(
            model.weight(Weight(layer, matrix)), expected(family, blocks[layer], matrix)
        )


def test_half_precision_matrices_come_as_float32_and_double_ones_stay():
    assert Model.wrap("m", tiny.llama().bfloat16()).write_weights(0).dtype == torch.float32
    assert Model.wrap("m", tiny.llama().double()).write_weights(0).dtype == torch.float64


def test_heads_that_are_wider_than_the_model_divided_by_them():
    model = Model.wrap("m", tiny.llama(head_dim=16))
    assert model.anatomy.head_width == 16
    assert model.weight(Weight(0, "attn.o")).shape == (32, 64)


# ---------------------------------------------------------------------------------------------- names


def test_a_source_knows_its_adapter_and_base(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "m")
    assert find(str(path)).adapter is None
    assert find(str(path)).base_name is None
    tiny.lora("llama", tiny.llama(), tmp_path / "a", path, "attention")
    assert find(str(tmp_path / "a")).base_name == str(path)


def test_a_hub_id_is_downloaded_by_revision_without_pickles(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(tmp_path / "snapshot")

    tiny.save(tiny.llama(), tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    pair = Pair.load("someone/model@abc123")
    assert pair.tuned.name == "someone/model@abc123"
    assert (asked["repository"], asked["revision"]) == ("someone/model", "abc123")
    assert not [
        pattern for pattern in asked["patterns"] if pattern.endswith((".bin", ".pt", ".pth", ".py"))
    ]


def test_configurations_that_state_the_same_in_more_words_are_the_same(tmp_path):
    """An older library leaves out what is a default (head_dim, key-value heads); that is no
    mismatch.
    """
    model = tiny.llama(num_key_value_heads=4)
    base, tuned = tiny.save(model, tmp_path / "b"), tiny.save(tiny.perturbed(model), tmp_path / "t")
    config = json.loads((base / "config.json").read_text())
    for name in ("head_dim", "num_key_value_heads", "architectures"):
        config.pop(name)
    (base / "config.json").write_text(json.dumps(config))
    assert Pair.load(str(tuned), str(base)).base is not None


def test_the_loaded_weights_are_those_of_transformers(tmp_path):
    path = tiny.save(tiny.gpt2(), tmp_path / "m")
    theirs = AutoModelForCausalLM.from_pretrained(path).state_dict()
    ours = Pair.load(str(path)).tuned.module.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)
