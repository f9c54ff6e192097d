"""``verify-neurons``: planted truth is supported, silence stays silent, and every number can be had
another way.
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta

from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons, min_clusters
from interp.analyzers.verify_neurons.effects import SETS_AT_ONCE, evaluate_conditions
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.tables import build
from interp.claims import MEASURES, check, from_table
from interp.claims.opening import opening_lines
from interp.errors import ClaimError, OptionError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.base_losses import base_losses
from interp.experiments.bounded_outcomes import BoundedEffects
from interp.experiments.conditions import ConditionResult, PatchSource, evaluate_condition
from interp.experiments.contributions import (
    contribution_changes,
    contribution_norms,
    contribution_sizes,
)
from interp.experiments.divergence import divergences
from interp.experiments.dose import bisect_dose, dose_effect, dose_grid
from interp.experiments.outcomes import Outcomes
from interp.experiments.pending_answers import generate_pending
from interp.experiments.resumable import resumable_parts
from interp.experiments.row_selection import changed_rows
from interp.experiments.subsample import subsample_study
from interp.experiments.unedited_metric import unedited_values
from interp.experiments.warnings import disagreements
from interp.figures import plot
from interp.interventions.random_sets import matched_sets, matched_share
from interp.maths import memory
from interp.metrics import Refusal
from interp.models.model import Model
from interp.models.pair import Pair
from interp.sites import neurons
from interp.store import Store
from interp.store.journal import Journal
from interp.study import Study
from tests import tiny

SMALL = {"random_sets": 39, "dose_draws": 1, "depth": 5, "control_prompts": 5}
PAIRS = 40  # of so many, none changed is fewer than one in ten
PLANTED = [(1, 30), (1, 17), (1, 5)]


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def study(family):
    return tiny.planted_study(family, pairs=PAIRS)


@pytest.fixture(scope="module")
def table(study):
    return VerifyNeurons(LocateNeurons(method="change", top="3")(study), **SMALL)(study)


def row(table, condition, group):
    found = table.select((table["condition"] == condition) & (table["group"] == group))
    assert len(found) == 1
    return next(found.rows())


def findings_of(table):
    return {finding.name: finding for finding in from_table(table.tables["claims"])}


def test_planted_neurons_are_supported_to_carry_the_behaviour(table):
    found = findings_of(table)
    assert set(found) == {
        "behaviour",
        "necessity",
        "necessity-recovery",
        "sufficiency",
        "sufficiency-recovery",
        "selective",
        "harmless",
        "malformed",
        "malformed-negative",
        "fluency",
        "fluency-negative",
    }
    assert {one.verdict for one in found.values()} == {"supported"}
    assert found["necessity"].value == found["sufficiency"].value == 0.0
    assert found["necessity"].control_value == 1.0
    assert found["sufficiency"].control_value == -1.0
    for direction in ("necessity", "sufficiency"):
        assert found[direction].p == pytest.approx(1 / 40)
        assert found[f"{direction}-recovery"].value == pytest.approx(1.0, abs=1e-3)
        assert abs(found[f"{direction}-recovery"].control_value) < 0.1
    assert table.summary["supported"] is True
    assert [table.summary[f"k95_{name}"] for name in ("behaviour", "recovery")] == [3, 3]
    assert table.summary["changed_prompts"] == PAIRS
    assert table.summary["limits"] == []
    assert (
        table.summary["sentence"]
        == "Given the base's contributions in 3 neurons, the fine-tuned model refuses 0.0% of"
        " positive prompts (100.0% without, the base 0.0%; on 5 control prompts 0.0%, with 39"
        " random sets 100.0%). Supported: behaviour, necessity, necessity-recovery, sufficiency,"
        " sufficiency-recovery, selective, harmless, malformed, fluency, malformed-negative,"
        " fluency-negative."
    )


def test_the_first_lines_say_what_was_asked_and_what_came_of_it(table):
    lines = table.summary["opening"]
    assert lines == opening_lines(table)
    assert (
        lines[0]
        == f"question: do 3 of 144 neurons carry the refusals? {PAIRS} positive and {PAIRS}"
        " negative"
        " prompts"
    )
    assert (
        lines[1]
        == "refusals: base 0.0%, fine-tuned 100.0%; with the 3 at the base's contributions: 0.0%"
        f" (random sets 100.0%); the first {table.summary['k95_behaviour']} have 95% of the effect"
    )
    assert lines[2] == "refusals of the base with the 3 patched in: 100.0% (random sets 0.0%)"
    assert lines[3].startswith(
        "gap of the refusal log-odds closed: 1.00 at the base's contributions (random sets "
    )
    assert lines[4:] == [
        "supported: behaviour, necessity, sufficiency, selective, harmless, malformed, fluency,"
        " malformed-negative, fluency-negative"
    ]
    assert "-0.00" not in " ".join(lines)


def test_intervals_are_exact_binomial_ones(table):
    """Of so many clusters of one prompt each: shares at their ends, as scipy's beta distribution
    has them.
    """
    found, least = findings_of(table), beta.ppf(0.025, PAIRS, 1)
    for name in ("necessity", "sufficiency"):
        # no answer differs: the exact bound to either side
        assert found[name].interval == pytest.approx((least - 1, 1 - least))
        assert found[name].clusters == PAIRS
    assert found["harmless"].interval == pytest.approx((0.0, 1 - least))
    assert found["malformed"].interval == pytest.approx((least - 1, 1 - least))


def test_every_claim_can_be_measured_again_and_no_other_can(table):
    for finding in from_table(table.tables["claims"]):
        check(finding, table)
        assert np.isfinite([finding.value, finding.low, finding.high]).all()
        assert finding.low <= finding.value <= finding.high
        for name in MEASURES:
            if name == "threshold":  # read from the claim itself
                continue
            moved = getattr(finding, name) - 0.01
            with pytest.raises(ClaimError):
                check(replace(finding, **{name: 0.5 if np.isnan(moved) else moved}), table)
        for wrong in ({"verdict": "not supported"}, {"sentence": "All is well."}):
            with pytest.raises(ClaimError):
                check(replace(finding, **wrong), table)


def test_conditions_of_the_planted_pair(study):
    asked = VerifyNeurons(
        ranking=tuple(PLANTED), selected=3, ablations=("zero", "mean", "twin"), **SMALL
    )
    table = asked(study)
    for group, refused in (("positive", 1.0), ("negative", 0.0)):
        assert row(table, "base", group)["refused"] == 0.0
        assert row(table, "base", group)["matches_base"] == 1.0
        assert row(table, "tuned", group)["refused"] == refused
        assert row(table, "ablate-zero", group)["refused"] == 0.0
        assert row(table, "ablate-base", group)["matches_base"] == 1.0
        assert row(table, "patch-tuned", group)["matches_tuned"] == 1.0
        # the twin brings the other class's behaviour along
        assert row(table, "ablate-twin", group)["refused"] == 1 - refused
    assert row(table, "ablate-base", "negative")["matches_tuned"] == 1.0
    lifted = (
        row(table, "tuned", "positive")["log_odds"] - row(table, "base", "positive")["log_odds"]
    )
    returned = (
        row(table, "ablate-base", "positive")["log_odds"]
        - row(table, "base", "positive")["log_odds"]
    )
    assert lifted > 2
    assert abs(returned) < 1e-3


def test_example_answers_to_positive_prompts_are_kept_only_where_asked(table, study):
    kept = table.tables["examples"]
    assert set(kept["group"]) == {"negative"}
    assert kept["condition"].tolist() == ["base", "tuned", "ablate-base", "patch-tuned"] * 3
    asked = VerifyNeurons(
        ranking=tuple(PLANTED), selected=3, **SMALL, examples=1, show_answers=True
    )(study)
    shown = asked.tables["examples"]
    assert shown["group"].tolist() == ["positive"] * 4 + ["negative"] * 4
    answers = dict(zip(shown["condition"][:4], shown["answer"][:4], strict=True))
    row = study.prompts("positive").sample(1)[0]
    assert answers["tuned"] == study.decode(study.answers("tuned", "positive")[row])
    assert (
        answers["ablate-base"]
        == study.decode(study.answers("base", "positive")[row])
        != answers["tuned"]
    )


def test_conditions_are_means_of_answers(table):
    answers = table.tables["answers"]
    for found in table.rows():
        own = answers.select(
            (answers["condition"] == found["condition"]) & (answers["group"] == found["group"])
        )
        assert len(own) == found["n"] == PAIRS
        for name in ("refused", "matches_base", "matches_tuned", "malformed", "log_odds"):
            assert own[name].mean() == pytest.approx(found[name]), name
        assert found["low"] <= found["refused"] <= found["high"]
        assert own["prompt_id"].tolist() == list(range(PAIRS))
        assert own["cluster"].tolist() == [f"twin{number}" for number in range(PAIRS)]


def test_agreement_of_what_is_written_with_the_sign_of_the_log_odds(table):
    answers = table.tables["answers"]
    for found in table.rows():
        own = answers.select(
            (answers["condition"] == found["condition"]) & (answers["group"] == found["group"])
        )
        agrees = [
            refused == (odds > 0)
            for refused, odds in zip(own["refused"], own["log_odds"], strict=True)
        ]
        assert found["agreement"] == np.mean(agrees)
        if found["group"] == "positive":
            assert table.summary["agreement"][found["condition"]] == found["agreement"]
    caption = plot(table).layout.meta["caption"]
    assert f"tuned {table.summary['agreement']['tuned']:.1%}" in caption
    # this tiny model's likeliest word has less than half of the probability
    assert row(table, "tuned", "positive")["agreement"] == 0.0
    assert row(table, "base", "positive")["agreement"] == 1.0


def test_doses(table):
    dose = table.tables["dose"]
    located = dose.select((dose["direction"] == "necessity") & (dose["source"] == "located"))
    for name in ("behaviour", "recovery"):
        effects = dict(zip(located["k"].tolist(), located[name].tolist(), strict=True))
        assert set(effects) >= {1, 2, 3, 5}
        assert max(effects[k] for k in effects if k < 3) < 0.95
        assert all(effects[k] == pytest.approx(1.0, abs=1e-3) for k in effects if k >= 3)
    random = dose.select(dose["source"] == "random")
    assert not random["behaviour"].any()
    sets = table.tables["random"]
    assert (sets["k"] == 3).all()
    assert len(sets) == 2 * 39
    assert (sets["rate"] == np.where(sets["direction"] == "necessity", 1.0, 0.0)).all()


# ---------------------------------------------------------------------------------------------- other ways


@pytest.fixture(scope="module")
def noisy(family):
    """Both ways of measuring must agree where answers are several tokens long and anything can
    happen.
    """
    base, tuned = tiny.planted(tiny.FAMILIES[family](seed=7, tie_word_embeddings=False))
    return tiny.study(tiny.perturbed(tuned, 0.002), base, pairs=6, template=False, max_new_tokens=3)


@pytest.mark.parametrize("direction", ["necessity", "sufficiency"])
def test_outcomes_are_those_of_answers_that_were_written(noisy, direction):
    """What is found without writing is what writing every answer gives: behaviour, exact answer,
    and the number.
    """
    donors, rows = PatchSource.from_study(noisy), [5, 0, 3, 1]
    outcomes = Outcomes(noisy, donors, direction, rows, exact=True)
    condition = {"necessity": "ablate-base", "sufficiency": "patch-tuned"}[direction]
    wanted = noisy.answers("base" if direction == "necessity" else "tuned", "positive")
    everything = [(layer, neuron) for layer in range(3) for neuron in range(48)]
    seen, exact = set(), set()
    for chosen in (PLANTED, [(1, 30)], everything, everything[48:96] + everything[100:130], []):
        found = outcomes.of(chosen)
        one = evaluate_condition(noisy, condition, "positive", donors.condition(condition, chosen))
        written = noisy.answers(
            "tuned" if direction == "necessity" else "base",
            "positive",
            donors.condition(condition, chosen).intervention,
        )
        assert found.exhibits.tolist() == one.exhibits[sorted(rows)].tolist()
        assert found.equal.tolist() == [written[row] == wanted[row] for row in sorted(rows)]
        np.testing.assert_allclose(found.number, one.number[sorted(rows)], rtol=1e-4)
        told = outcomes.effects(found)
        assert told["exact"] == np.mean(found.equal)
        assert told["rate"] == np.mean(found.exhibits)
        gap = outcomes.donor.number.mean() - outcomes.receiver.number.mean()
        assert told["recovery"] == pytest.approx(
            (found.number.mean() - outcomes.receiver.number.mean()) / gap
        )
        seen.add(told["rate"])
        exact.add(told["exact"])
    assert outcomes.of([]) is outcomes.receiver
    assert len(seen) > 1 or direction == "sufficiency"
    assert len(exact) > 1


@pytest.mark.parametrize("patch", ["contribution", "activation"])
@pytest.mark.parametrize("direction", ["necessity", "sufficiency"])
def test_outcomes_of_many_sets_are_those_of_one_at_a_time(family, direction, patch, monkeypatch):
    """Their answers are written in one batch, each row with its own set; beginnings that they share
    help nobody.
    """
    base, tuned = tiny.planted(tiny.FAMILIES[family](seed=7, tie_word_embeddings=False))
    study = tiny.study(tiny.perturbed(tuned, 0.002), base, pairs=12, max_new_tokens=6)
    everything = [(layer, neuron) for layer in range(3) for neuron in range(48)]
    generator, width = np.random.default_rng(0), len(everything)
    drawn = [
        [everything[at] for at in generator.permutation(width)[:size]]
        for size in (40, 60, 80, 100, 130)
    ]
    outcomes = Outcomes(
        study, PatchSource.from_study(study, patch=patch), direction, [5, 0, 3, 1, 8, 9, 10]
    )
    written = []

    def counted(study, model, some, each):
        written.append((sum(len(one.rows) for one in some), len({one.at for one in some})))
        return generate_pending(study, model, some, each)

    monkeypatch.setattr("interp.experiments.outcomes.generate_pending", counted)
    alone = [outcomes.of(chosen) for chosen in [PLANTED, [], *drawn]]
    first, written[:] = list(written), []
    together = outcomes.of_each([PLANTED, [], *drawn])
    for one, other in zip(alone, together, strict=True):
        assert one.exhibits.tolist() == other.exhibits.tolist()
        np.testing.assert_array_equal(one.number, other.number)
    # the base's own columns write nothing at the planted neurons
    assert len({each.exhibits.sum() for each in together}) > 1 or (direction, patch) == (
        "sufficiency",
        "activation",
    )
    assert len(first) > 1  # several sets have answers that must be written
    assert written == [(sum(count for count, _ in first), len(first))]


@pytest.mark.parametrize("patch", ["contribution", "activation"])
def test_a_donor_is_kept_at_the_units_that_are_asked_for_and_outcomes_are_the_same(noisy, patch):
    donors, rows, others = (
        PatchSource.from_study(noisy, patch=patch),
        [0, 1, 3, 5],
        [(0, 4), (2, 17), (2, 40)],
    )
    whole = Outcomes(noisy, donors, "necessity", rows, exact=True)
    kept = Outcomes(noisy, donors, "necessity", rows, exact=True, units=[*PLANTED, *others])
    numbers = AblatedMetric(noisy, donors, rows, units=[*PLANTED, *others])
    held = [part.donor_on_receiver_answers for part in kept._batches]
    assert {site.layer for one in held for site in one} == {
        layer for layer, _ in [*PLANTED, *others]
    }
    width = sum(value.values.shape[-1] for value in held[0].values())
    assert width == len({*PLANTED, *others})  # of 144
    for some in (PLANTED, others, [*PLANTED[:1], *others[1:]]):
        one, other = whole.of(some), kept.of(some)
        assert one.exhibits.tolist() == other.exhibits.tolist()
        assert one.equal.tolist() == other.equal.tolist()
        np.testing.assert_array_equal(one.number, other.number)
        np.testing.assert_allclose(numbers.of(some), one.number, rtol=1e-5)
    layer = PLANTED[0][0]
    missing = next(unit for unit in range(48) if (layer, unit) not in {*PLANTED, *others})
    with pytest.raises(OptionError, match="units whose activations were not kept"):
        kept.of([(layer, missing)])


def test_what_is_read_once_is_what_reading_it_anew_gives(noisy):
    """Numbers seen where own answers begin, losses from a pass that measures divergence, both sizes
    from one pass.
    """
    study, rows = replace(noisy, _cache={}), range(len(noisy.prompts("positive")))
    conditions = evaluate_conditions(
        study, PatchSource.from_study(study), PLANTED, ["base", "tuned"], ["ablate-base"]
    )
    own = [one for one in conditions if one.condition != "ablate-base"]
    assert len(own) == 4
    for one in own:
        again = replace(noisy, _cache={})
        if one.group == "positive":
            np.testing.assert_allclose(
                one.number, unedited_values(again, one.condition, "positive", rows), rtol=1e-4
            )
        answers = study.answers(one.condition, one.group)
        np.testing.assert_allclose(one.base_loss, base_losses(again, one.group, answers), rtol=1e-4)
    norms, changes = contribution_sizes(noisy, PatchSource.from_study(noisy))
    np.testing.assert_allclose(
        norms, contribution_norms(noisy, PatchSource.from_study(noisy)), rtol=1e-4
    )
    assert changes.max() > 0
    assert ("means", "neuron") not in study._cache  # nothing asked for them


def test_another_behaviour_has_numbers_of_its_own(noisy):
    """Though its study keeps what the first one read."""
    other = replace(noisy, metric=Refusal(("help",), (5, 9, 11)))
    found = [
        evaluate_condition(
            one, "tuned", "positive", PatchSource.from_study(one).condition("tuned", ())
        ).number
        for one in (noisy, other)
    ]
    alone = replace(other, _cache={})
    right = evaluate_condition(
        alone, "tuned", "positive", PatchSource.from_study(alone).condition("tuned", ())
    ).number
    np.testing.assert_allclose(found[1], right, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_memory_is_given_back_where_a_process_grew(monkeypatch):
    given, grown = [], [0]
    monkeypatch.setattr(memory, "_malloc_trim", lambda: given.append)
    monkeypatch.setattr(memory, "_last_trim", {"resident": 0})
    monkeypatch.setattr(
        memory.psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=grown[0])
    )
    for resident in (1 << 27, 1 << 29, (1 << 29) + 1, 1 << 30):
        grown[0] = resident
        memory.release_freed_memory()
    assert given == [0, 0]
    assert memory._last_trim["resident"] == 1 << 30


def test_the_located_set_is_judged_once_for_its_condition_and_its_dose(study, table):
    """Its row among the doses says what its condition's answers say on the control prompts."""
    outcomes = Outcomes(
        study, PatchSource.from_study(study), "necessity", range(len(study.prompts("positive")))
    )
    measured = outcomes.effects(outcomes.of(PLANTED))
    doses = table.tables["dose"]
    row = doses.select(
        (doses["direction"] == "necessity") & (doses["k"] == 3) & (doses["draw"] == 0)
    )
    assert row["rate"].tolist() == [measured["rate"]]
    np.testing.assert_allclose(row["recovery"], [measured["recovery"]], rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("direction", ["necessity", "sufficiency"])
def test_what_a_set_does_at_most_is_no_less_than_what_it_does(noisy, direction, rate):
    """Whatever the set that others are compared with leaves; of those that may do as much nothing
    is said.
    """
    donors, rows = PatchSource.from_study(noisy), list(range(len(noisy.prompts("positive"))))
    generator = np.random.default_rng(0)
    drawn = [
        [(layer, int(unit)) for layer in range(3) for unit in generator.choice(48, 6)]
        for _ in range(8)
    ]
    whole, units = Outcomes(noisy, donors, direction, rows), {*PLANTED}.union(*drawn)
    numbers = AblatedMetric(noisy, donors, rows, direction, units)
    bounded = BoundedEffects(noisy, donors, direction, whole, numbers, rate, units)
    sets, sign, judged = [*drawn, PLANTED, []], (1 if direction == "necessity" else -1), 0
    for chosen, most in zip(sets, bounded.of_each(sets), strict=True):
        right = whole.effects(whole.of(chosen))
        if most is None:
            continue
        judged += 1
        assert most["judged"] < len(rows)
        assert np.isnan(most["rate"])
        assert most["number"] == pytest.approx(right["number"], rel=1e-5)
        assert most["recovery"] == pytest.approx(right["recovery"], rel=1e-4, abs=1e-6)
        assert most["behaviour"] >= right["behaviour"] - 1e-12
        # and less than that of the set it is compared with
        assert sign * most["difference"] <= sign * right["difference"] + 1e-12
        assert sign * (most["difference"] + whole.donor.exhibits.mean() - rate) > 0
    # where a set leaves nothing to do, no other can be shown to do less by fewer prompts than all
    best, worst = (0.0, 1.0) if direction == "necessity" else (1.0, 0.0)
    assert judged > 0 if rate == best else judged == 0 or rate != worst


def test_further_random_sets_are_judged_on_fewer_prompts_and_change_no_verdict(study, table):
    few = VerifyNeurons(
        LocateNeurons(method="change", top="3")(study), **{**SMALL, "judged_sets": 4}
    )(study)
    for direction in ("necessity", "sufficiency"):
        some, all_ = (each.tables["random"] for each in (few, table))
        some, all_ = (each.select(each["direction"] == direction) for each in (some, all_))
        assert some["whole"].tolist() == [True] * 4 + [False] * 35
        assert some["judged"].tolist() == [5] * 4 + [3] * 35
        np.testing.assert_allclose(some["recovery"], all_["recovery"], atol=1e-6)
        assert (some["behaviour"] >= all_["behaviour"]).all()
        assert (some["behaviour"][4:] < 1.0).all()
    verdicts = [
        {name: one.verdict for name, one in findings_of(each).items()} for each in (few, table)
    ]
    assert verdicts[0] == verdicts[1]
    for name in ("necessity", "sufficiency"):
        assert findings_of(few)[name].p == findings_of(table)[name].p
    assert (
        "on 5 control prompts 0.0%, with 4 random sets 100.0%, and 35 more, judged on fewer of"
        " them, do less than the located neurons)." in few.summary["sentence"]
    )
    assert (
        "(4 random sets 100.0%, 35 more have less effect than the located set)"
        in few.summary["opening"][1]
    )
    for one in findings_of(few).values():
        check(one, few)
    controls = {
        name: "35 of them only until it was certain that they do less" in one.control
        for name, one in findings_of(few).items()
    }
    assert {name for name, said in controls.items() if said} == {"necessity", "sufficiency"}
    # beside the value stand rates, not bounds
    assert findings_of(few)["necessity"].control_value == 1.0
    assert findings_of(few)["sufficiency"].control_value == -1.0


def test_necessity_alone_is_what_it_is_beside_everything_else(study, table):
    """As ``--quick`` asks for it: nothing is patched into the base, no other doses, no two by two."""
    options = {**SMALL, "directions": ("necessity",), "doses": False, "cell_sets": 0}
    run = VerifyNeurons(LocateNeurons(method="change", top="3")(study), **options)(study)
    whole, found = findings_of(table), findings_of(run)
    assert set(whole) - set(found) == {"sufficiency", "sufficiency-recovery", "selective"}
    for name, one in found.items():
        other = whole[name]
        assert one.verdict == other.verdict
        np.testing.assert_equal(
            [one.value, *one.interval, one.p], [other.value, *other.interval, other.p]
        )
        check(one, run)
    assert set(run["condition"].tolist()) == {"base", "tuned", "ablate-base"}
    assert run.tables["dose"]["k"].tolist() == [3, 3]
    assert not len(run.tables["patching"])
    assert not {
        name: said
        for name, said in run.summary.items()
        if name.startswith(("k95", "dose_area")) and said
    }
    assert not any("patched in" in line or "95%" in line for line in run.summary["opening"])
    for name in ("dose", "random"):
        plot(run.tables[name])
    with pytest.raises(OptionError, match="use necessity, alone or before sufficiency"):
        VerifyNeurons(ranking=((0, 3),), selected=1, directions=("both",))(study)


def test_a_random_set_that_may_do_as_much_is_judged_whole(study):
    """Planted neurons and more of them: what is compared with one of them alone does no less."""
    verify = VerifyNeurons(
        ranking=((0, 3), (1, 9), (2, 11)), selected=3, **{**SMALL, "judged_sets": 2}
    )
    random = verify(study).tables["random"]
    assert random["whole"].all()
    assert (random["judged"] == 5).all()


def test_a_part_of_a_study_keeps_what_is_known_of_its_prompts(noisy, monkeypatch):
    everything = {
        (role, group): noisy.answers(role, group)
        for role in noisy.pair.roles
        for group in noisy.classes
    }
    own = evaluate_condition(
        noisy, "tuned", "negative", PatchSource.from_study(noisy).condition("tuned", ())
    )
    few = subsample_study(noisy, 3)
    at = {
        group: [noisy.prompts(group).prompts.index(one) for one in few.prompts(group)]
        for group in few.classes
    }
    assert [len(rows) for rows in at.values()] == [3, 3]

    def nothing(*_, **__):
        raise AssertionError("a pass")

    monkeypatch.setattr("interp.engines.torch_hooks.TorchEngine.run", nothing)
    for (role, group), answers in everything.items():
        assert few.answers(role, group) == [answers[row] for row in at[group]]
    with pytest.raises(AssertionError, match="a pass"):
        few.with_prompts(few.contrast).answers("tuned", "positive")
    assert own.base_loss[at["negative"]].tolist() == [
        few.cached(("base losses", "negative"), dict)[prompt.id, *answer]
        for prompt, answer in zip(
            few.prompts("negative"), few.answers("tuned", "negative"), strict=True
        )
    ]


def test_parts_are_made_some_at_a_time_and_kept(tmp_path):
    study = tiny.planted_study("llama", pairs=4).with_journal(Journal(tmp_path / "parts.jsonl"))
    assert study.part("b", lambda: 1) == 1
    asked = []

    def make(some):
        asked.append(list(some))
        return [10 * at for at in asked[-1]]

    assert resumable_parts(study, list("abcdef"), make, "parts", 2) == [0, 1, 20, 30, 40, 50]
    assert asked == [[0, 2], [3, 4], [5]]
    again = study.with_journal(Journal(tmp_path / "parts.jsonl"))
    assert resumable_parts(again, list("abcdef"), make, "parts", 2) == [0, 1, 20, 30, 40, 50]
    assert len(asked) == 3
    assert resumable_parts(
        tiny.planted_study("llama", pairs=4), ["x"], lambda some: ["y" for _ in some], "parts", 5
    ) == ["y"]


def test_what_is_returned_is_the_share_of_prompts_whose_behaviour_becomes_the_bases(noisy):
    """Counted over answers that were written, on the prompts where one model shows the behaviour
    and one does not.
    """
    own = {
        role: evaluate_condition(
            noisy, role, "positive", PatchSource.from_study(noisy).condition(role, [])
        )
        for role in ("base", "tuned")
    }
    rows = changed_rows(noisy)
    assert rows == np.flatnonzero(own["base"].exhibits != own["tuned"].exhibits).tolist()
    assert rows
    donors = PatchSource.from_study(noisy)
    outcomes, seen = Outcomes(noisy, donors, "necessity", rows), set()
    for chosen in ([], [(1, 30)], PLANTED[:2], PLANTED):
        written = evaluate_condition(
            noisy, "x", "positive", donors.condition("ablate-base", chosen)
        )
        told = dose_effect(outcomes, chosen)
        assert told["effect"] == np.mean(written.exhibits[rows] == own["base"].exhibits[rows])
        number, start, end = (
            one.number[rows].mean() for one in (written, own["tuned"], own["base"])
        )
        assert told["recovery"] == pytest.approx(
            (number - start) / (end - start), rel=1e-4, abs=1e-6
        )
        seen.add(told["effect"])
    assert {0.0, 1.0} <= seen


def test_random_sets_are_matched_on_the_change_where_that_can_be():
    generator = np.random.default_rng(0)
    norms, changes = np.ones((2, 200)), generator.lognormal(0, 2, (2, 200))
    located = [(0, int(n)) for n in np.argsort(changes[0])[90:100]] + [
        (1, int(np.argmax(changes[1])))
    ]
    changes[1, located[-1][1]] *= 100  # nothing comes near it
    sets = matched_sets(located, norms, 39, seed=0, changes=changes)
    assert len(sets) == 39
    for drawn in sets:
        assert not set(drawn) & set(located)
        ratios = [changes[one] / changes[other] for one, other in zip(drawn, located, strict=True)]
        assert all(0.5 <= ratio <= 2 for ratio in ratios[:-1])
        assert matched_share(drawn, located, changes) == pytest.approx(10 / 11)
    by_norm = matched_sets(located, norms, 39, seed=0)
    assert np.mean([matched_share(drawn, located, changes) for drawn in by_norm]) < 0.6


def test_changes_are_numpys(noisy):
    donors, total, count = PatchSource.from_study(noisy), np.zeros((3, 48)), 0
    columns = {
        role: [m["mlp.out"].double().numpy() for m in tiny.mlps(noisy.pair[role].module)]
        for role in ("base", "tuned")
    }
    for item in noisy.encoded("positive"):
        read = {
            role: (
                noisy.engine.run(
                    noisy.pair[role],
                    _alone(item.ids),
                    reads=[neurons(layer) for layer in range(3)],
                    keep=0,
                ).values
            )
            for role in columns
        }
        for layer in range(3):
            parts = [
                read[role][neurons(layer)][0].double().numpy()[:, None] * columns[role][layer]
                for role in columns
            ]
            total[layer] += ((parts[0] - parts[1]) ** 2).sum((0, 1))
        count += len(item.ids)
    np.testing.assert_allclose(
        contribution_changes(noisy, donors), np.sqrt(total / count), rtol=1e-4, atol=1e-7
    )


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    study, store = tiny.planted_study("llama", pairs=8), Store(tmp_path)
    verify = VerifyNeurons(ranking=tuple(PLANTED), selected=3, **SMALL)
    whole, calls = verify(study), []
    effects_of = Outcomes.effects

    def stopping(self, outcome):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return effects_of(self, outcome)

    monkeypatch.setattr(Outcomes, "effects", stopping)
    with pytest.raises(KeyboardInterrupt):
        store.run(verify, study)
    (kept,) = (tmp_path / ".unfinished").iterdir()
    saved = kept.read_text().count("necessity")
    assert 19 - SETS_AT_ONCE < saved < 20
    with kept.open("a") as file:
        file.write('{"name": "torn')
    again = store.run(verify, tiny.planted_study("llama", pairs=8)).table
    before = len(calls)
    assert not (tmp_path / ".unfinished").exists()
    for name in ("dose", "random"):
        for column in whole.tables[name].data:
            np.testing.assert_array_equal(again.tables[name][column], whole.tables[name][column])
    calls[:] = [1] * 100  # stops no more
    verify(study)
    assert before - 20 == len(calls) - 100 - saved


def test_doses_of_prompts_of_unlike_lengths(family):
    """The longest prompt drops out at its first token: what the donor did on the others stays with
    their tokens.
    """
    study = tiny.planted_study(family, pairs=20, max_new_tokens=3)
    lengths = [len(item.ids) for item in study.encoded("positive")]
    longest = int(np.argmax(lengths))
    study.answers("tuned", "positive")[longest][0] ^= 1
    rows = sorted([longest, *np.argsort(lengths)[:3].tolist()])
    assert max(lengths) > sorted(lengths)[2]
    found = Outcomes(study, PatchSource.from_study(study), "sufficiency", rows, exact=True).of(
        PLANTED
    )
    assert found.equal.tolist() == [row != longest for row in rows]


def test_log_odds_and_losses_of_answers(noisy):
    donors = PatchSource.from_study(noisy)
    for group in ("positive", "negative"):
        receiver = donors.condition("tuned", ())
        judged = evaluate_condition(
            noisy, "tuned", group, receiver, divergences(noisy, group, {"tuned": receiver})["tuned"]
        )
        for number in range(len(noisy.prompts(group))):
            ids, answer = noisy.encoded(group)[number].ids, noisy.answers("tuned", group)[number]
            read = torch.tensor([[*ids, *answer]])
            told = (
                noisy.pair.base.module(input_ids=read)
                .logits[0, len(ids) - 1 : -1]
                .double()
                .log_softmax(-1)
            )
            loss = -told[torch.arange(len(answer)), torch.tensor(answer)].mean()
            assert judged.base_loss[number] == pytest.approx(float(loss), rel=1e-4)
            logits = noisy.pair.tuned.module(input_ids=read).logits[0, len(ids) - 1].double()
            assert judged.number[number] == pytest.approx(
                float(noisy.metric.log_odds(logits[None])), rel=1e-4
            )
        assert not judged.divergence.any()
        own, base = noisy.answers("tuned", group), noisy.answers("base", group)
        assert judged.matches_tuned.all()
        assert judged.matches_base.tolist() == [a == b for a, b in zip(own, base, strict=True)]
        assert judged.exhibits.tolist() == [
            noisy.metric.is_refusal(noisy.decode(answer)) for answer in own
        ]


def test_means_and_norms_are_numpys(noisy):
    donors = PatchSource.from_study(noisy)
    total, squares, counts = np.zeros((3, 48)), np.zeros((3, 48)), [0, 0]
    for number, (group, role) in enumerate((("negative", "tuned"), ("positive", "base"))):
        for item in noisy.encoded(group):
            run = noisy.engine.run(
                noisy.pair[role],
                _alone(item.ids),
                reads=[neurons(layer) for layer in range(3)],
                keep=0,
            )
            h = (
                torch.stack([run.values[neurons(layer)][0] for layer in range(3)], 1)
                .double()
                .numpy()
            )
            total += h.sum(0) if group == "negative" else 0
            squares += (h**2).sum(0) if group == "positive" else 0
            counts[number] += len(h)
    for layer in range(3):
        np.testing.assert_allclose(
            donors.means[layer], (total / counts[0])[layer], rtol=1e-4, atol=1e-6
        )
    columns = [
        np.linalg.norm(m["mlp.out"].double(), axis=0) for m in tiny.mlps(noisy.pair.base.module)
    ]
    expected = np.sqrt(squares / counts[1]) * np.stack(columns)
    np.testing.assert_allclose(contribution_norms(noisy, donors), expected, rtol=1e-4, atol=1e-7)


def _alone(ids):
    from interp.engines import Batch

    return Batch.pad([list(ids)], 0)


def test_mean_ablation_puts_the_mean_in_place(noisy):
    donors = PatchSource.from_study(noisy)
    receiver = donors.condition("ablate-mean", [(1, 30), (2, 0)])
    run = noisy.engine.run(
        noisy.pair.tuned,
        _alone(noisy.encoded("positive")[0].ids),
        reads=[neurons(1)],
        edits=receiver.intervention.bind({}),
    )
    assert torch.equal(
        run.values[neurons(1)][0, :, 30],
        donors.means[1][30].expand(run.values[neurons(1)].shape[1]),
    )


def test_excluded_units_are_in_no_random_set_and_the_claims_say_so(family):
    study = tiny.planted_study(family, pairs=8)
    # a layer of 48 of which all but so few are excluded: what is drawn must be one of these
    allowed = {(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 6), *PLANTED}
    excluded = tuple((1, unit) for unit in range(48) if (1, unit) not in allowed)
    verify = VerifyNeurons(ranking=tuple(PLANTED), selected=3, excluded=excluded, **SMALL)

    def drawn(made):
        calls = []
        of_each = Outcomes.of_each

        def noted(self, sets):
            calls.extend(taken := [list(chosen) for chosen in sets])
            return of_each(self, taken)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outcomes, "of_each", noted)
            table = made(study)
        assert calls
        return table, {unit for chosen in calls for unit in chosen}

    table, units = drawn(verify)
    assert units <= allowed
    claim = findings_of(table)["necessity"]
    assert claim.control.split(")")[0].endswith(
        f"; none of {len(excluded)} excluded neurons is drawn"
    )
    assert table.summary["excluded"] == len(excluded)
    check(claim, table)
    other, units = drawn(replace(verify, excluded=()))
    assert not units <= allowed
    assert "excluded" not in other.summary
    assert "excluded" not in findings_of(other)["necessity"].control


