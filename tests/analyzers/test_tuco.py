"""TuCo: a plain computation in float64 beside it, exactness and paths, controls and two classes."""

import copy
import json
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from interp import claims, organisms
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.tuco import Tuco
from interp.engines import Batch, torch_hooks
from interp.engines.shared_prefix import full_passes
from interp.errors import OptionError, PairError, UnsupportedModel
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, PromptSet, read_prompts
from interp.study import Study
from tests import tiny
from tests.tuco_pairs import WAYS, build, findings, pair_of, plain, some, split, study_of


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_beginning_that_all_prompts_share_is_read_once(name, positions, monkeypatch):
    """Of prompts of unlike lengths every number is that of whole prompts; both models' passes are
    divided.
    """
    pair = pair_of(name)
    given = tiny.contrast(6).positive
    prompts = [
        replace(p, text=12 * "please " + p.text + row * " now") for row, p in enumerate(given)
    ]
    study = Study(pair, OneClass(PromptSet(tuple(prompts), "long")), None)
    divided, used = torch_hooks.run_split, []

    def counted(*args):
        run = divided(*args)
        used.append(run is not None)
        return run

    monkeypatch.setattr(torch_hooks, "run_split", counted)
    once = Tuco(positions=positions)(study)
    # the tuned model, the base on its stream, the base alone
    assert sum(used) >= 3
    with full_passes(pair.tuned), full_passes(pair.base):
        whole = Tuco(positions=positions)(study)
    for kind in (None, "layers"):
        one, other = (run if kind is None else run.tables[kind] for run in (once, whole))
        for column in one.data:
            if one[column].dtype.kind == "f" and column != "error":
                np.testing.assert_allclose(
                    one[column], other[column], rtol=2e-4, atol=2e-6, err_msg=column
                )


@pytest.mark.parametrize("name", some("qwen3", "neox"))
def test_it_equals_the_plain_computation(name):
    pair = pair_of(name)
    study = study_of(pair, 2)
    found = [Tuco(path=path)(study) for path in ("fast", "full")]
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, (beta, beta_last) = plain(pair, coded.ids)
        for table in found:
            assert table["tuco"][row] == pytest.approx(tuco, abs=1e-5)
            assert table["output_co"][row] == pytest.approx(output, abs=1e-5)
            assert table["beta_last"][row] == pytest.approx(beta_last, abs=1e-5)
        assert np.isnan(found[0]["beta"]).all()
        assert found[1]["beta"][row] == pytest.approx(beta, abs=1e-5)
        assert abs(beta - beta_last) > 1e-3  # the two are told apart here


CHILDREN = [
    pytest.param(name, marks=[] if name == "refusal/lora" else pytest.mark.slow)
    for name in organisms.names()
    if organisms.base_of(name)
    and organisms.packaged(name) is None
    # thirty small adapters more would show nothing else; entities have another base
    and not name.startswith(("discover/", "entities/"))
]


@pytest.mark.parametrize("name", CHILDREN)
def test_it_equals_the_plain_computation_on_organisms(name):
    pair = Pair.load(f"organism:{name}", "organism:refusal/base")
    prompts = read_prompts(organisms.prompts("refusal", "verify", "harmful")).spread(2)
    study = Study(pair, OneClass(prompts), None)
    table = Tuco()(study)
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, (beta, _) = plain(pair, coded.ids)
        assert table["beta"][row] == pytest.approx(beta, abs=1e-5)
        assert table["tuco"][row] == pytest.approx(tuco, abs=1e-5)
        assert table["output_co"][row] == pytest.approx(output, abs=1e-5)


@pytest.mark.parametrize("name", [*some("gemma2"), pytest.param("gemma3", marks=pytest.mark.slow)])
def test_an_identical_pair_is_silent(name):
    base = build(name)
    pair = Pair.from_modules(copy.deepcopy(base), base, tiny.tokenizer())
    for granularity, path in WAYS:
        table = Tuco(granularity=granularity, path=path)(study_of(pair))
        largest = max(table["tuco"].max(), table["beta_last"].max())
        assert largest == 0 if path == "full" else largest <= 1e-6
        assert path == "fast" or not table["beta"].any()
        assert not table["output_co"].any()
        assert not claims.from_table(table.tables["claims"])[0].supported
    everywhere = Tuco(positions="all")(study_of(pair))
    assert not everywhere["tuco"].any()
    assert not everywhere.tables["tokens"]["beta"].any()


