"""Codes of heads: outputs and scores beside plain code, planted heads, silence, and the command."""

import copy
import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from benchmarks.worlds.planted_heads import planted_heads
from interp import claims
from interp.agreement.places import METHODS
from interp.analyzers.framework import Known
from interp.analyzers.sae_circuit import SaeCircuit
from interp.analyzers.sae_circuit.compute import softmax_in_layers
from interp.cli.sae_circuit import read_heads
from interp.engines import Batch, TorchEngine
from interp.errors import DictionaryError, OptionError, PairError
from interp.experiments.head_outputs import head_outputs
from interp.experiments.label_permutations import LabelPermutations
from interp.figures import plot
from interp.maths.code_sets import (
    appearances,
    best_f1,
    moderated,
    only_positive,
    only_positive_pairs,
    pair_sizes,
)
from interp.maths.statistics import roc_auc
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import OneClass
from interp.sae.training.full_batch import strongest_codes, train_full_batch
from interp.sites import Site
from interp.store import Store
from interp.study import Study
from tests import families, tiny

FIVE = ("llama", "gpt2", "gemma2", "phi3", "neox")
SMALL = {"width": 12, "epochs": 30, "scale": "rms", "trials": 6, "draws": 39}
peft_warns = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


def study_of(tuned, base=None, count=6, **options):
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    return Study(pair, OneClass(tiny.contrast(count).positive), None, **options)


# ---------------------------------------------------------------------------------- head outputs


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_heads_and_the_bias_add_up_to_the_output_projection(name, reduce):
    """In batches of padded prompts, against passes of single prompts."""
    study = study_of(build(name))
    model = study.pair.tuned
    outputs = head_outputs(study, model, study.encoded("positive"), reduce, "test")
    for layer in range(model.anatomy.n_layers):
        heads = outputs.layer(layer)
        assert heads.shape == (6, model.anatomy.n_heads, model.anatomy.width)
        module = model.module.get_submodule(
            model.anatomy.target(Site(layer, "attn.o.hook_out")).path
        )
        bias = getattr(module, "bias", None)
        for row, coded in enumerate(study.encoded("positive")):
            site = Site(layer, "attn.o.hook_out")
            batch = Batch.pad([coded.ids], study.pad_id)
            plain = TorchEngine().run(model, batch, reads=[site], keep=0).values[site][0]
            plain = plain[-1] if reduce == "last" else plain.mean(0)
            plain = plain if bias is None else plain - bias
            np.testing.assert_allclose(heads[row].sum(0), plain.detach(), atol=2e-5)


def test_each_head_is_what_is_lost_without_it():
    """A head's z set to 0 by a plain hook: the output changes by its contribution."""
    study = study_of(tiny.exact(build("llama")))
    module, coded = study.pair.tuned.module, study.encoded("positive")[0]
    outputs = head_outputs(study, study.pair.tuned, [coded], "mean", "test")
    attention = module.model.layers[1].self_attn.o_proj
    seen = []
    hook = attention.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        module(input_ids=torch.tensor([coded.ids]))
        hook.remove()
        z, out = seen[0]
        for head in range(4):
            less = z.clone()
            less[..., head * 8 : (head + 1) * 8] = 0
            lost = (out - attention(less))[0].mean(0)
            np.testing.assert_allclose(outputs.layer(1)[0, head], lost, atol=1e-12)


@peft_warns
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_on_the_output_projection_is_in_the_contribution(tmp_path, family):
    """Unmerged, the pair's base without it, and equal to the merged model."""
    base = tiny.FAMILIES[family](7)
    folder = tiny.save(base, tmp_path / "base")
    wrapped = tiny.lora(family, base, tmp_path / "tuned", folder, part="attention")
    pair = Pair.load(str(tmp_path / "tuned"), str(folder), device="cpu", dtype="float32")
    study = Study(pair, OneClass(tiny.contrast(4).positive), None)
    encoded = study.encoded("positive")
    merged = study_of(wrapped.merge_and_unload().eval(), base, 4)
    for role in ("tuned", "base"):
        own = head_outputs(study, pair[role], encoded, "mean", role)
        other = head_outputs(merged, merged.pair[role], encoded, "mean", role)
        for layer in range(3):
            np.testing.assert_allclose(own.layer(layer), other.layer(layer), atol=2e-5)
    changed = head_outputs(study, pair.tuned, encoded, "mean", "t").layer(1)
    assert (changed - head_outputs(study, pair.base, encoded, "mean", "b").layer(1)).abs().max() > 0