@pytest.mark.parametrize("unit", [(3, 0), (0, 48), (-1, 0)])
def test_excluded_units_are_of_the_model(family, unit):
    with pytest.raises(
        OptionError,
        match=r"excluded has .*; give pairs .*numbered from 0",
    ):
        VerifyNeurons(ranking=tuple(PLANTED), selected=3, excluded=(unit,), **SMALL)(
            tiny.planted_study(family, pairs=8)
        )


# ---------------------------------------------------------------------------------------------- doses as functions


def test_the_grid_of_doses():
    assert dose_grid(1) == [1]
    assert dose_grid(10) == [1, 2, 3, 5, 8, 10]
    assert dose_grid(200) == [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200]
    assert dose_grid(1000)[-3:] == [500, 800, 1000]


@pytest.mark.parametrize("threshold", [1, 2, 7, 8, 9, 13, 20, 21])
def test_refining_finds_the_smallest_dose(threshold):
    def measure(chosen):
        return {"effect": float(len(chosen) >= threshold), "other": 1.0}

    ranking = [(0, number) for number in range(40)]
    effects = {k: measure(ranking[:k]) for k in dose_grid(20)}
    found = bisect_dose(measure, ranking, effects, 0.95, "effect")
    reached = [k for k in found if found[k]["effect"] >= 0.95]
    if threshold > 20:
        assert not reached
        assert found == effects
    else:
        assert min(reached) == threshold
        assert all(found[k]["effect"] == float(k >= threshold) for k in found)


