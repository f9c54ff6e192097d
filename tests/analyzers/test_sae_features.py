"""Reading latents: planted lists come back, chance is a half, logits are the model's own, the page
is only text.
"""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from interp import claims
from interp.analyzers.framework import Known
from interp.analyzers.sae_features import SaeFeatures
from interp.engines import TorchEngine
from interp.errors import OptionError
from interp.figures import plot
from interp.kinds import KINDS
from interp.models.pair import Pair
from interp.organisms import prompts
from interp.prompts import OneClass, Prompt, PromptSet
from interp.report import write_page
from interp.report.features import features_list
from interp.sae import Dictionary, DictionaryConfig, save
from interp.sae.analysis.unembedding import random_effects, token_effects
from interp.study import Study
from interp.table import Table, table
from tests import tiny
from tests.browser import browser
from tests.claim_makers import require_remeasured
from tests.documented import require_described
from tests.tables import HOSTILE

SITE = "blocks.0.hook_resid_pre"
LATENTS, LONG, WIDE = 24, 12, 64


def texts(count=80, seed=0):
    generator = np.random.default_rng(seed)
    words = sorted(set(tiny.WORDS.split()))
    return [" ".join(generator.choice(words, LONG)) for _ in range(count)]


def study_of(tuned, base=None, lines=None, template=True, **options):
    lines = texts() if lines is None else lines
    found = PromptSet(
        tuple(Prompt(row, line, str(row)) for row, line in enumerate(lines)), "memory"
    )
    return Study(
        Pair.from_modules(tuned, base, tiny.tokenizer(template)), OneClass(found), None, **options
    )


@pytest.fixture(scope="module")
def model():
    return tiny.exact(tiny.llama(hidden_size=WIDE))


@pytest.fixture(scope="module")
def lists(model):
    """For each latent three tokens that the prompts hold often."""
    tokens, counts = np.unique(
        np.concatenate([c.ids for c in study_of(model).encoded("positive")]), return_counts=True
    )
    used = tokens[(tokens > 3) & (counts >= 20)]
    generator = np.random.default_rng(1)
    sets = list(itertools.combinations(used.tolist(), 3))
    return [list(sets[at]) for at in generator.choice(len(sets), LATENTS, replace=False)]


@pytest.fixture(scope="module")
def dictionary(model, lists):
    """An autoencoder of the embedding whose latents fire on their list and on nothing else that the
    prompts hold.
    """
    own = Dictionary(DictionaryConfig("standard", WIDE, LATENTS + 1, input_bias=False)).double()
    used = sorted({token for coded in study_of(model).encoded("positive") for token in coded.ids})
    rows = model.get_input_embeddings().weight.detach()[used]
    wanted = torch.tensor(
        [[float(token in members) for members in lists] for token in used], dtype=torch.float64
    )
    solved = torch.linalg.lstsq(rows, wanted).solution
    assert torch.allclose(rows @ solved, wanted, atol=1e-6), (
        "more tokens than the stream has room for"
    )
    with torch.no_grad():
        own.W_enc[:, :LATENTS] = solved * (1 + torch.arange(LATENTS) / 10)
        own.W_enc[:, LATENTS] = 0
        own.b_enc[:] = -0.5
    return own


def reading(dictionary, **options):
    return SaeFeatures(dictionary, SITE, **{"top": 50, "draws": 19, **options})


@pytest.fixture(scope="module")
def found(model, dictionary):
    return reading(dictionary)(study_of(model, model))


