"""Attention heads as units: identities, hand-written oracles, families, and a tune whose heads
carry the behaviour.
"""

import copy

import numpy as np
import pytest
import torch

from benchmarks.methods import study_of
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.engines import Batch, TorchEngine
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource
from interp.experiments.contributions import contribution_norms
from interp.experiments.outcomes import Outcomes
from interp.interventions.random_sets import matched_sets
from interp.models.changes import weight_change
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.units import HEAD, NEURON, unit_named
from tests import families, tiny

BUILDERS = {
    **tiny.FAMILIES,
    **{name: lambda name=name: families.build(name) for name in families.NAMES},
}
peft_warns = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def modules(request):
    base = tiny.exact(tiny.FAMILIES[request.param](seed=3, tie_word_embeddings=False))
    return base, tiny.exact(tiny.perturbed(base, 0.05))


def projections(module):
    if hasattr(module, "transformer"):
        return [block.attn.c_proj for block in module.transformer.h]
    return [block.self_attn.o_proj for block in module.model.layers]


def read(module, ids, leaf=False):
    """What every output projection reads, by hand, for one prompt; and the logits."""
    kept = []

    def before(_, args):
        value = args[0].detach().requires_grad_() if leaf and not args[0].requires_grad else args[0]
        kept.append(value)
        return (value, *args[1:])

    handles = [linear.register_forward_pre_hook(before) for linear in projections(module)]
    with torch.set_grad_enabled(leaf):
        logits = module(input_ids=torch.tensor([list(ids)])).logits[:, -1]
    for handle in handles:
        handle.remove()
    return kept, logits


# ---------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("name", BUILDERS)
def test_heads_contributions_add_up_to_what_attention_writes(name):
    model = Model.wrap(name, BUILDERS[name]())
    batch = Batch.pad([[5, 6, 7, 8, 9]], 0)
    run = TorchEngine().run(model, batch, reads=[HEAD.site(1), HEAD.contribution(1)], keep=0)
    write = HEAD.write_weights(model, 1)
    parts = run.values[HEAD.site(1)].unflatten(-1, (4, -1))
    each = torch.einsum("bthw,dhw->bthd", parts, write.unflatten(1, (4, -1)))
    bias = getattr(model.at(HEAD.contribution(1))[0], "bias", None)
    whole = each.sum(2) + (0 if bias is None else bias)
    torch.testing.assert_close(whole, run.values[HEAD.contribution(1)], rtol=1e-4, atol=1e-5)


def test_channels_and_numbers_of_units():
    anatomy = Model.wrap("m", tiny.llama()).anatomy
    width = anatomy.head_width
    assert HEAD.count(anatomy) == 4
    assert NEURON.count(anatomy) == 48
    found = HEAD.channels(anatomy, [(1, 2), (0, 0), (1, 0)])
    assert list(found) == [0, 1]
    assert found[1].tolist() == [*range(width), *range(2 * width, 3 * width)]
    values = torch.arange(4.0 * width)
    assert HEAD.gather(anatomy, values)[1] == sum(range(width, 2 * width))
    assert HEAD.gather(anatomy, values, "norm")[0] == pytest.approx(float(values[:width].norm()))
    assert torch.equal(NEURON.gather(anatomy, values, "norm"), values)
    with pytest.raises(OptionError, match="unknown unit 'layer'; use neuron or head"):
        unit_named("layer")


def test_methods_that_score_neurons_only_say_so(modules):
    study = tiny.study(modules[1], modules[0], pairs=2)
    for name in METHODS:
        if "head" not in METHODS[name].units:
            with pytest.raises(
                OptionError, match=f"method {name} cannot score units of kind head; use integrated"
            ):
                LocateNeurons(method=name, unit="head", top="2")(study)


def test_experts_have_heads():
    base = families.build("mixtral")
    study = tiny.study(tiny.perturbed(base, 0.05), base, pairs=2)
    table = LocateNeurons(unit="head", top="3", steps=3)(study)
    assert len(table) == 12
    assert table.summary["attention_share"] is None or table.summary["attention_share"] <= 1.005


# ---------------------------------------------------------------------------------------------- oracles


def test_activation_times_gradient_by_hand(modules):
    study = tiny.study(modules[1], modules[0], pairs=3)
    expected = np.zeros((3, 4))
    for coded in study.encoded("positive"):
        kept, logits = read(modules[1], coded.ids, leaf=True)
        gradients = torch.autograd.grad(study.metric.log_odds(logits)[0], kept)
        for layer, (value, gradient) in enumerate(zip(kept, gradients, strict=True)):
            expected[layer] += (value * gradient).detach().sum(1).reshape(4, -1).sum(1).numpy() / 3
    found = LocateNeurons(method="act-grad", unit="head", top="3")(study)
    np.testing.assert_allclose(found["score"].reshape(3, 4), expected, rtol=1e-9)


