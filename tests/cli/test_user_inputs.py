"""What users bring, in kinds: each is handled right, or refused in one line that says what to do."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from peft import LNTuningConfig, LoraConfig, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from interp.analyzers.compare import Compare
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.errors import UnsupportedModel
from interp.models.anatomy import read_anatomy
from interp.models.changes import tensor_changes, weight_change
from interp.models.grafts import Scope
from interp.models.interpolate import interpolated
from interp.models.pair import Pair
from interp.models.quiet import quiet_libraries
from interp.models.units import HEAD, NEURON
from interp.models.weights import WeightPair
from interp.study import Study
from tests import tiny
from tests.test_pytest_plugin import anew, made, pytest_in  # noqa: F401 (fixtures)

SIZES: dict = dict(
    vocab_size=len(tiny.tokenizer()),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=1,
    head_dim=8,
)
VISION = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2)
LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
)


# ------------------------------------------------------------------------------ names in a file and in a loaded model


def gemma3():
    text = dict(SIZES, sliding_window=4)
    vision = dict(VISION, num_hidden_layers=1, image_size=28, patch_size=14)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def qwen35():
    vision = dict(
        depth=1,
        hidden_size=32,
        num_heads=2,
        intermediate_size=48,
        out_hidden_size=32,
        patch_size=14,
    )
    config = transformers.Qwen3_5Config(text_config=dict(SIZES, **LINEAR), vision_config=vision)
    torch.manual_seed(0)
    return transformers.Qwen3_5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("make", "first", "path", "count"),
    [
        (
            gemma3,
            "language_model.model.layers.0.self_attn.q_proj.weight",
            "model.language_model.layers.{}.mlp",
            21,
        ),
        (
            qwen35,
            "model.language_model.layers.1.self_attn.q_proj.weight",
            "model.language_model.layers.{}.mlp",
            9,
        ),
    ],
)
def test_matrices_of_a_multimodal_checkpoint_are_found_by_their_names_in_the_model(
    tmp_path, make, first, path, count
):
    model = make()
    base, tuned = (
        tiny.save(model, tmp_path / "base"),
        tiny.save(tiny.perturbed(model), tmp_path / "tuned"),
    )
    assert first in load_file(base / "model.safetensors")
    found = WeightPair.load(str(tuned), str(base))
    assert len(found.matrices) == count
    assert any("outside the text model were not analysed" in note for note in found.notes)
    matrix = next(each for each in found.matrices if (each.layer, each.part) == (2, "mlp.out"))
    torch.testing.assert_close(
        found.read(matrix).base, model.get_submodule(f"{path.format(2)}.down_proj").weight.data
    )
    assert found.read(matrix).is_changed


def test_two_checkpoints_may_name_the_same_tensors_in_two_ways(tmp_path):
    model = gemma3()
    base, tuned = tiny.save(model, tmp_path / "base"), tiny.save(model, tmp_path / "tuned")
    file = tuned / "model.safetensors"
    names = {
        name: name.replace("language_model.model.", "model.language_model.")
        for name in load_file(file)
    }
    save_file(
        {names[name]: value for name, value in load_file(file).items()}, file, {"format": "pt"}
    )
    found = WeightPair.load(str(tuned), str(base))
    assert not any(found.read(matrix).is_changed for matrix in found.matrices)


# ------------------------------------------------------------------------------------- adapters of every kind of tensor


def experts():
    config = transformers.Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(config).eval()


def tuned_by(model, config, size=0.1):
    with quiet_libraries():
        wrapped = get_peft_model(copy.deepcopy(model), copy.deepcopy(config)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value += size * torch.randn(value.shape, generator=generator)
    return wrapped


EXPERTS = LoraConfig(
    r=2,
    target_modules=["q_proj"],
    target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
)
NORMS = LNTuningConfig(target_modules=["input_layernorm", "norm"])
ADAPTERS = {
    "experts": (experts, EXPERTS),
    "norms": (tiny.llama, NORMS),
    "head": (tiny.llama, LoraConfig(r=2, target_modules=["lm_head"])),
    "embedding": (tiny.llama, LoraConfig(r=2, target_modules=["embed_tokens"])),
    "rows": (
        tiny.llama,
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[5, 7]),
    ),
    "rows alone": (
        tiny.llama,
        TrainableTokensConfig(token_indices=[5, 7], target_modules=["embed_tokens"]),
    ),
    "copies": (
        tiny.llama,
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm", "lm_head"]),
    ),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_tensor_that_an_adapter_changes_is_counted_as_of_the_merged_model(kind):
    make, config = ADAPTERS[kind]
    base = make()
    wrapped = tuned_by(base, config)
    with quiet_libraries():
        merged = copy.deepcopy(wrapped).merge_and_unload()
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    whole = Pair.from_modules(merged, base, tiny.tokenizer())
    assert not any("quantised" in note for note in switched.notes)
    unread = []
    found = {(each.layer, each.part): each.change for each in tensor_changes(switched, unread)}
    wanted = {(each.layer, each.part): each.change for each in tensor_changes(whole)}
    assert unread == []
    assert found == pytest.approx(wanted, abs=1e-5)
    assert {key for key, change in found.items() if change > 1e-4} == {
        key for key, c in wanted.items() if c > 1e-4
    }
    assert max(found.values()) > 0.1


def test_a_comparison_says_which_norms_an_adapter_moved_and_what_it_did_not_look_at(monkeypatch):
    study = tiny.study(tuned_by(tiny.llama(), NORMS), None, 4)
    assert Compare()(study).summary["weights"].startswith("4 of 30 tensors changed")
    monkeypatch.setattr("interp.models.merged_tensors._tensors_after_merging", lambda layer: {})
    said = Compare()(study).summary["weights"]
    assert said.startswith(
        "None of 26 tensors changed among those compared. Not compared: 4 that the adapter changes"
    )


@pytest.mark.parametrize("kind", ["experts", "norms"])
def test_a_graft_of_all_that_an_adapter_changes_is_the_fine_tune(kind):
    make, config = ADAPTERS[kind]
    pair = Pair.from_modules(tuned_by(make(), config), None, tiny.tokenizer())
    scope = Scope.from_pair(pair, "all")
    ids = torch.arange(8)[None]
    with pair.tuned.active() as module:
        wanted = module(input_ids=ids).logits
    with scope.grafted(torch.ones(scope.size, dtype=torch.bool)) as model, model.active() as module:
        torch.testing.assert_close(module(input_ids=ids).logits, wanted, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------------------- architectures beside the proven ones


def state_space():
    config = transformers.MambaConfig(
        vocab_size=SIZES["vocab_size"],
        hidden_size=32,
        num_hidden_layers=3,
        state_size=4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    return transformers.MambaForCausalLM(config).eval()


def gpt1():
    config = transformers.OpenAIGPTConfig(
        vocab_size=SIZES["vocab_size"], n_embd=32, n_layer=3, n_head=4, n_positions=96
    )
    torch.manual_seed(0)
    return transformers.OpenAIGPTLMHeadModel(config).eval()


def jamba():
    config = transformers.JambaConfig(
        **SIZES,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
    )
    torch.manual_seed(0)
    return transformers.JambaForCausalLM(config).eval()


def llama4():
    config = transformers.Llama4TextConfig(
        **SIZES,
        num_local_experts=4,
        num_experts_per_tok=1,
        intermediate_size_mlp=48,
        attention_chunk_size=64,
    )
    torch.manual_seed(0)
    model = transformers.Llama4ForCausalLM(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.1)
    return model


def pair_of(make):
    base = make()
    return Pair.from_modules(tiny.perturbed(base, 0.03), base, tiny.tokenizer())


@pytest.mark.parametrize("make", [gpt1, jamba, llama4, state_space])
def test_a_comparison_is_of_what_the_models_say(make):
    pair = pair_of(make)
    table = Compare()(Study(pair, tiny.contrast(2), tiny.metric()))
    ids = torch.tensor([tiny.encode(pair.tokenizer, tiny.contrast(2).positive.prompts[0].text).ids])
    tuned, base = (
        pair[role].module(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        for role in ("tuned", "base")
    )
    assert table["kl_last"][0] == pytest.approx(
        float((tuned.exp() * (tuned - base)).sum()), rel=1e-4, abs=1e-7
    )
    depths = table.tables["drift"]
    last = depths["depth"] == depths["depth"].max()
    assert depths["lens_kl"][last] == pytest.approx(table["kl_last"], rel=1e-3, abs=1e-6)


def test_experts_that_give_a_row_per_token_are_split_by_prompt():
    study = Study(pair_of(llama4), tiny.contrast(3), tiny.metric())
    whole, alone = Tuco()(study), Tuco()(replace(study, batch_size=1))
    assert np.isfinite(whole["tuco"]).all()
    assert whole["tuco"] == pytest.approx(alone["tuco"], rel=1e-4)


def test_a_state_space_model_writes_what_it_says():
    study = Study(pair_of(state_space), tiny.contrast(2), tiny.metric(), max_new_tokens=5)
    model = study.pair.tuned.module
    for coded, answer in zip(
        study.encoded("positive"), study.answers("tuned", "positive"), strict=True
    ):
        ids = list(coded.ids)
        for token in answer:
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_a_model_of_several_stacks_is_refused_in_a_line():
    torch.manual_seed(0)
    with pytest.raises(
        UnsupportedModel, match="HrmTextForCausalLM is not a single stack of blocks"
    ):
        read_anatomy(transformers.HrmTextForCausalLM(transformers.HrmTextConfig(**SIZES)))


@pytest.mark.parametrize("unit", [NEURON, HEAD])
def test_no_unit_is_advised_that_is_refused_too(unit):
    with pytest.raises(UnsupportedModel, match="use interp compare or interp graft") as said:
        unit.require(read_anatomy(state_space()))
    assert "--unit" not in str(said.value)
    mixture = read_anatomy(experts())
    with pytest.raises(UnsupportedModel, match="use --unit head"):
        NEURON.require(mixture)
    HEAD.require(mixture)


# ----------------------------------------------------------------------------------------------- two kinds of precision


def a_few_neurons():
    """A base in float32, and a child of it in which three neurons of one block were tuned."""
    base = tiny.llama()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            getattr(tuned.model.layers[1].mlp, name).weight[[3, 8, 20]] += 0.1
    return base, tuned


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float16])
def test_what_storage_rounded_does_not_count_as_tuned(tmp_path, kept):
    base, tuned = a_few_neurons()
    where = (
        tiny.save(base, tmp_path / "base"),
        tiny.save(copy.deepcopy(tuned).to(kept), tmp_path / "tuned"),
    )
    pair = Pair.load(str(where[1]), str(where[0]), device="cpu")
    assert pair.tuned.dtype == torch.float32
    changed = {(each.layer, each.part) for each in tensor_changes(pair) if each.change}
    assert changed == {(1, "mlp.gate"), (1, "mlp.in")}
    assert [tuple(each) for each in np.argwhere(weight_change(pair) > 0)] == [
        (1, 3),
        (1, 8),
        (1, 20),
    ]
    said = [note for note in pair.notes if "a weight counts as changed if it differs" in note]
    assert len(said) == (kept != torch.float32)
    weights = WeightPair.load(str(where[1]), str(where[0]))
    moved = {str(matrix) for matrix in weights.matrices if weights.read(matrix).is_changed}
    assert moved == {"blocks.1.mlp.gate", "blocks.1.mlp.in"}
    assert any("compared with the base rounded" in note for note in weights.notes) == (
        kept != torch.float32
    )


def test_a_base_that_was_rounded_itself_is_left_as_it_is():
    base = copy.deepcopy(a_few_neurons()[0]).bfloat16().float()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-5
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    assert not any("counts as changed" in note for note in pair.notes)
    assert [(each.layer, each.part) for each in tensor_changes(pair) if each.change] == [
        (2, "mlp.out")
    ]


@pytest.mark.parametrize("tuned_in", [torch.bfloat16, torch.float32])
def test_a_pair_of_two_dtypes_is_read_and_its_key_holds_both(tuned_in):
    base, tuned = a_few_neurons()
    other = torch.float32 if tuned_in == torch.bfloat16 else torch.bfloat16
    pair = Pair.from_modules(tuned.to(tuned_in), base.to(other), tiny.tokenizer())
    assert (pair.inputs["dtype"], pair.inputs["base_dtype"]) == tuple(
        str(d)[6:] for d in (tuned_in, other)
    )
    assert any("use --dtype float32" in note for note in pair.notes)
    study = Study(pair, tiny.contrast(4), tiny.metric(), max_new_tokens=2)
    for analyzer in (
        LocateNeurons(top="3"),
        LocateNeurons(method="change", top="3"),
        Compare(),
        Tuco(),
    ):
        assert len(analyzer(study)) > 0
    with interpolated(pair, 0.0) as model:
        assert torch.isfinite(model.module(input_ids=torch.arange(5)[None]).logits).all()


def test_a_pair_of_one_dtype_has_the_key_that_it_had():
    assert (
        "base_dtype"
        not in Pair.from_modules(
            tiny.perturbed(tiny.llama()), tiny.llama(), tiny.tokenizer()
        ).inputs
    )


# --------------------------------------------------------------------------------------------- the plugin beside others

FIRST = ["-p", "interp.pytest_plugin", "-p", "no:cacheprovider"]


@pytest.mark.parametrize(
    ("ini", "arguments", "code", "says"),
    [
        ("addopts = --interp-report report.json", [], 1, "1 failed, 7 passed"),
        (
            "addopts = --interp-report report.json --strict-markers -m 'not slow'",
            [],
            1,
            "1 failed, 7 passed",
        ),
        (
            "addopts = --interp-report report.json",
            ["-m", "interp_report"],
            0,
            "7 passed, 1 deselected",
        ),
        (
            "addopts = --interp-report report.json",
            ["-m", "not interp_report"],
            1,
            "1 failed, 7 deselected",
        ),
        ("addopts = --interp-report report.json", ["-k", "necessity"], 0, "1 passed, 7 deselected"),
        ("addopts = --interp-report report.json", ["test_own.py"], 1, "1 failed, 7 passed"),
        ("", ["--interp-report", "report.json"], 0, "only the report is run, not testpaths"),
        ("", ["--interp-report", "report.json", "report.json::page"], 0, "1 passed"),
    ],
)
def test_a_report_is_run_beside_a_projects_own_tests(
    made,  # noqa: F811
    pytest_in,  # noqa: F811
    tmp_path,
    ini,
    arguments,
    code,
    says,
):
    folder = shutil.copytree(made, tmp_path / "copy")
    (folder / "pytest.ini").write_text(f"[pytest]\ntestpaths = .\nmarkers = slow\n{ini}\n")
    ended, said = pytest_in(folder, *arguments)
    assert ended == code, said
    assert says in said


@pytest.mark.slow
def test_the_plugin_may_be_asked_for_by_name_beside_its_entry_point(made):  # noqa: F811
    entry = ["-p", "interp.pytest_entry"]
    for order in (FIRST + entry, entry + FIRST):
        ended, said = anew(made, *order, "--interp-report", "report.json")
        assert ended == 0, said
        assert "7 passed" in said
