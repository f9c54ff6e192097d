"""Families beside the proven ones: what their blocks' parts add, units, edits, attributions and
TuCo are exact.
"""

import copy
import functools

import numpy as np
import pytest
import torch
from transformers import GraniteConfig

from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.engines import Batch, TorchEngine, engine_named
from interp.engines.coupled_forward import coupled_forward
from interp.engines.nnsight_trace import NNsightEngine
from interp.errors import UnsupportedModel
from interp.interventions.edits import Ablate, Add, Observe, Replace, Scale
from interp.interventions.generation import Text, generate
from interp.interventions.intervention import (
    Intervention,
    patch_contributions,
    patch_output_weights,
)
from interp.models.anatomy import BLOCK_PARTS, Target, read_anatomy
from interp.models.grafts import Scope
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.units import HEAD, NEURON, Unit
from interp.prompts import OneClass, encode
from interp.sites import Site, Weight
from interp.study import Study
from tests import causal, plain, tiny
from tests.tuco_pairs import plain as plain_tuco

ENGINE = TorchEngine()
IDS = [list(encode(tiny.tokenizer(), text).ids) for text in tiny.PROMPTS[:3]]
BATCH = Batch.pad(IDS, 0)
BOTH, NEURONS, HEADS = (NEURON, HEAD), (NEURON,), (HEAD,)
FAMILIES: dict[str, tuple[str, dict, tuple[Unit, ...]]] = {
    "granite": ("granite", {}, BOTH),
    "granite-moe": ("granitemoe", {"residual_multiplier": 0.3}, HEADS),
    "granite-4": (
        "granitemoehybrid",
        {"num_local_experts": 0, "layer_types": ["attention"] * 3},
        BOTH,
    ),
    "granite-4-hybrid": ("granitemoehybrid", {"num_local_experts": 0}, NEURONS),
    "opt": ("opt", {}, BOTH),
    "falcon": ("falcon", {}, BOTH),
    "falcon-7b": (
        "falcon",
        {"new_decoder_architecture": False, "parallel_attn": True, "multi_query": True},
        BOTH,
    ),
    "falcon-rw": (
        "falcon",
        {
            "new_decoder_architecture": False,
            "parallel_attn": False,
            "multi_query": False,
            "num_kv_heads": 4,
            "alibi": True,
        },
        BOTH,
    ),
    "stablelm": ("stablelm", {}, BOTH),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}, BOTH),
    "cohere": ("cohere", {}, BOTH),
    "cohere2": ("cohere2", {}, BOTH),
    "smollm3": ("smollm3", {}, BOTH),
    "glm": ("glm", {}, BOTH),
    "glm4": ("glm4", {}, BOTH),
    "gemma4": ("gemma4_text", {}, BOTH),
    "qwen3.5": ("qwen3_5", {}, NEURONS),
    "lfm2": ("lfm2", {}, NEURONS),
    "gpt-oss": ("gpt_oss", {}, HEADS),
    "deepseek-v3": ("deepseek_v3", {}, HEADS),
}
# One of each kind of block in the default tests.
FAST = ("granite", "opt", "falcon", "stablelm-parallel", "glm4", "qwen3.5", "gpt-oss")
FAST_EDITS = [*((name, "torch") for name in FAST), ("granite", "nnsight"), ("opt", "nnsight")]
EVERY = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAMILIES],
)


def build(name: str, seed: int = 0):
    kind, changes, _ = FAMILIES[name]
    return causal.build(kind, seed, **changes)


@functools.cache
def model(name: str) -> Model:
    return Model.wrap(name, build(name).double())


@functools.cache
def pair(name: str, size: float = 0.03) -> Pair:
    base = build(name)
    return Pair.from_modules(tiny.perturbed(base, size).double(), base.double(), tiny.tokenizer())


def values(of: Model, sites, edits=(), engine=ENGINE):
    run = engine.run(of, BATCH, reads=sites, edits=edits, keep=None)
    return {site: value[BATCH.mask] for site, value in run.values.items()}, run.logits[BATCH.mask]


# ---------------------------------------------------------------------------------------------- places


