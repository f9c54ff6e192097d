"""Arms of selective tuning: which weights each trains, and that numbers of them are equal."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.errors import OptionError, UnsupportedModel
from interp.maths.memory import PeakMemory
from interp.models.model import Model
from interp.models.quiet import quiet_libraries
from interp.sites import Weight
from interp.training.arms import (
    ARMS,
    SPARSE,
    block_matrices,
    lora_ranks,
    low_rank_part,
    n_lora,
    n_values,
    neuron_places,
    per_row,
    principal,
    random_entries,
    shares,
    top_magnitude,
)
from interp.training.recipe import Recipe
from interp.training.sparse_delta import SparseTraining
from interp.training.text import Row
from interp.training.tuning import Trainable, train
from tests import tiny

NEURONS = [(0, 3), (2, 7), (0, 40)]
WIDTH = 32


def model(family: str = "llama", **changes) -> Model:
    return Model.wrap("tiny", tiny.FAMILIES[family](4, **changes))


def touched(of: Model, places) -> dict[str, torch.Tensor]:
    """Parameter -> which of its entries are trained."""
    found = {}
    for name, each in places.items():
        mask = torch.zeros(of.module.get_parameter(name).numel(), dtype=torch.bool)
        mask[each.indices] = True
        found[name] = mask.view(of.module.get_parameter(name).shape)
    return found


@pytest.mark.parametrize(("family", "each"), [("llama", 3 * WIDTH), ("gpt2", 2 * WIDTH)])
def test_a_neuron_is_what_reads_and_writes_it(family, each):
    of = model(family)
    places = neuron_places(of, NEURONS)
    assert n_values(places) == len(NEURONS) * each
    training = SparseTraining(of.module, places)
    for values in training.values.values():
        values.data.fill_(1.0)
    before = model(family)
    training.merge()
    for layer in range(3):
        chosen = [unit for at, unit in NEURONS if at == layer]
        for part in of.anatomy.matrices:
            change = of.weight(Weight(layer, part)) - before.weight(Weight(layer, part))
            expected = torch.zeros_like(change)
            if part in ("mlp.gate", "mlp.in"):
                expected[chosen] = 1
            elif part == "mlp.out":
                expected[:, chosen] = 1
            torch.testing.assert_close(change, expected, atol=1e-5, rtol=0)


def test_fused_gate_and_up_are_divided():
    of = Model.wrap("phi", _phi())
    places = neuron_places(of, [(1, 5)])
    mask = touched(of, places)
    (fused,) = (one for name, one in mask.items() if "gate_up" in name)
    n_neurons = of.anatomy.n_neurons
    assert n_neurons is not None
    assert fused.any(1).nonzero().flatten().tolist() == [5, n_neurons + 5]


def _phi():
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return Phi3ForCausalLM(config).eval()


def test_clusters_share_values_within_matrices_alone():
    of = model()
    clusters = {(0, 3): 0, (0, 40): 0, (2, 7): 1}
    places = neuron_places(of, NEURONS, clusters)
    assert n_values(places) == 2 * 3 * WIDTH
    assert sum(len(each.indices) for each in places.values()) == 3 * 3 * WIDTH
    alone = neuron_places(of, NEURONS, {neuron: neuron for neuron in NEURONS})
    assert n_values(alone) == n_values(neuron_places(of, NEURONS))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("budget", [3, 500, 1500])
def test_sets_have_as_many_weights_as_asked(family, budget):
    matrices = block_matrices(model(family))
    for places in (
        top_magnitude(matrices, budget),
        principal(matrices, budget, 4),
        per_row(matrices, budget),
        random_entries(matrices, budget, 0),
    ):
        assert n_values(places) == budget


def test_largest_weights_of_every_matrix():
    of = model("gpt2")
    matrices = block_matrices(of)
    places = top_magnitude(matrices, 400)
    for name, mask in touched(of, places).items():
        weights = of.module.get_parameter(name).detach().abs()
        assert weights[mask].min() >= weights[~mask].max()
    everything = top_magnitude(matrices, sum(one.weight.numel() for one in matrices))
    assert all(mask.all() for mask in touched(of, everything).values())


def test_principal_entries_at_full_rank_are_the_largest_weights():
    matrices = block_matrices(model())
    whole = principal(matrices, 700, 1000)
    oracle = {
        one.name: np.sort(
            np.argsort(-np.abs(one.matrix.numpy()).ravel(), kind="stable")[
                : len(whole[one.name].indices)
            ]
        )
        for one in matrices
    }
    assert all((whole[name].indices.numpy() == oracle[name]).all() for name in oracle)
    assert sum(map(len, oracle.values())) == 700


def test_the_approximation_is_the_one_of_float64():
    matrix = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    left, values, right = np.linalg.svd(matrix.numpy().astype(np.float64), full_matrices=False)
    oracle = (left[:, :3] * values[:3]) @ right[:3]
    np.testing.assert_allclose(low_rank_part(matrix, 3).numpy(), oracle, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_row_has_k_weights(family):
    of = model(family)
    matrices = block_matrices(of)
    n_rows = sum(one.shape[0] for one in matrices)
    masks = touched(of, per_row(matrices, 2 * n_rows))
    for one in matrices:
        mask = masks[one.name].T if one.transposed else masks[one.name]
        assert (mask.sum(1) == 2).all()
        weights = one.matrix.abs()
        assert (
            torch.where(mask, weights, torch.inf).min(1).values
            >= torch.where(mask, 0, weights).max(1).values
        ).all()
    few = per_row(matrices, n_rows + 5)
    counts = torch.cat(
        [
            (mask.T if one.transposed else mask).sum(1)
            for one in matrices
            for mask in [touched(of, few)[one.name]]
        ]
    )
    assert sorted(counts.unique().tolist()) == [1, 2]
    with pytest.raises(OptionError, match="per row"):
        per_row(matrices, n_rows * WIDTH)


def test_lora_has_nearly_as_many_parameters():
    of = model()
    matrices = block_matrices(of)
    least = sum(sum(one.shape) for one in matrices)
    assert lora_ranks(matrices, least // 2) is None
    for budget in (least, round(2.7 * least), 5 * least + 3):
        ranks = lora_ranks(matrices, budget)
        assert ranks is not None
        assert abs(n_lora(matrices, ranks) / budget - 1) <= 0.05
        config = LoraConfig(r=1, target_modules=list(ranks), rank_pattern=ranks)
        with quiet_libraries():
            adapted = get_peft_model(tiny.llama(4), config)
        trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
        assert trained == n_lora(matrices, ranks)


def test_shares_are_whole_and_exact():
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert shares(7, [100, 1]) == [7, 0]
    assert sum(shares(12345, [3, 77, 5, 9])) == 12345


def rows() -> list[Row]:
    ids = torch.randint(4, 200, (6, 10), generator=torch.Generator().manual_seed(3)).tolist()
    return [Row(tuple(one), (False,) * 4 + (True,) * 6) for one in ids]


@pytest.mark.parametrize("arm", ["entries", "lora", "full"])
def test_training_leaves_the_model_as_it_is(arm):
    of = model()
    before = {name: value.clone() for name, value in of.module.state_dict().items()}
    matrices = block_matrices(of)
    what = {
        "entries": Trainable(random_entries(matrices, 60, 0)),
        "lora": Trainable(ranks=dict(lora_ranks(matrices, 5000) or {})),
        "full": Trainable(),
    }[arm]
    recipe = Recipe(learning_rate=1e-2, steps=3, batch=2)
    state = torch.random.get_rng_state()
    first, second = (train(of, what, rows(), recipe, 5) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    after = of.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    trained = [dict(one.module.named_parameters()) for one in (first, second)]
    assert list(trained[0]) == [name for name, _ in of.module.named_parameters()]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    squares = sum(
        float((trained[0][name].double() - before[name].double()).square().sum())
        for name in trained[0]
    )
    assert first.norm == pytest.approx(squares**0.5, rel=1e-6)
    assert first.finite
    if arm == "entries":
        assert first.n_trained == 60
        assert sum(len(one.values) for one in (first.entries or {}).values()) == 60


def test_a_training_that_diverges_is_told():
    recipe = Recipe(learning_rate=0.9, steps=3, batch=2, optimizer="sgd", clip=0.0)
    of = model()
    with torch.no_grad():
        of.module.get_parameter("lm_head.weight").mul_(1e18)
    assert not train(of, Trainable(), rows(), recipe, 0).finite


def test_families_without_neurons_are_refused():
    whole = model()
    bare = replace(whole, anatomy=replace(whole.anatomy, n_neurons=0))
    with pytest.raises(UnsupportedModel):
        neuron_places(bare, NEURONS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the mark")
def test_peak_memory_is_that_inside():
    large = torch.ones(1 << 24)
    with PeakMemory(torch.device("cpu")) as peak:
        assert torch.ones(1 << 24).sum() == large.sum()
    assert 60e6 < peak.bytes < 200e6
    with PeakMemory(torch.device("cpu")) as peak:
        pass
    assert peak.bytes < 30e6


def test_every_arm_is_described():
    assert set(SPARSE) < set(ARMS)