def test_a_base_that_adds_nothing_leaves_all_to_tuning():
    base = tiny.llama()
    tuned = copy.deepcopy(base)
    for block in base.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    table = Tuco()(study_of(Pair.from_modules(tuned, base, tiny.tokenizer())))
    assert (table["tuco"] == 1).all()
    assert (table["pre_co"] == 0).all()


@pytest.mark.parametrize("name", [*some("llama"), pytest.param("mixtral", marks=pytest.mark.slow)])
def test_neither_path_nor_padding_nor_batches_count(name):
    pair = pair_of(name)
    exact = Tuco(path="full")(study_of(pair, batch_size=1))
    assert ((exact["tuco"] > 0) & (exact["tuco"] < 1)).all()
    np.testing.assert_allclose(exact["tuco"] + exact["pre_co"], 1, rtol=1e-15)
    for path, batch_size in (("full", None), ("fast", None), ("fast", 2)):
        other = Tuco(path=path)(study_of(pair, batch_size=batch_size))
        for column in ("tuco", "output_co", "beta_last", *(["beta"] if path == "full" else [])):
            np.testing.assert_allclose(other[column], exact[column], rtol=2e-6, err_msg=column)


def test_all_tokens_and_the_last_agree_where_they_meet():
    pair = pair_of("gpt2")
    one, every = (
        Tuco(map_prompts=99)(study_of(pair)),
        Tuco(positions="all", map_prompts=99)(study_of(pair)),
    )
    tokens = every.tables["tokens"]
    for row, length in enumerate(one["tokens"]):
        mine = (
            (tokens["prompt_id"] == row)
            & (tokens["position"] == length - 1)
            & (tokens["layer"] == 2)
        )
        assert tokens["beta"][mine].item() == pytest.approx(one["tuco"][row], rel=1e-5)
        assert every["tuco"][row] == every.tables["layers"]["beta"][3 * row + 2]
    for column in ("beta", "beta_last"):
        np.testing.assert_array_equal(one[column], every[column])
    assert len(tokens) == 3 * one["tokens"].sum()


def test_norms_and_dropped_dimensions():
    pair = pair_of("llama")
    batch = Batch.pad([coded.ids for coded in study_of(pair).encoded("positive")], 0)
    _, ptc, ftc = split(pair, batch)
    kept = [d for d in range(32) if d not in (3, 9)]
    for order in (1, 2):
        found = Tuco(order=order, drop=(3, 9), output=False)(study_of(pair))
        base, tuned = (part.sum(0)[:, 0, kept].norm(p=order, dim=-1) for part in (ptc, ftc))
        np.testing.assert_allclose(found["tuco"], tuned / (base + tuned), rtol=1e-5)
        assert np.isnan(found["output_co"]).all()


@pytest.mark.slow
def test_an_adapter_switched_is_the_pair_at_every_strength(tmp_path):
    _adapter_switched(tmp_path, (1.0, 0.01, 0.001))


def test_an_adapter_switched_is_the_pair_of_two_models(tmp_path):
    _adapter_switched(tmp_path, (1.0,))


def _adapter_switched(tmp_path, strengths):
    """To a smaller and smaller adapter belongs a TuCo that falls in proportion."""
    base = tiny.llama()
    wrapped = tiny.lora("llama", base, tmp_path / "lora", fill=0.05)
    shares = []
    for strength in strengths:
        tuned = copy.deepcopy(wrapped)
        for module in tuned.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling.update(
                    {name: strength * value for name, value in module.scaling.items()}
                )
        merged = copy.deepcopy(tuned).merge_and_unload()
        switched = Tuco(path="full")(study_of(Pair.from_modules(tuned, None, tiny.tokenizer())))
        apart = Tuco(path="full")(study_of(Pair.from_modules(merged, base, tiny.tokenizer())))
        np.testing.assert_allclose(
            switched["tuco"], apart["tuco"], rtol=2e-3 if strength < 0.01 else 1e-4
        )
        shares.append(switched["tuco"].mean() / strength)
    assert len(shares) == 1 or shares[2] == pytest.approx(shares[1], rel=0.02)