@EVERY
def test_parts_add_up_to_the_output_of_the_block(name):
    this = model(name)
    for layer in range(this.anatomy.n_layers):
        found, _ = values(this, [Site(layer, part) for part in BLOCK_PARTS])
        before, attention, mlp, after = (found[Site(layer, part)] for part in BLOCK_PARTS)
        assert attention.abs().max() > 1e-3 < mlp.abs().max()
        assert (before + attention + mlp - after).abs().max() < 1e-12 * after.abs().max()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_add_up_in_half_precision_too(name, dtype):
    study = Study(
        Pair.from_modules(build(name).to(dtype), None, tiny.tokenizer()), tiny.contrast(2), None
    )
    study.require_parts()


def test_a_factor_is_of_what_attention_and_mlp_add_and_of_nothing_else():
    anatomy = model("granite").anatomy
    assert anatomy.targets["hook_attn_out"] == Target("self_attn", "out", factor=0.5)
    assert anatomy.targets["hook_mlp_out"] == Target("mlp", "out", factor=0.5)
    assert {hook for hook, target in anatomy.targets.items() if target.factor != 1} == {
        "hook_attn_out",
        "hook_mlp_out",
    }


def test_blocks_of_two_kinds_have_what_stands_in_the_place_of_attention():
    anatomy = model("qwen3.5").anatomy
    paths = [
        anatomy.target(Site(layer, "hook_attn_out")).path.rpartition(".")[2] for layer in range(3)
    ]
    assert paths == ["linear_attn", "self_attn", "linear_attn"]
    assert not anatomy.has_heads
    state_space = read_anatomy(causal.build("mamba"))
    assert not {"hook_attn_out", "hook_mlp_out"} & set(state_space.targets)


def test_experts_beside_an_mlp_leave_no_place_for_what_both_add():
    anatomy = read_anatomy(causal.build("granitemoehybrid", num_local_experts=4))
    assert "hook_mlp_out" not in anatomy.targets
    assert anatomy.n_neurons == 0
    assert anatomy.target(Site(1, "hook_attn_out")).factor == 0.5
    alone = model("granite-4").anatomy
    assert alone.n_neurons == 48
    assert alone.targets["hook_mlp_out"] == Target("shared_mlp", "out", factor=0.5)


def test_an_mlp_without_a_module_of_its_own_has_no_input_of_its_own():
    anatomy = model("opt").anatomy
    assert (
        anatomy.targets["hook_mlp_out"]
        == anatomy.targets["mlp.out.hook_out"]
        == Target("fc2", "out")
    )
    assert anatomy.targets["mlp.hook_post"] == Target("fc2", "in")
    # the block has its tokens in one row there, and the place stands for no module
    assert "mlp.hook_in" not in anatomy.targets


@pytest.mark.parametrize("change", ["scalar", "per-layer input", "factor", "post-norm"])
def test_what_does_not_add_up_is_refused(change):
    """Gemma-4 blocks that scale their output or add a third part, a wrong factor, and OPT-350m's
    norms behind.
    """
    if change == "post-norm":
        module = causal.build("opt", do_layer_norm_before=False)
    elif change == "factor":
        module = causal.build("granite")
        module.model.layers[1].residual_multiplier = 0.6
    else:
        module = causal.build(
            "gemma4_text", **({"hidden_size_per_layer_input": 8} if change != "scalar" else {})
        )
        if change == "scalar":
            module.model.layers[1].layer_scalar.fill_(0.9)
    study = tiny.study(module, tiny.perturbed(module), 2)
    for analyzer in (LocateNeurons(top="3"), Tuco()):
        with pytest.raises(UnsupportedModel, match="is not the sum of its parts"):
            analyzer(study)


def test_sizes_that_differ_between_blocks_are_left_out():
    """Gemma-4's blocks of full attention have wider heads; MLPs of two widths have no one number of
    neurons.
    """
    wide = read_anatomy(causal.build("gemma4_text", global_head_dim=16))
    assert not wide.has_heads
    assert wide.n_neurons == 48
    assert not any(matrix.startswith("attn.") for matrix in wide.matrices)
    double = read_anatomy(
        causal.build("gemma4_text", use_double_wide_mlp=True, num_kv_shared_layers=1)
    )
    assert double.n_neurons == 0
    assert double.has_heads


