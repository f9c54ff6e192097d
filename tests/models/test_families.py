"""The invariants of the main job on every proven family: maps, block sums, matrices, edits,
padding, adapters.
"""

import copy
import functools
import json
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.analyzers.locate_neurons import LocateNeurons
from interp.engines import Batch, TorchEngine
from interp.errors import UnsupportedModel
from interp.interventions.edits import Ablate, Replace, Scale
from interp.interventions.generation import Text, generate
from interp.models.anatomy import Target
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import encode
from interp.sites import Site, Weight, contribution, neurons
from tests import families, tiny

ENGINE = TorchEngine()
IDS = [list(encode(tiny.tokenizer(), text).ids) for text in tiny.PROMPTS]
BATCH = Batch.pad(IDS, 0)
EVERY = pytest.mark.parametrize("name", families.NAMES)
NEURAL = pytest.mark.parametrize("name", families.WITH_NEURONS)


@functools.cache
def model(name: str, dtype: torch.dtype = torch.float32, tied: bool = False) -> Model:
    return Model.wrap(name, families.build(name, tie_word_embeddings=tied).to(dtype))


def block(of: Model, layer: int = 1):
    return of.module.get_submodule(of.anatomy.blocks_path)[layer]


def read(of: Model, layer: int = 1, edits=()):
    sites = [Site(layer, hook) for hook in of.anatomy.targets]
    run = ENGINE.run(of, BATCH, reads=sites, edits=edits, keep=None)
    return {site.hook: value[BATCH.mask] for site, value in run.values.items()}


# ---------------------------------------------------------------------------------------------- maps

POST_NORM = {
    "hook_attn_out": Target("post_attention_layernorm", "out"),
    "hook_mlp_out": Target("post_feedforward_layernorm", "out"),
}
STANDARD = {
    "hook_resid_pre": Target("", "in"),
    "hook_resid_post": Target("", "out"),
    "hook_attn_out": Target("self_attn", "out"),
    "hook_mlp_out": Target("mlp", "out"),
    "mlp.hook_in": Target("mlp", "in"),
    "mlp.hook_pre": Target("mlp.gate_proj", "out"),
    "mlp.hook_pre_linear": Target("mlp.up_proj", "out"),
    "mlp.hook_post": Target("mlp.down_proj", "in"),
    "mlp.out.hook_out": Target("mlp.down_proj", "out"),
    "attn.hook_q": Target("self_attn.q_proj", "out"),
    "attn.hook_k": Target("self_attn.k_proj", "out"),
    "attn.hook_v": Target("self_attn.v_proj", "out"),
    "attn.hook_z": Target("self_attn.o_proj", "in"),
    "attn.o.hook_out": Target("self_attn.o_proj", "out"),
}
GOLDEN = {
    **dict.fromkeys(families.NAMES, STANDARD),
    "gemma2": STANDARD | POST_NORM,
    "gemma3": STANDARD | POST_NORM,
    "olmo2": STANDARD | POST_NORM,
    "phi3": {
        **STANDARD,
        "attn.hook_q": Target("self_attn.qkv_proj", "out", (0, 32)),
        "attn.hook_k": Target("self_attn.qkv_proj", "out", (32, 48)),
        "attn.hook_v": Target("self_attn.qkv_proj", "out", (48, 64)),
        "mlp.hook_pre": Target("mlp.gate_up_proj", "out", (0, 48)),
        "mlp.hook_pre_linear": Target("mlp.gate_up_proj", "out", (48, 96)),
    },
    "neox": {
        "hook_resid_pre": Target("", "in"),
        "hook_resid_post": Target("", "out"),
        "hook_attn_out": Target("attention", "out"),
        "hook_mlp_out": Target("mlp", "out"),
        "mlp.hook_in": Target("mlp", "in"),
        "mlp.hook_pre": Target("mlp.dense_h_to_4h", "out"),
        "mlp.hook_post": Target("mlp.dense_4h_to_h", "in"),
        "mlp.out.hook_out": Target("mlp.dense_4h_to_h", "out"),
        # of each of four heads
        "attn.hook_q": Target("attention.query_key_value", "out", (0, 8), groups=4),
        "attn.hook_k": Target("attention.query_key_value", "out", (8, 16), groups=4),
        "attn.hook_v": Target("attention.query_key_value", "out", (16, 24), groups=4),
        "attn.hook_z": Target("attention.dense", "in"),
        "attn.o.hook_out": Target("attention.dense", "out"),
    },
    "mixtral": {hook: target for hook, target in STANDARD.items() if not hook.startswith("mlp.")},
}


