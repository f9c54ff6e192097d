"""Latents that predict a behaviour and cause it: planted ones are found and confirmed, by edits
that are exact.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from interp import claims
from interp.analyzers.framework import Known
from interp.analyzers.sae_probe import SaeProbe
from interp.cli import main
from interp.cli.sae_probe import claimed_latents
from interp.engines import Batch, TorchEngine
from interp.errors import OptionError
from interp.figures import plot
from interp.interventions.generation import Text, generate
from interp.kinds import KINDS
from interp.maths.intervals import cluster_interval
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet
from interp.sae import Dictionary, DictionaryConfig, save
from interp.sae.analysis.causal_validation import rate_matched
from interp.sae.analysis.probe import SparseProbe
from interp.sae.core.edits import LatentEdit, latent_intervention
from interp.sites import Site
from interp.study import Study
from interp.table import table
from tests import tiny
from tests.claim_makers import require_remeasured
from tests.documented import require_described

SITE = Site(1, "hook_resid_post")
FAST = {"permutations": 39, "random_sets": 19, "control_prompts": 8, "k": (1,)}
PAIRS = 20


@pytest.fixture(scope="module")
def pair():
    """A child that says sorry by three neurons of block 1, whose base's neurons write nothing
    there.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7), pairs=PAIRS)
    return Pair.from_modules(tiny.exact(tuned), tiny.exact(base), tiny.tokenizer(False))


def study(pair, pairs=PAIRS, **options):
    return Study(pair, tiny.contrast(pairs), tiny.metric(), max_new_tokens=3, **options)


@pytest.fixture(scope="module")
def planted(pair):
    """Latent 5 is what the planted neurons add at the end of positive prompts; the others are
    random directions.

    Its encoder reads 1 there and 0 at all other ends, in the base too; its decoder writes what
    tuning added.
    """
    engine, both, ends = TorchEngine(), study(pair), {}
    for role in ("base", "tuned"):
        for group in ("positive", "negative"):
            batch = Batch.pad([coded.ids for coded in both.encoded(group)], 0)
            ends[role, group] = engine.run(pair[role], batch, reads=[SITE], keep=0).values[SITE][
                :, -1
            ]
    added = (ends["tuned", "positive"] - ends["base", "positive"]).mean(0)
    wanted = torch.cat(
        [torch.full((PAIRS,), float(key == ("tuned", "positive"))) for key in ends]
    ).double()
    reader = torch.linalg.pinv(torch.cat(list(ends.values()))) @ wanted
    made = Dictionary(DictionaryConfig("standard", 32, 48, input_bias=False), seed=3).double()
    classes = torch.stack(
        [
            ends[role, "positive"].mean(0) - ends[role, "negative"].mean(0)
            for role in ("base", "tuned")
        ]
    )
    with torch.no_grad():
        # the others read nothing along which the classes differ on average
        made.W_enc -= torch.linalg.pinv(classes) @ classes @ made.W_enc
        made.b_enc.fill_(-0.1)
        # 1/2 of the code is left above the threshold
        made.W_dec[5], made.W_enc[:, 5], made.b_enc[5] = 2 * added, reader, -0.5
    return made.requires_grad_(False)


def analyzer(dictionary, **options):
    return SaeProbe(dictionary, str(SITE), **{**FAST, **options})


@pytest.fixture(scope="module")
def found(pair, planted):
    return analyzer(planted)(study(pair))


