"""Weight patching: shares beside weights exchanged by hand, all modules together, planted truth, random
and control changes, and the command.
"""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from interp import claims
from interp.analyzers.patch_weights import PatchWeights
from interp.analyzers.patch_weights.compute import (
    first_order,
    inserted,
    metric_of_states,
    removed,
    with_change,
)
from interp.analyzers.patch_weights.tables import Effects, modules_table
from interp.errors import OptionError, PairError, UnsupportedModel
from interp.figures import plot
from interp.models.pair import Pair
from interp.models.weight_modules import OUTSIDE, WeightModules
from interp.prompts import OneClass
from interp.store import Store
from interp.study import Study
from tests import families, tiny

FIVE = ("llama", "gpt2", "gemma2", "phi3", "neox")


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


def study_of(tuned, base, count=6, **options):
    pair = tuned if isinstance(tuned, Pair) else Pair.from_modules(tuned, base, tiny.tokenizer())
    positive = OneClass(tiny.contrast(count).positive)
    return Study(pair, positive, tiny.metric(), max_new_tokens=2, **options)


def apologetic(base, size=0.02):
    """A child of which every weight is another, and whose head likes the metric's word more, so that
    the metric's change is beyond its interval.
    """
    child = tiny.perturbed(base, size)
    word = tiny.tokenizer().convert_tokens_to_ids("\u0120Sorry")
    with torch.no_grad():
        last = torch.stack(
            [
                base.base_model(torch.tensor([coded.ids])).last_hidden_state[0, -1]
                for coded in study_of(base, None).encoded("positive")
            ]
        ).mean(0)
        for index in (word, tiny.tokenizer().convert_tokens_to_ids("Sorry")):
            child.get_output_embeddings().weight[index or word] += 3 * last / last.square().sum()
    return child


def log_odds(study, module):
    """The metric of every prompt, from a plain pass of one prompt at a time."""
    found = []
    for row, coded in enumerate(study.decision_inputs("positive")):
        objective = study.objective("positive", [row])
        with torch.no_grad():
            logits = torch.stack(
                [module(input_ids=torch.tensor([text.ids])).logits[0] for text in coded.texts]
            )
        found.append(float(objective.function(logits[:, -objective.keep :])[0]))
    return np.array(found)


def cells(table, layer, part):
    return next(row for row in table.rows() if (row["layer"], row["part"]) == (layer, part))


# ---------------------------------------------------------------------------------------------- numbers

# module -> (parameter, rows of the outputs, axis of the outputs) as the families store them
BY_HAND = {
    "llama": {
        (1, "attn.k"): [("model.layers.1.self_attn.k_proj.weight", slice(None), 0)],
        (2, "mlp.out"): [("model.layers.2.mlp.down_proj.weight", slice(None), 0)],
        (0, "attn.norm"): [("model.layers.0.input_layernorm.weight", slice(None), 0)],
        (OUTSIDE, "embed"): [("model.embed_tokens.weight", slice(None), 0)],
    },
    "gpt2": {
        (1, "attn.k"): [
            ("transformer.h.1.attn.c_attn.weight", slice(32, 64), 1),
            ("transformer.h.1.attn.c_attn.bias", slice(32, 64), 0),
        ],
        (0, "mlp.in"): [
            ("transformer.h.0.mlp.c_fc.weight", slice(None), 1),
            ("transformer.h.0.mlp.c_fc.bias", slice(None), 0),
        ],
    },
    "phi3": {
        (1, "attn.v"): [("model.layers.1.self_attn.qkv_proj.weight", slice(48, 64), 0)],
        (2, "mlp.in"): [("model.layers.2.mlp.gate_up_proj.weight", slice(48, 96), 0)],
    },
}


def exchanged(one, other, parts):
    """A copy of ``one`` with some rows of ``other``."""
    made, values = copy.deepcopy(one), dict(other.named_parameters())
    with torch.no_grad():
        for name, rows, axis in parts:
            own = dict(made.named_parameters())[name]
            index = (slice(None),) * axis + (rows,)
            own[index] = values[name][index]
    return made


@pytest.mark.parametrize("name", BY_HAND)
def test_shares_are_those_of_weights_exchanged_by_hand(name):
    base = build(name).double() if name != "llama" else tiny.exact(build(name))
    tuned = apologetic(base)
    study = study_of(tuned, base)
    table = PatchWeights(draws=0)(study)
    f0, f1 = (log_odds(study, module).mean() for module in (base, tuned))
    rows = table.tables["prompts"]
    tolerance = {"atol": 1e-9} if name in ("llama", "gpt2") else {"atol": 2e-5}
    np.testing.assert_allclose([rows["base"].mean(), rows["tuned"].mean()], [f0, f1], **tolerance)
    effects = table.tables["effects"]
    for (layer, part), parts in BY_HAND[name].items():
        own = (effects["layer"] == layer) & (effects["part"] == part)
        with_it, without = (
            log_odds(study, exchanged(*pair, parts)) for pair in ((base, tuned), (tuned, base))
        )
        np.testing.assert_allclose(effects["inserted"][own], with_it, **tolerance)
        np.testing.assert_allclose(effects["removed"][own], without, **tolerance)
        row = cells(table, layer, part)
        assert row["inserted"] == pytest.approx((with_it.mean() - f0) / (f1 - f0), abs=1e-4)
        assert row["removed"] == pytest.approx((f1 - without.mean()) / (f1 - f0), abs=1e-4)


