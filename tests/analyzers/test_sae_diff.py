"""``interp sae diff``: what is planted in a model is found, beside a control; where there is
nothing, nothing is.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import claims, organisms
from interp.analyzers.framework import Known
from interp.analyzers.sae_diff import SaeDiff
from interp.cli.common import Common
from interp.cli.prompt_options import site_of
from interp.errors import OptionError, PairError
from interp.kinds import KINDS
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet
from interp.sae import Dictionary, DictionaryConfig, save
from interp.sae.analysis.classes import Thresholds
from interp.study import Study
from tests import tiny
from tests.claim_makers import require_remeasured

SITE = "blocks.0.hook_resid_pre"
OTHER = {
    "crosscoder": "base-only",
    "tuned": "base-only",
    "base": "tuned-only",
    "difference": "base-only",
}
PLANTED, WIDTH = 3.0, 32


def token(word=" please"):
    (found,) = tiny.tokenizer(False)(word)["input_ids"]
    return found


def direction():
    return torch.nn.functional.normalize(
        torch.randn(WIDTH, generator=torch.Generator().manual_seed(4)), dim=0
    )


def base():
    return tiny.llama(seed=3)


def tune(amount=PLANTED, seed=1):
    """The base, moved by noise, whose word "please" also has a direction of its own."""
    model = tiny.perturbed(base(), 0.001, seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[token()] += amount * direction()
    return model


def prompts(count=40, first=0):
    verbs, nouns = ("open", "close", "paint", "lock"), ("door", "window", "gate", "fences")
    made = []
    for row in range(first, first + count):
        polite = "" if row % 3 == 0 else "tell me , please "
        made.append(Prompt(row, f"{polite}{verbs[row % 4]} the {nouns[row // 4 % 4]}", f"c{row}"))
    return OneClass(PromptSet(tuple(made), "prompts"))


def study(tuned=None, of=None, asked=None, **options):
    return Study(
        Pair.from_modules(tuned or tune(), of or base(), tiny.tokenizer()),
        asked or prompts(),
        None,
        **options,
    )


def dictionary(way="tuned", seed=0):
    """Latent 0 reads and writes the planted direction; the others are random ones at right angles
    to it.
    """
    config = DictionaryConfig("jumprelu", WIDTH, 24, models=1 + (way == "crosscoder"))
    made = Dictionary(config, seed=seed)
    own = torch.cat([torch.zeros(WIDTH), direction()]) if way == "crosscoder" else direction()
    aside = torch.eye(WIDTH) - torch.outer(direction(), direction())
    aside = torch.block_diag(*[aside] * config.models)
    with torch.no_grad():
        made.W_dec.copy_(made.W_dec @ aside)
        made.W_enc.copy_(aside @ made.W_enc)
        made.W_dec[0], made.W_enc[:, 0] = own, own
        made.threshold.fill_(0.05)
        made.threshold[0] = PLANTED / 2
    return made


def analyzer(way="tuned", made=None, **options):
    made = made or dictionary(way)
    return SaeDiff(made, way, **{"site": SITE, **options})


@pytest.fixture(scope="module")
def found():
    return analyzer()(study())


class TestPlanted:
    @pytest.mark.parametrize("way", ["crosscoder", "tuned", "difference"])
    def test_what_only_the_tuned_model_has_is_called_so_and_exchanged_models_turn_it_round(
        self, way
    ):
        one = analyzer(way)(study())
        assert (one["class"][0], one["claimed"][0]) == ("tuned-only", True)
        assert one.summary["claimed"]["tuned-only"] == 1
        if way == "crosscoder":
            made = dictionary(way)
            half = torch.cat([torch.arange(WIDTH, 2 * WIDTH), torch.arange(WIDTH)])
            with torch.no_grad():
                made.W_dec.copy_(made.W_dec[:, half].clone())
                made.W_enc.copy_(made.W_enc[half].clone())
        else:
            made = dictionary(way)
        if way == "difference":
            with torch.no_grad():
                made.W_enc.neg_()
                made.W_dec.neg_()
        turned = analyzer({"tuned": "base"}.get(way, way), made)(study(base(), tune()))
        assert (turned["class"][0], turned["claimed"][0]) == ("base-only", True)
        named = {"base-only": "tuned-only", "tuned-only": "base-only"}
        assert turned["class"].tolist() == [named.get(kind, kind) for kind in one["class"]]

    def test_beside_a_control_it_is_claimed_and_can_be_measured_again(self, found):
        kept = analyzer()(study(tune(0.0)))
        assert kept.summary["claimed"]["tuned-only"] == 0
        beside = analyzer(controls=(kept,))(study())
        made = require_remeasured(beside)
        assert "the control pair gives 0 of" in made["tuned-only"].sentence
        assert made["changed"].verdict == "not supported"
        assert len(beside.tables["control"]) == len(kept)
        assert beside.summary["control_runs"] == [kept.provenance.key]
        assert set(beside.tables["classes"]["pair"]) == {"this pair", "control"}
        assert beside.provenance.key != found.provenance.key
        # alone, the number is said and not claimed
        alone, _ = claims.from_table(found.tables["claims"])
        assert (alone.value, alone.verdict) == (made["tuned-only"].value, "not tested")
        assert "Without a control" in found.summary["limits"][0]

    def test_of_five_controls_the_interval_of_a_further_one_is_told(self):
        kept = [
            analyzer(made=dictionary(seed=seed))(study(tune(0.0, seed))) for seed in range(2, 7)
        ]
        beside = analyzer(controls=tuple(kept))(study())
        made = require_remeasured(beside)
        assert "5 control pairs give 0 of" in made["tuned-only"].sentence
        assert beside.summary["control_runs"] == [one.provenance.key for one in kept]
        assert beside.tables["control"]["control"].tolist() == [
            at for at, one in enumerate(kept) for _ in range(len(one))
        ]
        assert set(beside.tables["classes"]["pair"]) == {
            "this pair",
            *(f"control {at}" for at in range(1, 6)),
        }
        shares = beside.tables["controls"]["claimed_tuned_only"]
        np.testing.assert_array_equal(shares, [0.0] * 5)
        further = made["tuned-only-beyond-new-control"]
        assert (further.value, further.control_high) == (made["tuned-only"].value, 0.0)
        assert "The prediction interval of a new control is 0.0%" in further.sentence
        # one of some twenty latents says nothing beside none of a hundred, though no control varies
        assert further.low > further.control_high
        assert not made["tuned-only"].supported
        assert not further.supported
        three = require_remeasured(analyzer(controls=tuple(kept[:3]))(study()))[
            "tuned-only-beyond-new-control"
        ]
        assert three.verdict == "not tested"
        assert "5 are needed" in three.reason

    def test_rows_are_those_of_both_models(self, found):
        """Oracle: rates from the models' own embeddings, token by token."""
        here = study()
        made, rates = dictionary(), {}
        for role in ("base", "tuned"):
            embed = here.pair[role].module.model.embed_tokens.weight
            rows = torch.cat([embed[list(one.ids)] for one in here.encoded("positive")])
            rates[role] = (made.encode(rows) > 0).double().mean(0).numpy()
        np.testing.assert_allclose(found["rate"], rates["tuned"], atol=1e-12)
        np.testing.assert_allclose(found["rate_base"], rates["base"], atol=1e-12)
        assert found.summary["tokens"] == sum(len(one.ids) for one in here.encoded("positive"))

    # the others by the contract of analyzers
    @pytest.mark.parametrize("way", ["crosscoder", "tuned"])
    def test_an_identical_pair_gives_exactly_nothing(self, way):
        one = analyzer(way)(study(base()))
        assert one.summary["identical"]
        assert one.summary["sentence"].startswith("Both models' rows are equal, bit for bit.")
        for kind in ("tuned-only", "base-only", "rotated", "rescaled"):
            assert one.summary["claimed"][kind] == 0, kind
        assert (one["exchange_p"] == 1).all()
        assert not one.summary["supported"]