# ---------------------------------------------------------------------------------- scores


def by_sets(codes, labels):
    """The definition, with sets."""
    heads = codes.shape[1]
    nodes = [set(codes[labels, h].tolist()) - set(codes[~labels, h].tolist()) for h in range(heads)]
    pairs = {}
    for one, other in combinations(range(heads), 2):
        sides = [
            set(zip(codes[rows, one].tolist(), codes[rows, other].tolist(), strict=True))
            for rows in (labels, ~labels)
        ]
        pairs[one, other] = len(sides[0] - sides[1]), len(sides[0]) + len(sides[1])
    return [len(each) for each in nodes], pairs


@pytest.fixture(scope="module")
def drawn():
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 9, (40, 7)) * generator.integers(0, 2, (40, 7))
    labels = generator.random((5, 40)) < 0.5
    return codes, labels


def test_scores_are_those_of_sets(drawn):
    codes, labels = drawn
    nodes, sizes = only_positive(codes, labels)
    pairs = only_positive_pairs(codes, labels)
    assert sizes.tolist() == [len(set(column.tolist())) for column in codes.T]
    for at, own in enumerate(labels):
        plain, plain_pairs = by_sets(codes, own)
        assert nodes[:, at].tolist() == plain
        assert pairs[:, at].tolist() == [count for count, _ in plain_pairs.values()]
        assert pair_sizes(codes, own).tolist() == [size for _, size in plain_pairs.values()]


def test_names_of_codes_do_not_count_and_exchanged_labels_give_the_other_difference(drawn):
    codes, labels = drawn
    renamed = np.random.default_rng(0).permutation(40)[codes]
    for score in (lambda *args: only_positive(*args)[0], only_positive_pairs):
        np.testing.assert_array_equal(score(renamed, labels), score(codes, labels))
        swapped = [by_sets(codes, ~own) for own in labels]
        expected = np.array(
            [
                plain if score is not only_positive_pairs else [n for n, _ in pairs.values()]
                for plain, pairs in swapped
            ]
        ).T
        np.testing.assert_array_equal(score(codes, ~labels), expected)


def test_equal_codes_on_both_sides_score_nothing(drawn):
    twice = np.concatenate([drawn[0], drawn[0]])
    labels = (np.arange(80) < 40)[None]
    assert not only_positive(twice, labels)[0].any()
    assert not only_positive_pairs(twice, labels).any()


