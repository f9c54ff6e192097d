"""Shifts of concepts: identities, a planted one found and no other, chance told apart from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from interp.analyzers.concept_shift import ConceptShift
from interp.claims import conclude
from interp.errors import OptionError, PairError
from interp.models.pair import Pair
from interp.models.pairs_on_demand import PairsOnDemand
from interp.rows import rows_table
from interp.sae.analysis import concept_shift as shifts
from interp.sae.analysis.concept_shift_claims import (
    ConceptRow,
    ConceptShifts,
    claims_of,
    control_columns,
    shift_columns,
)
from interp.sae.analysis.token_labels import Texts
from tests import tiny
from tests.claim_makers import require_remeasured

K, D, DOCUMENTS, LONG = 5, 12, 40, 15


def world(seed=0):
    """States of K concepts, each token of one, in documents."""
    generator = np.random.default_rng(seed)
    concepts = generator.integers(0, K, DOCUMENTS * LONG)
    centres = 6 * generator.normal(size=(K, D))
    states = centres[concepts] + 0.3 * generator.normal(size=(len(concepts), D))
    texts = Texts.from_tokens(concepts, np.repeat(np.arange(DOCUMENTS), LONG))
    return states, concepts, texts, generator


def found(a, b, concepts, texts, **more):
    return shifts.ShiftEstimator(**{"draws": 99, **more})(a, b, concepts, texts)


def test_the_same_model_shifts_nothing():
    a, concepts, texts, _ = world()
    same = found(a, a.copy(), concepts, texts)
    assert not same.shift.any()
    assert (same.exchange_p == 1).all()
    assert (same.permuted_p == 1).all()
    assert np.isnan(same.pairwise).all()
    nearer = shifts.concept_recovery(same, shifts.mean_per_concept(a, concepts, K))
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
    nearer = shifts.concept_recovery(all_alike, shifts.mean_per_concept(a + constant, concepts, K))
    np.testing.assert_allclose(nearer.gain, np.linalg.norm(constant))
    np.testing.assert_allclose(nearer.gain, nearer.by_overall)


def test_one_concept_is_the_mean_difference_and_order_does_not_count():
    a, concepts, texts, generator = world()
    b = a + generator.normal(size=a.shape)
    one = found(a, b, np.zeros(len(a), int), texts)
    np.testing.assert_allclose(one.shift[0], (b - a).mean(0))
    assert (one.permuted_p == 1).all()
    plain = found(a, b, concepts, texts)
    order = np.concatenate(
        [np.flatnonzero(texts.documents == d) for d in generator.permutation(DOCUMENTS)]
    )
    turned = Texts(
        texts.tokens[order], texts.documents[order], texts.clusters[order], texts.training[order]
    )
    again = found(a[order], b[order], concepts[order], turned)
    for name in ("shift", "concepts", "pairwise", "aligned", "exchange_p"):
        np.testing.assert_allclose(
            getattr(again, name), getattr(plain, name), atol=1e-12, err_msg=name
        )


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
    nearer = shifts.concept_recovery(planted, shifts.mean_per_concept(b, concepts, K))
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
    assert one.aligned[1, 0] == pytest.approx(
        (unit @ moved.mean(0) / np.linalg.norm(moved.mean(0))).mean()
    )
    assert (one.pairwise[:, 1] < one.pairwise[:, 0]).all()
    assert (one.pairwise[:, 2] > one.pairwise[:, 0]).all()


def test_intervals_are_the_jackknifes_over_clusters_by_hand():
    a, concepts, texts, generator = world()
    moved = generator.normal(size=a.shape) + 0.5
    one, mine = found(a, a + moved, concepts, texts), concepts == 1
    clusters, unit = (
        texts.clusters[mine],
        moved[mine] / np.linalg.norm(moved[mine], axis=1, keepdims=True),
    )
    toward = moved[mine].mean(0) / np.linalg.norm(moved[mine].mean(0))

    def pairwise(kept):
        apart = clusters[kept][:, None] != clusters[kept][None]
        return (unit[kept] @ unit[kept].T)[apart].mean()

    for statistic, stated in (
        (pairwise, one.pairwise[1]),
        (lambda kept: (unit[kept] @ toward).mean(), one.aligned[1]),
    ):
        left = np.array([statistic(clusters != name) for name in np.unique(clusters)])
        value, m, sizes = (
            statistic(clusters >= 0),
            len(left),
            np.unique(clusters, return_counts=True)[1],
        )
        error = np.sqrt((m - 1) / m * np.square(left - value).sum())
        reach = error * stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
        np.testing.assert_allclose(stated, [value, value - reach, value + reach], rtol=1e-9)


def test_an_excess_is_numpys_over_pairs_of_different_clusters():
    a, concepts, texts, generator = world()
    moved, control = (generator.normal(size=a.shape) + shift for shift in (0.5, 0.2))
    got = shifts.excess(moved, control, concepts, texts.clusters, K + 1)
    for concept in range(K):
        mine = concepts == concept
        apart = texts.clusters[mine][:, None] != texts.clusters[mine][None]
        own, other = ((rows[mine] @ rows[mine].T)[apart].mean() for rows in (moved, control))
        assert got[concept, 0] == pytest.approx(own - shifts.CONTROL_FACTOR**2 * other)
        assert got[concept, 1] < got[concept, 0] < got[concept, 2]
    assert np.isnan(got[K]).all()


def test_an_excess_at_the_border_is_positive_at_the_nominal_rate():
    """The control moves just half as far; the noise of tokens and documents is in both and larger
    in one.
    """
    generator, hits, n = np.random.default_rng(5), [], 400
    clusters = np.repeat(np.arange(16), 6)
    for draw in range(n):
        shift = generator.normal(size=D)
        noise = [
            generator.normal(size=(16, D))[clusters] + generator.normal(size=(96, D))
            for _ in range(2)
        ]
        size = 3.0 if draw % 2 else 0.5
        got = shifts.excess(
            shift + size * noise[0], shift / 2 + noise[1], np.zeros(96, int), clusters, 1
        )
        hits.append((got[0, 1] > 0, got[0, 0]))
    assert stats.binomtest(int(sum(hit for hit, _ in hits)), n, 0.025).pvalue > 0.001
    values = np.array([value for _, value in hits])
    assert abs(values.mean()) < 3 * stats.sem(values), "noise adds nothing on average"


COUNT = 12


def fine_tune(states, concepts, documents, generator, size=1.0):
    """What training of any kind does: every concept has a shift of its own, and documents and
    tokens their noise.
    """
    spread = generator.gamma(8, 1 / 8, size=(COUNT, 1))
    own = size * (spread * generator.normal(size=(COUNT, D)) + generator.normal(size=D))
    noise = 0.3 * generator.normal(size=(int(documents.max()) + 1, D))[
        documents
    ] + 0.3 * generator.normal(size=states.shape)
    return states + own[concepts] + noise


def concluded(states, tuned, texts, controls, draws=39):
    (own, *others), member = ConceptShifts(COUNT, draws)(states, [tuned, *controls], texts)
    columns = shift_columns(own, states[texts.training])
    if others:
        columns |= control_columns(own, others, member, texts.clusters[texts.training])
    run = rows_table(ConceptRow, "concept-shift", columns)
    return conclude(run, claims_of(columns, len(others)))


def drawn(seed):
    generator = np.random.default_rng(seed)
    concepts = generator.integers(0, COUNT, 60 * LONG)
    states = (8 * generator.normal(size=(COUNT, D)))[concepts] + 0.3 * generator.normal(
        size=(len(concepts), D)
    )
    texts = Texts.from_tokens(concepts, np.repeat(np.arange(60), LONG))
    return (
        states,
        texts,
        lambda size=1.0: fine_tune(states, concepts, texts.documents, generator, size),
    )


BEYOND = [
    "concepts-shift-beyond-control",
    "concepts-beyond-mean-shift-beyond-control",
    "shift-recovers-beyond-control",
]


@pytest.mark.slow
def test_two_fine_tunes_of_one_recipe_are_told_apart_at_the_nominal_rate_at_most():
    hits, n = np.zeros(3), 30
    for seed in range(n):
        states, texts, tune = drawn(seed)
        # how far a training goes as a whole differs from one to the next
        size = iter(np.exp(0.2 * np.random.default_rng(seed + 1000).normal(size=3)))
        run = concluded(
            states, tune(next(size)), texts, [tune(next(size)) for _ in range(1 + seed % 2)]
        )
        # alone, everything that this fine-tune does would have been claimed
        assert run["shifted"].mean() > 0.9
        assert run["moves_distinctly"].mean() > 0.5
        hits += [run.summary["verdicts"][name] == "supported" for name in BEYOND]
    assert (hits <= stats.binom.ppf(0.999, n, 0.025)).all(), hits / n


@pytest.mark.parametrize("controls", [1, 3])
def test_a_planted_shift_is_supported_beyond_controls_and_not_without_one(controls):
    states, texts, tune = drawn(0)
    tuned = tune(4.0)
    run = concluded(states, tuned, texts, [tune() for _ in range(controls)])
    made = require_remeasured(run)
    assert [name for name, one in made.items() if one.supported] == BEYOND
    assert run["beyond_control"].sum() > COUNT / 2
    assert not run["control_beyond"].any()
    one, up = made[BEYOND[0]], int(run["beyond_control"].sum())
    assert (one.value, one.clusters) == (up / COUNT, COUNT)
    assert ("each of 3 control" in one.sentence) == (controls == 3)
    turned = concluded(states, tune(), texts, [tune(4.0)])
    assert not set(turned.summary["verdicts"].values()) & {"supported", "not tested"}
    assert turned["control_beyond"].sum() > COUNT / 2
    alone = concluded(states, tuned, texts, [])
    made = require_remeasured(alone)
    assert list(made) == ["concepts-shift", "concepts-beyond-mean-shift", "shift-recovers"]
    assert {one.verdict for one in made.values()} == {"not tested"}
    assert all("there is no control fine-tune" in one.sentence for one in made.values())
    assert alone.summary["supported"] is False
    # the numbers of the model itself do not depend on its controls
    for name in alone.data:
        np.testing.assert_array_equal(alone[name], run[name], err_msg=name)


def test_few_tokens_are_no_concept_and_k_means_finds_planted_ones():
    a, concepts, texts, _ = world()
    few = np.where(np.arange(len(concepts)) < 9, K, concepts)
    rare = found(a, a + 1, few, texts)
    assert np.isnan(rare.shift[K]).all()
    assert np.isnan(rare.exchange_p[K])
    assert shifts.concept_recovery(rare, shifts.mean_per_concept(a, concepts, K)).match[K] == -1
    member = shifts.kmeans_concepts(a, K)
    assert len({(one, other) for one, other in zip(member, concepts, strict=True)}) == K
    assert (np.diff(np.bincount(member)) <= 0).all()
    with pytest.raises(OptionError, match="cannot be clustered into"):
        shifts.kmeans_concepts(a[:3], 4)
    with pytest.raises(OptionError, match="numbered from 0"):
        found(a, a, concepts - 1, texts)


def test_an_analyzer_reads_the_same_tokens_of_both_and_finds_a_moved_stream():
    base = tiny.llama()
    tuned = tiny.exact(tiny.perturbed(base, 0.0))
    with torch.no_grad():
        tuned.model.embed_tokens.weight += 0.5
    study = tiny.study(tuned, tiny.exact(base), 24)
    alone = ConceptShift("blocks.0.hook_resid_pre", 3)(study)
    assert alone.summary["mean_shift"] == pytest.approx(0.5 * 32**0.5)
    assert alone["shifted"][alone["measured"]].all()
    assert not alone["moves_distinctly"].any()
    assert alone.summary["verdicts"]["concepts-shift"] == "not tested"
    assert "Without a control" in alone.summary["limits"][0]
    # beside another fine-tune that does as much it does not stand out, beside one that does little
    # it does
    controls = [
        Pair.from_modules(tiny.exact(each), tiny.exact(base), tiny.tokenizer())
        for each in (tuned, tiny.perturbed(base, 0.01))
    ]
    for controls_given, supported in (
        (controls[:1], False),
        (controls[1:], True),
        (controls, False),
    ):
        one = ConceptShift("blocks.0.hook_resid_pre", 8, controls=tuple(controls_given))
        there = one(study)
        assert require_remeasured(there)["concepts-shift-beyond-control"].supported == supported
        assert there.summary["controls"] == [pair.tuned.name for pair in controls_given]
        # loaded one at a time they give the same run
        on_demand = PairsOnDemand([lambda pair=pair: pair for pair in controls_given])
        again = replace(one, controls=on_demand)(study)
        assert again.require_provenance().key == there.require_provenance().key
        for column in there.columns:
            np.testing.assert_array_equal(again[column.name], there[column.name])
        assert study.provenance(one).key != alone.provenance.key
    other_base = Pair.from_modules(tiny.exact(tuned), tiny.exact(tuned), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        ConceptShift("blocks.0.hook_resid_pre", 3, controls=(other_base,))(study)
    # a change of a later block is no shift here
    other = tiny.perturbed(base, 0.0)
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight += 0.5
    before = ConceptShift("blocks.1.hook_resid_post", 3)(
        tiny.study(tiny.exact(other), tiny.exact(base), 24)
    )
    assert not before["shifted"].any()
    assert before.summary["mean_shift"] == 0
    with pytest.raises(OptionError, match="concepts of ConceptShift is 0; use at least 1"):
        ConceptShift("blocks.1.hook_resid_post", 0)
    with pytest.raises(OptionError, match="tokens of ConceptShift is 19; use at least 20"):
        ConceptShift("blocks.1.hook_resid_post", tokens=19)
    for made, said in (
        (ConceptShift("blocks.1.hook_resid_post", 9999), "use fewer"),
        (ConceptShift("nowhere"), "is not a site"),
    ):
        with pytest.raises(OptionError, match=said):
            made(study)
