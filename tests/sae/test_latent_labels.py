"""Labels of latents: planted lists come back, scores are what the judge's errors leave, chance is a
half.
"""

import numpy as np
import pytest
from scipy import stats

from interp.errors import OptionError
from interp.sae.analysis.token_labels import (
    ActiveTokens,
    Examples,
    Texts,
    adjusted_p,
    label_latents,
    stratified_sample,
)

LISTS = {latent: {5 * latent + offset for offset in range(4)} for latent in range(12)}


def active(on):
    """Firing of a matrix [N, F] of codes."""
    return {
        latent: ActiveTokens(np.flatnonzero(column), column[column != 0].astype(float))
        for latent, column in enumerate(on.T)
    }


def texts(wrong=0.0, documents=60, seed=0):
    """Tokens of documents, and latents that fire on lists of tokens; a share of firing is wrong."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 80, size=documents * 50)
    on = np.stack([np.isin(tokens, list(members)) for members in LISTS.values()], 1)
    on ^= generator.random(on.shape) < wrong
    return active(on), Texts.from_tokens(tokens, np.arange(len(tokens)) // 50)


def found(firing, where, latents=None, **more):
    return label_latents(
        firing, where, firing if latents is None else latents, **{"draws": 19, **more}
    )


def test_planted_lists_come_back_and_are_right_on_other_documents():
    made = found(*texts())
    for one in made:
        assert set(one.tokens) == LISTS[one.latent]
        assert one.score == one.high == 1
        # 30 documents were not seen in making it, and not all of them have an example
        assert 0.7 < one.low < stats.binomtest(30, 30).proportion_ci().low
        assert one.others.max() < 0.6
        assert one.shuffled.max() < 0.75
        assert len(one.shuffled) == 19
        assert one.p == pytest.approx(1 / 12)
    assert adjusted_p(made).max() == pytest.approx(1 / 12)


def test_a_judge_that_errs_scores_what_its_errors_leave():
    firing, where = texts(documents=400)
    generator = np.random.default_rng(2)
    for wrong in (0.0, 0.1, 0.3, 0.5):
        one = Examples.draw(firing[3], where, 400, generator)
        told = [
            part ^ (generator.random(len(part)) < wrong)
            for part in one.predictions(where.tokens, LISTS[3])
        ]
        assert one.score(*told) == pytest.approx(1 - wrong, abs=0.05)
        value, low, high = one.interval(*told, where.clusters)
        assert value == pytest.approx(one.score(*told))
        sizes = np.unique(
            where.clusters[np.concatenate([one.active, one.quiet])], return_counts=True
        )[1]
        n = sizes.sum() ** 2 / (sizes**2).sum()
        assert low == pytest.approx(stats.beta.ppf(0.025, value * n, n - value * n + 1))
        assert high == pytest.approx(
            1 if value == 1 else stats.beta.ppf(0.975, value * n + 1, n - value * n)
        )
    always = np.ones(400, bool)
    assert one.score(always, always) == one.score(~always, ~always) == 0.5


def test_a_latent_that_fires_wrongly_scores_less_and_noise_scores_a_half():
    made = found(*texts(0.01))
    assert 0.8 < np.mean([one.score for one in made]) < 0.98
    _, where = texts()
    noise = active(np.random.default_rng(3).random((len(where.tokens), 20)) < 0.05)
    made = found(noise, where)
    assert np.mean([one.score for one in made]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.p <= 0.1 for one in made]) <= 0.2


def test_firing_that_goes_by_cluster_is_no_evidence():
    # words by cluster, firing by cluster, and the one knows nothing of the other
    seen, clusters = [], np.repeat(np.arange(24), 60)
    for run in range(60):
        generator = np.random.default_rng(run)
        topics = generator.dirichlet(np.full(20, 0.3), 24)
        tokens = np.concatenate([generator.choice(20, 60, p=topic) for topic in topics])
        where = Texts.from_tokens(tokens, np.arange(len(clusters)) // 12, clusters, run)
        firing = (generator.random(24) < 0.4)[clusters] & (generator.random(len(clusters)) < 0.5)
        one = label_latents(active(firing[:, None]), where, [0], draws=39, seed=run)[0]
        seen += [] if not one.examples else [(one.score <= one.shuffled).mean()]
    assert np.mean(np.array(seen) <= 0.1) <= 0.2


def test_shuffled_firing_is_chance_and_keeps_halves_and_documents_together():
    firing, where = texts()
    generator = np.random.default_rng(5)
    index = where.shuffled(generator)
    assert sorted(index) == list(range(len(index)))
    assert (where.training[index] == where.training).all()
    assert (np.diff(where.documents[index]) == 0).mean() == pytest.approx(
        (np.diff(where.documents) == 0).mean()
    )
    moved = Texts(where.tokens[index], where.documents, where.clusters, where.training)
    made = found(firing, moved, draws=99)
    assert np.mean([one.score for one in made]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one.shuffled.mean() for one in made]) == pytest.approx(0.5, abs=0.02)
    assert (adjusted_p(made) > 0.05).all()


def test_labels_are_made_and_scored_on_different_documents():
    """What is only in the half that made the label is worth nothing on the other."""
    firing, where = texts()
    unique = Texts(
        where.tokens + 80 * where.documents, where.documents, where.clusters, where.training
    )
    for one in found(firing, unique):
        assert one.score == pytest.approx(0.5, abs=0.01)
    generator = np.random.default_rng(0)
    for one in firing.values():
        drawn = Examples.draw(one, where, 30, generator)
        assert len(drawn.active) == len(drawn.quiet) == 30
        assert not where.training[np.concatenate([drawn.active, drawn.quiet])].any()
        assert np.isin(drawn.active, one.rows).all()
        assert not np.isin(drawn.quiet, one.rows).any()


def test_rows_of_a_cluster_are_in_one_half():
    where = Texts.from_tokens(np.arange(100), np.arange(100) // 5, np.arange(100) // 5 % 4)
    for cluster in range(4):
        assert len(set(where.training[where.clusters == cluster])) == 1
    assert where.training.sum() == 50


def test_documents_of_equal_tokens_are_one_cluster():
    """Ten documents, each twice; and those that share a cluster with one of two copies go with the
    other.
    """
    tokens, documents = np.tile(np.arange(50), 2), np.arange(100) // 5
    where = Texts.from_tokens(tokens, documents)
    assert len(set(where.clusters)) == 10
    np.testing.assert_array_equal(where.clusters[:50], where.clusters[50:])
    np.testing.assert_array_equal(where.training[:50], where.training[50:])
    # 0 and 1 are a cluster, so are the copies of 1 and 2
    clusters = np.array([0, 0, *range(2, 10), 10, 11, 11, *range(13, 20)])
    assert len(set(Texts.from_tokens(tokens, documents, clusters[documents]).clusters)) == 8
    with pytest.raises(OptionError, match="2 documents or more"):
        Texts.from_tokens(np.zeros(100, int), documents)


def test_examples_come_from_every_quantile_without_repetition():
    generator = np.random.default_rng(0)
    values = generator.random(1000)
    chosen = stratified_sample(values, 50, generator)
    assert len(set(chosen)) == 50
    np.testing.assert_array_equal(
        np.histogram(values[chosen], np.quantile(values, np.linspace(0, 1, 11)))[0], 5
    )
    assert sorted(stratified_sample(values[:7], 7, generator)) == list(range(7))


def test_rare_latents_and_one_document():
    _, where = texts()
    rare = active(np.eye(len(where.tokens), 3))
    for one in found(rare, where):
        assert (one.tokens, one.examples) == ((), 0)
        assert np.isnan([one.score, one.low, one.p]).all()
    with pytest.raises(OptionError, match="2 documents or more"):
        Texts.from_tokens(where.tokens, np.zeros(len(where.tokens)))
