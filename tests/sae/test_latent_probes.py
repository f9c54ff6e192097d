"""Latents that tell a behaviour: a probe beside chance, and edits that keep what the dictionary
does not explain.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp.engines import Batch, TorchEngine
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.sae.analysis.causal_validation import measure_effects
from interp.sae.analysis.probe import SparseProbe
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.edits import LatentEdit
from interp.sites import Site
from tests import tiny

SITE = Site(1, "hook_resid_post")


def data(seed, strength=0.0, pairs=40, latents=60):
    """Twins, one of each class; latent 7 tells them apart by ``strength``."""
    generator = np.random.default_rng(seed)
    clusters, labels = np.repeat(np.arange(pairs), 2), np.tile([True, False], pairs)
    codes = np.maximum(
        generator.normal(size=(2 * pairs, latents)) + generator.normal(size=pairs)[clusters, None],
        0,
    )
    codes[:, 7] += strength * labels
    return codes, labels, clusters


def test_a_permutation_that_leaves_one_prompt_of_a_class_selects_nothing():
    generator = np.random.default_rng(0)
    # a permutation seldom puts more than a few of nine into the half that chooses
    labels = np.arange(32) < 9
    training = np.arange(32) % 4 == 0
    found = SparseProbe(k=2, draws=199)(
        generator.normal(size=(32, 5)), labels, np.arange(32), training
    )
    assert found.null.shape == (199,)
    assert np.isfinite(found.null).all()
    assert (found.null == 0.5).any()


def test_a_planted_latent_is_found_beyond_the_best_by_chance():
    codes, labels, clusters = data(0, 3.0)
    found = SparseProbe()(codes, labels, clusters)
    assert found.latents.tolist() == [7]
    assert found.weights[0] > 0
    assert found.p == 0.01
    assert found.low > 0.8
    assert found.low <= found.auc <= found.high
    both = SparseProbe(k=3, draws=19)(codes, labels, clusters)
    assert both.latents[0] == 7
    assert len(both.latents) == 3


def test_chance_is_found_at_the_nominal_rate():
    """The best of 60 latents parts the half that it was chosen on; held out and beside the null it
    is nothing.
    """
    hits, n = 0, 40
    for seed in range(n):
        hits += SparseProbe(draws=19, seed=seed)(*data(seed)).p <= 0.05
    assert stats.binomtest(hits, n, 0.05).pvalue > 0.01, hits


def test_a_held_out_auc_is_scikit_learns():
    codes, labels, clusters = data(1, 1.0)
    probe = SparseProbe(k=2, draws=1, seed=4)
    found = probe(codes, labels, clusters)
    training = found.training
    latents, _, scores = probe._fit(codes, labels, clusters, training)
    np.testing.assert_array_equal(found.scores, scores)
    assert found.latents.tolist() == latents.tolist()
    assert found.auc == pytest.approx(roc_auc_score(labels[~training], scores[~training]))
    values = [found.auc]
    for one in np.unique(clusters[~training]):
        rest = ~training & (clusters != one)
        values.append(roc_auc_score(labels[rest], scores[rest]))
    m = len(values) - 1
    reach = np.sqrt((m - 1) / m * np.square(np.array(values[1:]) - values[0]).sum()) * stats.t.ppf(
        0.975, m - 1
    )
    ends = logit(found.auc) + np.array([-reach, reach]) / (found.auc * (1 - found.auc))
    assert (found.low, found.high) == pytest.approx(tuple(expit(ends)))
    assert not set(clusters[training]) & set(clusters[~training])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("twins", [True, False])
def test_copies_of_all_prompts_change_nothing(k, twins):
    """Nor the null: a cluster that has rows of both classes exchanges the labels of its two sides,
    as wholes.
    """
    codes, labels, clusters = data(3, 1.0, pairs=24)
    clusters = clusters if twins else np.arange(len(labels))
    one = SparseProbe(k, draws=60)(codes, labels, clusters)
    many = SparseProbe(k, draws=60)(
        *(np.repeat(part, 5, axis=0) for part in (codes, labels, clusters))
    )
    assert many.latents.tolist() == one.latents.tolist()
    for name in ("weights", "auc", "low", "high", "null", "p"):
        np.testing.assert_allclose(
            getattr(many, name), getattr(one, name), rtol=0, atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(many.scores[::5], one.scores, rtol=0, atol=1e-6)


def test_without_copies_the_strength_is_scikit_learns():
    codes, labels, clusters = data(1, 1.0)
    found = SparseProbe(k=3, draws=1)(codes, labels, clusters)
    chosen, rows = codes[:, found.latents], found.training
    chosen = (chosen - chosen[rows].mean(0)) / chosen[rows].std(0)
    fitted = LogisticRegression().fit(chosen[rows], labels[rows])
    np.testing.assert_allclose(found.weights, fitted.coef_[0], rtol=1e-9)


def test_whole_clusters_of_one_class_keep_one_label_in_the_null():
    codes, labels, _ = data(2, 3.0)
    # prompts that are not twins: two of each class to a cluster
    order = np.argsort(~labels, kind="stable")
    found = SparseProbe(draws=19)(codes[order], labels[order], np.arange(80) // 2)
    assert found.latents.tolist() == [7]
    assert found.p == 0.05


def test_too_few_prompts_are_refused():
    with pytest.raises(OptionError, match="each half needs 8 clusters"):
        SparseProbe()(*data(0, pairs=10))
    with pytest.raises(OptionError, match="cannot select"):
        SparseProbe(k=61)(*data(0))


@pytest.fixture(scope="module")
def pair():
    return Pair.from_modules(tiny.exact(tiny.llama(seed=3)), None, tiny.tokenizer(False))


def dictionary(normalisation="none"):
    made = Dictionary(
        DictionaryConfig("topk", 32, 40, k=6, normalisation=normalisation), seed=2
    ).double()
    with torch.no_grad():
        made.b_dec.add_(0.1)
        made.b_enc.add_(0.05)
    return made


@pytest.mark.parametrize("normalisation", ["none", "scale", "layer-norm"])
def test_the_error_stays_in(normalisation):
    made, value = dictionary(normalisation), torch.randn(2, 5, 32, dtype=torch.float64)
    if normalisation == "scale":
        made.scale.fill_(3)
    rows = value.reshape(-1, 32)
    inside, undo = made.normalise(rows)
    everything = torch.arange(40)
    left = LatentEdit(SITE, made, everything).apply(value).reshape(-1, 32)
    error = rows - made(rows)
    torch.testing.assert_close(left, (error + made.b_dec * undo[1] + undo[0]).detach())
    assert LatentEdit(SITE, made, everything, factor=1.0).apply(value) is value
    one = torch.tensor([4])
    twice = LatentEdit(SITE, made, one, factor=2.0).apply(value)
    part = made.encode(rows)[:, 4:5] * made.W_dec[4] * undo[1]
    torch.testing.assert_close(twice.reshape(-1, 32), (rows + part).detach())
    pushed = LatentEdit(SITE, made, one, factor=1.0, amount=1.5).apply(value)
    torch.testing.assert_close(
        pushed.reshape(-1, 32), (rows + 1.5 * made.W_dec[4] * undo[1]).detach()
    )
    assert torch.isfinite(inside).all()


def test_in_a_model_ablation_is_what_replacing_the_stream_does(pair):
    """Intervention: the edit in a pass equals a pass whose stream was replaced by hand."""
    made, engine, model = dictionary(), TorchEngine(), pair.tuned
    batch = Batch.pad([[5, 9, 30, 41], [7, 8]], 0)
    silent = LatentEdit(SITE, made, torch.zeros(0, dtype=torch.int64))
    plain = engine.run(model, batch, reads=[SITE])
    untouched = engine.run(model, batch, edits=[silent])
    torch.testing.assert_close(untouched.logits, plain.logits)
    stream = plain.values[SITE].reshape(-1, 32)
    loudest = int(made.encode(stream).sum(0).argmax())
    edited = engine.run(
        model, batch, reads=[SITE], edits=[LatentEdit(SITE, made, torch.tensor([loudest]))]
    )
    by_hand = stream - made.encode(stream)[:, loudest : loudest + 1] * made.W_dec[loudest]
    torch.testing.assert_close(edited.values[SITE].reshape(-1, 32), by_hand.detach())
    assert not torch.allclose(edited.logits, plain.logits)


def test_edits_that_mean_nothing_are_refused():
    crosscoder = Dictionary(DictionaryConfig("topk", 16, 40, models=2, k=6))
    with pytest.raises(OptionError, match="of two models reads"):
        LatentEdit(SITE, crosscoder, torch.tensor([1]))
    with pytest.raises(OptionError, match="there is no latent 40"):
        LatentEdit(SITE, dictionary(), torch.tensor([40]))


class TestConfirm:
    """A behaviour that one latent makes: the logit of a token is what the latent's direction
    writes.
    """

    def found(self, pair, which):
        made, engine, model = dictionary(), TorchEngine(), pair.tuned
        batch = Batch.pad([[5 + row, 9, 30, 41 + row] for row in range(12)], 0)
        stream = engine.run(model, batch, reads=[SITE]).values[SITE].reshape(-1, 32)
        rates = (made.encode(stream) > 0).double().mean(0).numpy()
        loud = int(np.argmax(rates))
        direction = made.W_dec[loud].detach()

        def measure(edits):
            return (
                (engine.run(model, batch, reads=[SITE], edits=edits).values[SITE] @ direction)
                .mean(1)
                .numpy()
            )

        latents = [loud] if which == "causal" else [int(np.argsort(-rates)[5])]
        return measure_effects(measure, made, SITE, latents, rates, np.arange(12), amount=2.0)

    def test_what_causes_it_is_beyond_random_latents(self, pair):
        found = self.found(pair, "causal")
        assert found["ablate"].change[2] < 0 < found["steer"].change[1]
        assert found["steer"].change[0] == pytest.approx(2.0)
        assert found["steer"].change[1] == pytest.approx(2.0), "the same in every prompt"
        assert found["ablate"].p == found["steer"].p == 0.05

    def test_another_latent_is_not(self, pair):
        assert self.found(pair, "another")["steer"].p > 0.05

    def test_no_others_no_control(self):
        with pytest.raises(OptionError, match="too few to draw controls"):
            measure_effects(
                lambda _: np.zeros(3),
                dictionary(),
                SITE,
                [1],
                np.eye(40)[1],
                np.arange(3),
                amount=1.0,
            )