class TestPlanted:
    def test_the_latent_is_found_and_ablating_it_lowers(self, found):
        require_described(found)
        assert found["auc"][(found["source"] == "dictionary") & (found["k"] == 1)][0] > 0.9
        by_name = require_remeasured(found)
        assert by_name["predicts-1"].supported
        assert 5 in found.summary["latents"]["probed"]
        assert by_name["ablation-lowers-probed"].supported
        assert (
            by_name["ablation-lowers-probed"].value > by_name["ablation-lowers-probed"].control_high
        )
        assert found.summary["supported"] is True

    def test_in_the_base_it_says_less(self, found):
        """Positive control of what tuning adds: the base's neurons write nothing."""
        claim = {c.name: c for c in claims.from_table(found.tables["claims"])}["tuning-adds"]
        assert claim.supported
        assert claim.control_value < 0.9
        scores = found.tables["scores"]
        rows = (scores["source"] == "dictionary") & (scores["k"] == 1)
        positive = scores["group"][rows] == "positive"
        own, base = (
            roc_auc_score(positive, scores[name][rows]) for name in ("score", "base_score")
        )
        assert claim.value == pytest.approx(own - base)
        assert claim.control_value == pytest.approx(base)
        assert claim.clusters == len(set(scores["cluster"])) == PAIRS // 2

    def test_numbers_of_claims_are_those_of_scipy(self, found):
        by_name = {claim.name: claim for claim in claims.from_table(found.tables["claims"])}
        numbers = found.tables["numbers"]
        rows = (numbers["set"] == "probed") & (numbers["change"] == "ablate")
        moved = numbers["effect"][rows]
        assert len(set(numbers["cluster"][rows])) == len(moved), "a prompt to a cluster"
        one = by_name["ablation-lowers-probed"]
        low, high = stats.t.interval(0.95, len(moved) - 1, moved.mean(), stats.sem(moved))
        np.testing.assert_allclose((one.value, one.low, one.high), (moved.mean(), low, high))
        answers = found.tables["answers"]
        back = answers["matches_base"][(answers["condition"] == "probed") & answers["changed"]]
        exact = stats.binomtest(int(back.sum()), len(back)).proportion_ci()
        assert by_name["answers-equal-base-probed"].interval == pytest.approx(
            (exact.low, exact.high)
        )
        null = found.tables["sets"]["effect"][found.tables["sets"]["change"] == "ablate"]
        assert one.p == (1 + (null >= moved.mean()).sum()) / (1 + len(null))
        json.dumps(found.summary, allow_nan=False)

    def test_copies_of_every_prompt_change_no_probe(self, pair, planted):
        once, often = (
            analyzer(planted, k=(1, 4), random_sets=1, control_prompts=2, permutations=19)(
                Study(
                    pair, tiny.copied(tiny.contrast(PAIRS), times), tiny.metric(), max_new_tokens=1
                )
            )
            for times in (1, 5)
        )
        assert len(often.tables["scores"]) == 5 * len(once.tables["scores"])
        assert (
            often.tables["latents"]["latent"].tolist() == once.tables["latents"]["latent"].tolist()
        )
        for name in ("auc", "low", "high", "null_mean", "p"):
            np.testing.assert_allclose(often[name], once[name], rtol=0, atol=1e-6, err_msg=name)

    def test_right_and_wrong_under_a_change_are_two_shares_of_the_same_prompts(self, pair, planted):
        both = tiny.contrast(PAIRS)
        right = tuple(dataclasses.replace(prompt, answer="Sorry") for prompt in both.positive)
        asked = Contrast(PromptSet(right, "right"), both.negative)
        metric = Task.from_prompts(pair.tokenizer, right, "accuracy")
        made = analyzer(planted, random_sets=1)(Study(pair, asked, metric, max_new_tokens=1))
        claim, numbers = require_remeasured(made)["ablation-lowers-probed"], made.tables["numbers"]
        plain, after = (numbers[name].astype(bool) for name in ("plain", "after"))
        assert (numbers["effect"] == numbers["plain"] - numbers["after"]).all()
        assert (claim.value, claim.low, claim.high) == cluster_interval(
            plain, numbers["cluster"], minus=after
        )
        assert claim.low < claim.value

    @pytest.mark.slow
    def test_another_latent_is_not_confirmed(self, pair, planted, found):
        """Silence: a random direction that fires, given by hand, does no more than others that fire
        as often.
        """
        rate = found.tables["latents"]
        others = [j for j in range(48) if j not in rate["latent"]][:1]
        table = analyzer(planted, given=tuple(others))(study(pair))
        by_name = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
        if claim := by_name.get("ablation-lowers-given"):
            assert not claim.supported
            assert "minimum detectable effect" in claim.sentence
        else:
            assert "Nothing was confirmed of the given latents" in " ".join(table.summary["limits"])

    @pytest.mark.slow
    def test_twice_is_the_same_and_batches_and_padding_do_not_count(self, pair, planted, found):
        class Padded(Study):
            pad_id = 77

        again = analyzer(planted)(study(pair))
        assert again.equals(found)
        assert again.summary == found.summary
        made = study(pair, batch_size=3)
        fields = {
            f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.name != "_kept"
        }
        other = analyzer(planted)(Padded(**fields))
        for name in ("", "effects", "sets", "numbers", "answers"):
            one, two = (whole.tables[name] if name else whole for whole in (found, other))
            for column in one.columns:
                if one[column.name].dtype.kind == "f":
                    np.testing.assert_allclose(
                        one[column.name], two[column.name], rtol=1e-8, atol=1e-10
                    )
                else:
                    assert one[column.name].tolist() == two[column.name].tolist()

    @pytest.mark.parametrize("kind", ["", "effects", "sets"])
    def test_figures_hold_what_the_tables_hold(self, found, kind):
        part = found.tables[kind] if kind else found
        figure = plot(part)
        assert figure.layout.meta["caption"].endswith(".")
        drawn = np.concatenate([np.asarray(t.y if not kind else t.x, float) for t in figure.data])
        assert set(part["auc" if not kind else "effect"]) <= set(drawn)


