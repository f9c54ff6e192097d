"""Trials: sets and their chance, numbers, divergences and the ablated engine, each had another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import hypergeom, spearmanr

from interp.analyzers.locate_neurons import LocateNeurons
from interp.capture import Backoff
from interp.engines import Batch, Edit, TorchEngine
from interp.errors import OptionError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import (
    PatchSource,
    evaluate_condition,
    evaluate_condition_by_class,
)
from interp.experiments.divergence import divergence
from interp.experiments.edited_engine import EditedEngine
from interp.experiments.ranking_sets import (
    chance_jaccards,
    jaccard,
    ranking_of,
    scores_of,
    selected_of,
    spearman,
    unit_of,
)
from interp.experiments.row_selection import changed_rows, sample_rows
from interp.interventions.edits import Project
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import answer_logits
from interp.models.units import HEAD, NEURON
from interp.prompts import Contrast, PromptSet
from interp.sites import Site
from interp.table import table
from tests import tiny

PLANTED = [(1, 30), (1, 17), (1, 5)]
WIDTHS = {NEURON: 48, HEAD: 4}


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def models(request):
    """Planted, plus noise, in float64: every unit does something, and sums can be compared to the
    last digits.
    """
    base, tuned = tiny.planted(
        tiny.FAMILIES[request.param](seed=7, tie_word_embeddings=False), pairs=6
    )
    return tiny.exact(tiny.perturbed(tuned, 0.002)), tiny.exact(base)


def asked(models, **options):
    return tiny.study(*models, 6, template=False, **{"max_new_tokens": 3, **options})


@pytest.fixture(scope="module")
def study(models):
    return asked(models)


@pytest.fixture(scope="module", params=[NEURON, HEAD], ids=lambda unit: unit.name)
def donors(request, study):
    return PatchSource.from_study(study, request.param)


def everything(unit):
    return [(layer, index) for layer in range(3) for index in range(WIDTHS[unit])]


# --------------------------------------------------------------------------------------- answers to both classes


@pytest.mark.parametrize(
    "name", ["base", "tuned", "ablate-mean", "ablate-twin", "ablate-base", "patch-tuned"]
)
def test_classes_answered_together_are_answered_as_each_alone(models, name):
    """In batches of prompts of both classes, of unlike lengths, as in batches of one."""
    study = asked(models, batch_size=5)
    receiver = PatchSource.from_study(study).condition(name, PLANTED)
    alone = asked(models)
    each = {
        group: alone.answers(
            receiver.role,
            group,
            PatchSource.from_study(alone).condition(name, PLANTED).intervention,
        )
        for group in study.classes
    }
    together = study.answers_to(study.classes, receiver.role, receiver.intervention)
    assert together == each
    assert len({tuple(answer) for answers in each.values() for answer in answers}) > 1
    one, other = (
        {(judged.group, judged.condition): judged for judged in found}
        for found in (
            evaluate_condition_by_class(study, name, receiver, {}),
            [evaluate_condition(alone, name, group, receiver) for group in alone.classes],
        )
    )
    for key, judged in one.items():
        np.testing.assert_allclose(judged.number, other[key].number, rtol=1e-9)
        np.testing.assert_array_equal(judged.exhibits, other[key].exhibits)
        np.testing.assert_array_equal(judged.tokens, other[key].tokens)


# ---------------------------------------------------------------------------------------------- located sets


def test_jaccard():
    assert jaccard([(0, 1), (0, 2)], [(0, 2), (1, 1)]) == 1 / 3
    assert jaccard(PLANTED, PLANTED[::-1]) == 1.0
    assert jaccard(PLANTED, []) == jaccard([], []) == 0.0


def exact_chance(counts, width):
    """Expected Jaccard index of random sets with these counts per layer: hypergeometric laws,
    convolved.
    """
    law = np.ones(1)
    for one, other in counts:
        law = np.convolve(law, hypergeom(width, one, other).pmf(np.arange(min(one, other) + 1)))
    shared, total = np.arange(len(law)), sum(map(sum, counts))
    return float((law * shared / (total - shared)).sum())


@pytest.mark.parametrize(
    "counts", [[(3, 3)], [(2, 5), (4, 1)], [(10, 12), (0, 3), (6, 6)], [(12, 12)]]
)
def test_chance_is_hypergeometric(counts):
    first, second = (
        [(layer, index) for layer, pair in enumerate(counts) for index in range(pair[which])]
        for which in (0, 1)
    )
    drawn = chance_jaccards(first, second, 12, 20_000, seed=3)
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - exact_chance(counts, 12)) <= 4 * error + 1e-12
    # which members the sets have makes no difference, only how many
    moved = [(layer, 11 - index) for layer, index in first]
    assert np.array_equal(drawn, chance_jaccards(moved, second, 12, 20_000, seed=3))


def test_chance_where_there_is_none():
    assert not chance_jaccards([], [], 12, 5, seed=0).any()
    assert not chance_jaccards([(0, 1)], [(1, 1)], 12, 5, seed=0).any()


def test_rank_correlations_are_scipys_or_nan():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 20)).round(1)
    assert spearman(one, other) == spearmanr(one, other).statistic
    for pair in (
        (one[:2], other[:2]),
        (np.full(9, 0.1), np.arange(9.0)),
        (np.arange(9.0), np.full(9, 0.1)),
    ):
        assert np.isnan(spearman(*pair))


def test_a_run_read_as_sets_with_a_gap_of_eligibility():
    layer, index = (part.ravel()[::-1] for part in np.indices((2, 3)))
    score = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    located = table(
        "locate-neurons",
        {
            "layer": (layer, "key", "block"),
            "head": (index, "key", "head"),
            "score": (score, "measure", "score"),
            "rank": (np.arange(1, 7), "measure", "rank"),
            "selected": (np.array([True, False, True, False, False, False]), "flag", "selected"),
        },
        summary={"unit": "head"},
    )
    assert unit_of(located) is HEAD
    assert scores_of(located).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert selected_of(located) == [(1, 2), (1, 0)]
    assert ranking_of(located) == ((1, 2), (1, 0), (1, 1), (0, 2), (0, 1), (0, 0))


def test_rows(study):
    own = [study.answers(role, "positive") for role in ("base", "tuned")]
    assert changed_rows(study) == [row for row in range(6) if own[0][row] != own[1][row]]
    assert changed_rows(study)
    fifty = tiny.contrast(50).positive
    drawn = [sample_rows(fifty, range(50), 8, seed) for seed in range(200)]
    assert all(rows == sorted(set(rows)) and len(rows) == 8 for rows in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=50)
    assert abs(counts - 32).max() < 5 * np.sqrt(200 * 0.16 * 0.84)
    assert sample_rows(fifty, [4, 2], 8, 0) == [2, 4]
    assert sample_rows(fifty, [], 8, 0) == []


def test_copies_of_a_prompt_leave_no_other_out():
    """Of 50 prompts the first stands there 50 times more: it is drawn once, unless more is asked
    than there is.
    """
    fifty = tiny.contrast(50).positive
    many = PromptSet((*fifty, *[replace(fifty.prompts[0], id=50 + at) for at in range(50)]), "many")
    for seed in range(20):
        rows = sample_rows(many, range(100), 50, seed)
        assert len({many.prompts[row].text for row in rows}) == 50
        assert len(sample_rows(many, range(100), 60, seed)) == 60


# ---------------------------------------------------------------------------------------------- numbers


def plain_numbers(study, role, rows):
    found = []
    for row in rows:
        with torch.no_grad():
            logits = (
                study.pair[role]
                .module(torch.tensor([study.encoded("positive")[row].ids]))
                .logits[0, -1]
            )
        found.append(float(study.metric.log_odds(logits[None])))
    return np.array(found)


def test_numbers_of_nothing_and_of_everything(study, donors):
    rows = [1, 2, 5]
    numbers, whole = AblatedMetric(study, donors, rows), everything(donors.unit)
    np.testing.assert_allclose(numbers.of([]), plain_numbers(study, "tuned", rows), rtol=1e-10)
    for chosen in (whole, whole[1::3]):
        judged = evaluate_condition(
            study, "all", "positive", donors.condition("ablate-base", chosen)
        )
        np.testing.assert_allclose(numbers.of(chosen), judged.number[rows], rtol=1e-10)
    assert np.abs(numbers.of(whole) - numbers.of([])).max() > 1e-6


def test_planted_neurons_take_the_numbers_back(study):
    numbers = AblatedMetric(study, PatchSource.from_study(study), range(6))
    base, tuned = (plain_numbers(study, role, range(6)) for role in ("base", "tuned"))
    assert (tuned - base).min() > 1
    assert np.abs(numbers.of(PLANTED) - base).max() < 0.3 * (tuned - base).min()


def test_numbers_do_not_depend_on_batches_or_on_the_order_of_rows_and_units(models, study, donors):
    chosen = everything(donors.unit)[2::5]
    found = AblatedMetric(study, donors, [0, 3, 4]).of(chosen)
    for rows, order in (([4, 0, 3], chosen), ([0, 3, 4], chosen[::-1])):
        np.testing.assert_allclose(AblatedMetric(study, donors, rows).of(order), found, rtol=1e-12)
    small = asked(models, _backoff=Backoff(halvings=6))
    assert small.batch_size_for(96) == 1
    np.testing.assert_allclose(
        AblatedMetric(small, donors, [0, 3, 4]).of(chosen), found, rtol=1e-10
    )


# ---------------------------------------------------------------------------------------------- the ablated engine


def conditions(donors):
    whole = everything(donors.unit)
    return {
        "nothing": donors.condition("ablate-base", []).intervention,
        "donor": donors.condition("ablate-base", whole[1::3]).intervention,
        "zero": donors.condition("ablate-zero", whole[1::3]).intervention,
        "mean": donors.condition("ablate-mean", whole[1::3]).intervention,
    }


@pytest.mark.parametrize("name", ["nothing", "donor", "zero", "mean"])
def test_an_ablated_engine_says_what_the_intervention_says(study, donors, name):
    intervention = conditions(donors)[name]
    engine, pair = EditedEngine(study.engine, study.pair.tuned, intervention), study.pair
    text, answers = study.text("positive", range(6)), study.answers("base", "positive")
    expected, _, real = answer_logits(study.engine, pair.tuned, text, answers, intervention)
    found, _, _ = answer_logits(engine, pair.tuned, text, answers)
    torch.testing.assert_close(found[real], expected[real], rtol=1e-12, atol=1e-12)
    plain, _, _ = answer_logits(study.engine, pair.tuned, text, answers)
    assert (name == "nothing") == torch.equal(found[real], plain[real])
    # the other model is left alone
    untouched = [
        answer_logits(each, pair.base, text, answers)[0][real] for each in (study.engine, engine)
    ]
    assert torch.equal(*untouched)


def test_gradients_under_an_ablation_are_those_under_its_edits(study, donors):
    intervention = conditions(donors)["donor"]
    site, tuned = Site(1, "hook_resid_pre"), study.pair.tuned
    aim, batch = (
        study.objective("positive", [0, 1]),
        Batch.pad(study.text("positive", [0, 1]).prompts, 0),
    )
    read = study.engine.run(study.pair.base, batch, reads=intervention.reads, keep=0).values
    rest = {"reads": [site], "gradients_at": [site], "gradient_of": aim.function}
    expected = study.engine.run(tuned, batch, edits=intervention.bind(read), **rest)
    found = EditedEngine(study.engine, tuned, intervention).run(tuned, batch, **rest)
    assert torch.equal(found.gradients[site], expected.gradients[site])
    assert found.gradients[site].any()


def test_locating_under_the_ablation_of_what_was_located():
    """With the planted neurons at the base's the child is the base: nothing is left to locate."""
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False), pairs=6)
    study = tiny.study(tiny.exact(tuned), tiny.exact(base), 6, template=False, max_new_tokens=1)
    locate = LocateNeurons(method="cross", top="100%")
    assert set(selected_of(locate(study))[:3]) == set(PLANTED)
    intervention = PatchSource.from_study(study).condition("ablate-base", PLANTED).intervention
    under = locate(
        replace(study, engine=EditedEngine(study.engine, study.pair.tuned, intervention), _cache={})
    )
    others = np.ones((3, 48), bool)
    others[tuple(zip(*PLANTED, strict=True))] = False
    assert (
        np.abs(scores_of(under)[others]).max()
        < 1e-12
        < np.abs(scores_of(locate(study))[others]).max()
    )