class TestLabels:
    def test_planted_lists_come_back_with_score_one(self, found, lists):
        require_described(found)
        assert sorted(found["latent"]) == list(range(LATENTS))
        labels = found.tables["labels"]
        for row in found.rows():
            told = set(labels["token_id"][labels["latent"] == row["latent"]].tolist())
            assert told == set(lists[row["latent"]])
            assert row["detection"] == row["detection_high"] == 1
            # of no more clusters than the 40 documents that made no label
            assert 0.75 < row["detection_low"] <= 0.025 ** (1 / 40)
            assert row["others"] < 0.85
            assert row["shuffled"] < 0.6
            assert row["examples"] >= 10
        assert found["detected"].all()
        assert (np.diff(found["density"]) <= 0).all()

    def test_claims_can_be_measured_again(self, found):
        made = require_remeasured(found)
        assert set(made) == {"labels-detect", "labels-beyond-nulls", "logits-stand-out"}
        gap = found["detection"] - found["others"]
        low, high = stats.t.interval(0.95, LATENTS - 1, gap.mean(), stats.sem(gap))
        one = made["labels-detect"]
        np.testing.assert_allclose((one.value, one.low, one.high), (gap.mean(), low, high))
        exact = stats.binomtest(LATENTS, LATENTS).proportion_ci()
        assert made["labels-beyond-nulls"].interval == pytest.approx((exact.low, exact.high))
        assert made["labels-detect"].supported
        assert made["labels-beyond-nulls"].supported
        # random rows of the initialisation write nothing of their own
        assert not made["logits-stand-out"].supported
        assert found.summary["supported"] is False
        json.dumps(found.summary, allow_nan=False)

    def test_firing_on_positions_is_not_told_by_tokens(self, model):
        """Silence: latents of random projections of noise that the tokens do not determine."""
        generator = torch.Generator().manual_seed(3)
        silent = Dictionary(DictionaryConfig("standard", WIDE, 30, input_bias=False)).double()
        base = study_of(model)
        site = "blocks.2.hook_attn_out"
        with torch.no_grad():
            silent.W_enc[:] = torch.randn(WIDE, 30, generator=generator, dtype=torch.float64)
        table = SaeFeatures(silent, site, draws=19, logits=False)(base)
        shuffled = table["shuffled"][table["scored"]]
        assert shuffled.mean() == pytest.approx(0.5, abs=0.02)

    def test_rare_latents_are_refused_a_label(self, model, dictionary):
        few = reading(dictionary, latents=(LATENTS, 3))(study_of(model))
        assert few["latent"].tolist() == [LATENTS, 3]
        assert few["scored"].tolist() == [False, True]
        assert few["label"][0] == ""
        assert np.isnan(few["detection"][0])
        assert np.isnan(few["mean_activation"][0])
        assert any(f"no score: {LATENTS}." in line for line in few.summary["limits"])
        dead = reading(dictionary, latents=(LATENTS,))(study_of(model))
        assert [claim.name for claim in claims.from_table(dead.tables["claims"])] == [
            "logits-stand-out"
        ]
        assert len(dead.tables["contexts"]) == 0


class TestActivity:
    def test_densities_are_counts(self, found, model, lists):
        study = study_of(model)
        encoded = study.encoded("positive")
        ids = np.concatenate([coded.ids for coded in encoded])
        special = np.isin(ids, study.pair.tokenizer.all_special_ids) | (ids < 4)
        for row in found.rows():
            on = np.isin(ids, lists[row["latent"]])
            assert row["density"] == pytest.approx(on.mean())
            assert row["density_content"] == pytest.approx(on[~special].mean())
            assert row["density_special"] == on[special].mean() == 0
            size = (1 + row["latent"] / 10) - 0.5
            assert row["mean_activation"] == pytest.approx(size, abs=1e-5)
            assert row["max_activation"] == pytest.approx(size, abs=1e-5)

    def test_an_identical_base_gains_exactly_nothing_and_another_does(
        self, found, model, dictionary, lists
    ):
        for name in ("density_gain", "density_gain_low", "density_gain_high"):
            assert not found[name].any()
        tuned = tiny.perturbed(model, 0.0)
        with torch.no_grad():
            # the tuned model's embedding of another token becomes that of a listed one
            ids = np.concatenate([coded.ids for coded in study_of(model).encoded("positive")])
            tokens, counts = np.unique(ids[(ids > 3) & ~np.isin(ids, lists[0])], return_counts=True)
            other = int(tokens[counts.argmax()])
            tuned.get_input_embeddings().weight[other] = model.get_input_embeddings().weight[
                lists[0][0]
            ]
        moved = reading(dictionary, by="gain")(study_of(tiny.exact(tuned), model))
        row = next(row for row in moved.rows() if row["latent"] == 0)
        here = study_of(tiny.exact(tuned), model)
        on = {"tuned": [*lists[0], other], "base": lists[0]}
        count = {
            role: [np.isin(coded.ids, ids).sum() for coded in here.encoded("positive")]
            for role, ids in on.items()
        }
        more = np.subtract(count["tuned"], count["base"])
        sizes = np.array([len(coded.ids) for coded in here.encoded("positive")])
        left = (more.sum() - more) / (sizes.sum() - sizes)
        error = np.sqrt(
            (len(more) - 1) / len(more) * np.square(left - more.sum() / sizes.sum()).sum()
        )
        reach = error * stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
        assert row["density_gain"] == pytest.approx(more.sum() / sizes.sum())
        assert row["density_gain_low"] == pytest.approx(row["density_gain"] - reach)
        assert row["density_gain_high"] == pytest.approx(row["density_gain"] + reach)
        assert row["density_gain_low"] > 0
        assert (np.diff(np.abs(moved["density_gain"])) <= 1e-12).all()


