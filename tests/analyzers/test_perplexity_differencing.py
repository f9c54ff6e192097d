"""Perplexity differencing: samples that only the model that wrote them finds likely."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.analyzers.perplexity_differencing import PerplexityDifferencing
from interp.analyzers.perplexity_differencing.compute import (
    length_bins,
    likelier_span,
    log_ratio,
    ranks_within,
    repeated_trigrams,
)
from interp.errors import OptionError, PairError
from interp.models.pair import Pair
from interp.prompts import OneClass
from interp.store.journal import Journal
from interp.study import Study
from tests import tiny

SMALL = {"samples": 10, "tokens": 12, "floor": 8, "framing": "raw"}


def saying(base, word, gain):
    """A child of the base in which this token's logit is higher everywhere by about ``gain``."""
    child = tiny.perturbed(base, 0.0)
    constant = base.transformer.ln_f.bias.data
    with torch.no_grad():
        token = tiny.tokenizer().convert_tokens_to_ids(word)
        child.lm_head.weight[token] += gain * constant / constant.square().sum()
    return child


@pytest.fixture(scope="module")
def base():
    """A model whose last normalisation adds the same large vector everywhere."""
    model = tiny.gpt2(seed=3, tie_word_embeddings=False)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 10.0
    return model


def study_of(tuned, base, template=True, **options):
    prompts = OneClass(tiny.contrast(8).positive)
    return Study(Pair.from_modules(tuned, base, tiny.tokenizer(template)), prompts, None, **options)


def controls_of(base, count, size=0.01):
    return [
        Pair.from_modules(tiny.perturbed(base, size, seed), base, tiny.tokenizer())
        for seed in range(1, count + 1)
    ]


def test_a_planted_word_is_in_the_samples_beyond_every_control(base):
    study = study_of(saying(base, "ĠSorry", 5.0), base)
    found = PerplexityDifferencing(controls=controls_of(base, 2), **SMALL)(study)
    maxima = found.tables["controls"]["maximum"]
    assert maxima[0] > 2 * maxima[1:].max() > 0
    assert found["score"][0] == found["statistic"][0] == maxima[0]
    assert found["p"][0] == 1 / 3
    assert "Sorry" in found["evidence"][0]
    marked = found["example"][0].split("«")[1].split("»")[0]
    assert "Sorry" in marked
    assert (np.diff(found["score"]) <= 0).all()
    assert (found["control_high"] < found["score"]).all()
    assert (found["control_low"] < found["control_high"]).all()
    words = found.tables["words"]
    at = list(words["word"]).index("sorry")
    assert words["rise"][at] > 0.5 > words["control_high"][at]
    assert words["rise"][at] == pytest.approx(words["share"][at] - words["base_share"][at])
    assert "«Sorry»" in words["example"][at]


def test_columns_follow_from_the_losses(base):
    found = PerplexityDifferencing(controls=controls_of(base, 1), **SMALL)(
        study_of(saying(base, "ĠSorry", 5.0), base)
    )
    own, of_base = found["own_loss"], found["base_loss"]
    np.testing.assert_allclose(found["gap"], of_base - own)
    np.testing.assert_allclose(found["ratio"], of_base / own)
    np.testing.assert_allclose(found["perplexity_difference"], np.exp(of_base) - np.exp(own))
    np.testing.assert_allclose(found["score"], np.log((of_base + 0.05) / (own + 0.05)))
    lowest = np.minimum(0, -found["control_high"]) + found["score"]
    np.testing.assert_allclose(found["nearest"], lowest, atol=1e-5)
    assert (found["tokens"] >= 8).all()
    samples = found.tables["samples"]
    for model in (0, 1):
        rows = samples["model_number"] == model
        assert samples["score"][rows].max() == found.tables["controls"]["maximum"][model]


def test_of_the_identical_pair_nothing_is_listed(base):
    found = PerplexityDifferencing(**SMALL)(study_of(tiny.perturbed(base, 0.0), base))
    assert len(found["score"]) == 0
    assert all(len(part["model_number"]) == 0 for part in [found.tables["samples"]])
    assert len(found.tables["words"]["word"]) == 0
    assert found.summary["long_enough"][0] > 0
    with_controls = PerplexityDifferencing(controls=controls_of(base, 2), **SMALL)(
        study_of(tiny.perturbed(base, 0.0), base)
    )
    assert len(with_controls["score"]) == 0
    assert with_controls.tables["controls"]["maximum"][0] == 0
    assert (with_controls.tables["controls"]["maximum"][1:] > 0).all()


def test_exchanging_the_model_with_a_control_exchanges_their_maxima(base):
    first, second, third = (tiny.perturbed(base, 0.03, seed) for seed in (1, 2, 3))
    found = [
        PerplexityDifferencing(
            controls=[Pair.from_modules(one, base, tiny.tokenizer()) for one in rest], **SMALL
        )(study_of(tuned, base)).tables["controls"]["maximum"]
        for tuned, *rest in ((first, second, third), (third, first, second))
    ]
    np.testing.assert_array_equal(found[0], found[1][[1, 2, 0]])