def test_a_fused_gate_whose_stacking_is_not_known_has_no_neurons():
    found = read_anatomy(causal.build("modernbert-decoder"))
    assert found.n_neurons == 0
    assert not any(name.startswith("mlp.") for name in (*found.targets, *found.matrices))


@EVERY
def test_units_write_what_their_projection_gives(name):
    this = model(name)
    for unit in FAMILIES[name][2]:
        for layer in range(this.anatomy.n_layers):
            found, _ = values(this, [unit.site(layer), unit.contribution(layer)])
            bias = getattr(this.at(unit.contribution(layer))[0], "bias", None)
            made = found[unit.site(layer)] @ unit.write_weights(this, layer).T + (
                0 if bias is None else bias
            )
            torch.testing.assert_close(
                made, found[unit.contribution(layer)], rtol=1e-10, atol=1e-12
            )
    if NEURON not in FAMILIES[name][2]:
        with pytest.raises(
            UnsupportedModel, match=r"has no MLP neurons with an exact module.*use --unit head"
        ):
            this.anatomy.require_neurons()


@pytest.mark.parametrize("name", ["glm", "glm4", "granite-4-hybrid"])
def test_halves_of_a_fused_projection_are_gate_and_up(name):
    this, x = model(name), torch.randn(4, 32, dtype=torch.float64)
    block = this.module.model.layers[1]
    mlp = block.shared_mlp if name.startswith("granite") else block.mlp
    activation = mlp.activation if name.startswith("granite") else mlp.activation_fn
    with torch.no_grad():
        gate, up = (x @ this.weight(Weight(1, matrix)).T for matrix in ("mlp.gate", "mlp.in"))
        torch.testing.assert_close(
            (activation(gate) * up) @ this.weight(Weight(1, "mlp.out")).T,
            mlp(x),
            rtol=1e-10,
            atol=1e-12,
        )
    hooks = [Site(1, hook) for hook in ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post")]
    found, _ = values(this, hooks)
    gate, up, post = (found[site] for site in hooks)
    torch.testing.assert_close(activation(gate) * up, post, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param(name, engine, marks=[] if (name, engine) in FAST_EDITS else pytest.mark.slow)
        for name in FAMILIES
        for engine in ("torch", "nnsight")
    ],
)
def test_edits_of_what_parts_add_are_exact(name, engine):
    """What is put in is what the block adds; a value that is only read, or put in as it is, changes
    no bit of it.
    """
    this, engine = model(name), engine_named(engine)
    sites = [Site(1, part) for part in BLOCK_PARTS]
    found, logits = values(this, sites, engine=engine)
    torch.testing.assert_close(
        logits, ENGINE.run(this, BATCH, keep=None).logits[BATCH.mask], rtol=0, atol=0
    )
    for hook in ("hook_attn_out", "hook_mlp_out"):
        seen = []
        shift = Add(Site(1, hook), torch.ones(32).double())
        edits = [Observe(Site(1, hook), lambda value, seen=seen: seen.append(value.clone())), shift]
        after, _ = values(this, sites, edits, engine)
        torch.testing.assert_close(
            seen[0][BATCH.mask], found[Site(1, hook)], rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            after[Site(1, hook)], found[Site(1, hook)] + 1, rtol=1e-12, atol=1e-12
        )
        total = sum(after[Site(1, part)] for part in BLOCK_PARTS[:3])
        torch.testing.assert_close(total, after[Site(1, BLOCK_PARTS[3])], rtol=1e-12, atol=1e-12)
        nothing = [Replace(Site(1, hook), torch.zeros(32).double())]
        after, _ = values(this, sites, nothing, engine)
        assert not after[Site(1, hook)].any()
    _, unchanged = values(
        this, sites, [Scale(Site(1, "hook_mlp_out"), torch.arange(32), 1.0)], engine
    )
    torch.testing.assert_close(unchanged, logits, rtol=1e-9, atol=1e-9)