@EVERY
def test_the_resolved_map_is_as_it_was(name):
    anatomy = model(name).anatomy
    assert anatomy.targets == GOLDEN[name]
    assert anatomy.n_neurons == (0 if name == "mixtral" else 48)
    assert anatomy.gated is (name in families.GATED)
    assert anatomy.blocks_path == ("gpt_neox.layers" if name == "neox" else "model.layers")


@EVERY
def test_queries_keys_and_values_are_what_attention_gets(name):
    """They are what the projection returns, split as its matrix is, and an edit of one head moves the
    outputs of the heads that use it.
    """
    own, width = model(name), model(name).anatomy.head_width
    hooks = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
    values = read(own)
    for hook, matrix in zip(hooks, ("attn.q", "attn.k", "attn.v"), strict=True):
        place = own.anatomy.place(Weight(1, matrix))
        module = own.module.get_submodule(place.path)
        seen = []
        handle = module.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        read(own)
        handle.remove()
        rows = place.rows_of(seen[0][BATCH.mask].T.contiguous()).T
        torch.testing.assert_close(values[hook], rows, rtol=0, atol=0)
        # norms of queries and keys over the whole width would let one head move others
        site = Site(1, hook)
        edit = Replace(site, torch.zeros(width), torch.arange(width))
        moved = (read(own, edits=[edit])["attn.hook_z"] - values["attn.hook_z"]).abs()
        by_head = moved.unflatten(-1, (-1, width)).amax((0, 2))
        shared = 1 if hook == "attn.hook_q" else rows.shape[-1] // width
        count = 1 if hook == "attn.hook_q" else own.anatomy.n_heads // shared
        if name != "olmo2" or hook == "attn.hook_v":
            assert (by_head[:count] > 0).all()
            assert not by_head[count:].any()


def test_experts_have_no_neurons_and_say_so():
    anatomy = model("mixtral").anatomy
    with pytest.raises(
        UnsupportedModel, match=r"MixtralForCausalLM has no exact module for mlp\.hook_post"
    ):
        anatomy.target(neurons(0))
    study = tiny.study(families.build("mixtral"), families.build("mixtral", seed=1), 2)
    with pytest.raises(
        UnsupportedModel, match="MixtralForCausalLM has no MLP neurons with an exact module"
    ):
        LocateNeurons(top="3")(study)


def test_a_map_that_is_right_about_names_and_wrong_about_meaning_is_refused():
    """Paths and widths of a family that scales its blocks are those of one that does not: only the
    sum tells.
    """
    module = tiny.llama()
    study = tiny.study(module, None, 2)
    study.require_parts()
    handle = module.model.layers[0].register_forward_hook(
        lambda block, inputs, output: output * 0.9
    )
    with pytest.raises(
        UnsupportedModel, match="block 0 of LlamaForCausalLM is not the sum of its parts"
    ):
        LocateNeurons(method="act-grad", top="3")(study)
    handle.remove()
    study.require_parts()


# ---------------------------------------------------------------------------------------------- values


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("tied", [False, True])
def test_parts_of_a_block_add_up_to_its_output(name, dtype, tolerance, tied):
    for layer in range(3):
        found = {
            hook: value.double() for hook, value in read(model(name, dtype, tied), layer).items()
        }
        total = found["hook_resid_pre"] + found["hook_attn_out"] + found["hook_mlp_out"]
        scale = found["hook_resid_post"].abs().max()
        assert (total - found["hook_resid_post"]).abs().max() <= tolerance * scale


@NEURAL
def test_matrices_are_those_that_the_block_applies(name):
    """Each projection's input by a plain hook, times our matrix, is what our sites read."""
    this, seen = model(name), {}
    mlp = block(this).mlp
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.update(x=args[0][BATCH.mask]))
    found = read(this)
    handle.remove()
    bias = {"mlp.in": 0.0, "mlp.out": 0.0, "attn.o": 0.0}
    if name == "neox":
        bias = {
            "mlp.in": mlp.dense_h_to_4h.bias,
            "mlp.out": mlp.dense_4h_to_h.bias,
            "attn.o": block(this).attention.dense.bias,
        }

    def applied(matrix, x):
        return x @ this.weight(Weight(1, matrix)).T + bias.get(matrix, 0.0)

    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(applied("mlp.out", found["mlp.hook_post"]), found["mlp.out.hook_out"])
    close(applied("attn.o", found["attn.hook_z"]), found["attn.o.hook_out"])
    if name in families.GATED:
        close(applied("mlp.gate", seen["x"]), found["mlp.hook_pre"])
        close(applied("mlp.in", seen["x"]), found["mlp.hook_pre_linear"])
        act = getattr(mlp, "act_fn", None) or mlp.activation_fn
        close(act(found["mlp.hook_pre"]) * found["mlp.hook_pre_linear"], found["mlp.hook_post"])
    else:
        close(applied("mlp.in", seen["x"]), found["mlp.hook_pre"])
        close(mlp.act(found["mlp.hook_pre"]), found["mlp.hook_post"])