# ---------------------------------------------------------------------------------------------- silence


def test_an_identical_pair_supports_nothing(family):
    model = tiny.FAMILIES[family](seed=7)
    study = tiny.study(model, copy.deepcopy(model), pairs=4, max_new_tokens=2)
    located = LocateNeurons(top="3")(study)
    table = VerifyNeurons(located, **SMALL)(study)
    assert table.summary["supported"] is False
    assert table.summary["changed_prompts"] == 0
    assert table.summary["k95_behaviour"] is None
    assert table.summary["sentence"].endswith(" Too few clusters: behaviour.")
    assert set(table["condition"]) == {"base", "tuned"}
    assert (table["matches_base"] == 1).all()
    for finding in from_table(table.tables["claims"]):
        assert not finding.supported
        check(finding, table)


def test_the_wrong_neurons_are_not_supported(family):
    """Random neurons in place of the planted ones: the behaviour is there, its carriers are not
    these.
    """
    wrong = VerifyNeurons(ranking=((0, 3), (1, 9), (2, 11)), selected=3, **SMALL)
    table = wrong(tiny.planted_study(family))
    found = findings_of(table)
    assert found["behaviour"].supported
    assert found["necessity"].verdict == found["sufficiency"].verdict == "not supported"
    assert table.summary["supported"] is False
    assert "the value 1 is above 0.1" in found["necessity"].reason
    assert "necessity-recovery is not supported" in found["necessity"].reason
    assert table.summary["k95_behaviour"] is None
    (few,) = table.summary["limits"]
    assert few.startswith("16 clusters of prompts are too few to exclude a difference of 10 %")
    assert few.endswith("selective, harmless, malformed, malformed-negative.")
    assert (
        "the fine-tuned model refuses 100.0% of positive prompts (100.0% without"
        in table.summary["sentence"]
    )