def published_walk(scores, heads, count):
    """The authors' walk (``src/edge.py``), all orders of ties averaged by random ones."""
    total, generator = np.zeros(heads), np.random.default_rng(0)
    ordered = [(a, b) for a in range(heads) for b in range(heads) if a != b]
    values = np.array([scores[a, b] for a, b in ordered])
    for _ in range(count):
        order = np.lexsort((generator.random(len(ordered)), -values))
        entries = [end for at in order for end in ordered[at]][: heads**2 // 2]
        total += np.bincount(entries, minlength=heads)
    return total / count


def test_appearances_are_the_mean_of_the_authors_walk_over_orders_of_ties():
    heads = 8
    scores = np.zeros((heads, heads))
    generator = np.random.default_rng(1)
    upper = generator.integers(0, 4, heads * (heads - 1) // 2)
    scores[np.triu_indices(heads, 1)] = upper
    scores += scores.T
    found = appearances(upper[:, None], heads)[:, 0]
    np.testing.assert_allclose(found, published_walk(scores, heads, 4000), atol=0.15)
    assert found.sum() == pytest.approx(heads**2 // 2)
    np.testing.assert_allclose(appearances(np.zeros((28, 1)), heads)[:, 0], 4.0)


def test_moderated_scores_treat_all_labellings_alike():
    scores = np.random.default_rng(0).integers(0, 5, (6, 30)).astype(float)
    scores[2] = 3
    values, order = moderated(scores), np.random.default_rng(1).permutation(30)
    np.testing.assert_allclose(moderated(scores[:, order]), values[:, order], atol=1e-12)
    assert not values[2].any()
    assert not moderated(np.ones((3, 5))).any()


def test_both_kinds_of_f1():
    labels, scores = np.array([1, 1, 0, 0, 0], bool), np.array([3.0, 1.0, 2.0, 0.0, 0.0])
    # at 3: P 1, R 1/2; at 2: 1/2, 1/2; at 1: 2/3, 1; at 0: 2/5, 1
    usual, published = best_f1(labels, scores)
    assert usual == pytest.approx(0.8)
    assert published == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    assert all(math.isnan(each) for each in best_f1(np.zeros(5, bool), scores))


def test_the_softmax_is_within_a_block():
    values = softmax_in_layers(np.array([1.0, 2.0, 700.0, 701.0]), 2)
    np.testing.assert_allclose(values.reshape(2, 2)[0], values.reshape(2, 2)[1])
    np.testing.assert_allclose(values.reshape(2, 2).sum(1), 1.0)


# ---------------------------------------------------------------------------------- autoencoder


def published_training(rows, encoder, bias, decoder, sparsity, rate, epochs):
    """The authors' loop in plain torch, decoder rows of latents at norm 1."""
    parts = [
        value.clone().requires_grad_()
        for value in (encoder, bias, decoder, torch.zeros(rows.shape[1]).to(rows))
    ]
    optimiser = torch.optim.Adam(parts, rate)
    for _ in range(epochs):
        optimiser.zero_grad()
        w, b, d, centre = parts
        codes = ((rows - centre) @ w.T + b).relu()
        error = rows - (codes @ d + centre)
        loss = error.square().mean() + sparsity * codes.norm(p=1, dim=1).mean()
        loss.backward()
        for part in (w, d):
            part.grad -= part.detach() * (part.grad * part.detach()).sum(1, keepdim=True)
        optimiser.step()
        with torch.no_grad():
            for part in (w, d):
                part /= part.norm(dim=1, keepdim=True)
    return parts


def test_training_is_the_authors_loop():
    rows = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double()
    start, _, _ = train_full_batch(rows, 6, sparsity=0.05, learning_rate=0.0, epochs=1, seed=4)
    trained, explained, l0 = train_full_batch(
        rows, 6, sparsity=0.05, learning_rate=1e-2, epochs=60, seed=4
    )
    w, b, d, centre = published_training(
        rows, start.W_enc.T, start.b_enc, start.W_dec, 0.05, 1e-2, 60
    )
    np.testing.assert_allclose(trained.W_enc.T, w.detach(), atol=1e-9)
    np.testing.assert_allclose(trained.b_enc, b.detach(), atol=1e-9)
    np.testing.assert_allclose(trained.W_dec, d.detach(), atol=1e-9)
    np.testing.assert_allclose(trained.b_dec, centre.detach(), atol=1e-9)
    assert 0 < explained < 1
    assert 0 < l0 < 6
    codes = ((rows - centre) @ w.T + b).relu()
    plain = torch.where(codes.amax(1) > 0, codes.argmax(1), 6)
    assert strongest_codes(trained, rows).tolist() == plain.tolist()


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(DictionaryError, match="lower the learning rate"):
        train_full_batch(torch.full((4, 3), 1e30), 2, sparsity=0.0, learning_rate=1e-3, epochs=1)


def test_scaled_inputs_give_the_same_codes_at_every_scale():
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).double()
    options = {"sparsity": 0.05, "learning_rate": 1e-2, "epochs": 20, "scale": True}
    one, other = (
        strongest_codes(train_full_batch(each, 6, **options).dictionary, each)
        for each in (rows, 1024 * rows)
    )
    assert one.tolist() == other.tolist()


# ---------------------------------------------------------------------------------- planted truth


@pytest.fixture(scope="module")
def world():
    return planted_heads(40)


@pytest.fixture(scope="module")
def found(world):
    """The shape of GPT-2 small: 12 blocks of 12 heads, ten of which are planted."""
    analyzer = SaeCircuit(heads=world.heads, trials=2, scale="rms", epochs=300, draws=99)
    return analyzer(world.study())


def test_planted_heads_are_found(found):
    trials = found.tables["trials"]
    assert trials["auc_nodes"].mean() >= 0.9
    assert trials["auc_edges"].mean() >= 0.9
    assert found.summary["auc_moderated"] >= 0.95
    assert roc_auc(found["known"], found["score"]) >= 0.9
    # of ten; and hardly any other of 134, since nothing reads what they write
    assert (found["p"][found["known"]] <= 0.05).sum() >= 8
    assert (found["p"][~found["known"]] <= 0.05).sum() <= 4


def test_planted_heads_are_no_circuit_under_permuted_labels(found):
    assert found.tables["permuted"]["auc_nodes"].mean() == pytest.approx(0.5, abs=0.15)
    by_name = {each.name: each for each in claims.from_table(found.tables["claims"])}
    assert by_name["heads-beyond-permuted"].supported
    for finding in by_name.values():
        claims.check(finding, found)
    caption = plot(found).layout.meta["caption"]
    assert "Squares" in caption


def test_random_codes_give_an_auc_of_one_half():
    """Heads that are alike but for the labels: 200 permutations, 10 of 144."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 12, (60, 144))
    labels = np.arange(60) < 30
    circuit = np.arange(144) < 10
    codes[:30, :10] = generator.integers(12, 15, (30, 10))
    permuted = LabelPermutations.from_clusters(
        labels.tolist(), [f"twin{row % 30}" for row in range(60)], np.zeros(60)
    )
    drawn = np.stack([labels, *permuted.drawn(200, 0)])
    nodes, _ = only_positive(codes, drawn)
    assert roc_auc(circuit, nodes[:, 0]) > 0.99
    plain = np.where(codes < 12, codes % 3, codes)[:, :30]
    aucs = [
        roc_auc(circuit[:30], appearances(only_positive_pairs(each, drawn[:1]), 30)[:, 0])
        for each in (plain, codes[:, :30])
    ]
    # as docs/sae-circuit.md says: pairs of heads with many codes come first, whatever the labels
    assert aucs[0] > 0.99
    assert aucs[1] < 0.1
    # alike in number of codes too: the ten are ten of the other heads' kind
    codes[:, :10] = generator.integers(0, 12, (60, 10))
    nodes, _ = only_positive(codes, drawn[1:])
    mean = np.mean([roc_auc(circuit, column) for column in nodes.T])
    assert mean == pytest.approx(0.5, abs=0.05)


def test_the_base_of_the_planted_model_has_no_such_heads(world):
    """The same prompts and heads in the model without them."""
    study = Study(Pair.from_modules(world.base, None, world.tokenizer), world.contrast, None)
    analyzer = SaeCircuit(heads=world.heads, trials=1, scale="rms", epochs=200, edges=False)
    table = analyzer(study)
    assert table.tables["trials"]["auc_nodes"].mean() < 0.75
    assert (table["p"][table["known"]] <= 0.05).sum() <= 1


def test_models_are_compared_on_the_same_prompts(world):
    """Fine-tuned runs against the base's: the heads whose weights changed are those found."""
    study = world.study().with_prompts(OneClass(world.contrast.positive))
    analyzer = SaeCircuit(heads=world.heads, trials=1, scale="rms", epochs=200, draws=39)
    table = analyzer(study)
    assert table.summary["comparison"] == "models"
    assert table.tables["trials"]["auc_nodes"].mean() >= 0.9
    assert (table["p"][table["known"]] <= 0.05).sum() >= 8
    assert any("--control" in line for line in table.summary["limits"])


# ---------------------------------------------------------------------------------- null and silence


def test_an_identical_pair_has_no_codes_of_its_own():
    base = build("llama")
    table = SaeCircuit(heads=((0, 1),), **SMALL)(study_of(copy.deepcopy(base), base))
    for column in ("score", "share", "permuted", "moderated"):
        assert not table[column].any(), column
    assert (table["p"] == 1).all()
    assert not len(table.tables["edges"])
    assert table.tables["trials"]["auc_nodes"].tolist() == [0.5] * 6
    assert table.tables["trials"]["auc_edges"].tolist() == [0.5] * 6
    assert not table.summary["supported"]


def test_p_is_by_the_largest_of_all_heads():
    base = build("llama")
    table = SaeCircuit(**SMALL)(study_of(tiny.perturbed(base, 0.05), base))
    largest = table.tables["permuted"]["largest"]
    for value, p in zip(table["moderated"], table["p"], strict=True):
        assert p == pytest.approx((1 + (largest >= value).sum()) / 40)
    assert table["score"][table["rank"] == 1] == table["score"].max()
    assert (table["low"] <= table["score"] + 1e-12).all()
    assert "edges" in table.tables


def test_controls_have_autoencoders_of_their_own():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.05), base)
    tokenizer = study.pair.tokenizer
    others = [
        Pair.from_modules(tiny.perturbed(base, 0.05, 10 + seed), base, tokenizer)
        for seed in range(4)
    ]
    same = Pair.from_modules(copy.deepcopy(base), base, tokenizer)
    table = SaeCircuit((same, *others), **SMALL)(study)
    controls = table.tables["controls"]
    assert controls["score"][0] == 0
    assert (controls["score"][1:] > 0).all()
    own = SaeCircuit(**SMALL)(
        Study(others[0], study.contrast, None),
    )
    assert controls["score"][1] == pytest.approx(own["score"].mean())
    excess = (own["score"] - own["permuted"]).mean()
    assert controls["excess"][1] == pytest.approx(excess)
    assert own.tables["trials"]["excess"].mean() == pytest.approx(excess)
    finding = {f.name: f for f in claims.from_table(table.tables["claims"])}[
        "codes-beyond-new-control"
    ]
    claims.check(finding, table)
    assert finding.verdict in ("supported", "not supported")
    other = Pair.from_modules(tiny.llama(3), tiny.llama(4), tokenizer)
    with pytest.raises(PairError, match="another base"):
        SaeCircuit((other,), **SMALL)(study)


