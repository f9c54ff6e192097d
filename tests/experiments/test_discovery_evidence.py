"""Ranked evidence: what is listed, in what order, and what enters the largest statistics."""

import numpy as np
import pytest

from interp.experiments.discovery import evidence_tables, of_own_items, of_shared_items
from interp.maths.between_models import between_models

SPREAD = 0.05


def some_scores(n_models=6, n_items=40, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, (n_models, n_items))


# ------------------------------------------------------------------------------------------ shared items


def test_a_planted_item_is_first_and_beyond_all_controls():
    scores = some_scores()
    scores[0, 11] = 0.9
    found = of_shared_items(scores, SPREAD)
    assert found.rows[0] == 11
    assert found.score[0] == pytest.approx(0.9)
    assert found.controls[:, 0].tolist() == scores[1:, 11].tolist()
    assert found.maxima[0] == pytest.approx(found.statistic[0])
    assert found.maxima[0] > found.maxima[1:].max()
    assert found.largest[0] == 11
    # what a model lost is evidence too
    lost = of_shared_items(-scores, SPREAD)
    assert lost.rows[0] == 11
    assert lost.statistic[0] == pytest.approx(-found.statistic[0])


def test_of_the_identical_pair_nothing_is_listed():
    scores = some_scores()
    scores[0] = 0
    found = of_shared_items(scores, SPREAD)
    assert not found.rows.size
    assert found.maxima[0] == 0
    assert found.largest[0] == -1
    assert (found.largest[1:] >= 0).all()


def test_models_without_any_change_have_no_largest_item():
    found = of_shared_items(np.zeros((4, 7)), SPREAD)
    assert found.maxima.tolist() == [0, 0, 0, 0]
    assert found.largest.tolist() == [-1, -1, -1, -1]
    assert of_shared_items(np.zeros((1, 7)), SPREAD).largest.tolist() == [-1]


def test_without_controls_items_are_in_order_of_their_score_and_have_no_statistic():
    found = of_shared_items(np.array([[0.1, -0.5, 0.0, 0.3]]), SPREAD)
    assert found.rows.tolist() == [1, 3, 0]
    assert np.isnan(found.statistic).all()
    assert np.isnan(found.maxima).all()
    assert found.controls.shape == (0, 3)


def test_items_that_changed_less_than_in_the_controls_are_left_out():
    scores = np.array([[0.3, 0.3, -0.3], [0.5, 0.1, 0.1], [0.6, 0.1, 0.1], [0.4, 0.1, 0.1]])
    found = of_shared_items(scores, SPREAD)
    assert found.rows.tolist() == [2, 1]


def test_form_is_last_and_enters_no_maximum():
    scores, form = some_scores(), np.zeros(40, bool)
    form[[3, 8]] = True
    scores[0, 3], scores[0, 20] = 5.0, 0.4
    scores[2, 8] = 7.0
    found = of_shared_items(scores, SPREAD, form=form)
    assert found.rows[0] == 20
    n_form = int(found.form.sum())
    assert n_form >= 1
    assert found.form[-n_form:].all()
    assert not found.form[:-n_form].any()
    assert found.rows[len(found.rows) - n_form] == 3
    # the statistic of form is given, with that of all others unchanged
    assert found.statistic[-n_form] > 5 * found.maxima[0]
    without = of_shared_items(scores[:, ~form], SPREAD)
    np.testing.assert_allclose(found.maxima, without.maxima)
    assert found.largest.tolist() == np.flatnonzero(~form)[without.largest].tolist()
    assert found.detectable == pytest.approx(without.detectable)


def test_items_of_form_alone_have_no_maximum():
    found = of_shared_items(some_scores(), SPREAD, form=np.ones(40, bool))
    assert found.maxima.tolist() == [0.0] * 6
    assert found.largest.tolist() == [-1] * 6
    assert found.form.all()


def test_order_is_of_the_statistic_not_of_the_score_and_ties_are_by_item():
    scores = np.zeros((5, 4))
    scores[0] = [0.5, 0.6, 0.4, 0.4]
    scores[1:, 1] = [0.5, -0.5, 0.4, -0.4]  # the controls vary much there
    found = of_shared_items(scores, SPREAD)
    assert found.rows.tolist() == [0, 2, 3, 1]
    sizes = np.abs(found.statistic)
    assert (np.diff(sizes) <= 0).all()


def test_the_limit_holds_for_each_kind_and_changes_no_maximum():
    scores, form = some_scores(n_items=60), np.arange(60) % 2 == 0
    whole, some = (of_shared_items(scores, SPREAD, form=form, limit=n) for n in (100, 3))
    assert some.form.tolist() == [False] * 3 + [True] * 3
    assert some.rows[:3].tolist() == whole.rows[:3].tolist()
    np.testing.assert_array_equal(some.maxima, whole.maxima)