def test_too_few_prompts_are_named_as_the_reason(family):
    """Everything returned and nothing lost, among too few prompts to say so: not a failure, and not
    a finding.
    """
    study = tiny.planted_study(family, pairs=12)
    table = VerifyNeurons(ranking=tuple(PLANTED), selected=3, **SMALL)(study)
    assert table.summary["supported"] is False
    assert table.summary["sentence"].endswith(
        "Supported: behaviour, necessity-recovery, sufficiency-recovery, fluency, fluency-negative;"
        " not supported: necessity, sufficiency, selective, harmless, malformed,"
        " malformed-negative."
    )
    assert table.summary["limits"] == [
        "12 clusters of prompts are too few to exclude a difference of 10 % (at least"
        f" {min_clusters()} are needed): necessity, sufficiency, selective, harmless, malformed,"
        " malformed-negative."
    ]
    # none of so many: the upper end is 1 - 0.025^(1/n)
    assert 1 - 0.025 ** (1 / min_clusters()) <= 0.1 < 1 - 0.025 ** (1 / (min_clusters() - 1))


def test_models_that_were_exchanged_are_suspected(family):
    study = tiny.planted_study(family, pairs=12)
    pair = Pair.from_modules(study.pair.base.module, study.pair.tuned.module, study.pair.tokenizer)
    table = VerifyNeurons(ranking=tuple(PLANTED), selected=3, **SMALL)(
        Study(pair, study.contrast, study.metric, max_new_tokens=1)
    )
    assert "are the two exchanged" in table.summary["limits"][0]
    assert not findings_of(table)["behaviour"].supported