def test_prompts_of_other_lengths_are_a_warning(found):
    assert not any("length" in line for line in found.summary["limits"])
    longer = tiny.contrast(6)
    texts = tuple(replace(p, text=f"please {p.text} please") for p in longer.positive)
    uneven = replace(longer, positive=replace(longer.positive, prompts=texts))
    pair = Pair.from_modules(build("llama"), None, tiny.tokenizer())
    table = SaeCircuit(**{**SMALL, "draws": 1})(Study(pair, uneven, None))
    assert any("equal length" in line for line in table.summary["limits"])


def test_what_cannot_be_scored_is_refused():
    base = build("llama")
    study = study_of(base)
    with pytest.raises(OptionError, match="add --base"):
        SaeCircuit()(study)
    with pytest.raises(OptionError, match="use auto, models or prompts"):
        SaeCircuit(comparison="both")
    with pytest.raises(OptionError, match=r"head 3\.0 does not exist"):
        SaeCircuit(heads=((3, 0),)).check(Known(True, (3, 4)))
    with pytest.raises(OptionError, match="leave one of them out"):
        SaeCircuit((study.pair,), comparison="prompts")(study)


def test_the_model_is_in_the_cost():
    study = study_of(tiny.perturbed(build("llama")), build("llama"))
    assert SaeCircuit(**SMALL).work(study).passes > 2
    assert isinstance(study.pair.tuned, Model)