@pytest.mark.parametrize("name", [*FIVE, "qwen3", "olmo2", "mixtral"])
@pytest.mark.parametrize("division", ["matrices", "groups"])
def test_all_modules_together_are_the_fine_tuned_model(name, division):
    """Every weight is in one module, and R = N = 1 of all at once, bit for bit."""
    base = build(name)
    study = study_of(tiny.perturbed(base, 0.02), base)
    weights = WeightModules.from_pair(study.pair, division)
    total = sum(value.numel() for value in base.parameters())
    assert sum(module.size for module in weights.modules) == total
    assert len({module.name for module in weights.modules}) == len(weights.modules)
    everything = range(len(weights.modules))
    states = [inserted(weights, everything), removed(weights, everything)]
    before = copy.deepcopy(base.state_dict())
    ends, found = metric_of_states(study, weights, states, "all")
    np.testing.assert_array_equal(found[0], ends[1])
    np.testing.assert_array_equal(found[1], ends[0])
    np.testing.assert_allclose(ends[1], log_odds(study, study.pair.tuned.module), atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    own = {(module.layer, module.part) for module in weights.modules if module.layer >= 0}
    wanted = {"attn.reads", "attn.writes"} if division == "groups" else {"attn.q", "attn.o"}
    assert {(layer, part) for layer in range(3) for part in wanted} <= own


def test_a_pass_from_the_stream_is_the_whole_pass():
    """Blocks below the first exchanged one are not run again."""
    base = tiny.exact(build("llama"))
    study = study_of(tiny.perturbed(base, 0.02), base)
    weights = WeightModules.from_pair(study.pair)
    numbers = range(len(weights.modules))
    make = [part(weights, [number]) for part in (inserted, removed) for number in numbers]
    whole = [dataclasses.replace(state, layer=OUTSIDE) for state in make]
    _, fast = metric_of_states(study, weights, make, "from the stream")
    _, slow = metric_of_states(study, weights, whole, "whole")
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_first_order_is_the_derivative_along_the_change():
    base = tiny.exact(build("gpt2"))
    study = study_of(tiny.perturbed(base, 0.02), base)
    weights = WeightModules.from_pair(study.pair)
    predicted = first_order(study, weights)
    step = 1e-5
    for number in range(0, len(weights.modules), 4):
        changes = weights.modules[number].changes
        for at, start in enumerate(("base", "tuned")):
            states = [
                with_change(weights, number, start, lambda f=f, c=changes: [f * x for x in c])
                for f in (step, -step)
            ]
            # a change is taken from the fine-tuned model, so that its sign turns
            _, found = metric_of_states(study, weights, states, "steps")
            slope = (found[0] - found[1]).mean() / (2 * step) * (1 if start == "base" else -1)
            assert predicted[at, number] == pytest.approx(slope, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------------------------------------- truth


def test_what_was_planted_is_found_and_nothing_else_is_listed():
    """The neurons' write weights are the only way out of them: without these the base is left."""
    study = tiny.planted_study("llama", max_new_tokens=2)
    table = PatchWeights(draws=39, null_modules=1)(
        study.with_prompts(OneClass(study.contrast.positive))
    )
    assert {(row["layer"], row["part"]) for row in table.rows()} == {
        (1, "mlp.gate"),
        (1, "mlp.in"),
        (1, "mlp.out"),
    }
    out = cells(table, 1, "mlp.out")
    assert out["rank"] == 1
    assert out["removed"] == pytest.approx(1, abs=1e-5)
    for part in ("mlp.gate", "mlp.in"):
        # the base's write weights of these neurons are zero: read weights alone do nothing
        assert cells(table, 1, part)["inserted"] == pytest.approx(0, abs=1e-5)
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    assert found["changes"].supported
    assert found["removes-beyond-rotated"].supported
    assert found["removes-beyond-permuted"].supported
    for finding in found.values():
        claims.check(finding, table)
    sums, shift = table.tables["prompts"], out["removed"]
    assert shift == pytest.approx(1, abs=1e-5)
    assert sums["removed_sum"].mean() > 1.5 * (sums["tuned"] - sums["base"]).mean(), "redundant"
    figure = plot(table)
    assert figure.layout.meta["caption"].endswith(".")


def test_identical_models_have_no_module():
    base = build("llama")
    table = PatchWeights()(study_of(copy.deepcopy(base), base))
    assert len(table) == 0
    assert table.summary["sentence"] == (
        "Fine-tuning changed no weight: there is no module to exchange."
    )
    assert table.summary["supported"] is False


def test_modules_that_are_not_measured_alone_are_measured_together():
    base = tiny.exact(build("llama"))
    study = study_of(tiny.perturbed(base, 0.02), base)
    table = PatchWeights(exact=3, null_modules=2, draws=3)(study)
    exact = [row for row in table.rows() if row["exact"]]
    assert [row["rank"] for row in exact[:3]] == [1, 2, 3]
    assert exact[3]["part"] == "rest"
    assert len(table) == table.summary["modules"] + 1
    weights = WeightModules.from_pair(study.pair)
    named = {(module.layer, module.part): at for at, module in enumerate(weights.modules)}
    others = [
        at for key, at in named.items() if key not in {(r["layer"], r["part"]) for r in exact[:3]}
    ]
    _, found = metric_of_states(
        study, weights, [inserted(weights, others), removed(weights, others)], "rest"
    )
    effects = table.tables["effects"]
    rest = effects["part"] == "rest"
    np.testing.assert_allclose(effects["inserted"][rest], found[0], atol=1e-12)
    np.testing.assert_allclose(effects["removed"][rest], found[1], atol=1e-12)
    sums = table.tables["prompts"]["inserted_sum"]
    np.testing.assert_allclose(
        sums,
        sum(
            effects["inserted"][own] - effects["base"][own]
            for own in (
                (effects["layer"] == row["layer"]) & (effects["part"] == row["part"])
                for row in exact
            )
        ),
        atol=1e-12,
    )
    tested = [row for row in table.rows() if row["tested"]]
    assert [row["rank"] for row in tested] == [1, 2]
    assert len(table.tables["random"]) == 2 * 2 * 3


def test_no_share_is_stated_where_the_metric_does_not_change():
    """The interval of the change covers 0: effects are there, shares are not."""
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.02), base)
    weights = WeightModules.from_pair(study.pair)
    count = len(study.prompts("positive"))
    ends = np.array([np.zeros(count), (-1.0) ** np.arange(count)])
    values = np.ones((1, count))
    effects = Effects(
        study,
        weights,
        ends,
        [0],
        np.zeros((2, len(weights.modules))),
        [0],
        values,
        values,
        None,
        {},
    )
    assert np.isnan(effects.shift)
    row = next(iter(modules_table(effects).rows()))
    assert row["exact"]
    assert np.isnan([row["inserted"], row["removed"]]).all()
    # fine-tuning that leaves the metric as it is: claims have no value
    moved = copy.deepcopy(base)
    with torch.no_grad():
        moved.get_input_embeddings().weight[-1] += 1  # of a token that no prompt has
    table = PatchWeights(draws=19)(study_of(moved, base))
    verdicts = table.summary["verdicts"]
    assert verdicts["inserts-beyond-rotated"] == verdicts["removes-beyond-rotated"] == "not tested"
    assert verdicts["changes"] == "not supported"
    assert "is not stated as a share" in table.summary["sentence"]