@EVERY
def test_query_key_and_value_are_the_modules_own(name):
    """As the family's own forward cuts a fused projection: by head in GPT-NeoX, one below the other
    in Phi-3.
    """
    this, x = model(name), torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    attention = block(this).attention if name == "neox" else block(this).self_attn
    with torch.no_grad():
        if name == "neox":
            whole = (x @ attention.query_key_value.weight.T).view(5, 4, 24)
            wanted = [part.reshape(5, -1) for part in whole.chunk(3, dim=-1)]
        elif name == "phi3":
            whole = attention.qkv_proj(x)
            wanted = [whole[:, :32], whole[:, 32:48], whole[:, 48:]]
        else:
            wanted = [
                x @ attention.get_submodule(part).weight.T
                for part in ("q_proj", "k_proj", "v_proj")
            ]
    for matrix, value in zip(("attn.q", "attn.k", "attn.v"), wanted, strict=True):
        torch.testing.assert_close(x @ this.weight(Weight(1, matrix)).T, value)


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_do_not_change_what_is_read(name, side):
    this = model(name)
    sites = [
        Site(layer, hook)
        for layer in range(3)
        for hook in ("hook_attn_out", "hook_mlp_out", "attn.hook_z")
    ]
    batch = Batch.pad(IDS, 0, side, length=max(map(len, IDS)) + 3)
    together = ENGINE.run(this, batch, reads=sites, keep=None)
    for row, ids in enumerate(IDS):
        alone = ENGINE.run(this, Batch.pad([ids], 0), reads=sites, keep=None)
        real = batch.mask[row]
        torch.testing.assert_close(
            together.logits[row][real], alone.logits[0], rtol=1e-4, atol=1e-4
        )
        for site in sites:
            torch.testing.assert_close(
                together.values[site][row][real], alone.values[site][0], rtol=1e-4, atol=1e-4
            )


@EVERY
def test_greedy_answers_with_a_cache_are_those_without(name):
    """Also past the window of families that have one."""
    this = model(name)
    answers = generate(ENGINE, this, Text(IDS, None, 0, ()), 12)
    for ids, answer in zip(IDS, answers, strict=True):
        text = list(ids)
        for token in answer:
            assert ENGINE.run(this, Batch.pad([text], 0)).logits[0, -1].argmax() == token
            text.append(token)


# ---------------------------------------------------------------------------------------------- edits


@EVERY
def test_an_edit_changes_its_units_and_nothing_before_and_is_undone(name):
    this = model(name)
    plain = ENGINE.run(this, BATCH, keep=None).logits
    hooks = [
        hook
        for hook in ("attn.hook_z", "mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear")
        if hook in this.anatomy.targets
    ]
    for hook in hooks:
        units = torch.tensor([1, 7])
        before, after = read(this), read(this, edits=[Ablate(Site(1, hook), units)])
        assert (after[hook][:, units] == 0).all()
        others = torch.tensor([unit for unit in range(before[hook].shape[1]) if unit not in (1, 7)])
        assert torch.equal(before[hook][:, others], after[hook][:, others])
        assert torch.equal(before["hook_resid_pre"], after["hook_resid_pre"])
        assert not torch.equal(before["hook_resid_post"], after["hook_resid_post"])
        # the other half of a fused projection stays as it was
        sibling = {
            "mlp.hook_pre": "mlp.hook_pre_linear",
            "mlp.hook_pre_linear": "mlp.hook_pre",
        }.get(hook)
        if sibling in before:
            assert torch.equal(before[sibling], after[sibling])
        assert torch.equal(
            ENGINE.run(this, BATCH, edits=[Scale(Site(1, hook), units, 1.0)], keep=None).logits,
            plain,
        )
    assert torch.equal(ENGINE.run(this, BATCH, keep=None).logits, plain)


@NEURAL
def test_zero_at_the_gate_or_at_the_branch_is_zero_at_the_neuron(name):
    this, units = model(name), torch.tensor([0, 9])
    for hook in ("mlp.hook_pre", "mlp.hook_pre_linear"):
        if hook in this.anatomy.targets:
            found = read(this, edits=[Ablate(Site(1, hook), units)])
            assert (found["mlp.hook_post"][:, units].abs() < 1e-7).all()