class TestWhatCounts:
    def test_special_tokens_apart_and_left_out(self, found):
        assert found["special_share"][0] == 0, "please is no special token"
        assert found["rate_content"][0] > found["rate"][0] > 0
        bare = analyzer(content_only=True)(study())
        assert "rate_special" not in bare.data
        assert 0 < bare.summary["tokens"] < found.summary["tokens"]
        np.testing.assert_allclose(bare["rate"], found["rate_content"], atol=1e-12)

    def test_what_is_active_on_the_template_alone_is_said(self):
        model, mark = (
            tiny.perturbed(base(), 0.001),
            tiny.tokenizer().convert_tokens_to_ids("<|assistant|>"),
        )
        with torch.no_grad():
            model.model.embed_tokens.weight[mark] += PLANTED * direction()
        one = analyzer()(study(model))
        assert one["special_share"][0] == 1
        assert one["class"][0] == "tuned-only"
        assert one.summary["mainly_special"] == 1
        assert any("mainly active on special" in line for line in one.summary["limits"])

    def test_sinks_are_left_out_in_both_and_counted(self, found):
        tuned = tune()
        with torch.no_grad():
            tuned.model.embed_tokens.weight[token(" the")] *= 1000
        one, whole = (analyzer(max_norm_ratio=size)(study(tuned)) for size in (10.0, 0.0))
        ids = [index for coded in study().encoded("positive") for index in coded.ids]
        assert one.summary["sinks"] == ids.count(token(" the")) > 0
        assert one.summary["sinks_by_token"] == {" the": one.summary["sinks"]}
        assert one.summary["tokens"] + one.summary["sinks"] == whole.summary["tokens"] == len(ids)
        assert whole.summary["sinks"] == 0
        assert one["class"][0] == "tuned-only"

    @pytest.mark.slow
    def test_batches_and_padding_do_not_count(self, found):
        one = analyzer()(study(batch_size=1))
        assert one["class"].tolist() == found["class"].tolist()
        for column in found.columns:
            if found[column.name].dtype.kind == "f":
                np.testing.assert_allclose(
                    one[column.name], found[column.name], rtol=1e-4, atol=1e-5
                )
        assert one.provenance.key == found.provenance.key