@EVERY
def test_gradients_of_what_is_added_are_those_of_the_stream(name):
    """Also of a site whose value depends on an earlier one that is differentiated too."""
    this, layers = model(name), range(3)
    sites = [Site(layer, hook) for layer in layers for hook in ("hook_attn_out", "hook_mlp_out")]
    streams = [Site(layer, "hook_resid_post") for layer in layers]

    def number(logits):
        return logits[:, -1].square().sum(-1)

    found = ENGINE.run(this, BATCH, gradients_at=sites, gradient_of=number).gradients
    each = {
        site: ENGINE.run(this, BATCH, gradients_at=[site], gradient_of=number).gradients[site]
        for site in sites
    }
    wanted = ENGINE.run(this, BATCH, gradients_at=streams, gradient_of=number).gradients
    for site in sites:
        torch.testing.assert_close(
            found[site][BATCH.mask], each[site][BATCH.mask], rtol=1e-5, atol=1e-9
        )
    for layer in layers:
        stream = wanted[Site(layer, "hook_resid_post")][BATCH.mask]
        assert stream.abs().max() > 1e-6
        torch.testing.assert_close(
            found[Site(layer, "hook_mlp_out")][BATCH.mask], stream, rtol=1e-5, atol=1e-9
        )


@EVERY
def test_what_is_put_in_is_not_written_over(name):
    """Falcon adds its attention to the tensor that its MLP gave, which may be the caller's own."""
    this = model(name)
    for hook in ("hook_mlp_out", "hook_attn_out"):
        given = torch.ones(*BATCH.ids.shape, 32, dtype=torch.float64)
        run = ENGINE.run(
            this, BATCH, reads=[Site(1, hook)], edits=[Replace(Site(1, hook), given)], keep=1
        )
        assert (given == 1).all()
        assert (run.values[Site(1, hook)] - 1).abs().max() < 1e-12


def moved(base, anatomy, units, size=0.05):
    """A child in which every matrix that makes up the units is another one, and nothing else."""
    child = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(5)
    for layer in range(anatomy.n_layers):
        parts = []
        if NEURON in units:
            names = [name for name in ("mlp.gate", "mlp.in", "mlp.out") if name in anatomy.matrices]
            parts += [
                child.get_submodule(path)
                for path in {anatomy.place(Weight(layer, n)).path for n in names}
            ]
        if HEAD in units:
            path = anatomy.place(Weight(layer, "attn.o")).path.rpartition(".")[0]
            attention = child.get_submodule(path)
            parts += [part for part in attention.modules() if isinstance(part, torch.nn.Linear)]
        for part in parts:
            noise = torch.randn(part.weight.shape, generator=generator, dtype=torch.float64)
            part.weight.data += size * noise
    return child


@EVERY
def test_all_units_of_all_blocks_from_the_fine_tune_make_the_fine_tune(name):
    units, base = FAMILIES[name][2], model(name)
    layers = range(base.anatomy.n_layers)
    tuned = Model.wrap("tuned", moved(base.module, base.anatomy, units))
    sites = [unit.site(layer) for unit in units for layer in layers]
    donor = ENGINE.run(tuned, BATCH, reads=sites, keep=None)
    edits, rewired = [], []
    for unit in units:
        every = {layer: torch.arange(unit.n_channels(base.anatomy)) for layer in layers}
        write = {layer: unit.write_weights(tuned, layer) for layer in layers}
        own = {unit.site(layer): donor.values[unit.site(layer)] for layer in layers}
        edits += patch_contributions(every, own, write, unit=unit)
        rewired += patch_output_weights(every, write, unit)
    wanted = donor.logits[BATCH.mask]
    plainly = ENGINE.run(base, BATCH, keep=None).logits[BATCH.mask]
    assert (wanted - plainly).abs().max() > 0.01
    # norms of these families compute in float32
    found = ENGINE.run(base, BATCH, edits=edits, keep=None).logits[BATCH.mask]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    # their weights alone: those of a base with the fine-tuned model's projections
    other = copy.deepcopy(base.module)
    for unit in units:
        for layer in layers:
            path = base.anatomy.place(Weight(layer, unit.matrix)).path
            other.get_submodule(path).weight.data = tuned.module.get_submodule(
                path
            ).weight.data.clone()
    wanted = ENGINE.run(Model.wrap("other", other), BATCH, keep=None).logits[BATCH.mask]
    found = ENGINE.run(base, BATCH, edits=rewired, keep=None).logits[BATCH.mask]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@EVERY
