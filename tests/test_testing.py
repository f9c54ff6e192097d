"""Assertions for suites of others: what they let pass, what they refuse, and that the refusal says
why.
"""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from interp.claims import from_table, to_table
from interp.store import StoredRun
from interp.table import table
from interp.testing import assert_behaves, assert_localised, assert_silent, compare_blessed
from tests.claimed import located, verified


def with_claim(run, name, **changes):
    """The run with one of its claims changed, its tables as they were."""
    claims = [
        dataclasses.replace(c, **changes) if c.name == name else c
        for c in from_table(run.tables["claims"])
    ]
    return dataclasses.replace(run, tables={**run.tables, "claims": to_table(claims)})


def says(*parts):
    return ".*".join(re.escape(part) for part in parts)


def test_a_localised_behaviour_passes_as_table_and_as_fetched(tmp_path):
    run = verified()
    assert_localised(run, claims=("necessity",), max_units=3)
    assert_localised(
        StoredRun.from_table(run, tmp_path, cached=False), claims=("necessity", "spread")
    )


def test_what_is_not_shown_is_told_with_control_and_threshold():
    said = says(
        "claim 'necessity': 0.5 [",
        "], control 0.05 [",
        "] (19 random sets), p = 0.05",
        "at least 0.5: not supported",
    )
    with pytest.raises(AssertionError, match=said):
        assert_localised(verified(0.5), claims=("necessity",))


def test_a_claim_that_does_not_follow_from_the_tables_is_refused():
    doctored = with_claim(
        verified(0.5), "necessity", value=0.9, low=0.8, high=1.0, verdict="supported"
    )
    with pytest.raises(
        AssertionError, match=says("claim 'necessity'", "says 0.9, its tables give 0.5")
    ):
        assert_localised(doctored, claims=("necessity",))


def test_a_set_that_is_too_large_a_claim_that_is_not_there_a_run_without_claims():
    with pytest.raises(AssertionError, match="3 units are selected, more than the 2 allowed"):
        assert_localised(verified(), claims=("necessity",), max_units=2)
    with pytest.raises(
        AssertionError,
        match="no claim 'behaviour' in this run of verified: it has necessity, spread",
    ):
        assert_localised(verified())
    with pytest.raises(AssertionError, match="has no claims: give the verifying run"):
        assert_localised(located())
    with pytest.raises(TypeError, match="is not a Table"):
        assert_localised({})


def scores(values, selected):
    columns = {
        "layer": (np.arange(len(values)), "key", ""),
        "score": (values, "measure", "", "nats"),
    }
    return table("locate-neurons", columns | {"selected": (np.array(selected, bool), "flag", "")})


def test_silence_is_exact_unless_a_tolerance_is_given():
    assert_silent(scores([0.0, 0.0], [0, 0]))
    with pytest.raises(
        AssertionError, match=says("score is not 0 in 1 of 2 rows, first layer 1: 1e-09")
    ):
        assert_silent(scores([0.0, 1e-9], [0, 0]))
    assert_silent(scores([0.0, 1e-9], [0, 0]), atol=1e-8)
    with pytest.raises(AssertionError, match="score is not 0"):
        assert_silent(scores([0.0, float("nan")], [0, 0]), atol=1.0)


def test_a_selected_unit_and_a_shown_claim_are_no_silence():
    with pytest.raises(
        AssertionError, match="1 rows of locate-neurons are selected, first layer 1"
    ):
        assert_silent(scores([0.0, 0.0], [0, 1]))
    with pytest.raises(
        AssertionError, match=says("claim 'necessity'", "supported, but no claim should be")
    ):
        assert_silent(verified())
    assert_silent(verified(0.0), allowed=("spread",))


def test_a_table_of_which_nothing_is_known_cannot_be_called_silent():
    unknown = table("answers", {"loss": ([0.0], "measure", "")})
    with pytest.raises(AssertionError, match="name some with columns="):
        assert_silent(unknown)
    assert_silent(unknown, columns=("loss",))
    with pytest.raises(AssertionError, match="has no column 'gain': it has loss"):
        assert_silent(unknown, columns=("gain",))


ODD = {
    "id": ([1, 2, 3], "key", "id"),
    "word": (["a", "é", "nul\0"], "text", "word"),
    "number": ([0.5, float("nan"), float("inf")], "measure", "number"),
    "yes": ([True, False, True], "flag", "yes"),
}


def changed(**columns):
    return table("odd", ODD | {name: (values, *ODD[name][1:]) for name, values in columns.items()})