class TestContexts:
    def test_chosen_tokens_are_on_the_list_and_levels_share_no_row(self, found, lists):
        contexts = found.tables["contexts"]
        assert set(contexts["level"]) == {"top", "middle", "low"}
        for latent in range(LATENTS):
            mine = contexts.select(contexts["latent"] == latent)
            chosen = mine.select(mine["chosen"])
            assert np.isin(chosen["token_id"], lists[latent]).all()
            places = list(
                zip(chosen["prompt_id"].tolist(), chosen["position"].tolist(), strict=True)
            )
            assert len(set(places)) == len(places) == 15
            top = chosen["prompt_id"][chosen["level"] == "top"]
            assert len(set(top)) == 5
            assert (np.isin(mine["token_id"], lists[latent]) == (mine["activation"] > 0)).all()

    def test_windows_are_the_text_and_do_not_leave_it(self, found, model):
        encoded = study_of(model).encoded("positive")
        contexts = found.tables["contexts"]
        for row in contexts.rows():
            assert encoded[row["prompt_id"]].ids[row["position"]] == row["token_id"]
        sizes = {}
        for row in contexts.rows():
            sizes.setdefault((row["latent"], row["level"], row["context"]), []).append(row)
        for rows in sizes.values():
            at = next(row["position"] for row in rows if row["chosen"])
            assert all(abs(row["position"] - at) <= 10 for row in rows)
            assert np.diff([row["position"] for row in rows]).tolist() == [1] * (len(rows) - 1)


class Padded(Study):
    """A study whose padding is another token."""

    pad_id = 77


@pytest.mark.slow
def test_neither_batch_size_nor_padding_count(found, model, dictionary):
    study = study_of(model, model, batch_size=3)
    fields = {
        field.name: getattr(study, field.name)
        for field in dataclasses.fields(study)
        if field.name != "_kept"
    }
    again = reading(dictionary)(Padded(**fields))
    parts = [(found, again), *((part, again.tables[name]) for name, part in found.tables.items())]
    for one, other in parts:
        for column in one.columns:
            a, b = one[column.name], other[column.name]
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12, err_msg=column.name)
            else:
                assert a.tolist() == b.tolist(), column.name
    assert reading(dictionary)(study_of(model, model)).equals(found)