def test_an_adapter_switched_by_module_is_its_merged_model(tmp_path):
    base = tiny.llama(5)
    wrapped = tiny.lora("llama", base, tmp_path / "lora")
    merged = copy.deepcopy(wrapped).merge_and_unload()
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    one, other = (
        PatchWeights(draws=2, null_modules=1)(study)
        for study in (study_of(switched, None, 16), study_of(merged, base, 16))
    )
    assert [(r["layer"], r["part"]) for r in one.rows()] == [
        (r["layer"], r["part"]) for r in other.rows()
    ]
    assert "attn.k" not in set(one["part"])  # no adapter there
    assert np.isfinite(one["inserted"]).all()
    for name in ("inserted", "removed", "norm"):
        np.testing.assert_allclose(one[name], other[name], atol=2e-3)
    np.testing.assert_allclose(
        one.tables["random"]["inserted"], other.tables["random"]["inserted"], atol=2e-3
    )
    # the adapter is as it was
    for role in ("base", "tuned"):
        with switched[role].active() as module:
            ids = torch.tensor([[5, 6, 7]])
            plain = base if role == "base" else merged
            torch.testing.assert_close(module(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)


def test_controls_are_scaled_to_the_norm_of_the_change():
    base = tiny.exact(build("llama"))
    tuned = apologetic(base)
    half = copy.deepcopy(base)
    with torch.no_grad():
        for value, other in zip(half.parameters(), tuned.parameters(), strict=True):
            value += (other - value) / 2
    controls = [
        Pair.from_modules(module, base, tiny.tokenizer())
        for module in (half, *(tiny.perturbed(base, 0.01, seed) for seed in range(10, 14)))
    ]
    table = PatchWeights(controls, draws=19, null_modules=1)(study_of(tuned, base))
    first = next(iter(table.rows()))
    shares = table.tables["controls"]
    # half of the change, at the norm of the whole, is the change
    assert shares["norm_ratio"][0] == pytest.approx(0.5)
    assert shares["inserted"][0] == pytest.approx(first["inserted"], abs=1e-9)
    assert shares["removed"][0] == pytest.approx(first["removed"], abs=1e-9)
    assert shares["norm_ratio"][1:] == pytest.approx(0.5, abs=0.1)
    own = float((table.tables["prompts"]["tuned"] - table.tables["prompts"]["base"]).mean())
    assert 0.2 * own < shares["shift"][0] < own
    by_hand = study_of(controls[1].tuned.module, base)
    expected = log_odds(by_hand, controls[1].tuned.module) - log_odds(by_hand, base)
    assert shares["shift"][1] == pytest.approx(expected.mean(), abs=1e-6)
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    assert found["changes-beyond-new-control"].verdict != "not tested"
    assert found["inserts-beyond-new-control"].verdict != "not tested"
    for finding in found.values():
        claims.check(finding, table)
    kinds = set(table.tables["random"]["kind"])
    assert kinds == {"permuted", "rotated", "control"}


@pytest.mark.parametrize("least", [0.0, 1e6])
def test_a_change_that_does_not_count_carries_no_share(least):
    base = tiny.exact(build("llama"))
    table = PatchWeights(draws=19, null_modules=1, min_change=least)(
        study_of(apologetic(base), base)
    )
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    assert found["changes"].supported is (least == 0)
    assert any(finding.supported for finding in found.values()) is (least == 0)


def test_what_cannot_be_patched_is_refused():
    base = build("llama")
    study = study_of(tiny.perturbed(base), base)
    other = Pair.from_modules(tiny.llama(3), tiny.llama(4), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        PatchWeights((other,))(study)
    with pytest.raises(OptionError, match="needs a metric"):
        PatchWeights()(dataclasses.replace(study, metric=None))
    with pytest.raises(OptionError, match="use matrices or groups"):
        PatchWeights(modules="layers")
    turned = tiny.llama(7, rope_theta=500.0)
    with pytest.raises(UnsupportedModel, match="differ in rope"):
        PatchWeights()(study_of(turned, base))


# ------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("patch-weights")
    base = tiny.llama(7)
    models = {"base": base, "tuned": tiny.perturbed(base), "control": tiny.perturbed(base, 0.02, 9)}
    for name, model in models.items():
        tiny.save(model, root / name)
    texts = [prompt.text for prompt in tiny.contrast(12).positive]
    (root / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
    (root / "markers.txt").write_text("Sorry\n", encoding="utf-8")
    rows = [{"prompt": text, "answer": "open", "wrong_answer": "close"} for text in texts]
    (root / "task.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.mark.parametrize("source", ["positive", "task"])
def test_the_command_ranks_on_one_half_and_measures_on_the_other(run, saved, source):
    prompts = (
        ("--positive", saved / "prompts.txt", "--markers", saved / "markers.txt")
        if source == "positive"
        else ("--task", saved / "task.jsonl")
    )
    code, out, err = run(
        *("patch-weights", saved / "tuned", "--base", saved / "base", *prompts),
        *("--control", saved / "control", "--exact", 2, "--null-modules", 1, "--draws", 2),
        *("--store", saved / "runs", "--json", "--quiet"),
    )
    assert (code, err) == (0, "")
    table = Store(saved / "runs").get(json.loads(out)["run"])
    assert len(table.tables["prompts"]) == 6
    assert not any("chosen to be large" in limit for limit in table.summary["limits"])
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "base"), "give either --positive FILE or --task FILE"),
        (("--positive", "prompts.txt"), "patching weights needs a base model"),
        (("--base", "base", "--positive", "prompts.txt", "--metric", "accuracy"), "no gradient"),
        (("--base", "base", "--positive", "prompts.txt", "--metric", "logit-diff"), "needs a task"),
        (("--base", "base", "--positive", "prompts.txt", "--modules", "heads"), "use matrices"),
        (("--base", "base", "--positive", "prompts.txt", "--remote"), "--remote"),
        (("--base", "base", "--task", "task.jsonl", "--behaviour", "refusal"), "give one of them"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [
        saved / part if part in ("base", "prompts.txt", "task.jsonl") else part for part in options
    ]
    code, out, err = run("patch-weights", saved / "tuned", "--store", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