def test_what_is_outside_the_blocks_is_said():
    base = tiny.llama()
    for part in ("embed_tokens", "norm"):
        tuned = copy.deepcopy(base)
        getattr(tuned.model, part).weight.data += 0.1 * torch.randn_like(
            getattr(tuned.model, part).weight
        )
        table = Tuco(path="full")(study_of(Pair.from_modules(tuned, base, tiny.tokenizer())))
        assert not table["tuco"].any()
        assert part in table.summary["limits"][0]
    head = copy.deepcopy(base)
    head.lm_head.weight.data += 0.1
    assert (
        "lm_head"
        in Tuco()(study_of(Pair.from_modules(head, base, tiny.tokenizer()))).summary["limits"][0]
    )


def test_other_settings_are_said_and_bar_scaling():
    base, tuned = (
        tiny.llama(),
        tiny.llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    )
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    table = Tuco()(study_of(pair))
    assert "rope_parameters" in table.summary["limits"][0]
    assert (table["tuco"] > 0).all()  # the weights are the same, the positions are told otherwise
    study = Study(pair, OneClass(tiny.contrast(3).positive), tiny.metric())
    with pytest.raises(UnsupportedModel, match="rope_parameters"):
        FtcAlpha()(study)
    assert "experts" in Tuco()(study_of(pair_of("mixtral"), 2)).summary["limits"][-1]


@pytest.mark.parametrize("twins", [False, True])
def test_twenty_copies_of_each_prompt_change_nothing(twins):
    """Six clusters a class, and every prompt twenty times in a file without clusters: equal claims,
    p and floor.
    """
    pair = pair_of("llama")
    both = tiny.contrast(6)
    if not twins:
        sets = (
            replace(part, prompts=tuple(replace(p, twin=None) for p in part))
            for part in (both.positive, both.negative)
        )
        both = Contrast(*sets)
    once, often = (Study(pair, tiny.copied(both, times), None) for times in (1, 20))
    assert len(often.prompts("positive")) == 120
    assert (once.contrast.n_clusters, often.contrast.n_clusters) == (6, 6)
    asked = Tuco(controls=(pair_of("llama", 0.002),), caliper=4, permutations=60)
    one, other = (asked(study) for study in (once, often))
    assert one.summary["noise_floor"] == other.summary["noise_floor"]
    assert one.tables["claims"]["name"].tolist() == other.tables["claims"]["name"].tolist()
    for column in ("value", "low", "high", "control_value", "p", "threshold"):
        mine, theirs = (each.tables["claims"][column].astype(float) for each in (one, other))
        np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-9, err_msg=column)


def test_a_control_is_not_beyond_itself():
    """Whatever its AUC, a tune that is its own control is not beyond it; and a control has the same
    base.
    """
    base = tiny.llama()
    pair = Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer())
    table = Tuco(controls=(pair,), caliper=9)(Study(pair, tiny.contrast(16), None))
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert made["separates-beyond-control"].value == made["beyond-control"].value == 0
    assert not table.summary["supported"]
    with pytest.raises(PairError, match="another base"):
        Tuco(controls=(pair_of("gpt2"),))(Study(pair, tiny.contrast(4), None))