def test_without_any_unit_only_biases_are_left(name):
    this, units = model(name), FAMILIES[name][2]
    for unit in units:
        edits = [Ablate(unit.site(1), torch.arange(unit.n_channels(this.anatomy)))]
        found, _ = values(this, [unit.contribution(1)], edits)
        bias = getattr(this.at(unit.contribution(1))[0], "bias", None)
        wanted = torch.zeros(32).double() if bias is None else bias.detach()
        torch.testing.assert_close(
            found[unit.contribution(1)], wanted.expand(int(BATCH.mask.sum()), -1)
        )


# ---------------------------------------------------------------------------------------------- methods


@EVERY
def test_attributions_are_those_of_plain_torch(name):
    this = pair(name)
    study = Study(this, tiny.contrast(2), tiny.metric(), batch_size=1)
    prompts = [item.ids for item in study.encoded("positive")]
    for unit in FAMILIES[name][2]:
        table = LocateNeurons(method="integrated", unit=unit.name, top="3", steps=3)(study)
        channels = plain.integrated(this.base, this.tuned, unit, prompts, study.metric.log_odds)
        wanted = unit.gather(this.tuned.anatomy, channels).numpy()
        assert np.abs(wanted).max() > 1e-6
        found = table["score"].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
        assert table["selected"].any()


@EVERY
def test_tuco_is_that_of_plain_torch(name):
    this = pair(name)
    study = Study(this, OneClass(tiny.contrast(2).positive), None)
    found = [Tuco(path=path)(study) for path in ("fast", "full")]
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, (beta, beta_last) = plain_tuco(this, coded.ids)
        assert 0.001 < tuco < 0.999
        for table in found:
            assert table["tuco"][row] == pytest.approx(tuco, abs=1e-6)
            assert table["output_co"][row] == pytest.approx(output, abs=1e-6)
            assert table["beta_last"][row] == pytest.approx(beta_last, abs=1e-6)
        assert found[1]["beta"][row] == pytest.approx(beta, abs=1e-6)


def test_the_config_of_a_granite_states_its_factor():
    """The factor is read where transformers keeps it; a renamed setting must not pass for 1."""
    assert GraniteConfig(residual_multiplier=0.25).residual_multiplier == 0.25
    found = (
        read_anatomy(causal.build("granite", residual_multiplier=0.25))
        .targets["hook_mlp_out"]
        .factor
    )
    assert found == 0.25


def test_a_value_that_the_model_writes_over_is_no_reading():
    """An activation that works in place: what was read before it is gone."""
    module = tiny.llama()
    for layer in module.model.layers:
        layer.mlp.act_fn = torch.nn.SiLU(inplace=True)
    this = Model.wrap("in place", module)
    ENGINE.run(this, BATCH, reads=[Site(1, "mlp.hook_post"), Site(1, "hook_mlp_out")])
    for engine in (ENGINE, NNsightEngine()):
        with pytest.raises(
            UnsupportedModel, match=r"overwrites the value at blocks\.1\.mlp\.hook_pre in place"
        ):
            engine.run(this, BATCH, reads=[Site(1, "mlp.hook_pre")])


def test_models_are_read_within_inference_mode():
    """Where torch counts no versions."""
    this, sites = (
        Model.wrap("plain", tiny.llama()),
        [Site(1, "mlp.hook_post"), Site(1, "hook_mlp_out")],
    )
    plain = ENGINE.run(this, BATCH, reads=sites).values
    with torch.inference_mode():
        within = ENGINE.run(this, BATCH, reads=sites).values
    for site in sites:
        assert torch.equal(plain[site], within[site])


# ---------------------------------------------------------------------------------------------- answers

# nnsight warns of the names that RWKV gives its modules
WITHOUT_CACHE = [(kind, "torch") for kind in ("mamba", "mamba2", "openai-gpt", "rwkv")]
WITHOUT_CACHE += [(kind, "nnsight") for kind in ("mamba2", "openai-gpt")]


