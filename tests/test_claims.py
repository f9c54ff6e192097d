"""A claim can be measured again from the stored tables, and one that does not follow from them is found out."""

import dataclasses

import numpy as np
import pytest

from interp.claims import Claim, check, from_table, recompute, to_table
from interp.errors import ClaimError
from interp.table import table


def run():
    answers = table(
        "answers",
        {
            "condition": (["base", "base", "tuned", "tuned"], "key", ""),
            "cluster": ([0, 1, 0, 1], "key", ""),
            "refused": ([False, False, True, True], "flag", ""),
            "log_odds": ([-4.0, -2.0, 5.0, 7.0], "measure", ""),
        },
    )
    dose = table(
        "dose",
        {
            "k": ([1, 2, 4], "key", ""),
            "source": (["located"] * 3, "key", ""),
            "effect": ([0.0, 0.5, 1.0], "measure", ""),
        },
    )
    return table("verify-neurons", {"n": ([3], "measure", "")}, tables={"answers": answers, "dose": dose})


def claim(recipe, value, **changes):
    fields = {
        "name": "necessity.base",
        "sentence": "s",
        "value": value,
        "low": -50.0,
        "high": 50.0,
        "control": "random sets",
        "control_value": float("nan"),
        "control_low": float("nan"),
        "control_high": float("nan"),
        "p": float("nan"),
        "threshold": -100.0,
        "direction": "at least",
        "shown": True,
        "recipe": recipe,
    }
    return Claim(**fields | changes)


ODDS = {"table": "answers", "where": {"condition": "tuned"}, "statistic": "mean", "column": "log_odds"}
DOSE = {"table": "dose", "where": {"source": "located"}, "column": "effect", "by": "k"}


@pytest.mark.parametrize(
    ("recipe", "value"),
    [
        (ODDS, 6.0),
        (ODDS | {"minus": {"where": {"condition": "base"}}}, 9.0),
        (ODDS | {"where": {"condition": ["tuned", "base"]}}, 1.5),
        (ODDS | {"where": {"condition": "tuned", "cluster": 1}}, 7.0),
        (ODDS | {"minus": {"where": {"condition": "base"}}, "over": {"minus": {"where": {"condition": "base"}}}}, 1.0),
        (ODDS | {"over": {"where": {"condition": "base"}}}, -2.0),
        (ODDS | {"statistic": "root-mean-square"}, np.sqrt(37)),
        (ODDS | {"statistic": "median", "where": {}}, 1.5),
        (ODDS | {"statistic": "count", "where": {"condition": "ablated"}}, 0.0),
        (ODDS | {"statistic": "share", "column": "refused"}, 1.0),
        (DOSE | {"statistic": "area"}, 0.5),
        (DOSE | {"statistic": "smallest-dose", "reach": 0.5}, 2.0),
        ({"statistic": "maximum", "column": "n"}, 3.0),
    ],
)
def test_recipes(recipe, value):
    assert recompute(claim(recipe, value), run()) == pytest.approx(value)
    check(claim(recipe, value), run())


def test_an_unreached_dose_is_nan_and_agrees_with_nan():
    recipe = DOSE | {"statistic": "smallest-dose", "reach": 2.0}
    check(claim(recipe, float("nan"), shown=False), run())
    with pytest.raises(ClaimError, match="says 4, its table gives nan"):
        check(claim(recipe, 4.0), run())


def test_a_value_that_does_not_follow_is_named_with_both_numbers():
    with pytest.raises(ClaimError, match=r"'necessity.base' says 6\.1, its table gives 6$"):
        check(claim(ODDS, 6.1), run())


def test_a_verdict_that_does_not_follow_is_named():
    with pytest.raises(ClaimError, match="marked as shown, but 6 is not at least 8"):
        check(claim(ODDS, 6.0, threshold=8.0), run())
    with pytest.raises(ClaimError, match="marked as shown, but 6 is not at most 5"):
        check(claim(ODDS, 6.0, threshold=5.0, direction="at most"), run())
    check(claim(ODDS, 6.0, threshold=8.0, shown=False), run())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "has no recipe"),
        (ODDS | {"table": "nope"}, "reads the table 'nope'"),
        (ODDS | {"column": "nope"}, "reads the column 'nope'"),
        (ODDS | {"column": "condition"}, "holds text"),
        (ODDS | {"statistic": "eval"}, "statistic 'eval': known are mean"),
        (ODDS | {"where": {"nope": 1}}, "selects by 'nope'"),
        (ODDS | {"where": {"condition": "nope"}}, "selects no row"),
        (ODDS | {"where": {"cluster": "text"}}, "cannot be followed"),
        (ODDS | {"where": 3}, "cannot be followed"),
        (DOSE | {"statistic": "area", "by": None}, "reads the column None"),
    ],
)
def test_recipes_that_cannot_be_followed(recipe, message):
    with pytest.raises(ClaimError, match=message):
        recompute(claim(recipe, 1.0), run())