def test_two_classes_have_an_auc_and_that_of_their_length():
    pair = pair_of("llama")
    both = tiny.contrast(16)
    study = Study(pair, both, None)
    table = Tuco()(study)
    found = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    labels = table["group"] == "positive"
    assert found["separates"].value == pytest.approx(roc_auc_score(labels, table["tuco"]))
    for claim in found.values():
        claims.check(claim, table)
    turned = Tuco()(study.with_prompts(Contrast(both.negative, both.positive)))
    other = {claim.name: claim for claim in claims.from_table(turned.tables["claims"])}
    assert other["separates"].value == pytest.approx(1 - found["separates"].value)
    apart = (
        PromptSet(both.positive.prompts[:1], "one"),
        PromptSet(tiny.contrast(33).negative.prompts[32:], "long"),
    )
    alone = Tuco(caliper=0)(study.with_prompts(Contrast(*apart)))
    for claim in claims.from_table(alone.tables["claims"])[2:]:
        assert not claim.supported
        claims.check(claim, alone)
    single = Tuco()(study.with_prompts(OneClass(apart[0])))
    rounding = claims.from_table(single.tables["claims"])[0]
    assert np.isnan(rounding.low)
    assert rounding.verdict == claims.TOO_FEW  # one prompt, however large its TuCo
    assert (
        "cannot be excluded as the cause" in findings(alone)["separates-at-equal-length"].sentence
    )


def test_one_class_is_a_study():
    pair, both = pair_of("llama"), tiny.contrast(4)
    one = Study(pair, OneClass(both.positive), None)
    assert one.classes == ("positive",)
    assert one.provenance(Tuco()).key != Study(pair, both, None).provenance(Tuco()).key
    assert (
        one.provenance(Tuco()).key
        != Study(pair, OneClass(both.negative), None).provenance(Tuco()).key
    )
    assert "negative" not in one.provenance(Tuco()).context
    with pytest.raises(Exception, match="one class of prompts was given"):
        one.encoded("negative")
    with pytest.raises(OptionError, match="needs a metric"):
        FtcAlpha()(one)
    with pytest.raises(OptionError, match="add --base"):
        Tuco()(Study(Pair.from_modules(pair.tuned.module, None, tiny.tokenizer()), both, None))


def test_the_key_follows_every_option():
    study, names = (
        study_of(pair_of("llama")),
        {
            "granularity": "sublayer",
            "positions": "all",
            "path": "fast",
            "order": 2,
            "drop": (1,),
            "output": False,
            "caliper": 2,
            "permutations": 9,
            "floor_prompts": 1,
            "map_prompts": 2,
            "by_answer": True,
            "keep_text": True,
            "controls": (pair_of("llama", 0.03),),
            "parent": "1" * 20,
        },
    )
    made = [Tuco(), *(Tuco(**{name: value}) for name, value in names.items())]
    assert len({study.provenance(each).key for each in made}) == len(made)
    assert set(names) == {field.name for field in fields(Tuco)}


def test_the_table_is_whole():
    study = study_of(pair_of("llama"))
    table = Tuco(positions="all")(study)
    assert table["prompt_id"].tolist() == [0, 1, 2, 3, 4]
    layers = table.tables["layers"]
    assert len(layers) == 15
    assert layers["error"].max() < 1e-6
    np.testing.assert_array_equal(layers["beta"][layers["layer"] == 2], table["tuco"])
    assert 0 < table.summary["noise_floor"] < 1e-6
    assert table.summary["sentence"].endswith(".")
    for part in (table, layers, table.tables["tokens"]):
        figure = plot(part)
        assert figure.layout.meta["caption"].endswith(".")
        assert json.loads(figure.to_json())["data"]
    again = Tuco(positions="all")(study_of(study.pair))
    assert again.equals(table)
    with pytest.raises(OptionError, match="cannot drop dimension 32"):
        Tuco(drop=(32,))(study)


@pytest.mark.slow
def test_organisms_say_what_their_names_promise():
    """A control changed less than a tune; its classes differ, by no more than the base alone has
    them differ.
    """
    prompts = [
        read_prompts(organisms.prompts("refusal", "verify", group))
        for group in ("harmful", "harmless")
    ]
    found = {}
    for name in ("planted", "sham"):
        pair = Pair.load(f"organism:refusal/{name}", "organism:refusal/base")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = Tuco()(Study(pair, Contrast(*prompts).limit(24), None))
    assert found["planted"].summary["tuco"] > found["planted"].summary["noise_floor"]
    beyond = {
        name: {claim.name: claim for claim in claims.from_table(table.tables["claims"])}[
            "separates-beyond-base"
        ]
        for name, table in found.items()
    }
    assert beyond["planted"].supported
    assert not beyond["sham"].supported