def test_an_ablated_engine_refuses_what_it_cannot_do(study):
    donors = PatchSource.from_study(study)
    engine = EditedEngine(
        TorchEngine(), study.pair.tuned, donors.condition("ablate-base", PLANTED).intervention
    )
    with pytest.raises(OptionError, match="cannot locate under"):
        replace(study, engine=engine, _cache={}).answers("tuned", "positive")
    with pytest.raises(OptionError, match="twin prompts"):
        EditedEngine(
            TorchEngine(), study.pair.tuned, donors.condition("ablate-twin", PLANTED).intervention
        )


# ---------------------------------------------------------------------------------------------- divergence


def test_divergences_are_scipys(study):
    intervention = (
        PatchSource.from_study(study)
        .condition("ablate-base", [*PLANTED, (0, 3), (2, 9)])
        .intervention
    )
    rows = [4, 0, 2]
    text, own = (
        study.text("negative", rows),
        [study.answers("tuned", "negative")[row] for row in rows],
    )
    logits = [
        answer_logits(study.engine, study.pair.tuned, text, own, under)[0]
        for under in (None, intervention)
    ]
    before, after = (np.exp(log_softmax(part.double().numpy(), axis=-1)) for part in logits)
    tokens = rel_entr(before, after).sum(-1)
    expected = [tokens[row, -len(answer) :].mean() for row, answer in enumerate(own)]
    np.testing.assert_allclose(divergence(study, intervention, rows), expected, rtol=1e-8)
    assert min(expected) > 0