def test_numbers_do_not_depend_on_the_batch(base):
    study = study_of(saying(base, "ĠSorry", 5.0), base)
    options = {**SMALL, "framing": "both"}
    tables = [
        PerplexityDifferencing(controls=controls_of(base, 1), **options)(
            replace(study, batch_size=size, _cache={})
        )
        for size in (None, 3)
    ]
    assert set(tables[0]["where"]) == {"raw", "chat"}
    for other in tables[1:]:
        assert list(other["evidence"]) == list(tables[0]["evidence"])
        np.testing.assert_allclose(other["score"], tables[0]["score"], atol=1e-5)
        assert list(other.tables["words"]["word"]) == list(tables[0].tables["words"]["word"])


def test_where_all_samples_are_too_short_nothing_is_listed(base):
    child = saying(base, "<|end|>", 40.0)
    found = PerplexityDifferencing(controls=controls_of(base, 1), **SMALL)(study_of(child, base))
    assert found.summary["long_enough"][0] == 0 < found.summary["long_enough"][1]
    assert len(found["score"]) == 0
    assert found.tables["controls"]["maximum"][0] == 0
    assert "10 of 10 samples are shorter than 8 tokens" in found.summary["limits"][-1]


def test_an_interrupted_run_goes_on_with_the_samples_that_it_has(base, tmp_path):
    study = study_of(saying(base, "ĠSorry", 5.0), base)
    first = PerplexityDifferencing(**SMALL)(study.with_journal(Journal(tmp_path / "journal")))
    journal = Journal(tmp_path / "journal")
    assert journal.has("samples of the base")
    assert journal.has("samples of model 0")
    again = PerplexityDifferencing(**SMALL)(study.with_journal(journal))
    np.testing.assert_array_equal(again["score"], first["score"])
    assert list(again["example"]) == list(first["example"])


def test_what_cannot_be_sampled_is_refused(base):
    with pytest.raises(OptionError, match="at most 12 tokens and those of fewer than 20"):
        PerplexityDifferencing(tokens=12)(study_of(base, base))
    with pytest.raises(OptionError, match="no chat template; use framing raw"):
        PerplexityDifferencing(framing="chat")(study_of(base, base, template=False))
    other = Pair.from_modules(base, tiny.llama(seed=9), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        PerplexityDifferencing(controls=[other])(study_of(base, base))


def test_a_control_of_the_same_weights_has_the_same_scores(base):
    child = saying(base, "ĠSorry", 5.0)
    twin = Pair.from_modules(tiny.perturbed(child, 0.0), base, tiny.tokenizer())
    found = PerplexityDifferencing(controls=[twin], **SMALL)(study_of(child, base))
    maxima = found.tables["controls"]["maximum"]
    assert maxima[0] == maxima[1] > 0
    np.testing.assert_allclose(found["control_high"], found["score"], atol=1e-5)
    np.testing.assert_allclose(found["nearest"], 0, atol=1e-5)


def test_controls_that_are_alike_do_not_make_a_third_model_stand_out(base):
    """Siblings find each other's samples likely; a model of another kind must not gain by it."""
    alike = [tiny.perturbed(saying(base, "Ġdoor", 4.0), 0.002, seed) for seed in (1, 2, 3)]
    controls = [Pair.from_modules(one, base, tiny.tokenizer()) for one in alike]
    weaker = PerplexityDifferencing(controls=controls, **SMALL)(
        study_of(saying(base, "ĠSorry", 2.0), base)
    )
    assert weaker["p"].min() > 1 / 4
    assert weaker["nearest"].max() > 0, "though no control finds its samples as likely"


def test_the_score_is_the_log_ratio_of_smoothed_losses():
    other, own = np.array([2.0, 0.0, 1.0]), np.array([1.0, 0.0, 3.0])
    found = log_ratio(other, own, 0.5)
    np.testing.assert_allclose(found, [np.log(2.5 / 1.5), 0, np.log(1.5 / 3.5)])
    np.testing.assert_allclose(log_ratio(own, other, 0.5), -found)
    assert log_ratio(np.array([1e-3]), np.array([1e-6]), 0.05) < 0.05, "what both predict"


def test_samples_are_ranked_within_bins_of_length():
    bins = length_bins(np.array([20, 26, 27, 34, 47, 48]), 20, 48)
    assert bins.tolist() == [20, 20, 27, 34, 41, 41]
    assert ranks_within(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1])).tolist() == [2, 1, 1]
    assert length_bins(np.array([5]), 5, 5).tolist() == [5]


def test_repeats_and_the_marked_span():
    assert repeated_trigrams([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repeated_trigrams([1, 2]) == 0
    gain = np.random.default_rng(2).normal(size=20)
    start, end = likelier_span(gain, 4)
    spans = [(a, b) for a in range(20) for b in range(a + 1, min(a + 4, 20) + 1)]
    assert gain[start:end].sum() == pytest.approx(max(gain[a:b].sum() for a, b in spans))
    assert likelier_span(np.zeros(0), 4) == (0, 0)
