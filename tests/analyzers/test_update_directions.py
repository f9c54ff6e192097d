"""``UpdateDirections``: what was planted is listed and read, what did not change has no direction."""

import copy

import numpy as np
import pytest
import torch

from interp.analyzers.update_directions import UpdateDirections
from interp.errors import PairError
from interp.experiments.discovery.update_directions import (
    MatrixDirections,
    ModelDirections,
    product_triplets,
    shares_along,
    shares_outside,
    update_directions,
)
from interp.experiments.plain_text import coded_texts
from interp.figures.update_directions import truncation_figure
from interp.models.pair import Pair
from interp.models.updates import matrix_update
from interp.sites import Weight
from tests import tiny

TEXTS = [
    *tiny.PROMPTS,
    "lock a gate . open the old door and paint the fences",
    "I cannot help you , Sorry",
    "the new window and the old fences",
]
OPTIONS = {"ranks": (), "rows": 500}


def pair_of(tuned, base):
    return Pair.from_modules(tuned, base, tiny.tokenizer(False))


def study_of(tuned, base, **options):
    return tiny.text_study(tuned, base, TEXTS, **options)


@pytest.fixture(scope="module")
def base():
    return tiny.llama(seed=3)


def added(base, changes, scale=1.0):
    """A copy with ``changes`` added to matrices: {(layer, "o" or "down"): [D, W]}."""
    child = copy.deepcopy(base)
    for (layer, name), change in changes.items():
        block = child.model.layers[layer]
        matrix = block.self_attn.o_proj if name == "o" else block.mlp.down_proj
        with torch.no_grad():
            matrix.weight += scale * change
    return child


def random_change(seed, rank=2, width=48):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=generator) for size in (32, width))
    return 0.05 * left @ right.T


def test_an_identical_pair_has_no_directions(base):
    run = UpdateDirections(ranks=(1, 2))(study_of(copy.deepcopy(base), base))
    assert len(run) == 0
    assert len(run.tables["truncation"]) == 0
    assert update_directions(pair_of(copy.deepcopy(base), base)).energy == 0


def test_directions_and_shares_are_those_of_numpy(base):
    child = tiny.perturbed(base, 0.02)
    run = UpdateDirections(**OPTIONS)(study_of(child, base))
    expected, total = {}, 0.0
    for layer in range(3):
        for name, path in (("attn.o", "self_attn.o_proj"), ("mlp.out", "mlp.down_proj")):
            change = (
                child.model.layers[layer].get_submodule(path).weight.double()
                - base.model.layers[layer].get_submodule(path).weight.double()
            )
            values = np.linalg.svd(change.detach().numpy(), compute_uv=False)
            total += (values**2).sum()
            for rank, value in enumerate(values[:20], 1):
                expected[layer, name, rank] = value
    assert len(run) == len(expected) == 120
    for row in run.rows():
        value = expected[row["layer"], row["matrix"], row["rank"]]
        assert row["sigma"] == pytest.approx(value, rel=1e-5)
        assert row["share"] == pytest.approx(value**2 / total, rel=1e-5)
        assert row["outside"] == 1
    assert run["score"].tolist() == sorted(run["score"].tolist(), reverse=True)


def test_an_untouched_matrix_has_none_and_rounding_is_no_direction(base):
    child = added(base, {(1, "down"): random_change(0, rank=2)})
    found = update_directions(pair_of(child, base))
    assert found.keys == [(Weight(1, "mlp.out"), 0), (Weight(1, "mlp.out"), 1)]


def test_the_size_of_the_update_does_not_count(base):
    changes = {(0, "o"): random_change(1, width=32), (2, "down"): random_change(2)}
    small, large = (
        UpdateDirections(**OPTIONS)(study_of(added(base, changes, scale), base))
        for scale in (1.0, 3.0)
    )
    assert small["where"].tolist() == large["where"].tolist()
    np.testing.assert_allclose(small["score"], large["score"], rtol=1e-4)
    np.testing.assert_allclose(3 * small["sigma"], large["sigma"], rtol=1e-4)


