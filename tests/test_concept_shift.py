"""Shifts of concepts: identities, a planted one found and no other, chance told apart from it."""

import numpy as np
import pytest
import torch

from interp.analyzers.concept_shift import ConceptShift
from interp.dictionaries import shift as shifts
from interp.dictionaries.reading import Texts
from interp.errors import OptionError
from tests import tiny

K, D, DOCUMENTS, LONG = 5, 12, 40, 15


def world(seed=0):
    """States of K concepts, each token of one, in documents."""
    generator = np.random.default_rng(seed)
    concepts = generator.integers(0, K, DOCUMENTS * LONG)
    centres = 6 * generator.normal(size=(K, D))
    states = centres[concepts] + 0.3 * generator.normal(size=(len(concepts), D))
    texts = Texts.of(concepts, np.repeat(np.arange(DOCUMENTS), LONG))
    return states, concepts, texts, generator


def found(a, b, concepts, texts, **more):
    return shifts.ConceptShift(**{"draws": 99, **more})(a, b, concepts, texts)


def test_the_same_model_shifts_nothing():
    a, concepts, texts, _ = world()
    same = found(a, a.copy(), concepts, texts)
    assert not same.shift.any()
    assert (same.exchange_p == 1).all()
    assert (same.permuted_p == 1).all()
    assert np.isnan(same.pairwise).all()
    nearer = shifts.recovery(same, shifts.means(a, concepts, K))
    assert nearer.match.tolist() == list(range(K))
    assert not nearer.gain.any()
    assert not nearer.cosine_gain.any()


def test_one_constant_for_all_is_every_concepts_shift_and_nobodys_own():
    a, concepts, texts, generator = world()
    constant = generator.normal(size=D)
    all_alike = found(a, a + constant, concepts, texts)
    np.testing.assert_allclose(all_alike.shift, np.tile(constant, (K, 1)), atol=1e-12)
    np.testing.assert_allclose(all_alike.pairwise, 1)
    np.testing.assert_allclose(all_alike.aligned, 1)
    assert (all_alike.exchange_p <= 0.05).all()
    assert (all_alike.permuted_p == 1).all()
    nearer = shifts.recovery(all_alike, shifts.means(a + constant, concepts, K))
    np.testing.assert_allclose(nearer.gain, np.linalg.norm(constant))
    np.testing.assert_allclose(nearer.gain, nearer.by_overall)


def test_one_concept_is_the_mean_difference_and_order_does_not_count():
    a, concepts, texts, generator = world()
    b = a + generator.normal(size=a.shape)
    one = found(a, b, np.zeros(len(a), int), texts)
    np.testing.assert_allclose(one.shift[0], (b - a).mean(0))
    assert (one.permuted_p == 1).all()
    plain = found(a, b, concepts, texts)
    order = np.concatenate([np.flatnonzero(texts.documents == d) for d in generator.permutation(DOCUMENTS)])
    turned = Texts(texts.tokens[order], texts.documents[order], texts.clusters[order], texts.training[order])
    again = found(a[order], b[order], concepts[order], turned)
    for name in ("shift", "concepts", "pairwise", "aligned", "exchange_p"):
        np.testing.assert_allclose(getattr(again, name), getattr(plain, name), atol=1e-12, err_msg=name)


def test_a_planted_shift_of_one_concept_is_found_and_no_other():
    a, concepts, texts, generator = world()
    v = 3 * generator.normal(size=D)
    b = a + 0.3 * generator.normal(size=a.shape)
    b[concepts == 3] += v
    planted = found(a, b, concepts, texts)
    cosine = planted.shift[3] @ v / np.linalg.norm(planted.shift[3]) / np.linalg.norm(v)
    assert cosine > 0.95
    others = [k for k in range(K) if k != 3]
    assert planted.size[others].max() < 0.1 * planted.size[3]
    assert planted.exchange_p[3] == planted.permuted_p[3] == 0.01
    assert (planted.exchange_p[others] > 0.05).all()
    assert planted.pairwise[3, 1] > 0.9
    assert (planted.pairwise[others, 1] < 0.05).all()
    nearer = shifts.recovery(planted, shifts.means(b, concepts, K))
    assert nearer.gain[3] > 0.95 * np.linalg.norm(v)
    assert nearer.by_overall[3] < 0.5 * nearer.gain[3]