def test_change_by_hand(modules):
    study = tiny.study(modules[1], modules[0], pairs=3)
    squares, count = np.zeros((3, 4)), 0
    for coded in study.encoded("positive"):
        (before, _), (after, _) = read(modules[0], coded.ids), read(modules[1], coded.ids)
        count += len(coded.ids)
        for layer in range(3):
            moved = (after[layer] - before[layer])[0].numpy()
            squares[layer] += (moved**2).reshape(len(moved), 4, -1).sum((0, 2))
    found = LocateNeurons(method="change", unit="head", top="3")(study)
    np.testing.assert_allclose(found["score"].reshape(3, 4), np.sqrt(squares / count), rtol=1e-6)


def test_size_of_contributions_by_hand(modules):
    study = tiny.study(modules[1], modules[0], pairs=3)
    squares, count = np.zeros((3, 4)), 0
    model = study.pair.base
    for coded in study.encoded("positive"):
        kept, _ = read(modules[0], coded.ids)
        count += len(coded.ids)
        for layer in range(3):
            columns = HEAD.write_weights(model, layer).numpy().reshape(32, 4, -1)
            written = np.einsum(
                "thw,dhw->thd", kept[layer][0].numpy().reshape(len(coded.ids), 4, -1), columns
            )
            squares[layer] += (written**2).sum((0, 2))
    found = contribution_norms(study, PatchSource.from_study(study, HEAD))
    np.testing.assert_allclose(found, np.sqrt(squares / count), rtol=1e-9)


def test_weights_of_a_head_are_its_queries_its_groups_keys_and_values_and_its_columns():
    base = tiny.llama()
    tuned, width = copy.deepcopy(base), 8
    attention = tuned.model.layers[1].self_attn
    with torch.no_grad():
        attention.o_proj.weight[:, 2 * width : 3 * width] += 1.0  # head 2
        attention.k_proj.weight[:width] += 0.5  # the first group: heads 0 and 1
    moved = weight_change(Pair.from_modules(tuned, base, tiny.tokenizer()), HEAD)
    expected = np.zeros((3, 4))
    expected[1, 2] = np.sqrt(32 * width)
    expected[1, :2] = np.sqrt(0.25 * 32 * width)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- intervention


def test_all_heads_of_an_attention_tune_are_all_of_it():
    """Where only attention differs, giving every head the base's contribution makes the base, bit
    for bit or nearly.
    """
    base = tiny.exact(tiny.llama(seed=3, tie_word_embeddings=False))
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in tuned.model.layers:
            for linear in (block.self_attn.v_proj, block.self_attn.o_proj):
                linear.weight += 0.1 * torch.randn(
                    linear.weight.shape, generator=generator, dtype=linear.weight.dtype
                )
    study = tiny.study(tuned, base, pairs=4, max_new_tokens=4)
    donors = PatchSource.from_study(study, HEAD)
    rows = list(range(4))
    everything = [(layer, head) for layer in range(3) for head in range(4)]
    for direction in ("necessity", "sufficiency"):
        assert Outcomes(study, donors, direction, rows, exact=True).of(everything).equal.all()
    # the adapter of the down projection is not theirs: neurons carry none of a change that
    # attention makes alone
    assert weight_change(study.pair).any() == np.False_
    located = LocateNeurons(unit="head", top="4", steps=3)(study)
    assert located.summary["n_tuned"] == 12
    paths = located.tables["paths"]
    np.testing.assert_allclose(paths["log_odds_start"], paths["log_odds_base"], rtol=1e-9)


@peft_warns
@pytest.mark.slow
def test_heads_carry_the_attention_tune_and_the_located_more_than_others():
    located = LocateNeurons(unit="head", top="7", steps=7)(study_of("attention", "locate", 32))
    assert located.summary["attention_share"] == pytest.approx(1.0, abs=1e-3)
    assert located.summary["n_tuned"] == located.summary["n_heads"] == 20
    verify = study_of("attention", "verify", 16)
    donors = PatchSource.from_study(verify, HEAD)
    outcomes = Outcomes(verify, donors, "necessity", list(range(16)), exact=True)

    def exact(units):
        return outcomes.of(units).equal.mean()

    chosen = [(row["layer"], row["head"]) for row in located.rows() if row["selected"]]
    random = matched_sets(chosen, contribution_norms(verify, donors), 19, seed=0)
    assert exact(chosen) > max(exact(draw) for draw in random)
    assert exact([(layer, head) for layer in range(5) for head in range(4)]) == 1.0


def test_a_located_set_of_heads_is_verified_as_heads(modules):
    study = tiny.study(modules[1], modules[0], pairs=4, template=False, max_new_tokens=2)
    located = LocateNeurons(unit="head", top="2", steps=3)(study)
    table = VerifyNeurons(located, random_sets=3, dose_draws=1, control_prompts=3)(study)
    assert table.provenance.parent == located.provenance.key
    chosen = [(row["layer"], row["head"]) for row in located.rows() if row["selected"]]
    donors = PatchSource.from_study(study, HEAD)
    intervention = donors.condition("ablate-base", chosen).intervention
    assert sum(len(index) for index in intervention.units.values()) == 2 * 8
    assert {site.hook for site in intervention.reads} == {"attn.hook_z"}
