"""The main job on shipped organisms: neurons that are known to carry the behaviour are found, and
verified.
"""

import functools

import numpy as np
import pytest

from interp import claims, organisms
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcomes
from interp.interventions.teacher_forcing import answer_logits, would_answer
from interp.maths.statistics import benjamini_hochberg, paired_t_test, recall_at, roc_auc
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.study import Study

PROMPTS, NEW_TOKENS = 32, 8


@functools.cache
def pair(name: str) -> Pair:
    return Pair.load(f"organism:refusal/{name}", "organism:refusal/base")


@functools.cache
def study(name: str, split: str = "locate", prompts: int = PROMPTS) -> Study:
    groups = (
        read_prompts(organisms.prompts("refusal", split, group))
        for group in ("harmful", "harmless")
    )
    return Study(
        pair(name),
        Contrast(*groups).limit(prompts),
        Refusal.from_tokenizer(pair(name).tokenizer),
        max_new_tokens=NEW_TOKENS,
    )


@functools.cache
def located(name: str, method: str = "integrated", top: str = "30"):
    return LocateNeurons(method=method, top=top, steps=7)(study(name))


@functools.cache
def verified(name: str):
    checker = VerifyNeurons(
        located(name), random_sets=39, dose_draws=1, control_prompts=16, depth=30
    )
    return checker(study(name, "verify", 40))


def planted_labels() -> np.ndarray:
    anatomy = pair("planted").tuned.anatomy
    labels = np.zeros((anatomy.n_layers, anatomy.n_neurons), dtype=bool)
    labels[tuple(np.array(organisms.planted("refusal/planted")["refusal"]).T)] = True
    return labels.ravel()


def test_integrated_finds_the_planted_neurons_and_a_random_ranking_does_not():
    labels = planted_labels()
    scores = located("planted")["score"]
    # a planted neuron may push against refusal on these prompts: its score is far from zero, on the
    # other side
    assert roc_auc(labels, np.abs(scores)) > 0.9
    assert recall_at(labels, scores, int(labels.sum())) > 0.4
    noise = np.random.default_rng(0).random(labels.size)
    assert recall_at(labels, noise, int(labels.sum())) < 0.2


def test_weight_is_the_positive_control_where_only_known_neurons_were_trained():
    labels = planted_labels()
    moved = located("planted", "weight")["weight_change"]
    assert np.array_equal(moved > 0, labels)


def test_the_planted_set_is_supported_against_its_controls():
    table = verified("planted")
    assert table.summary["supported"], table.summary["sentence"]
    found = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert abs(found["necessity"].value) <= 0.05
    assert found["necessity"].p == pytest.approx(1 / 40)
    assert found["necessity"].control_low > 0.8
    assert found["necessity-recovery"].value > 0.9
    assert found["necessity-recovery"].control_high < 0.1
    assert found["harmless"].value <= 0.02
    for claim in found.values():
        claims.check(claim, table)


def test_doing_what_the_attribution_predicts_removes_refusals_and_only_them():
    rows = {(row["condition"], row["group"]): row for row in verified("planted").rows()}
    assert rows["tuned", "positive"]["refused"] > 0.95
    assert rows["ablate-base", "positive"]["refused"] < 0.05
    assert rows["ablate-base", "positive"]["matches_base"] > 0.95
    assert rows["ablate-base", "negative"]["matches_tuned"] > 0.95
    assert rows["patch-tuned", "positive"]["refused"] > 0.95
    assert rows["patch-tuned", "negative"]["refused"] < 0.05


def test_nothing_is_claimed_on_the_sham_tune():
    table = verified("sham")
    assert not table.summary["supported"]
    by_name = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert by_name["behaviour"].verdict == "not supported"


def test_attention_tune_transmits_through_neurons_none_of_which_was_tuned():
    summary = located("attention").summary
    assert summary["n_tuned"] == 0
    assert 0.1 < summary["mlp_share"] < 0.95
    assert "0 neurons" in summary["sentence"]
    assert not located("attention", "weight")["selected"].any()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.needs_base])
def test_the_identical_pair_scores_exactly_zero(method):
    table = LocateNeurons(method=method, top="30", steps=3)(study("base", prompts=8))
    assert np.array_equal(table["score"], np.zeros(len(table)))
    assert not table["selected"].any()


def test_attributions_add_up_to_the_change_of_the_log_odds():
    paths = located("planted").tables["paths"]
    told, change = paths["attributed"], paths["log_odds_tuned"] - paths["log_odds_start"]
    assert np.abs(told - change).mean() < 0.05 * np.abs(change).mean()


def test_permuted_labels_find_neurons_at_most_at_the_nominal_rate():
    from benchmarks.silence import last_activations

    found = study("planted")
    twins = np.array(found.twins("positive"))
    positive, negative = (
        last_activations(found, "positive"),
        last_activations(found, "negative")[twins],
    )
    assert (benjamini_hochberg(paired_t_test(positive, negative)) <= 0.05).sum() > 50
    hits = 0
    for swap in np.random.default_rng(1).random((100, len(twins))) < 0.5:
        a, b = (
            np.where(swap[:, None], negative, positive),
            np.where(swap[:, None], positive, negative),
        )
        hits += bool((benjamini_hochberg(paired_t_test(a, b)) <= 0.05).any())
    assert hits <= 12  # the 99.9 % quantile of a binomial with 100 draws at 5 %


def test_a_recognised_answer_is_the_generated_one_under_the_same_intervention():
    found = study("planted", "verify", 12)
    donors = PatchSource.from_study(found)
    chosen = [tuple(pair_) for pair_ in organisms.planted("refusal/planted")["refusal"]]
    receiver = donors.condition("ablate-base", chosen)
    answers = found.answers("tuned", "positive", receiver.intervention)
    rows = list(range(12))
    text = found.text("positive", rows)
    logits = answer_logits(
        found.engine, pair("planted").tuned, text, answers, receiver.intervention
    )
    assert bool(would_answer(*logits).all())
    base = found.answers("base", "positive")
    outcomes = Outcomes(found, donors, "necessity", rows, exact=True)
    assert np.array_equal(
        outcomes.of(chosen).equal, [a == b for a, b in zip(answers, base, strict=True)]
    )


def test_batch_size_does_not_change_answers_or_scores():
    many = study("planted", prompts=6)
    one = Study(
        pair("planted"), many.contrast, many.metric, batch_size=1, max_new_tokens=NEW_TOKENS
    )
    assert one.answers("tuned", "positive") == many.answers("tuned", "positive")
    scores = [LocateNeurons(steps=3)(item)["score"] for item in (one, many)]
    np.testing.assert_allclose(*scores, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "attention", "distracted", "relearned"])
def test_every_child_that_refuses_does_so_through_neurons(name):
    # Above every k95 that is asserted; with 100, two of 64 requests are still refused in lora,
    # whose interval then reaches above 10 %. 300 are more than a tenth of every layer; there random
    # sets are drawn from the located too: in relearned they share 105 of 300, and two of 40 return
    # 98 % of the answers.
    table = LocateNeurons(top="150")(study(name, prompts=64))
    check = VerifyNeurons(table, random_sets=40, dose_draws=1)(study(name, "verify", 64))
    found = {claim.name: claim for claim in claims.from_table(check.tables["claims"])}
    assert found["behaviour"].supported
    if name != "attention":  # half of its log-odds do not run through MLPs
        assert found["necessity"].supported, check.summary["sentence"]