def test_the_first_time_is_written_and_fails_then_it_is_compared(tmp_path):
    path = tmp_path / "blessed" / "x.json"
    with pytest.raises(
        AssertionError, match=says("written to", "x.json; look at it, commit it, run again")
    ):
        compare_blessed(changed(), path)
    compare_blessed(changed(), path)
    compare_blessed(changed(number=[0.5 + 1e-7, float("nan"), float("inf")]), path)
    with pytest.raises(AssertionError, match="written to"):
        compare_blessed(changed(), path, overwrite=True)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"number": [0.6, float("nan"), float("inf")]},
            "column 'number', row 0 (id 1): expected 0.5, got 0.6",
        ),
        (
            {"number": [0.5, 0.0, float("inf")]},
            "column 'number', row 1 (id 2): expected 'nan', got 0.0",
        ),
        (
            {"number": [0.5, float("nan"), -float("inf")]},
            "column 'number', row 2 (id 3): expected 'inf', got '-inf'",
        ),
        ({"id": [1, 2, 4]}, "column 'id', row 2 (id 4): expected 3, got 4"),
        ({"word": ["a", "é", "nul"]}, "column 'word', row 2"),
        ({"yes": [True, True, True]}, "column 'yes', row 1 (id 2): expected False, got True"),
        ({"number": [1, 2, 3]}, "column 'number' was measure of float64, is measure of int64"),
    ],
)
def test_the_first_cell_that_differs_is_named(tmp_path, columns, said):
    with pytest.raises(AssertionError, match="written"):
        compare_blessed(changed(), tmp_path / "x.json")
    with pytest.raises(AssertionError, match=re.escape(said)):
        compare_blessed(changed(**columns), tmp_path / "x.json")


def test_other_shapes_of_table_and_broken_files(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(AssertionError, match="written"):
        compare_blessed(changed(), path)
    fewer = changed().select(np.array([0, 1]))
    with pytest.raises(AssertionError, match="odd had 3 rows, has 2"):
        compare_blessed(fewer, path)
    with pytest.raises(AssertionError, match="column 'word' was text of str, is absent"):
        compare_blessed(
            table("odd", {name: said for name, said in ODD.items() if name != "word"}), path
        )
    with pytest.raises(AssertionError, match="is of kind 'odd', this table is 'even'"):
        compare_blessed(table("even", ODD), path)
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(
        AssertionError,
        match=r"is not a reference table \(KeyError\); --interp-bless writes it anew",
    ):
        compare_blessed(changed(), path)


def test_what_cannot_fail_is_no_assertion(tmp_path):
    for claims in ((), "necessity"):
        with pytest.raises(ValueError, match="names of claims"):
            assert_localised(verified(), claims=claims)
    for wrong in ({"columns": "score"}, {"atol": float("inf")}, {"atol": float("nan")}):
        with pytest.raises(ValueError, match="a finite number"):
            assert_silent(scores([0.0, 0.0], [0, 0]), **wrong)
    nothing = table("x", {"loss": ([9.0], "measure", "")})
    empty = table("tuco", {"tuco": ([], "measure", ""), "beta": ([], "measure", "")})
    none = dataclasses.replace(nothing, tables={"claims": to_table([])})
    for quiet, columns in ((nothing, ()), (empty, None), (none, None)):
        with pytest.raises(AssertionError, match="known to measure change"):
            assert_silent(quiet, columns=columns)
    for rtol in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ValueError, match="is not a tolerance"):
            compare_blessed(nothing, tmp_path / "x.json", rtol=rtol)


class Answering:
    """What ``assert_behaves`` asks of a study: prompts in as many clusters, of which the first
    ``shows`` refuse.
    """

    seed = 0

    def __init__(self, shows, count=40):
        self.shows, self.count = shows, count

    def prompts(self, group):
        return SimpleNamespace(
            prompts=tuple(range(self.count)), clusters=[str(at) for at in range(self.count)]
        )

    def answers(self, model, group):
        return [[at] for at in range(self.count)]

    def decode(self, answer):
        return "no" if answer[0] < self.shows else "yes"

    def require_metric(self, what):
        return SimpleNamespace(
            exhibits=lambda prompts, answers, group: np.array([text == "no" for text in answers])
        )


def test_a_behaviour_has_a_floor_that_its_interval_must_reach():
    assert_behaves(Answering(40), at_least=0.9)
    with pytest.raises(
        AssertionError,
        match=r"on 57.5% \[.*\] of 40 positive prompts \(40 clusters\): the interval is not above",
    ):
        assert_behaves(Answering(23), at_least=0.9)
    with pytest.raises(AssertionError, match="the interval is not above"):
        assert_behaves(Answering(38), at_least=0.9)  # 95 %, and an interval from 83 %
    with pytest.raises(AssertionError, match="the interval is not above"):
        assert_behaves(Answering(20, 20), at_least=0.9)  # all of too few


def test_a_behaviour_has_a_ceiling():
    assert_behaves(Answering(0), at_most=0.1)
    with pytest.raises(AssertionError, match="the interval is not below 10"):
        assert_behaves(Answering(4), at_most=0.1)


@pytest.mark.parametrize(
    "asked", [{}, {"at_least": 0.9, "at_most": 0.1}, {"at_least": 1.5}, {"at_most": float("nan")}]
)
def test_a_floor_that_asks_for_nothing_is_refused(asked):
    with pytest.raises(ValueError, match="at least one bound"):
        assert_behaves(Answering(40), **asked)