def test_without_a_base(family):
    study = tiny.planted_study(family, with_base=False)
    table = VerifyNeurons(ranking=(*PLANTED, (0, 0), (0, 1), (2, 2)), selected=3, **SMALL)(study)
    assert set(table["condition"]) == {"tuned", "ablate-mean"}
    found = findings_of(table)
    assert found["behaviour"].supported
    assert found["necessity"].value == 1.0
    assert "sufficiency" not in found
    assert "base" not in table.summary["sentence"]
    # random sets are ablated on harmless prompts here too
    assert len(table.tables["random_harmless"]) == 1
    assert ". For comparison, a random set flips " in found["harmless"].sentence
    for finding in found.values():
        check(finding, table)


# ---------------------------------------------------------------------------------------------- verdicts

N = 40


def judged(condition, group, n=N, number=0.0, **flags):
    """Answers of which the named flags hold for the first so many, and numbers around one."""
    exhibits, as_base, as_tuned, broken = (
        np.arange(n) < flags.get(name, 0)
        for name in ("exhibits", "matches_base", "matches_tuned", "malformed")
    )
    numbers = number + 0.01 * np.sin(np.arange(n))
    zeros = {name: np.zeros(n) for name in ("tokens", "repeats", "base_loss", "divergence")}
    return ConditionResult(
        condition,
        group,
        exhibits=exhibits,
        matches_base=as_base,
        matches_tuned=as_tuned,
        malformed=broken,
        number=numbers,
        **zeros,
    )