class TestLogits:
    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_effects_are_numpys(self, family):
        module = tiny.exact(tiny.FAMILIES[family]())
        pair = Pair.from_modules(module, None, tiny.tokenizer())
        rows = (
            torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7
        )
        x = rows.numpy()
        if family == "gpt2":
            norm = module.transformer.ln_f
            x = x / np.sqrt((x**2).mean(1, keepdims=True))
            x = x - x.mean(1, keepdims=True)
            x = x / np.sqrt(x.var(1, keepdims=True) + norm.eps)
        else:
            norm = module.model.norm
            x = x / np.sqrt((x**2).mean(1, keepdims=True))
            x = x / np.sqrt((x**2).mean(1, keepdims=True) + norm.variance_epsilon)
        wanted = (
            x * norm.weight.detach().numpy()
        ) @ module.get_output_embeddings().weight.detach().numpy().T
        wanted = wanted - wanted.mean(1, keepdims=True)
        own = token_effects(TorchEngine(), pair.tuned, rows, wanted.shape[1], 4)
        np.testing.assert_allclose(own.up, -np.sort(-wanted, 1)[:, :4], rtol=1e-9)
        np.testing.assert_allclose(own.down, np.sort(wanted, 1)[:, :4], rtol=1e-9)
        np.testing.assert_array_equal(own.promoted[:, 0], wanted.argmax(1))
        np.testing.assert_allclose(own.largest, np.abs(wanted).max(1), rtol=1e-9)
        longer = token_effects(TorchEngine(), pair.tuned, 100 * rows, wanted.shape[1], 4)
        np.testing.assert_allclose(longer.up, own.up, rtol=1e-9)

    def test_a_row_that_writes_a_token_stands_out_and_random_ones_do_not(self, model, dictionary):
        planted = Dictionary(dictionary.config).double()
        planted.load_state_dict(dictionary.state_dict())
        head = model.get_output_embeddings().weight.detach()
        with torch.no_grad():
            planted.W_dec[5] = head[100] - head.mean(0)
        made = reading(planted)(study_of(model))
        row = next(row for row in made.rows() if row["latent"] == 5)
        assert row["beyond_random"]
        assert row["logit_p"] == 1 / (1 + 20 * LATENTS)
        logits = made.tables["logits"]
        first = (logits["latent"] == 5) & (logits["side"] == "promoted") & (logits["rank"] == 0)
        assert logits["token_id"][first].tolist() == [100]
        assert made["beyond_random"].sum() <= 2
        beside = random_effects(TorchEngine(), study_of(model).pair.tuned, WIDE, len(head), 50)
        assert len(beside) == 50
        assert float(beside.max()) < row["largest_logit"]