# ---------------------------------------------------------------------------------- the command


def test_heads_are_read_from_a_list_or_a_file(tmp_path):
    file = tmp_path / "heads.txt"
    assert read_heads(None) == ()
    assert read_heads("9.6, 9.9,9.6") == ((9, 6), (9, 9))
    file.write_text("9.6\n10.0 ", encoding="utf-8")
    assert read_heads(str(file)) == ((9, 6), (10, 0))
    file.write_text("[[9, 6], [0, 1]]", encoding="utf-8")
    assert read_heads(str(file)) == ((9, 6), (0, 1))
    for text, said in (("", "lists no head"), ("9-6", "which is not a head"), ("[]", "no head")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(OptionError, match=said):
            read_heads(str(file))
    with pytest.raises(OptionError, match="cannot read"):
        read_heads("9-6")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("sae-circuit")
    base = tiny.llama(7)
    models = {"base": base, "tuned": tiny.perturbed(base, 0.05), "control": tiny.perturbed(base)}
    for name, model in models.items():
        tiny.save(model, root / name)
    (root / "prompts.txt").write_text("\n".join(tiny.PROMPTS), encoding="utf-8")
    (root / "heads.txt").write_text("1.2\n2.0", encoding="utf-8")
    return root


FLAGS = ("--width", 8, "--epochs", 10, "--trials", 2, "--draws", 19, "--scale", "rms")


def test_the_command_keeps_a_run(run, saved):
    code, out, err = run(
        *("sae-circuit", saved / "tuned", "--base", saved / "base", *FLAGS),
        *("--prompts", saved / "prompts.txt", "--control", saved / "control"),
        *("--heads", saved / "heads.txt", "--store", saved / "runs", "--json", "--quiet"),
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    table = Store(saved / "runs").get(record["run"])
    assert record["rows"] == len(table) == 12
    assert table["known"].sum() == 2
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)


def test_another_circuit_in_the_file_is_another_run(run, saved):
    words = ("sae-circuit", saved / "tuned", "--base", saved / "base", *FLAGS, "--json", "--quiet")
    words = (*words, "--prompts", saved / "prompts.txt", "--store", saved / "others", "--no-edges")
    file = saved / "circuit.txt"
    keys = []
    for text in ("0.0", "0.1 1.1", "0.0\n"):
        file.write_text(text, encoding="utf-8")
        record = json.loads(run(*words, "--heads", file)[1])
        keys.append(record["run"])
    assert keys[0] == keys[2] != keys[1]
    assert record["cached"] is True


@pytest.mark.slow
def test_a_report_is_measured_again(run, saved, tmp_path):
    words = ("sae-circuit", saved / "tuned", "--base", saved / "base", *FLAGS, "--json", "--quiet")
    words = (*words, "--prompts", saved / "prompts.txt", "--store", tmp_path / "runs")
    key = json.loads(run(*words, "--heads", saved / "heads.txt")[1])["run"]
    page = tmp_path / "report.html"
    assert run("report", key, "--store", tmp_path / "runs", "--out", page, "--quiet")[0] == 0
    code, out, err = run(
        *("verify", page.with_suffix(".json"), "--store", tmp_path / "runs", "--remeasure")
    )
    assert (code, err) == (0, ""), out


def test_runs_agree_head_by_head(found):
    _, read = METHODS["sae-circuit"]
    places = read(found)
    assert [(place.layer, place.part) for place in places] == [
        (layer, f"head {head}") for layer in range(12) for head in range(12)
    ]
    amounts = np.array([place.amount for place in places])
    assert amounts.min() == 0
    assert amounts[found["known"]].mean() > 2 * amounts[~found["known"]].mean()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "base", "--prompts", "prompts.txt", "--remote"), "--remote"),
        (("--base", "base"), "give either --prompts"),
        (("--prompts", "prompts.txt"), "sae-circuit with --prompts needs a base model"),
        (("--base", "base", "--prompts", "prompts.txt", "--width", "1"), "--width"),
        (("--base", "base", "--prompts", "prompts.txt", "--heads", "7.0"), "does not exist"),
        (("--base", "base", "--prompts", "prompts.txt", "--scale", "two"), "use none or rms"),
        (
            ("--positive", "prompts.txt", "--negative", "heads.txt", "--control", "control"),
            "add --comparison models",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [saved / part if (saved / part).exists() else part for part in options]
    code, out, err = run(
        "sae-circuit", saved / "tuned", "--store", tmp_path / "runs", "--quiet", *given
    )
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