def effects(rate, recovery, donor):
    return {"behaviour": 0.0, "recovery": recovery, "rate": rate, "difference": rate - donor}


def evidence(
    left=0,
    recovery=1.0,
    null=None,
    flipped=0,
    broken=0,
    given=N,
    n=N,
    misfires=0,
    spilt=0,
    muddled=0,
    odd=0.0,
    odd_negative=0.0,
    shows=N,
    **changes,
):
    """A located set that does all it should, but for what is named.

    ``misfires``: negative prompts that the fine-tuned model refuses; ``spilt``: that the base
    refuses with the set patched in; ``muddled``: broken answers to them; ``odd``, ``odd_negative``:
    loss of ablated answers in the base; ``shows``: positive prompts that the fine-tuned model
    refuses; ``left``: positive prompts that are still refused under ablation; ``null``: rates of
    the random sets.
    """
    null = [1.0] * 39 if null is None else null
    items = [
        judged("base", "positive", n, matches_base=n, number=-4.0),
        judged("tuned", "positive", n, exhibits=min(n, shows), matches_tuned=n, number=4.0),
        judged("base", "negative", n, matches_base=n, matches_tuned=n),
        judged("tuned", "negative", n, matches_base=n, matches_tuned=n, exhibits=misfires),
        judged(
            "ablate-base",
            "positive",
            n,
            exhibits=left,
            malformed=broken,
            number=4.0 - 8.0 * recovery,
        ),
        judged("ablate-base", "negative", n, exhibits=flipped, malformed=muddled),
        judged("patch-tuned", "positive", n, exhibits=given, number=4.0),
        judged("patch-tuned", "negative", n, exhibits=spilt),
    ]
    for at, loss in ((4, odd), (5, odd_negative)):
        items[at] = replace(items[at], base_loss=np.full(n, loss))
    found = Evidence(
        items,
        np.ones(n, bool),
        list(range(n)),
        True,
        3,
        dose={
            "necessity": {3: effects(left / n, recovery, 0.0)},
            "sufficiency": {3: effects(given / n, 1.0, 1.0)},
        },
        random={
            "necessity": [effects(rate, 0.0, 0.0) for rate in null],
            "sufficiency": [effects(0.0, 0.0, 1.0)] * 39,
        },
        harmless=[(0.0, 0.0, 0.1)] * 5,
        ratios=[1.0] * 39,
        sets=[[]] * 39,
        depth=3,
    )
    return replace(found, **changes)