def test_what_is_written_is_read_as_its_token_and_shown_where_it_is_excited(base):
    word = tiny.tokenizer(False).convert_tokens_to_ids("\u0120fences")
    written = base.get_output_embeddings().weight.data[word]
    inputs = []
    hook = base.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0][0])
    )
    with torch.no_grad():
        for text in TEXTS:
            base(input_ids=torch.tensor([tiny.tokenizer(False)(text)["input_ids"]]))
    hook.remove()
    text, position = 5, 3
    read = inputs[text][position]
    change = torch.outer(written / written.norm(), read / read.norm())
    run = UpdateDirections(**OPTIONS)(study_of(added(base, {(1, "down"): change}), base))
    (row,) = run.rows()
    assert row["where"] == "blocks.1.mlp.out, rank 1"
    assert row["evidence"].startswith("' fences'")
    assert row["score"] == pytest.approx(1)
    sizes = [(part[1:] @ read).abs() for part in inputs]
    number = int(np.argmax([float(size.max()) for size in sizes]))
    ids = tiny.tokenizer(False)(TEXTS[number])["input_ids"]
    marked = tiny.tokenizer(False).decode([ids[int(sizes[number].argmax()) + 1]])
    assert f"«{marked}»" in row["example"]


def test_what_controls_write_too_does_not_count(base):
    shared = {(1, "down"): random_change(5)}
    own = {**shared, (2, "down"): 2 * random_change(6)}
    pairs = [
        pair_of(added(base, {**shared, (0, "down"): random_change(7 + at)}), base)
        for at in range(3)
    ]
    run = UpdateDirections(controls=pairs, **OPTIONS)(study_of(added(base, own), base))
    assert {row["layer"] for row in run.rows()} == {2}
    assert run["control_high"].tolist() == [0.0, 0.0]
    maxima = run.tables["controls"]
    assert maxima["maximum"][0] == run["score"].max()
    assert (maxima["maximum"][0] > maxima["maximum"][1:]).all()
    assert maxima["evidence"][0].startswith("blocks.2.mlp.out")
    again = UpdateDirections(controls=[*pairs, pair_of(added(base, own), base)], **OPTIONS)(
        study_of(added(base, own), base)
    )
    assert len(again) == 0  # a control that is the same model


def test_every_model_is_treated_alike():
    rng = np.random.default_rng(0)

    def model():
        parts = {}
        for layer in range(2):
            left = np.linalg.qr(rng.standard_normal((40, 3)))[0]
            parts[Weight(layer, "mlp.out")] = MatrixDirections(
                left, rng.uniform(1, 2, 3), np.zeros((5, 3))
            )
        return ModelDirections(parts, sum((one.values**2).sum() for one in parts.values()))

    models = [model() for _ in range(5)]
    found = shares_outside(models)
    order = [3, 0, 4, 2, 1]
    moved = shares_outside([models[at] for at in order])
    for place, at in enumerate(order):
        np.testing.assert_allclose(moved[place], found[at], atol=1e-12)
    # an oracle: the residual of least squares on the others' vectors
    weight = Weight(1, "mlp.out")
    others = np.concatenate([one.matrices[weight].left for one in models[1:]], 1)
    own = models[0].matrices[weight].left
    residual = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
    np.testing.assert_allclose(found[0][3:], (residual**2).sum(0), atol=1e-12)
    assert shares_along(models[0], models[0]).sum() == pytest.approx(1)


def test_many_models_leave_something_outside():
    rng = np.random.default_rng(1)
    weight = Weight(0, "mlp.out")
    models = [
        ModelDirections(
            {
                weight: MatrixDirections(
                    np.linalg.qr(rng.standard_normal((32, 20)))[0], np.ones(20), np.zeros((5, 20))
                )
            },
            20.0,
        )
        for _ in range(20)
    ]
    assert min(part.max() for part in shares_outside(models)) > 0.3


def test_factors_of_an_adapter_are_its_update(base, tmp_path):
    wrapped = tiny.lora("llama", base, tmp_path / "one", part="mlp")
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer(False))
    weight = Weight(1, "mlp.out")
    update = matrix_update(pair, weight)
    assert update.factors is not None
    dense = (pair.tuned.weight(weight) - pair.base.weight(weight)).double()
    left, right = update.factors
    torch.testing.assert_close((left @ right).double(), dense, atol=1e-6, rtol=1e-4)
    assert update.energy == pytest.approx(float(dense.square().sum()), rel=1e-4)
    triplets = product_triplets(update.factors)
    again = triplets.left * triplets.values @ triplets.right.T
    torch.testing.assert_close(again, (left @ right).double(), atol=1e-6, rtol=1e-5)
    assert matrix_update(pair, Weight(1, "attn.o")) is None
    found = update_directions(pair)
    assert {weight.matrix for weight in found.matrices} == {"mlp.out"}
    assert {len(one.values) for one in found.matrices.values()} == {4}