@pytest.mark.parametrize(("kind", "engine"), WITHOUT_CACHE)
def test_answers_of_models_without_keys_and_values_are_of_the_whole_text(kind, engine):
    """Every token, of prompts of one length, with and without an intervention."""
    this = Model.wrap(kind, causal.build(kind, tie_word_embeddings=False))
    prompts = [ids[:5] for ids in IDS]
    text = Text(prompts, None, 0, ())
    site = Site(1, "hook_resid_post")
    shift = Intervention("shift", {}, "edits", edits=[Add(site, 0.3 * torch.ones(32))])
    for intervention, edits in ((None, ()), (shift, shift.edits)):
        answers = generate(engine_named(engine), this, text, 4, intervention)
        assert len({tuple(answer) for answer in answers}) > 1
        for ids, answer in zip(prompts, answers, strict=True):
            read = list(ids)
            assert len(answer) == 4
            for token in answer:
                logits = ENGINE.run(this, Batch.pad([read], 0), edits=edits).logits[0, -1]
                assert logits[token] >= logits.max() - 1e-4 * logits.abs().max()
                read.append(token)
    # from its last token alone a text would go on in another way
    alone = [generate(ENGINE, this, Text([ids[-1:]], None, 0, ()), 4)[0] for ids in prompts]
    assert alone != generate(ENGINE, this, text, 4)


# ---------------------------------------------------------------------------------------------- what else reads blocks


def test_the_mlp_of_a_graft_is_all_of_it():
    """Both matrices of OPT's MLP, which are modules of the block, and nothing of its attention and
    norms.
    """
    scopes = {part: Scope.from_pair(pair("opt"), part) for part in ("attention", "mlp", "blocks")}
    inner = {
        part: {piece.name.split(".", 4)[4] for piece in scope.pairs}
        for part, scope in scopes.items()
    }
    assert inner["mlp"] == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert {name.partition(".")[0] for name in inner["attention"]} == {"self_attn"}
    norms = {name.partition(".")[0] for name in inner["blocks"] - inner["mlp"] - inner["attention"]}
    assert norms == {"self_attn_layer_norm", "final_layer_norm"}


@EVERY
def test_blocks_at_no_strength_are_those_of_the_base(name):
    """Of two models whose blocks alone differ; at full strength every bit is the tuned model's.
    Answers too.
    """
    base = model(name)
    tuned = Model.wrap("tuned", moved(base.module, base.anatomy, FAMILIES[name][2], 0.2))
    plainly = {
        role: ENGINE.run(each, BATCH, keep=None).logits
        for role, each in (("base", base), ("tuned", tuned))
    }
    text = Text(IDS, None, 0, ())
    for share, role in ((0.0, "base"), (1.0, "tuned")):
        with coupled_forward(tuned, base, [share] * base.anatomy.n_layers):
            found = ENGINE.run(tuned, BATCH, keep=None).logits
            answers = generate(ENGINE, tuned, text, 3)
        torch.testing.assert_close(
            found[BATCH.mask], plainly[role][BATCH.mask], rtol=1e-9, atol=1e-9
        )
        assert answers == generate(ENGINE, {"base": base, "tuned": tuned}[role], text, 3)
    assert (plainly["base"] - plainly["tuned"])[BATCH.mask].abs().max() > 0.01


ADAPTED = {
    "granite": ["q_proj", "o_proj", "gate_proj", "down_proj"],
    "opt": ["q_proj", "out_proj", "fc1", "fc2"],
    "falcon": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "glm4": ["q_proj", "o_proj", "gate_up_proj", "down_proj"],
    "qwen3.5": ["in_proj_qkv", "out_proj", "q_proj", "gate_proj", "down_proj"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "granite" else pytest.mark.slow) for n in ADAPTED]
)
def test_a_switched_adapter_is_the_merged_model(name, tmp_path):
    base = build(name)
    path = tiny.save(base, tmp_path / "base")
    wrapped = tiny.adapter(base, tmp_path / "adapter", path, target_modules=ADAPTED[name])
    merged = copy.deepcopy(wrapped).merge_and_unload()
    pairs = [
        Pair.load(str(tmp_path / "adapter"), device="cpu"),
        Pair.from_modules(merged, base, tiny.tokenizer()),
    ]
    studies = [Study(each, tiny.contrast(2), tiny.metric()) for each in pairs]
    for analyzer in (LocateNeurons(top="3", steps=3), Tuco()):
        switched, whole = (analyzer(study) for study in studies)
        column = "score" if isinstance(analyzer, LocateNeurons) else "tuco"
        size = np.abs(whole[column]).max()
        assert size > 1e-4
        np.testing.assert_allclose(switched[column], whole[column], atol=1e-3 * size)