def test_permuted_labels_are_shown_at_the_nominal_rate():
    """The probe's own numbers on codes of the prompts, whose classes were drawn at random."""
    generator, hits, n = np.random.default_rng(0), 0, 40
    codes = np.maximum(generator.normal(size=(80, 48)), 0)
    clusters = np.repeat(np.arange(40), 2)
    training = clusters % 2 == 0
    for seed in range(n):
        labels = (generator.random(40) < 0.5)[clusters] ^ np.tile([True, False], 40)
        probe = SparseProbe(1, 19, seed, firing=True)
        hits += probe(codes, labels, clusters, training).p <= 0.05
    assert stats.binomtest(hits, n, 0.05).pvalue > 0.01, hits


class TestBesideTheBase:
    """Edits whose codes read both models."""

    def crosscoder(self, of):
        models = 2 if of == "both" else 1
        made = Dictionary(
            DictionaryConfig("topk", 32, 40, models=models, k=6, normalisation="scale"), seed=2
        ).double()
        with torch.no_grad():
            made.W_dec.mul_(
                1
                + torch.rand(40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            )
            made.W_dec[:, :32].mul_(0.5)
            made.b_dec.add_(0.1)
            made.b_enc.add_(0.05)
            made.scale.copy_(torch.tensor([1.5, 0.7])[:models])
        return made.requires_grad_(False)

    @pytest.mark.parametrize("of", ["both", "difference"])
    @pytest.mark.parametrize("factor", [0.0, 2.0])
    def test_the_edit_is_that_of_numpy(self, of, factor):
        made = self.crosscoder(of)
        value, base = torch.randn(
            2, 2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        latents = torch.tensor([3, 17, 30])
        edit = LatentEdit(SITE, made, latents, factor=factor, amount=0.25, model_role=of, base=base)
        x, b = value.numpy().reshape(-1, 32), base.numpy().reshape(-1, 32)
        scale = made.scale.double().numpy()
        inside = (
            np.concatenate([b * scale[0], x * scale[-1]], 1) if of == "both" else (x - b) * scale[0]
        )
        w_enc, w_dec, b_enc, b_dec = (
            getattr(made, n).numpy() for n in ("W_enc", "W_dec", "b_enc", "b_dec")
        )
        pre = (inside - b_dec) @ w_enc + b_enc
        codes = np.zeros_like(pre)
        top = np.argsort(-pre, 1)[:, :6]
        np.put_along_axis(codes, top, np.maximum(np.take_along_axis(pre, top, 1), 0), 1)
        rows = w_dec[:, -32:][latents.numpy()]
        wanted = (
            x + ((factor - 1) * codes[:, latents.numpy()] @ rows + 0.25 * rows.sum(0)) / scale[-1]
        )
        assert np.abs(codes[:, latents.numpy()]).max() > 0
        np.testing.assert_allclose(
            edit.apply(value).numpy().reshape(-1, 32), wanted, rtol=1e-12, atol=1e-12
        )
        left = dataclasses.replace(edit, factor=1.0, amount=0.0)
        assert left.apply(value) is value
        if of == "both":
            back = dataclasses.replace(edit, amount=0.0, revert=True)
            f, parts = codes[:, latents.numpy()], w_dec[latents.numpy()]
            wanted = x - f @ parts[:, 32:] / scale[1] + f @ parts[:, :32] / scale[0]
            np.testing.assert_allclose(
                back.apply(value).numpy().reshape(-1, 32), wanted, rtol=1e-12, atol=1e-12
            )

    def test_a_crosscoder_without_error_reverts_to_the_base(self):
        """Where every latent is reverted, what is left of the tuned model is what no latent
        explained.
        """
        made = self.crosscoder("both")
        value, base = torch.randn(
            2, 1, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
        )
        inside = torch.cat([base.reshape(-1, 32), value.reshape(-1, 32)], 1)
        output = made(inside)
        back = (
            LatentEdit(SITE, made, torch.arange(40), model_role="both", base=base, revert=True)
            .apply(value)
            .reshape(-1, 32)
        )
        shift = made.b_dec[:32] / made.scale[0] - made.b_dec[32:] / made.scale[1]
        torch.testing.assert_close(back, inside[:, 32:] - output[:, 32:] + output[:, :32] - shift)
        with pytest.raises(OptionError, match="only a crosscoder has a decoder row of the base"):
            LatentEdit(
                SITE,
                self.crosscoder("difference"),
                torch.arange(4),
                model_role="difference",
                revert=True,
            )

    @pytest.mark.parametrize("of", ["both", "difference"])
    def test_token_by_token_is_what_whole_texts_give(self, pair, of):
        """Intervention: generation beside the base writes what passes over the whole text write,
        without a cache.
        """
        made, engine = self.crosscoder(of), TorchEngine()
        change = latent_intervention(
            "x", [LatentEdit(SITE, made, torch.arange(40), model_role=of)], pair.base
        )
        prompts = [[5, 9, 30, 41, 7], [7, 8, 21]]
        written = generate(engine, pair.tuned, Text(prompts, None, 0, ()), 4, change)
        for prompt, answer in zip(prompts, written, strict=True):
            text = list(prompt)
            for token in answer:
                batch = Batch.pad([text], 0)
                base = engine.run(pair.base, batch, reads=[SITE], keep=0).values
                logits = engine.run(pair.tuned, batch, edits=change.bind(base)).logits
                assert int(logits[0, -1].argmax()) == token
                text.append(token)
        plain = latent_intervention(
            "x", [LatentEdit(SITE, made, torch.arange(40), factor=1.0, model_role=of)], pair.base
        )
        assert generate(engine, pair.tuned, Text(prompts, None, 0, ()), 4, plain) == generate(
            engine, pair.tuned, Text(prompts, None, 0, ()), 4
        )

    @pytest.mark.parametrize("of", ["both", "difference"])
    def test_the_analyzer_takes_them(self, pair, of):
        made = self.crosscoder(of)
        found = analyzer(
            made, model_role=of, position="max", k=(1, 2), given=(3, 4), random_sets=3
        )(study(pair))
        assert "base" not in found["source"]
        require_remeasured(found)

    def test_what_is_missing_is_said(self, pair):
        made = self.crosscoder("both")
        with pytest.raises(OptionError, match="of two models reads"):
            LatentEdit(SITE, made, torch.tensor([1]))
        with pytest.raises(OptionError, match="need the base's activations"):
            LatentEdit(SITE, made, torch.tensor([1]), model_role="both").apply(
                torch.zeros(1, 1, 32)
            )
        with pytest.raises(OptionError, match="add --base"):
            latent_intervention("x", [LatentEdit(SITE, made, torch.tensor([1]), model_role="both")])


def test_random_sets_are_distinct_and_fire_as_often():
    rates = np.linspace(0, 1, 101)
    sets = rate_matched([50], rates, 200)
    assert len(sets) == len({tuple(one) for one in sets}) == 20
    assert all(abs(rates[one[0]] - 0.5) <= 0.11 and one[0] != 50 for one in sets)
    many = rate_matched([40, 60, 80], rates, 50, exclude=[41])
    assert len(many) == 50
    assert not {40, 41, 60, 80} & {latent for one in many for latent in one}
    assert all(len(set(one)) == 3 for one in many)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"position": "first"}, "position of SaeProbe is 'first'; use last, max or mean"),
        ({"permutations": 0}, "permutations of SaeProbe is 0; use at least 1"),
        ({"steer": 0.0}, "use a number above 0"),
        ({"k": (2, 1)}, "increasing numbers"),
        ({"k": (49,)}, "increasing numbers"),
        ({"given": (48,)}, "no latent 48"),
        ({"given": (1, 1)}, "given twice"),
        ({"model_role": "both"}, "of two models reads"),
    ],
)
def test_options_that_contradict_are_refused(planted, change, match):
    with pytest.raises(OptionError, match=match):
        analyzer(planted, **change).check(Known(has_base=True))