@NEURAL
def test_gradients_tell_the_effect_of_a_small_edit(name):
    # eager attention, which Gemma-2 has, gives NaN beside padding in float64 (refused, see below)
    this = model(name) if name == "gemma2" else Model.wrap(name, families.build(name).double())
    site, step = neurons(1), 1e-2
    run = ENGINE.run(
        this, BATCH, reads=[site], gradients_at=[site, contribution(1)], gradient_of=_logit
    )
    units = torch.arange(48)
    # the chain rule through the down projection
    through = run.gradients[contribution(1)] @ this.weight(Weight(1, "mlp.out"))
    torch.testing.assert_close(run.gradients[site], through, rtol=1e-4, atol=1e-6)
    up, down = (
        _logit(ENGINE.run(this, BATCH, edits=[Scale(site, units, 1 + s)]).logits)
        for s in (step, -step)
    )
    told = (run.values[site] * run.gradients[site]).sum((1, 2))
    # norms compute in float32 whatever the model's dtype
    torch.testing.assert_close((up - down) / (2 * step), told, rtol=5e-3, atol=1e-4)


def test_a_kernel_that_gives_nan_beside_padding_is_refused(tmp_path):
    path = str(tiny.save(families.build("gemma2"), tmp_path / "m"))
    assert Pair.load(path).tuned.dtype == torch.float32
    with pytest.raises(
        UnsupportedModel,
        match=r"NaN or infinite logits in padded batches in torch\.float64 .*eager",
    ):
        Pair.load(path, dtype="float64")


def _logit(logits):
    return logits[:, -1, 5] - logits[:, -1].logsumexp(-1)


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("qwen2", "phi3", "mixtral") else pytest.mark.slow)
        for name in families.NAMES
    ],
)
def test_a_sharded_directory_gives_the_models_own_logits(name, tmp_path):
    base, dtype = families.build(name, tie_word_embeddings=name.startswith("gemma")), torch.bfloat16
    tuned = tiny.perturbed(base)
    there = [
        str(tiny.save(one.to(dtype), tmp_path / role, max_shard_size="40KB"))
        for role, one in (("tuned", tuned), ("base", base))
    ]
    assert len(list((tmp_path / "tuned").glob("*.safetensors"))) > 1
    pair = Pair.load(*there, dtype="bfloat16")
    for held, path in zip((pair.tuned, pair.base), there, strict=True):
        own = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        assert torch.equal(
            ENGINE.run(held, BATCH).logits, ENGINE.run(Model.wrap("own", own), BATCH).logits
        )
    assert Pair.load(there[0]).tuned.dtype == torch.float32


# Every kind on a family with separate and on one with fused matrices; the others with the slow
# tests.
ADAPTED = [
    pytest.param(
        name, kind, marks=[] if kind == "lora" or name in ("gemma2", "phi3") else pytest.mark.slow
    )
    for name in families.NAMES
    for kind in ("lora", "rslora", "dora", "head")
]


@pytest.mark.parametrize(("name", "kind"), ADAPTED)
def test_adapters_land_merged_equals_switched_and_off_is_the_base(name, kind, tmp_path):
    base = families.build(name)
    path = tiny.save(base, tmp_path / "base")
    attention, mlp = families.TARGETS[name]
    config = {
        "lora": {},
        "rslora": {"use_rslora": True, "r": 3},
        "dora": {"use_dora": True},
        "head": {"modules_to_save": ["embed_out" if name == "neox" else "lm_head"]},
    }[kind]
    wrapped = tiny.adapter(
        base, tmp_path / "adapter", path, target_modules=attention + mlp, **config
    )
    pair = Pair.load(str(tmp_path / "adapter"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = Model.wrap("merged", copy.deepcopy(wrapped).merge_and_unload())
    own = Model.wrap("base", base)
    assert torch.equal(
        ENGINE.run(pair.base, BATCH, keep=None).logits, ENGINE.run(own, BATCH, keep=None).logits
    )
    switched, whole = (
        ENGINE.run(one, BATCH, keep=None).logits[BATCH.mask] for one in (pair.tuned, merged)
    )
    torch.testing.assert_close(switched, whole, rtol=2e-3, atol=2e-4)
    assert (switched - ENGINE.run(own, BATCH, keep=None).logits[BATCH.mask]).abs().max() > 0.01
    for matrix in pair.tuned.anatomy.matrices:
        weight = Weight(1, matrix)
        torch.testing.assert_close(
            pair.tuned.weight(weight), merged.weight(weight), rtol=1e-3, atol=1e-5
        )
        assert torch.equal(pair.base.weight(weight), own.weight(weight))


@NEURAL
def test_the_main_method_runs_and_is_complete(name):
    base = families.build(name)
    table = LocateNeurons(top="5", steps=15)(tiny.study(tiny.perturbed(base), base, 3))
    paths = table.tables["paths"]
    change = paths["log_odds_tuned"] - paths["log_odds_start"]
    told = paths["attributed"]
    assert abs(told - change).max() < 0.02 * max(abs(change).max(), 0.1)
    assert json.loads(json.dumps(table.summary, default=str))["n_neurons"] == 3 * 48