def test_divergence_of_nothing_is_nothing_whatever_the_batches(models, study):
    donors = PatchSource.from_study(study)
    assert not divergence(study, donors.condition("ablate-base", []).intervention, range(6)).any()
    intervention = donors.condition("ablate-zero", [*PLANTED, (0, 3)]).intervention
    found, small = divergence(study, intervention, range(6)), asked(models, batch_size=1)
    np.testing.assert_allclose(
        divergence(small, intervention, [5, 1]), found[[5, 1]], rtol=1e-9, atol=1e-15
    )
    parts = (study.contrast.positive, study.contrast.negative)
    turned = study.with_prompts(
        Contrast(*(PromptSet(part.prompts[::-1], part.source) for part in parts))
    )
    np.testing.assert_allclose(
        divergence(turned, intervention, range(6)), found[::-1], rtol=1e-9, atol=1e-15
    )


# ---------------------------------------------------------------------------------------------- Project

SITE = Site(0, "hook_resid_pre")


def streams(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(32, generator=generator, dtype=torch.float64)
    return (
        torch.randn(2, 5, 32, generator=generator, dtype=torch.float64).to(dtype),
        direction / direction.norm(),
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_projection_leaves_the_rest_of_the_component_and_everything_beside_it(share):
    value, direction = streams()
    kept = value.clone()
    found = Project(SITE, direction, share).apply(value)
    assert isinstance(Project(SITE, direction), Edit)
    torch.testing.assert_close(
        found @ direction, (1 - share) * (value @ direction), rtol=0, atol=1e-14
    )
    beside = torch.eye(32, dtype=torch.float64) - torch.outer(direction, direction)
    torch.testing.assert_close(found @ beside, value @ beside, rtol=0, atol=1e-14)
    assert torch.equal(value, kept)
    if not share:
        assert torch.equal(found, value)
    if share == 1:
        torch.testing.assert_close(Project(SITE, direction).apply(found), found, rtol=0, atol=1e-14)


def test_a_projection_in_half_precision_is_that_in_double_rounded_once():
    value, direction = streams(torch.bfloat16)
    found = Project(SITE, direction).apply(value)
    assert found.dtype == torch.bfloat16
    exact = Project(SITE, direction).apply(value.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=2**-18)


def test_a_projection_in_a_model_changes_the_stream_and_an_empty_one_nothing(study):
    _, direction = streams()
    text, own = study.text("positive", range(6)), study.answers("tuned", "positive")

    def logits(*edits):
        under = Intervention("direction", {}, "edits", edits=edits) if edits else None
        return answer_logits(study.engine, study.pair.tuned, text, own, under)[0]

    assert torch.equal(logits(), logits(Project(SITE, direction, 0.0)))
    assert not torch.allclose(logits(), logits(Project(SITE, direction)))