def test_tuned_only_latents_come_of_a_run_of_the_same_dictionary(planted, pair):
    columns = {
        "latent": (np.arange(48), "key", "n"),
        "class": (["tuned-only"] * 2 + ["shared"] * 46, "text", "c"),
        "claimed": (np.array([True, False] + [True] * 46), "flag", "c"),
    }
    made = study(pair).provenance(analyzer(planted))
    run = table("sae-diff", columns, provenance=made)
    assert claimed_latents(run, planted.digest, planted, "r", "tuned-only") == (0,)
    with pytest.raises(OptionError, match="claims no changed latent"):
        claimed_latents(run, planted.digest, planted, "r", "changed")
    with pytest.raises(OptionError, match="another dictionary"):
        claimed_latents(run, "0", planted, "r", "tuned-only")
    with pytest.raises(OptionError, match="has kind x"):
        claimed_latents(
            dataclasses.replace(run, kind="x"), planted.digest, planted, "r", "tuned-only"
        )


def test_through_the_command_line(tmp_path, capsys):
    made = Dictionary(DictionaryConfig("topk", 128, 64, k=8), seed=1)
    save(made, tmp_path / "d", {"site": "blocks.2.hook_resid_post"})
    from interp import organisms

    files = [str(organisms.prompts("refusal", "locate", kind)) for kind in ("harmful", "harmless")]
    words = [
        "sae",
        "probe",
        str(tmp_path / "d"),
        "--model",
        "organism:refusal/full",
        "--base",
        "organism:refusal/base",
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--max-prompts",
        "16",
        "-k",
        "1",
        "--latents",
        "3,4",
        "--random-sets",
        "2",
        "--control-prompts",
        "2",
        "--permutations",
        "9",
        "--store",
        str(tmp_path / "runs"),
        "--json",
        "--quiet",
    ]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["summary"]["sizes"]["given"] == 2
    assert KINDS["sae-probe"].heading in Path(first["page"]).read_text("utf-8")
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["cached"] is True
    for wrong, said in (
        (["--latents", "x"], "not a list of integers"),
        (["--diff", "0" * 20], "only one of --latents"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
