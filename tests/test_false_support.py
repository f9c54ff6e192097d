"""The benchmark of false support judges as a verifying run does, and its scores are the locating
analyzer's.
"""

import math

import numpy as np
import pytest

from benchmarks.false_sets import Judging, Verdict, attributions, halfway, permuted, selected
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.claims import from_table
from interp.store.journal import Journal
from tests import tiny

PLANTED = ((1, 30), (1, 17), (1, 5))
FIELDS = (
    "value",
    "low",
    "high",
    "clusters",
    "control_value",
    "control_low",
    "control_high",
    "p",
    "draws",
)


@pytest.fixture(scope="module")
def study():
    return tiny.planted_study("llama", pairs=40)


@pytest.mark.parametrize("chosen", [PLANTED, ((0, 3), (1, 9), (2, 11)), ((1, 30), (1, 9), (0, 11))])
def test_the_verdict_is_that_of_a_verifying_run(study, chosen, tmp_path):
    options = {"random_sets": 39, "dose_draws": 1, "depth": 3}
    run = VerifyNeurons(ranking=chosen, selected=3, **options)(study)
    wanted = {one.name: one for one in from_table(run.tables["claims"])}
    judging = Judging(study.with_journal(Journal(tmp_path / "j.jsonl")), chosen, (), 39)
    found = judging.findings(chosen)
    for name in ("behaviour", "necessity", "necessity-recovery"):
        assert (found[name].verdict, found[name].reason) == (
            wanted[name].verdict,
            wanted[name].reason,
        )
        assert found[name].control == wanted[name].control
        for field in FIELDS:
            assert getattr(found[name], field) == pytest.approx(
                getattr(wanted[name], field), abs=1e-5, nan_ok=True
            )
    assert judging.verdict(chosen).necessary == (chosen == PLANTED)


def test_what_was_measured_is_not_measured_again(study, tmp_path, monkeypatch):
    journal = tmp_path / "j.jsonl"
    first = Judging(study.with_journal(Journal(journal)), PLANTED, (), 39)
    sets = [PLANTED, *first.drawn(2, 1)["sets"]]
    verdicts = [first.verdict(chosen) for chosen in sets]
    again = Judging(study.with_journal(Journal(journal)), PLANTED, (), 39)
    for name in ("evaluate_condition", "PatchSource", "Outcomes", "matched_sets"):
        monkeypatch.setattr(f"benchmarks.false_sets.{name}", None)
    assert [again.verdict(chosen) for chosen in sets] == verdicts


def test_random_sets_are_other_ones_than_the_null_and_leave_out_the_excluded(study, tmp_path):
    judging = Judging(
        study.with_journal(Journal(tmp_path / "j.jsonl")), ((1, 2), (1, 3)), PLANTED, 39
    )
    null, drawn = judging.null["sets"], judging.drawn(20, 1)["sets"]
    assert not {unit for one in (*null, *drawn) for unit in one} & {*PLANTED, (1, 2), (1, 3)}
    assert {frozenset(one) for one in drawn} - {frozenset(one) for one in null}


def test_the_mean_of_the_attributions_is_what_the_analyzer_scores(study, tmp_path):
    few = study.with_prompts(study.contrast.limit(4))
    scores, floors = attributions(few, 3, tmp_path / "a")
    located = LocateNeurons(method="integrated", top="3", steps=3)(few)
    assert scores.shape == floors.shape == (8, 3, 48)
    np.testing.assert_allclose(scores[:4].mean(0).ravel(), located["score"], rtol=1e-4, atol=1e-6)
    labels = np.arange(8) < 4
    mine = selected(scores, floors, labels, 3)
    chosen = located.select(located["selected"])
    assert {*mine} == {*zip(chosen["layer"].tolist(), chosen["neuron"].tolist(), strict=True)}
    assert mine == sorted(mine, key=lambda unit: -scores[:4].mean(0)[unit])
    assert selected(scores, floors, labels, 3, minus=True) != selected(
        scores, floors, ~labels, 3, minus=True
    )
    others = selected(scores, floors, labels, 3, without=mine)
    assert len(others) == 3
    assert not {*mine} & {*others}
    # read back, not computed again
    np.testing.assert_array_equal(attributions(few, 3, tmp_path / "a")[0], scores)


def test_labels_are_permuted_between_the_classes():
    free = permuted((6, 4), 50, 0, balanced=False)
    assert (free.sum(1) == 6).all()
    assert len({tuple(row) for row in free.tolist()}) > 20
    assert len({*free[:, :6].sum(1).tolist()}) > 1
    even = permuted((6, 4), 50, 0, balanced=True)
    assert (even[:, :6].sum(1) == 3).all()
    assert (even[:, 6:].sum(1) == 2).all()


def test_a_beginning_with_about_half_of_the_effect_is_found_by_bisection():
    def verdict(recoveries):
        return lambda chosen: Verdict(chosen, False, recoveries[len(chosen) - 1], 0.0)

    order = [(0, unit) for unit in range(16)]
    found = halfway(order, verdict([size / 16 for size in range(1, 17)]), 0.3, 0.4)
    assert found is not None
    assert len(found.chosen) in (5, 6)
    assert halfway(order, verdict([0.0] * 8 + [1.0] * 8), 0.3, 0.7) is None
    assert halfway(order, verdict([math.nan] * 16), 0.3, 0.7) is None