def test_a_control_of_something_else_is_refused():
    kept = analyzer()(study(tune(0.0)))
    with pytest.raises(OptionError, match="another content_only"):
        analyzer(controls=(kept,), content_only=True)(study())
    with pytest.raises(OptionError, match="on other prompts"):
        analyzer(controls=(kept,))(study(asked=prompts(39)))
    with pytest.raises(PairError, match="another base"):
        analyzer(controls=(kept,))(study(of=tiny.perturbed(base(), 0.01)))


def test_what_cannot_be_compared_is_refused_before_a_model_runs():
    for options, said in (
        ({"thresholds": Thresholds(folds=21)}, "2 to 20"),
        ({"draws": 9}, "use at least"),
        ({"max_norm_ratio": 0.5}, "a norm limit of"),
        ({"site": "nowhere"}, "is not a site"),
        ({"comparison": "lens"}, "comparison of SaeDiff is 'lens'; use crosscoder"),
    ):
        with pytest.raises(OptionError, match=said):
            dataclasses.replace(analyzer(), **options).check(Known())
    with pytest.raises(OptionError, match="at least 39"):
        dataclasses.replace(analyzer("crosscoder", dictionary("crosscoder")), draws=38).check(
            Known()
        )
    with pytest.raises(OptionError, match="crosscoder of two models"):
        analyzer("crosscoder", dictionary("tuned")).check(Known())
    with pytest.raises(OptionError, match="autoencoder of one site"):
        analyzer("tuned", dictionary("crosscoder")).check(Known())
    with pytest.raises(OptionError, match="have 5 clusters"):
        analyzer()(study(asked=prompts(5)))
    with pytest.raises(OptionError, match="width 32"):
        analyzer(site="blocks.0.mlp.hook_post")(study())


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models, dictionaries and prompts on disk."""
    path = tmp_path_factory.mktemp("saved")
    for name, model in (("base", base()), ("tuned", tune()), ("control", tune(0.0, seed=2))):
        tiny.save(model, path / name)
    save(dictionary(), path / "sae", {"site": SITE, "of": "tuned"})
    save(dictionary(seed=1), path / "control-sae", {"site": SITE, "of": "tuned"})
    save(dictionary("crosscoder"), path / "both", {"site": SITE, "of": "both"})
    save(dictionary(), path / "unsaid")
    save(dictionary(), path / "sited", {"site": SITE})
    (path / "text.txt").write_text("\n".join(prompt.text for prompt in prompts().positive))
    (path / "few.txt").write_text("open the door\nclose the gate\n")
    return path


def asked(path, store, *more, name="sae", **changed):
    words = {
        "--model": path / "tuned",
        "--base": path / "base",
        "--data": path / "text.txt",
        **changed,
    }
    return [
        "sae",
        "diff",
        path / name,
        *(w for pair in words.items() for w in pair),
        "--store",
        store,
        *more,
    ]


def test_a_command_keeps_both_pairs_and_recalls_them(saved, tmp_path, run):
    beside = {"--control": saved / "control", "--control-dictionary": saved / "control-sae"}
    words = asked(saved, tmp_path / "runs", "--json", **beside)
    code, out, err = run(*words)
    assert code == 0, err
    told = json.loads(out)
    assert not told["cached"]
    assert told["rows"] == 24
    assert told["summary"]["way"] == "tuned"
    assert told["summary"]["claimed"]["tuned-only"] == 1
    (control,) = told["summary"]["control_runs"]
    assert control in err
    assert (tmp_path / "runs" / control / "manifest.json").is_file()
    page = (tmp_path / "runs" / told["run"] / "page.html").read_text("utf-8")
    assert KINDS["sae-diff-classes"].heading in page
    assert KINDS["sae-diff"].heading in page
    code, out, _ = run(*words)
    again = json.loads(out)
    assert (code, again["cached"], again["run"]) == (0, True, told["run"])
    # latents that were not made of the control would find nothing in it
    code, _, err = run(
        *asked(
            saved, tmp_path / "runs", "--json", **{**beside, "--control-dictionary": saved / "sae"}
        )
    )
    assert (code, "is the same as the dictionary under test" in err) == (2, True)
    # but the base is the same beside both
    same = {**beside, "--control-dictionary": saved / "sited"}
    code, _, err = run(
        *asked(saved, tmp_path / "runs", "--comparison", "base", name="sited", **same)
    )
    assert code == 0, err
    code, out, err = run(*asked(saved, tmp_path / "runs", "--json"))
    assert code == 0, err
    assert "without a control no claim is tested" in err
    assert not json.loads(out)["summary"]["supported"]


def test_several_controls_by_the_command(saved, tmp_path, run):
    tiny.save(tune(0.0, seed=3), tmp_path / "other")
    save(dictionary(seed=2), tmp_path / "other-sae", {"site": SITE, "of": "tuned"})
    more = [
        "--control",
        saved / "control",
        "--control-dictionary",
        saved / "control-sae",
        "--control",
        tmp_path / "other",
        "--control-dictionary",
        tmp_path / "other-sae",
    ]
    code, out, err = run(*asked(saved, tmp_path / "runs", *more, "--json"))
    assert code == 0, err
    told = json.loads(out)
    assert len({*told["summary"]["control_runs"]}) == 2
    page = (tmp_path / "runs" / told["run"] / "page.html").read_text("utf-8")
    assert "2 control pairs give" in page
    assert "control 2" in page


def test_auto_is_what_the_dictionary_says(saved, tmp_path, run):
    code, out, err = run(*asked(saved, tmp_path / "runs", "--json", name="both"))
    assert code == 0, err
    assert json.loads(out)["summary"]["way"] == "crosscoder"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("unsaid", [], "does not say which site"),
        ("sited", [], "add --comparison base, tuned or difference"),
        ("sae", ["--comparison", "base"], "is a dictionary for --comparison tuned"),
        ("sae", ["--comparison", "lens"], "unknown --comparison"),
        (
            "sae",
            ["--control", "x"],
            "1 and 0 were given",
        ),
        (
            "sae",
            ["--control", "{}/control", "--control-dictionary", "{}/control-sae"] * 2,
            "is given twice",
        ),
        (
            "sae",
            ["--control", "{}/control", "--control-dictionary", "{}/both"],
            "another comparison (crosscoder, not tuned)",
        ),
        ("sae", ["--nu-error", "2"], "thresholds error 2"),
        ("sae", ["--max-norm-ratio", "0.5"], "a norm limit of"),
        ("sae", ["--site", "blocks.9.hook_resid_post"], "blocks.9"),
        ("sae", ["--data", "{}/few.txt"], "2 clusters"),
        ("nothing", [], "nothing"),
        ("sae", ["--remote"], "--remote"),
    ],
)
def test_what_makes_no_sense_is_one_line(saved, tmp_path, run, only_line, name, more, said):
    more = [word.format(saved) for word in more]
    code, _, err = run(*asked(saved, tmp_path / "runs", *more, "--quiet", name=name))
    assert code == 2
    assert said in only_line(err)
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_a_base_is_needed(saved, tmp_path, run, only_line):
    code, _, err = run(
        "sae",
        "diff",
        saved / "sae",
        "--model",
        saved / "tuned",
        "--data",
        saved / "text.txt",
        "--store",
        tmp_path / "runs",
    )
    assert code == 2
    assert "add --base MODEL" in only_line(err)


def test_a_shipped_tune_beside_its_control(tmp_path, run):
    """A few steps of training would do no better: random rows of the right width, through the
    command.
    """
    shape = DictionaryConfig("topk", 128, 48, models=2, k=8)
    for seed, name in enumerate(("full", "control")):
        save(
            Dictionary(shape, seed=seed),
            tmp_path / name,
            {"site": "blocks.2.hook_resid_post", "of": "both"},
        )
    code, out, err = run(
        "sae",
        "diff",
        tmp_path / "full",
        "--model",
        "organism:refusal/full",
        "--base",
        "organism:refusal/base",
        "--data",
        organisms.prompts("refusal", "verify", "harmful"),
        "--max-prompts",
        "48",
        "--control",
        "organism:refusal/sham",
        "--control-dictionary",
        tmp_path / "control",
        "--store",
        tmp_path / "runs",
        "--json",
    )
    assert code == 0, err
    told = json.loads(out)["summary"]
    assert told["live"] > 0
    assert sum(told["classes"].values()) == 48
    assert told["clusters"] <= 48
    assert told["controls"] == ["organism:refusal/sham"]
    assert told["identical"] is False


@pytest.mark.parametrize(
    ("about", "asked_for", "said"),
    [
        ({"site": "blocks.1.hook_resid_post", "model": "a/tuned"}, None, []),
        ({"site": "blocks.1.hook_resid_post", "model": "elsewhere", "base": "b"}, None, []),
        (
            {"site": "blocks.1.hook_resid_post", "model": "other"},
            None,
            ["was trained on other, and is read on"],
        ),
        (
            {"site": "blocks.1.hook_resid_post"},
            "blocks.2.hook_resid_post",
            ["trained at blocks.1.hook_resid_post"],
        ),
        ({}, "blocks.2.hook_resid_post", []),
    ],
)
def test_a_dictionary_of_another_model_or_site_is_remarked_on(capsys, about, asked_for, said):
    site = site_of(Common(), Path("sae"), about, asked_for, ("c/tuned", "b"))
    assert site == (asked_for or about["site"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