def test_an_adapter_that_adds_nothing_has_no_directions(base, tmp_path):
    wrapped = tiny.lora("llama", base, tmp_path / "zero", part="mlp", init_lora_weights=True)
    for name, value in wrapped.named_parameters():
        if "lora_B" in name and "down_proj" in name:
            value.data.zero_()
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer(False))
    assert update_directions(pair).keys == []


def divergence_of(tuned, other):
    values = []
    for text in TEXTS:
        ids = torch.tensor([tiny.tokenizer(False)(text)["input_ids"]])
        with torch.no_grad():
            first, second = (
                model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (tuned, other)
            )
        values.append(float((first.exp() * (first - second)).sum(-1).mean()))
    return np.mean(values)


def test_all_ranks_are_the_fine_tuned_model_and_none_the_base(base):
    child = tiny.perturbed(base, 0.03)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    run = UpdateDirections(ranks=(1, 4, 8, 16, 31), draws=2)(study_of(child, base))
    part = run.tables["truncation"]
    rows = {(row["ranks"], row["update"], row["draw"]): row for row in part.rows()}
    assert rows[0, "fine-tuned", 0]["kl"] == pytest.approx(divergence_of(child, base), rel=1e-3)
    assert rows[-1, "fine-tuned", 0]["kl"] == 0
    assert rows[-1, "fine-tuned", 0]["recovered"] == 1
    own = [rows[k, "fine-tuned", 0]["kl"] for k in (0, 1, 4, 8, 16, 31, -1)]
    assert own[3] > own[4] > own[5] > own[6]
    for k in (16, 31, -1):
        assert all(
            rows[k, "random", at]["kl"] > 3 * rows[k, "fine-tuned", 0]["kl"] for at in (0, 1)
        )
    assert rows[8, "random", 0]["kl"] != rows[8, "random", 1]["kl"]
    figure = truncation_figure(part)
    assert [list(line.x) for line in figure.data] == [
        ["0", "1", "4", "8", "16", "31", "all"],
        ["1", "4", "8", "16", "31", "all"],
    ]
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])


def test_ranks_beyond_the_numerical_rank_are_not_repeated(base):
    child = added(base, {(1, "down"): random_change(0, rank=2)})
    part = UpdateDirections(ranks=(1, 2, 4, 8))(study_of(child, base)).tables["truncation"]
    assert sorted(set(part["ranks"].tolist())) == [-1, 0, 1]


def test_random_updates_have_equal_singular_values(base):
    from interp.analyzers.update_directions.truncation import _random, _triplets
    from interp.models.parameter_pairs import ParameterPair

    first, second = torch.zeros(32, 48), random_change(0, rank=5)
    pair = ParameterPair("x", "x", first, second)
    for k in (2, -1):
        made = _random(pair, _triplets(pair, 6), k, (0, 0, 0))[0]
        expected = torch.linalg.svdvals(second.double())
        expected[k if k > 0 else 32 :] = 0
        torch.testing.assert_close(
            torch.linalg.svdvals(made.double()), expected, atol=1e-6, rtol=1e-4
        )
    vector = ParameterPair("x", "x", torch.zeros(32), second[:, 0])
    made = _random(vector, _triplets(vector, 6), 1, (0, 0, 0))[0]
    assert float(made.norm()) == pytest.approx(float(second[:, 0].norm()), rel=1e-5)


def test_neither_batch_size_nor_padding_count(base):
    child = added(base, {(0, "o"): random_change(1, width=32), (2, "down"): random_change(2)})
    runs = [
        UpdateDirections(ranks=(1,))(study_of(child, base, batch_size=size)) for size in (1, None)
    ]
    for name in ("evidence", "where", "example", "opposite", "score"):
        assert runs[0][name].tolist() == runs[1][name].tolist()
    for one, other in zip(*(run.tables["truncation"].rows() for run in runs), strict=True):
        assert one["kl"] == pytest.approx(other["kl"], rel=1e-3, abs=1e-9)


def test_other_families_have_directions_too():
    base = tiny.gpt2(seed=3)
    run = UpdateDirections(ranks=(1,), rows=5)(study_of(tiny.perturbed(base, 0.02), base))
    assert len(run) == 5
    assert len(run.tables["truncation"]) == 5


def test_a_control_of_another_base_is_refused(base):
    other = tiny.llama(seed=4)
    with pytest.raises(PairError, match="another base"):
        UpdateDirections(controls=[pair_of(tiny.perturbed(other), other)])(
            study_of(tiny.perturbed(base), base)
        )


def test_texts_are_read_as_plain_text(base):
    study = study_of(base, base)
    assert len(coded_texts(study, "positive")) == len(TEXTS)