def test_every_model_is_treated_alike():
    """The fine-tuned model and a control exchanged: so are their maxima."""
    scores = some_scores()
    swapped = scores[[2, 1, 0, 3, 4, 5]]
    one, other = (of_shared_items(part, SPREAD).maxima for part in (scores, swapped))
    np.testing.assert_allclose(other, one[[2, 1, 0, 3, 4, 5]])
    np.testing.assert_allclose(one, between_models(scores, SPREAD, "away-from-zero").maxima)


# --------------------------------------------------------------------------------------------- own items


def test_own_items_are_in_order_and_beside_the_controls_maxima():
    score = np.array([0.2, -0.1, 0.9, 0.0, 0.2])
    controls = np.arange(10.0).reshape(2, 5)
    found = of_own_items(score, controls, np.array([0.5, 0.7]))
    assert found.rows.tolist() == [2, 0, 4]
    np.testing.assert_array_equal(found.statistic, score[found.rows])
    np.testing.assert_array_equal(found.controls, controls[:, found.rows])
    assert found.maxima.tolist() == [0.9, 0.5, 0.7]
    assert found.largest.tolist() == [2, -1, -1]
    assert found.detectable == 0.7
    assert not found.form.any()
    some = of_own_items(score, controls, np.array([0.5, 0.7]), limit=1)
    assert some.rows.tolist() == [2]


def test_own_items_of_the_identical_pair_are_none():
    found = of_own_items(np.zeros(4), np.zeros((2, 4)), np.array([0.3, 0.4]))
    assert not found.rows.size
    assert found.maxima.tolist() == [0.0, 0.3, 0.4]
    assert found.largest[0] == -1
    nothing = of_own_items(np.zeros(0), np.zeros((2, 0)), np.array([0.3, 0.4]))
    assert nothing.controls.shape == (2, 0)


def test_own_items_without_controls_are_a_description():
    found = of_own_items(np.array([0.3, 0.5]), np.zeros((0, 2)), np.zeros(0))
    assert found.rows.tolist() == [1, 0]
    assert np.isnan(found.statistic).all()
    assert np.isnan(found.maxima).all()
    assert np.isnan(found.detectable)


# ------------------------------------------------------------------------------------------------ tables


def test_tables_say_what_was_compared_with_what():
    scores, form = some_scores(), np.zeros(40, bool)
    form[3] = True
    scores[0, 3], scores[0, 11], scores[0, 12] = 2.0, 0.9, -0.6
    evidence = of_shared_items(scores, SPREAD, form=form)
    names = ["tuned", "c0", "c1", "c2", "c3", "c4"]
    rows, tables, summary = evidence_tables(
        "some", evidence, names, [str(item) for item in evidence.rows], unit="share"
    )
    assert rows["place"].tolist() == list(range(1, len(evidence.rows) + 1))
    assert rows["evidence"][0] == "11"
    assert rows["direction"][:2].tolist() == ["more", "less"]
    assert rows["p"][0] == pytest.approx(1 / 6)
    assert np.isnan(rows["p"][rows["form"]]).all()
    low, mean, high = (rows[f"control_{name}"] for name in ("low", "mean", "high"))
    np.testing.assert_allclose(mean, scores[1:, evidence.rows].mean(0))
    assert ((low <= mean) & (mean <= high)).all()
    assert tables["controls"]["model"].tolist() == names
    np.testing.assert_array_equal(tables["controls"]["maximum"], evidence.maxima)
    assert summary["form"] == int(form[evidence.rows].sum())
    assert summary["largest"] > summary["largest_of_controls"]
    assert summary["controls"] == names[1:]


def test_a_loss_has_a_p_as_a_gain_has():
    scores = some_scores()
    scores[0, 12] = -0.9
    evidence = of_shared_items(scores, SPREAD)
    rows, _, _ = evidence_tables(
        "some", evidence, [str(n) for n in range(6)], [str(item) for item in evidence.rows]
    )
    assert rows["direction"][0] == "less"
    assert rows["p"][0] == pytest.approx(1 / 6)


@pytest.mark.parametrize("n_models", [1, 4])
def test_tables_of_nothing_are_empty_and_say_so(n_models):
    evidence = of_shared_items(np.zeros((n_models, 5)), SPREAD)
    rows, tables, summary = evidence_tables("some", evidence, ["m"] * n_models, [])
    assert len(rows) == 0
    assert len(tables["controls"]) == n_models
    assert summary["listed"] == 0
    assert (summary["largest"] is None) == (n_models == 1)