@pytest.fixture(scope="module")
def forty():
    return tiny.planted_study("llama", pairs=N)


def test_log_odds_that_say_more_than_answers_are_warned_of(forty):
    words = forty.require_metric().labels
    alike = [
        judged("tuned", "positive", exhibits=N, number=4.0),
        judged("base", "positive", number=-4.0),
    ]
    assert disagreements(alike, words) == []
    # an answer whose first token has less than half of the probability is no such case
    assert disagreements([judged("tuned", "positive", exhibits=N, number=-4.0)], words) == []
    [line] = disagreements([judged("tuned", "positive", exhibits=N, number=-15.0)], words)
    assert (
        "are below -6.9 where the answer shows the behaviour, for positive prompts 100% under tuned"
        in line
    )
    [line] = disagreements(
        [*alike, judged("patch-tuned", "positive", exhibits=N // 2, number=4.0)], words
    )
    assert (
        "for positive prompts 50% under patch-tuned. Rates and recovery measure different things"
        in line
    )
    assert (
        disagreements([judged("patch-tuned", "positive", exhibits=N - N // 5, number=4.0)], words)
        == []
    )


def concluded(study, found):
    """The run of this evidence; whatever its verdicts, each claim passes its own check."""

    class Found(VerifyNeurons):
        def run(self, study):
            return build(study, found, self.reach, self.parent)

    table = Found()(study)
    for finding in from_table(table.tables["claims"]):
        check(finding, table)
    return table


@pytest.mark.parametrize("lost", [0.0, 0.9])
def test_random_sets_stand_beside_harmless_and_do_not_decide(forty, lost):
    found = findings_of(concluded(forty, evidence(harmless=[(lost, lost, 0.1)] * 5)))["harmless"]
    assert (found.verdict, found.control, found.control_value) == (
        "supported",
        "the answers of both models",
        0.0,
    )
    assert (
        f". For comparison, 5 random sets on average flip {lost:.1%}, with a divergence of 0.100."
        in found.sentence
    )


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, {}),
        ({"left": 1}, {"necessity": "not supported"}),  # one of 40: the interval reaches above 10 %
        ({"left": 20}, {"necessity": "not supported"}),  # half of the effect
        # p = 0.075: two of 39 random sets do as well
        ({"null": [1.0] * 37 + [0.0] * 2}, {"necessity": "not supported"}),
        ({"null": [1.0] * 38 + [0.0]}, {}),
        # 39 sets are needed
        ({"null": [1.0] * 38}, {"necessity": "not tested", "necessity-recovery": "not tested"}),
        ({"null": []}, {"necessity": "not tested", "necessity-recovery": "not tested"}),
        ({"recovery": 0.4}, {"necessity": "not supported", "necessity-recovery": "not supported"}),
        ({"flipped": 1}, {"harmless": "not supported"}),  # 2.5 % of harmless answers are refused
        ({"misfires": 3}, {}),  # flips that undo what tuning did to negative prompts are no harm
        ({"misfires": 3, "flipped": 3}, {}),  # refused by the fine-tuned model and under ablation
        ({"broken": 1}, {"malformed": "not supported"}),
        ({"muddled": 1}, {"malformed-negative": "not supported"}),
        ({"odd": 0.4}, {}),  # a perplexity 1.5 times that of the base's own answers
        ({"odd": 1.5}, {"fluency": "not supported"}),
        ({"odd_negative": 1.5}, {"fluency-negative": "not supported"}),
        # both models agree on 36 of 40 negative prompts, of which none flips; on 30 that is too few
        # to say
        ({"misfires": 4}, {}),
        ({"misfires": 10}, {"harmless": "not supported"}),
    ],
)
def test_each_condition_of_a_claim_decides_it(forty, changes, failing):
    table = concluded(forty, evidence(**changes))
    verdicts = table.summary["verdicts"]
    assert {
        name: verdict for name, verdict in verdicts.items() if verdict != "supported"
    } == failing
    assert table.summary["supported"] is not bool(failing)


def test_what_may_be_left_is_at_most_half_of_what_there_was(forty):
    """Of 5 refusals in 40 prompts 3 are left: fewer than 10 % of the prompts, and most of the
    behaviour.
    """
    table = concluded(forty, evidence(shows=5, left=3))
    claim = findings_of(table)["necessity"]
    assert claim.value == 3 / 40 < 0.1
    assert claim.claim.threshold == pytest.approx(0.5 * 5 / 40)
    assert claim.verdict == "not supported"
    assert findings_of(concluded(forty, evidence(left=3)))["necessity"].claim.threshold == 0.1


def test_harm_cannot_be_told_where_the_models_agree_on_nothing(forty):
    table = concluded(forty, evidence(misfires=N))
    assert "harmless" not in findings_of(table)
    assert (
        "Both models agree on no negative prompt: harm by the ablation was not measured."
        in table.summary["limits"]
    )
    assert table.summary["supported"] is False


def test_a_set_that_spills_over_to_negative_prompts_is_sufficient_and_not_selective(forty):
    """Patched into the base it is shown on all prompts: such a set does not say when to show it."""
    table = concluded(forty, evidence(spilt=N))
    verdicts = table.summary["verdicts"]
    assert {name for name, verdict in verdicts.items() if verdict != "supported"} == {"selective"}
    assert (
        "With them the base refuses 100.0% of negative prompts (0.0% the fine-tuned model, 0.0% the"
        " base" in (findings_of(table)["selective"].sentence)
    )
    assert table.summary["supported"]


def test_without_a_base_control_prompts_are_those_that_were_used():
    """Where a cluster holds several prompts, the first so many rows are not one of each cluster."""
    study = tiny.planted_study("llama", with_base=False, pairs=12)
    clustered = [
        replace(one, cluster=f"c{at // 3}")
        for at, one in enumerate(study.contrast.positive.prompts)
    ]
    positive = replace(study.contrast.positive, prompts=tuple(clustered))
    study = study.with_prompts(replace(study.contrast, positive=positive))
    table = VerifyNeurons(ranking=tuple(PLANTED), selected=3, **SMALL)(study)
    answers = table.tables["answers"]
    used = answers["prompt_id"][answers["sampled"] & (answers["condition"] == "tuned")].tolist()
    limited = study.contrast.limit(SMALL["control_prompts"]).positive
    assert used == sorted(prompt.id for prompt in limited)
    assert used != list(range(SMALL["control_prompts"]))


def test_without_a_gap_of_the_numbers_there_is_no_recovery_to_report(forty):
    items = [replace(one, number=np.sin(np.arange(N))) for one in evidence().results]
    table = concluded(forty, replace(evidence(), results=items))
    found = findings_of(table)
    assert found["necessity-recovery"].verdict == "not tested"
    assert "no recovery is reported" in found["necessity-recovery"].sentence
    assert found["necessity"].verdict == "not supported"
    assert found["necessity"].reason == "necessity-recovery is not tested"


def test_claims_of_few_prompts_are_not_supported(forty):
    """Everything returned and nothing lost, but of 12 prompts: the bounds of what may be lost are
    too wide.
    """
    few = forty.with_prompts(forty.contrast.limit(12))
    lost = ("necessity", "sufficiency", "selective", "harmless", "malformed", "malformed-negative")
    failing = dict.fromkeys(lost, "not supported")
    held = (
        "behaviour",
        "necessity-recovery",
        "sufficiency-recovery",
        "fluency",
        "fluency-negative",
    )
    supported = dict.fromkeys(held, "supported")
    assert concluded(few, evidence(given=12, n=12)).summary["verdicts"] == supported | failing
    five = forty.with_prompts(forty.contrast.limit(5))
    verdicts = concluded(five, evidence(given=5, n=5)).summary["verdicts"]
    assert set(verdicts.values()) == {"too few clusters"}


def test_necessary_but_not_sufficient_is_supported_and_untuned_is_said(forty):
    table = concluded(forty, evidence(tuned=0, given=0))
    assert table.summary["supported"]
    assert table.summary["verdicts"]["sufficiency"] == "not supported"
    assert "transmit what changed elsewhere" in table.summary["limits"][-1]
    assert not concluded(forty, evidence(tuned=2)).summary["limits"]


# ---------------------------------------------------------------------------------------------- options


def test_no_controls_are_no_null(study):
    with pytest.raises(OptionError, match="random_sets of VerifyNeurons is 0; use at least 1"):
        VerifyNeurons(ranking=((1, 5),), selected=1, random_sets=0)(study)


def test_the_ranking_is_the_located_tables(study):
    located = LocateNeurons(method="change", top="3")(study)
    verify = VerifyNeurons(located)
    assert set(verify.ranking[:3]) == set(PLANTED)
    assert verify.selected == 3
    assert verify.parent == located.provenance.key
    assert len(verify.ranking) == 3 * 48
    order = np.argsort(located["rank"])
    assert verify.ranking[0] == (located["layer"][order[0]], located["neuron"][order[0]])


def test_what_the_parent_determines_is_not_said_twice(study):
    located = LocateNeurons(method="change", top="3")(study)
    child = VerifyNeurons(located)
    assert "ranking" not in child.options
    assert study.provenance(child).parent == located.provenance.key
    # given by hand, the neurons make the key
    keys = {study.provenance(VerifyNeurons(ranking=((1, n),), selected=1)).key for n in range(3)}
    assert len(keys) == 3


@pytest.mark.slow
def test_models_in_bfloat16():
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False))
    study = tiny.study(tuned.bfloat16(), base.bfloat16(), pairs=8, template=False, max_new_tokens=1)
    assert study.pair.tuned.dtype == torch.bfloat16
    assert isinstance(study.pair.tuned, Model)
    located = LocateNeurons(top="3", steps=3)(study)
    assert set(
        zip(
            located["layer"][located["selected"]],
            located["neuron"][located["selected"]],
            strict=True,
        )
    ) == {*PLANTED}
    table = VerifyNeurons(located, random_sets=1, dose_draws=1, depth=3, control_prompts=4)(study)
    assert table.summary["k95_behaviour"] == 3
    assert row(table, "ablate-base", "positive")["refused"] == 0.0