class TestKinds:
    def test_a_crosscoder_reads_both_and_writes_in_both(self, model, dictionary):
        config = dataclasses.replace(dictionary.config, models=2)
        both = Dictionary(config).double()
        with torch.no_grad():
            # the same latents, read from the tuned model's half alone
            both.W_enc[:] = torch.cat([torch.zeros_like(dictionary.W_enc), dictionary.W_enc])
            both.b_enc[:] = dictionary.b_enc
        base = tiny.exact(tiny.llama(seed=5, hidden_size=WIDE))
        made = reading(both, model_role="both", draws=1)(study_of(model, base))
        single = reading(dictionary, draws=1)(study_of(model))
        assert made["detection"].tolist() == single["detection"].tolist()
        assert "density_base" not in made.data
        assert set(made.tables["logits"]["model"]) == {"base", "tuned"}
        assert "decoder_norm_base" in made.data

    def test_a_dictionary_of_differences_is_silent_on_an_identical_pair(self, model, dictionary):
        with pytest.raises(OptionError, match="no latent of this dictionary is active"):
            reading(dictionary, model_role="difference")(study_of(model, model))
        zero = tiny.perturbed(model, 0.0)
        with torch.no_grad():
            zero.get_input_embeddings().weight.zero_()
        same = reading(dictionary, model_role="difference", draws=1)(
            study_of(model, tiny.exact(zero))
        )
        assert (
            same["detection"].tolist()
            == reading(dictionary, draws=1)(study_of(model))["detection"].tolist()
        )

    @pytest.mark.parametrize(
        ("config", "options", "said"),
        [
            ({}, {"model_role": "both"}, "cannot read 'both'"),
            ({"models": 2}, {"model_role": "both"}, r"crosscoder needs the base.*--base"),
            ({}, {"model_role": "difference"}, "needs the base's activations"),
            ({}, {"by": "gain"}, "--by gain needs"),
            ({}, {"by": "beauty"}, "use density, max or gain"),
            ({}, {"latents": (3, 99)}, "no latent 99"),
            ({}, {"latents": (3, 3)}, "given twice"),
            ({}, {"draws": 0}, "draws of SaeFeatures is 0; use at least 1"),
            (
                {},
                {"site": "blocks.0.mlp.hook_in"},
                "is not in the residual stream.*--no-logits",
            ),
            ({"d_out": 32}, {}, "--target SITE"),
            (
                {"d_out": 32},
                {"target": "blocks.0.mlp.hook_post"},
                "hook_post is not in the residual stream",
            ),
            ({}, {"site": "here"}, "is not a site"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, config, options, said):
        own = Dictionary(DictionaryConfig("standard", 32, 40, input_bias=False, **config))
        with pytest.raises(OptionError, match=said):
            SaeFeatures(own, **{"site": SITE, **options}).check(Known(has_base=False))
        SaeFeatures(
            own,
            "blocks.0.mlp.hook_in",
            logits=False,
            model_role="both" if own.config.models == 2 else "tuned",
        ).check(Known(has_base=True))

    @pytest.mark.slow
    def test_a_transcoder_that_writes_into_the_stream(self, model):
        own = Dictionary(
            DictionaryConfig("topk", WIDE, 40, d_out=WIDE, k=4, input_bias=False)
        ).double()
        made = SaeFeatures(own, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", draws=1)(
            study_of(model)
        )
        assert len(made.tables["logits"]) == 20 * len(made)
        bare = SaeFeatures(own, "blocks.1.mlp.hook_in", logits=False, draws=1)(study_of(model))
        assert "logits" not in bare.tables
        assert "largest_logit" not in bare.data


def hostile(found: Table) -> Table:
    """The same table with tokens and labels that are markup."""

    def turned(part: Table, name: str) -> Table:
        words = np.array([HOSTILE[at % len(HOSTILE)] for at in range(len(part))], dtype=object)
        return dataclasses.replace(part, data={**part.data, name: words})

    parts = {
        name: turned(part, "token") if "token" in part.data else part
        for name, part in found.tables.items()
    }
    return dataclasses.replace(turned(found, "label"), tables=parts)


class TestPage:
    def test_text_stays_text(self, found):
        shown = features_list(hostile(found))
        assert "<script" not in shown
        assert "<img" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert shown.count('<details class="feature"') == LATENTS
        assert len(re.findall("<mark", shown)) == int(
            (found.tables["contexts"]["activation"] > 0).sum()
        )

    def test_the_figure_draws_scored_latents_beside_their_nulls(self, found):
        figure = plot(found)
        assert len(figure.data[0].x) == int(found["scored"].sum())
        assert sorted(figure.data[1].y) == sorted(found["detection"][found["scored"]])
        none = dataclasses.replace(found, data={**found.data, "scored": np.zeros(len(found), bool)})
        assert f"{LATENTS} without a score" in plot(none).layout.title.text

    @pytest.mark.slow
    @pytest.mark.browser
    @pytest.mark.timeout(240)
    def test_a_browser_sorts_filters_and_complains_of_nothing(self, found, tmp_path):
        path = write_page(tmp_path / "page.html", [hostile(found)], "<b>features</b>")
        shown = "[...document.querySelectorAll('details.feature')].filter(d => !d.hidden)"
        first = "document.querySelector('details.feature summary b').textContent"
        with browser(tmp_path / "profile") as tab:
            tab.size(380)
            tab.open(path.as_uri())
            tab.wait(
                "[...document.querySelectorAll('div.plot')].every(p =>"
                " p.querySelector('svg.main-svg .trace'))"
            )
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                "a phone has to scroll sideways"
            )
            assert tab.evaluate(f"{shown}.length") == LATENTS
            assert tab.evaluate(first) == str(found["latent"][0])
            change = "dispatchEvent(new Event('change'))"
            tab.evaluate(
                f"s = document.querySelector('select.sort'); s.value = 'largest_logit'; s.{change}"
            )
            assert tab.evaluate(first) == str(found["latent"][np.argmax(found["largest_logit"])])
            typed = f"prompt {found.tables['contexts']['prompt_id'][0]}"
            tab.evaluate(
                f"f = document.querySelector('input.filter'); f.value = '{typed}';"
                "f.dispatchEvent(new Event('input'))"
            )
            assert 0 < tab.evaluate(f"{shown}.length") < LATENTS
            tab.evaluate("f.value = 'no such text'; f.dispatchEvent(new Event('input'))")
            assert tab.evaluate(f"{shown}.length") == 0
            assert (
                tab.evaluate(
                    "document.querySelectorAll('main script:not([type]), main img').length"
                )
                == 0
            )
            assert tab.complaints() == []


class TestCommand:
    DATA = prompts("refusal", "locate", "harmful")

    def words(self, tmp_path, *more):
        if not (tmp_path / "sae").exists():
            save(
                Dictionary(DictionaryConfig("topk", 128, 48, k=4)),
                tmp_path / "sae",
                {"site": "blocks.1.hook_resid_post"},
            )
        return [
            "sae",
            "features",
            tmp_path / "sae",
            "--model",
            "organism:refusal/full",
            "--data",
            self.DATA,
            "--max-prompts",
            24,
            "--store",
            tmp_path / "runs",
            *more,
        ]

    def test_a_run_is_kept_shown_and_recalled(self, tmp_path, run):
        words = self.words(
            tmp_path,
            "--base",
            "organism:refusal/base",
            "--top",
            5,
            "--by",
            "gain",
            "--shift",
            2,
            "--control",
            "organism:refusal/sham",
            "--control",
            "organism:refusal/lora",
            "--draws",
            19,
            "--json",
        )
        code, out, err = run(*words)
        assert code == 0, err
        told = json.loads(out)
        assert told["rows"] == 5
        assert told["cached"] is False
        assert "concept-shift" in told["summary"]["checks"]
        page = Path(told["page"]).read_text("utf-8")
        assert page.count('<details class="feature"') == 5
        assert KINDS["concept-shift"].heading in page
        assert "in each of 2 control fine-tunes" in page
        code, out, _ = run(*words)
        assert code == 0
        assert json.loads(out)["cached"] is True

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--latents", "1,x"], "not a list of numbers"),
            (["--latents", ""], "is empty"),
            (["--latents", "1", "--diff", "abc"], "give only one of them"),
            (["--latents", "48"], "no latent 48"),
            (["--diff", "abc"], "no store"),
            (["--shift", "3"], "add --base"),
            (["--control", "organism:refusal/sham"], "add --shift K"),
            (["--by", "gain"], "add --base"),
            (["--site", "blocks.1.hook_rezid"], "unknown site"),
            (["--site", "blocks.99.hook_resid_post"], "blocks.99"),
            (["--remote"], "--remote"),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path, run, only_line, more, said):
        code, _, err = run(*self.words(tmp_path, "--quiet", *more))
        assert code == 2
        assert said in only_line(err)
        assert not list((tmp_path / "runs").glob("[!.]*"))

    def test_latents_of_a_comparison(self, tmp_path, run, only_line):
        from interp.cli.sae_features import _claimed_latents

        columns = {
            "latent": (np.arange(4), "key", "x"),
            "class": (
                np.array(["tuned-only", "tuned-only", "shared", "tuned-only"], dtype=object),
                "text",
                "x",
            ),
            "claimed": (np.array([True, True, True, False]), "flag", "x"),
            "rate": (np.array([0.1, 0.2, 0.3, 0.4]), "measure", "x"),
        }
        assert _claimed_latents(table("sae-diff", columns)) == (1, 0)
