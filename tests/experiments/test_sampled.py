"""Sampled answers: drawn from the model's own distribution, the same whatever the batch, read under
every condition.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.claims import check, from_table
from interp.experiments.conditions import PatchSource, PatchTarget
from interp.experiments.sampled import sample_answers, sample_tokens, sampling_options
from interp.figures import plot
from interp.kinds import KINDS
from interp.maths.intervals import cluster_interval
from interp.metrics import Behaviour, Refusal, Sampling, load_behaviour
from interp.report.page import render_page
from interp.study import Study
from tests import tiny
from tests.documented import kinds

FILE = "name: apology\nkind: phrases\nphrases: [Sorry]\n"


def study_of(folder, text, pairs=8, **options):
    planted = tiny.planted_study("llama", pairs=pairs)
    (folder / "b.yaml").write_text(text)
    metric = load_behaviour(folder / "b.yaml", planted.pair.tokenizer)
    return Study(planted.pair, planted.contrast, metric, **{"max_new_tokens": 3, **options})


def test_tokens_are_drawn_by_their_probability_at_the_temperature():
    logits, draws = torch.tensor([2.0, 0.0, -torch.inf, 1.0]), 4000
    numbers = Sampling(1, seed=5).uniforms([1, 2], 0, draws)
    for temperature in (0.5, 1.0, 2.0):
        tokens = sample_tokens(logits.expand(draws, -1), temperature, numbers)
        counts = np.bincount(tokens, minlength=4)
        expected = (logits.double() / temperature).softmax(-1).numpy() * draws
        assert counts[2] == 0
        possible = expected > 0
        assert chisquare(counts[possible], expected[possible]).pvalue > 0.01
    ends = sample_tokens(logits.expand(2, -1), 1.0, [0.0, 1 - 1e-16])
    assert ends.tolist() == [0, 3]
    assert sample_tokens(logits[None], 1e-6, [0.999]).tolist() == [0], "a low temperature is greedy"


def test_numbers_follow_from_seed_prompt_and_sample_alone():
    drawn = {
        (seed, prompt, at): Sampling(3, seed=seed).uniforms(prompt, at, 4).tolist()
        for seed in (0, 1)
        for prompt in ((1, 2), (1, 3))
        for at in (0, 1)
    }
    assert len({tuple(numbers) for numbers in drawn.values()}) == 8
    longer = Sampling(9, 0.3, seed=1).uniforms([1, 3], 1, 9)
    assert longer[:4].tolist() == drawn[1, (1, 3), 1]


def test_samples_are_the_same_whatever_the_batch_and_the_other_prompts(tmp_path):
    study = study_of(tmp_path, FILE + "samples: 5\ntemperature: 2.0\nseed: 3\n")
    sampling = sampling_options(study)
    assert sampling == Sampling(5, 2.0, 3)
    found = sample_answers(study, sampling, "tuned", "positive", PatchTarget("tuned")).exhibits
    assert found.shape == (8, 5)
    assert 0 < found.mean() < 1
    for size in (1, 3):
        again = sample_answers(
            replace(study, batch_size=size, _cache={}),
            sampling,
            "tuned",
            "positive",
            PatchTarget("tuned"),
        )
        np.testing.assert_array_equal(again.exhibits, found)
    few = sample_answers(
        study.with_prompts(study.contrast.limit(3)),
        sampling,
        "tuned",
        "positive",
        PatchTarget("tuned"),
    )
    np.testing.assert_array_equal(few.exhibits, found[study.prompts("positive").sample(3)])
    more = sample_answers(
        study, replace(sampling, samples=7), "tuned", "positive", PatchTarget("tuned")
    )
    np.testing.assert_array_equal(more.exhibits[:, :5], found)
    other = sample_answers(
        study, replace(sampling, seed=4), "tuned", "positive", PatchTarget("tuned")
    )
    assert (other.exhibits != found).any()


def test_an_intervention_that_changes_nothing_changes_no_sample(tmp_path):
    study = study_of(tmp_path, FILE + "samples: 4\ntemperature: 2.0\n")
    donors, sampling = PatchSource.from_study(study), sampling_options(study)
    plain = sample_answers(study, sampling, "base", "positive", PatchTarget("base"))
    given = donors.condition("patch-tuned", [(0, 1)])  # a unit that tuning did not touch
    edited = sample_answers(study, sampling, "patch-tuned", "positive", given)
    np.testing.assert_array_equal(edited.exhibits, plain.exhibits)


def test_nearly_no_temperature_is_greedy(tmp_path):
    study = study_of(tmp_path, FILE + "samples: 2\ntemperature: 0.0001\n")
    for role in ("base", "tuned"):
        texts = [study.decode(answer) for answer in study.answers(role, "positive")]
        greedy = study.require_metric().exhibits(
            study.prompts("positive").prompts, texts, "positive"
        )
        drawn = sample_answers(
            study, sampling_options(study), role, "positive", PatchTarget(role)
        ).exhibits
        np.testing.assert_array_equal(drawn, np.stack([greedy] * 2, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    study = study_of(
        tmp_path_factory.mktemp("sampled"), FILE + "samples: 3\ntemperature: 0.2\n", pairs=12
    )
    located = LocateNeurons(method="change", top="3")(study)
    return study, VerifyNeurons(located, random_sets=2, dose_draws=1, control_prompts=4, depth=4)(
        study
    )


def test_a_verifying_run_samples_under_every_condition(run):
    study, verified = run
    rates, samples = verified.tables["sampled"], verified.tables["samples"]
    assert rates["condition"].tolist() == verified["condition"].tolist()
    assert rates["greedy"].tolist() == verified["apology"].tolist()
    for row in rates.rows():
        own = samples.select(
            (samples["condition"] == row["condition"]) & (samples["group"] == row["group"])
        )
        assert len(own) == 12 * 3 == row["n"] * row["samples"]
        expected = cluster_interval(own["apology"], own["cluster"])
        assert (row["apology"], row["low"], row["high"]) == tuple(expected)
        by_prompt = own["apology"].reshape(12, 3).mean(1)
        assert row["mixed"] == np.mean((by_prompt > 0) & (by_prompt < 1))
    tuned = sample_answers(
        study, sampling_options(study), "tuned", "positive", PatchTarget("tuned")
    ).exhibits
    mine = (samples["condition"] == "tuned") & (samples["group"] == "positive")
    np.testing.assert_array_equal(samples["apology"][mine], tuned.ravel())


def test_its_claim_is_over_clusters_of_prompts(run):
    _, verified = run
    claims = {one.name: one for one in from_table(verified.tables["claims"])}
    found, rates = claims["behaviour-sampled"], verified.tables["sampled"]
    positive = {
        row["condition"]: row["apology"] for row in rates.rows() if row["group"] == "positive"
    }
    assert found.value == pytest.approx(positive["tuned"] - positive["base"])
    assert found.clusters == 12, "samples of one prompt are no further prompts"
    assert found.low < found.value - 0.05
    check(found, verified)
    assert found.sentence.startswith("Of 3 answers sampled per prompt at temperature 0.2, ")
    assert (
        f"with 3 neurons at the base's contributions {positive['ablate-base']:.1%}"
        in found.sentence
    )
    figure = plot(rates)
    assert figure.layout.title.text == "Sampled answers by condition"
    assert KINDS["sampled"].heading in render_page([verified], "title")
    assert any("sampled per prompt" in note for note in verified.provenance.context["notes"])


def test_a_file_without_samples_is_the_same_run_as_before(tmp_path, run):
    plain, sampled = study_of(tmp_path, FILE), run[0]
    assert sampling_options(plain) is None
    assert "sampling" not in plain.metric.identity
    assert sampled.metric.identity["sampling"] == {"samples": 3, "temperature": 0.2, "seed": 0}
    located = LocateNeurons(method="change", top="3")(plain)
    verified = VerifyNeurons(located, random_sets=1, dose_draws=1, control_prompts=2, depth=3)(
        plain
    )
    assert not {"samples", "sampled"} & set(verified.tables)


def test_refusal_can_be_sampled_too(tmp_path):
    text = "name: refusal\nkind: phrases\nphrases: [sorry]\n"
    plain, asked = study_of(tmp_path, text), study_of(tmp_path, text + "samples: 2\n")
    assert isinstance(plain.metric, Refusal)
    assert isinstance(asked.metric, Behaviour)
    assert asked.metric.labels == replace(plain.metric.labels, flag=asked.metric.labels.flag)
    assert asked.metric.number.token_ids == plain.metric.token_ids


def test_its_tables_are_described(run):
    parts = kinds()["verify-neurons"].parts
    assert {name: part.kind for name, part in run[1].tables.items()}.items() <= parts.items()