def test_claims_there_and_back():
    claims = (claim(ODDS, 6.0), claim(DOSE | {"statistic": "area"}, 0.5, name="dose", p=float("nan")))
    again = from_table(to_table(claims))
    assert [repr(c) for c in again] == [repr(c) for c in claims]
    assert from_table(to_table([])) == ()
    assert to_table([]).equals(to_table(claims).select(np.zeros(2, bool)))


def test_tables_that_hold_no_claims():
    with pytest.raises(ClaimError, match="lacks the columns"):
        from_table(run())
    broken = to_table([claim(ODDS, 6.0)])
    broken = dataclasses.replace(broken, data={**broken.data, "recipe": ["{"]})
    with pytest.raises(ClaimError, match="cannot be read"):
        from_table(broken)


def test_a_direction_is_one_of_two():
    with pytest.raises(ValueError, match="sideways"):
        claim(ODDS, 6.0, direction="sideways")


def drawn(count=19):
    null = {"effect": (np.arange(count) / 10, "measure", ""), "set": (["a"] * count, "key", "")}
    answers = run().tables["answers"]
    return table("x", {"n": ([3], "measure", "")}, tables={"answers": answers, "random": table("random", null)})


TESTED = ODDS | {"p": {"null": {"table": "random", "column": "effect", "where": {}}, "observed": ODDS}}
WEAK = TESTED | {"p": TESTED["p"] | {"at_most": 1.0}}
SHOWN = {"low": 5.0, "high": 7.0, "threshold": 4.0, "p": 0.05}


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        (TESTED, {"low": 4.0}, r"interval \[4, 7\] is not beyond 4"),
        (TESTED, {"low": float("nan")}, "is not beyond"),
        (TESTED, {"low": 6.5}, "outside of"),
        (TESTED, {"high": 5.5}, "outside of"),
        (TESTED, {"p": float("nan")}, "says p = nan"),
        (ODDS, {}, "no recipe for it"),
        (ODDS, {"p": float("nan"), "low": float("nan"), "high": float("nan")}, "is not beyond"),
        (TESTED | {"beyond": [4.5, "control_high"]}, {"control_high": 5.0}, "is not beyond 5"),
        (TESTED, {"threshold": 7.0}, "not at least 7"),
        (TESTED, {"threshold": float("-inf")}, "not at least -inf"),
        (ODDS | {"beyond": []}, {"p": float("nan")}, "asks neither p"),
        (WEAK, {}, "asks neither p"),
        (WEAK | {"beyond": []}, {}, "asks neither p"),
        *[
            (TESTED | {"beyond": odd}, {}, "asks for an interval beyond")
            for odd in ({}, "", None, 3, ["name"], ["shown"], ["low"], ["high"], [False], [[]], ["elsewhere"])
        ],
        *[
            (TESTED | {"p": TESTED["p"] | {"at_most": odd}}, {}, "asks for p at most")
            for odd in (True, "1", None, 0, 2, [])
        ],
        *[
            (TESTED | {"p": odd}, {}, "recipe of p that cannot be followed")
            for odd in (None, {}, "x", [1], TESTED["p"] | {"null": {"table": "random", "column": "effect"}})
        ],
        (TESTED | {"where": {"cluster": [0.7]}}, {}, "no values of int64"),
    ],
)
def test_a_verdict_follows_from_interval_and_p(recipe, changes, said):
    check(claim(TESTED, 6.0, **SHOWN), drawn())
    check(claim(TESTED | {"beyond": []}, 6.0, **SHOWN | {"low": 3.0}), drawn())
    check(claim(WEAK | {"beyond": ["control_high"]}, 6.0, **SHOWN | {"control_high": 4.9}), drawn())
    with pytest.raises(ClaimError, match=said):
        check(claim(recipe, 6.0, **SHOWN | changes), drawn())


def test_a_large_p_shows_only_what_says_so():
    few = {"p": 0.1}
    with pytest.raises(ClaimError, match=r"p = 0.1 is not at most 0.05"):
        check(claim(TESTED, 6.0, **SHOWN | few), drawn(9))
    check(claim(TESTED, 6.0, **SHOWN | few | {"shown": False}), drawn(9))
    check(claim(WEAK | {"beyond": ["control_high"]}, 6.0, **SHOWN | few | {"control_high": 4.9}), drawn(9))


def test_an_interval_at_most_its_bound():
    recipe, under = ODDS | {"beyond": [8.0]}, {"threshold": 6.0, "direction": "at most", "low": 5.0}
    check(claim(recipe, 6.0, high=8.0, **under), run())
    with pytest.raises(ClaimError, match="not beyond 8"):
        check(claim(recipe, 6.0, high=8.1, **under), run())