def test_chance_is_right_as_often_as_it_says():
    """Noise of whole documents is no shift: p is uniform, over worlds."""
    low = []
    for seed in range(8):
        a, concepts, texts, generator = world(seed)
        noise = 2 * generator.normal(size=(DOCUMENTS, D))[texts.documents]
        drawn = found(a, a + noise, concepts, texts, draws=39, seed=seed)
        low += [drawn.exchange_p <= 0.05, drawn.permuted_p <= 0.05]
    assert np.mean(low) <= 0.15


def test_consistency_is_numpys_over_pairs_of_different_documents():
    a, concepts, texts, generator = world()
    b = a + generator.normal(size=a.shape) + 0.5
    mine = concepts == 1
    moved = (b - a)[mine]
    unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    apart = texts.clusters[mine][:, None] != texts.clusters[mine][None]
    one = found(a, b, concepts, texts)
    assert one.pairwise[1, 0] == pytest.approx((unit @ unit.T)[apart].mean())
    assert one.aligned[1, 0] == pytest.approx((unit @ moved.mean(0) / np.linalg.norm(moved.mean(0))).mean())
    assert (one.pairwise[:, 1] < one.pairwise[:, 0]).all()
    assert (one.pairwise[:, 2] > one.pairwise[:, 0]).all()


def test_few_tokens_are_no_concept_and_k_means_finds_planted_ones():
    a, concepts, texts, _ = world()
    few = np.where(np.arange(len(concepts)) < 9, K, concepts)
    rare = found(a, a + 1, few, texts)
    assert np.isnan(rare.shift[K]).all()
    assert np.isnan(rare.exchange_p[K])
    assert shifts.recovery(rare, shifts.means(a, concepts, K)).match[K] == -1
    member = shifts.clustered(a, K)
    assert len({(one, other) for one, other in zip(member, concepts, strict=True)}) == K
    assert (np.diff(np.bincount(member)) <= 0).all()
    with pytest.raises(OptionError, match="cannot be put into"):
        shifts.clustered(a[:3], 4)
    with pytest.raises(OptionError, match="begin at 0"):
        found(a, a, concepts - 1, texts)


def test_an_analyzer_reads_the_same_tokens_of_both_and_finds_a_moved_stream():
    base = tiny.llama()
    tuned = tiny.exact(tiny.perturbed(base, 0.0))
    with torch.no_grad():
        tuned.model.embed_tokens.weight += 0.5
    study = tiny.study(tuned, tiny.exact(base), 24)
    table = ConceptShift("blocks.0.hook_resid_pre", 3)(study)
    assert table.summary["mean_shift"] == pytest.approx(0.5 * 32**0.5)
    assert table["shifted"][table["measured"]].all()
    assert not table["own_way"].any()
    # a change of a later block is no shift here
    other = tiny.perturbed(base, 0.0)
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight += 0.5
    before = ConceptShift("blocks.1.hook_resid_post", 3)(tiny.study(tiny.exact(other), tiny.exact(base), 24))
    assert not before["shifted"].any()
    assert before.summary["mean_shift"] == 0
    for made, said in ((ConceptShift("blocks.1.hook_resid_post", 0), "0 concepts"),
                       (ConceptShift("blocks.1.hook_resid_post", 9999), "ask for fewer"),
                       (ConceptShift("nowhere"), "is not a site")):  # fmt: skip
        with pytest.raises(OptionError, match=said):
            made(study)
