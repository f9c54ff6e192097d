"""A claim is written once; all that it says follows from the stored tables, and what does not is
found out.
"""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from interp.claims import (
    Claim,
    Draws,
    Estimate,
    auc,
    check,
    conclude,
    evaluate,
    from_table,
    mean,
    measure,
    statistic,
    to_table,
)
from interp.claims.sentences import fill
from interp.cli.claims_table import claims_table
from interp.errors import ClaimError
from interp.maths.intervals import Interval, cluster_interval
from interp.maths.judge_correction import corrected_difference, corrected_share
from interp.table import ZERO_OR_ONE, table

FAST = settings(max_examples=25, deadline=None, derandomize=True)
N = 12


def run(n=N, seed=0, draws=39):
    """Answers of n clusters in two conditions, 39 draws, and doses."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(0, 1, 2 * n) + np.repeat([-3.0, 5.0], n)
    answers = {
        "condition": (np.repeat(["base", "tuned"], n).astype(object), "key", "c"),
        "prompt_id": (np.tile(np.arange(n), 2), "key", "p"),
        "cluster": (np.tile(np.arange(n), 2), "key", "c"),
        "refused": (np.repeat([False, True], n), "flag", "r"),
        "log_odds": (odds, "measure", "o"),
        "other": (odds - 1.0, "measure", "o"),
    }
    random = {
        "effect": (np.linspace(0, 0.5, draws), "measure", "e"),
        "set": (np.arange(draws) % 2, "key", "s"),
    }
    dose = {
        "k": ([1, 2, 4], "key", "k"),
        "source": (["located"] * 3, "key", "s"),
        "effect": ([0.0, 0.5, 1.0], "measure", "e"),
    }
    parts = {
        "answers": table("answers", answers),
        "random": table("random", random),
        "dose": table("dose", dose),
    }
    return table("x", {"n": ([3], "measure", "n")}, tables=parts)


TUNED, BASE = {"condition": "tuned"}, {"condition": "base"}
ODDS = {"table": "answers", "where": TUNED}


def claim(**changes):
    fields = {
        "name": "c",
        "estimate": mean("log_odds", **ODDS),
        "at_least": 1.0,
        "null": Draws("random", "effect"),
        "control": "random sets",
        "text": "It is {value:.2f}.",
    }
    return Claim(**fields | changes)


def one(made, on=None):
    return evaluate([made], run() if on is None else on)[0]


@pytest.mark.parametrize(
    ("estimate", "value"),
    [
        (mean("log_odds", **ODDS), lambda tuned, base: tuned.mean()),
        (
            mean("log_odds", pair="prompt_id", minus={"where": BASE}, **ODDS),
            lambda tuned, base: (tuned - base).mean(),
        ),
        (
            mean("log_odds", minus={"where": BASE}, **ODDS),
            lambda tuned, base: tuned.mean() - base.mean(),
        ),
        (mean("log_odds", minus={"column": "other"}, **ODDS), lambda tuned, base: 1.0),
        (
            mean("other", over={"column": "log_odds"}, **ODDS),
            lambda tuned, base: (tuned - 1).mean() / tuned.mean(),
        ),
        (
            mean("log_odds", table="answers", where={"condition": ["tuned", "base"]}),
            lambda t, b: np.r_[t, b].mean(),
        ),
        (
            auc("log_odds", TUNED, BASE, table="answers"),
            lambda tuned, base: (tuned[:, None] > base).mean(),
        ),
        (statistic("median", "log_odds", **ODDS), lambda tuned, base: np.median(tuned)),
        (
            statistic("root-mean-square", "log_odds", **ODDS),
            lambda tuned, base: np.sqrt((tuned**2).mean()),
        ),
        (statistic("correlation", "log_odds", by="other", **ODDS), lambda tuned, base: 1.0),
        (
            statistic("count", "log_odds", table="answers", where={"condition": "none"}),
            lambda tuned, base: 0,
        ),
        (statistic("area", "effect", table="dose", by="k"), lambda tuned, base: 0.5),
        (
            statistic("smallest-dose", "effect", table="dose", by="k", reach=0.5),
            lambda tuned, base: 2,
        ),
        (statistic("maximum", "n"), lambda tuned, base: 3),
    ],
)
def test_estimates(estimate, value):
    answers = run().tables["answers"]
    tuned, base = (answers["log_odds"][answers["condition"] == name] for name in ("tuned", "base"))
    assert measure(estimate, run()).value == pytest.approx(value(tuned, base))
    assert (
        Estimate.from_json(json.loads(json.dumps(estimate.to_json()))).to_json()
        == estimate.to_json()
    )


def test_a_mean_of_numbers_that_are_0_or_1_by_definition_is_a_share():
    """The unit says so; equal numbers of any other column have no spread to measure, and no width."""
    right, code = np.ones(8), np.arange(8)
    columns = {
        "cluster": (code, "key", "c"),
        "flag": (right.astype(bool), "flag", "f"),
        "number": (right, "measure", "n", ZERO_OR_ONE),
        "before": (right - 1, "measure", "n", ZERO_OR_ONE),
        "plain": (right, "measure", "n"),
        "undefined": (np.where(code == 3, np.nan, right), "measure", "n", ZERO_OR_ONE),
    }
    made = table("x", columns)
    exact = scipy.stats.binomtest(8, 8).proportion_ci()
    assert measure(mean("number"), made) == measure(mean("flag"), made)
    assert measure(mean("number"), made)[:3] == pytest.approx((1.0, exact.low, 1.0))
    assert measure(mean("plain"), made)[:3] == (1.0, 1.0, 1.0)
    assert np.isnan(measure(mean("undefined"), made)[0])
    moved = measure(mean("number", minus={"column": "before"}), made)
    assert moved[:3] == cluster_interval(right > 0, code, minus=right < 0)
    assert moved.low < moved.value == 1.0
    assert measure(statistic("maximum", "number"), made).value == 1.0


def test_a_judged_share_is_corrected_for_the_errors_that_a_table_states():
    said = np.array([True] * 6 + [False] * 4)
    errors = {"sensitivity": [0.9], "specificity": [0.8], "labelled_yes": [40], "labelled_no": [50]}
    judge = table("judged", {name: (values, "measure", "m") for name, values in errors.items()})
    columns = {
        "cluster": (np.arange(10), "key", "c"),
        "said": (said, "flag", "f"),
        "before": (~said, "flag", "f"),
    }
    made = table("x", columns, tables={"judged": judge})
    found = measure(mean("said", judge="judged"), made)
    assert found[:3] == pytest.approx(corrected_share(6, 10, 36, 40, 40, 50)[1:])
    both = mean("said", judge="judged", minus={"column": "before"})
    plain = Interval(*measure(mean("said", minus={"column": "before"}), made)[:3])
    assert measure(both, made)[:3] == pytest.approx(corrected_difference(plain, 36, 40, 40, 50))
    assert Estimate.from_json(json.loads(json.dumps(both.to_json()))) == both
    for wrong in (
        mean("said", judge="elsewhere"),
        mean("said", judge="judged", over={"column": "before"}),
        statistic("maximum", "said", judge="judged"),
    ):
        with pytest.raises(ClaimError):
            measure(wrong, made)


def test_rows_are_paired_by_their_key_whatever_their_order():
    before = run()
    answers = before.tables["answers"]
    order = np.random.default_rng(1).permutation(2 * N)
    turned = dataclasses.replace(
        answers, data={name: array[order] for name, array in answers.data.items()}
    )
    after = dataclasses.replace(before, tables={**before.tables, "answers": turned})
    paired = mean("log_odds", pair="prompt_id", minus={"where": BASE}, **ODDS)
    np.testing.assert_allclose(measure(paired, after), measure(paired, before))
    tuned, base = (answers["log_odds"][answers["condition"] == name] for name in ("tuned", "base"))
    oracle = scipy.stats.ttest_rel(tuned, base).confidence_interval(0.95)
    np.testing.assert_allclose(measure(paired, after)[1:3], oracle)


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (mean("log_odds", table="nope"), "table 'nope' is read"),
        (mean("nope", table="answers"), "column 'nope' is read"),
        (mean("condition", table="answers"), "holds text"),
        (statistic("eval", "log_odds", **ODDS), "statistic 'eval': known are mean"),
        (mean("log_odds", table="answers", where={"nope": 1}), "column 'nope' is read"),
        (
            mean("log_odds", table="answers", where={"condition": "nope"}),
            "no row of table 'answers'",
        ),
        (mean("log_odds", table="answers", where={"cluster": "text"}), "cannot be measured"),
        (mean("log_odds", table="answers", where={"cluster": [0.7]}), "cannot be of type"),
        (mean("log_odds", table="answers", pair="condition"), "are not unique"),
        (
            mean("log_odds", pair="prompt_id", minus={"where": {"cluster": 1}}, **ODDS),
            "are not unique|matched",
        ),
        (mean("log_odds", over={"where": BASE}, **ODDS), "are not matched"),
        (mean("log_odds", minus={"nope": 1}, **ODDS), "is not among the fields"),
    ],
)
def test_estimates_that_cannot_be_measured(estimate, message):
    with pytest.raises(ClaimError, match=message):
        one(claim(estimate=estimate))


class TestVerdicts:
    def test_rest_on_threshold_interval_and_p(self):
        assert one(claim()).supported
        # the value reaches it, its interval does not
        assert one(claim(at_least=4.9)).verdict == "not supported"
        assert one(claim(at_least=4.0, beyond=[1.0])).supported
        assert one(claim(beyond=["control"])).supported
        assert (
            one(
                claim(
                    null=Draws(
                        "random", "effect", observed=mean("log_odds", table="answers", where=BASE)
                    )
                )
            ).p
            == 1
        )
        assert one(claim(at_least=None, at_most=9.0)).supported
        assert one(claim(at_least=None, at_most=5.1)).verdict == "not supported"

    def test_without_a_control_nothing_is_tested(self):
        assert one(claim(null=None, control="")).verdict == "not tested"
        assert one(claim(null=None, reference=0.0)).supported

    def test_too_few_draws_test_nothing(self):
        assert one(claim(), run(draws=18)).verdict == "not tested"
        assert one(claim(), run(draws=19)).supported
        assert one(claim(null=Draws("random", "effect", arrangements=19))).verdict == "not tested"

    @pytest.mark.parametrize(("clusters", "verdict"), [(5, "too few clusters"), (6, "supported")])
    def test_fewer_than_six_clusters_decide_nothing(self, clusters, verdict):
        found = one(claim(), run(clusters))
        assert found.verdict == verdict
        assert found.clusters == pytest.approx(clusters)
        assert np.isfinite([found.value, found.low, found.high]).all()

    def test_an_undefined_value_is_not_tested_and_says_so(self):
        same = mean("log_odds", over={"minus": {"column": "log_odds"}}, **ODDS)
        found = one(claim(estimate=same, undefined="There is no gain."))
        assert (found.verdict, found.sentence) == ("not tested", "There is no gain.")

    def test_what_is_required_has_to_be_supported(self):
        weak = claim(name="weak", at_least=99.0)
        assert [f.verdict for f in evaluate([claim(requires=["weak"]), weak], run())] == [
            "not supported"
        ] * 2
        with pytest.raises(ClaimError, match="'nope'"):
            one(claim(requires=["nope"]))
        with pytest.raises(ClaimError, match="requires"):
            evaluate([claim(requires=["d"]), claim(name="d", requires=["c"])], run())

    def test_a_family_is_corrected_together(self):
        made = [claim(name=f"c{at}", null=Draws("random", "effect", family="f")) for at in range(2)]
        low = mean("effect", table="random", cluster="set")
        made.append(claim(name="c2", null=Draws("random", "effect", family="f", observed=low)))
        found = evaluate(made, run())
        oracle = scipy.stats.false_discovery_control([one.p for one in found])
        np.testing.assert_allclose([one.p_adjusted for one in found], oracle)

    def test_p_is_the_largest_over_each(self):
        found = one(
            claim(
                null=Draws(
                    "random",
                    "effect",
                    max_over="set",
                    observed=mean("effect", cluster="", table="random"),
                )
            )
        )
        draws = run().tables["random"]
        each = [draws["effect"][draws["set"] == at] for at in (0, 1)]
        assert found.p == max((1 + (part >= part.mean()).sum()) / (1 + len(part)) for part in each)


@pytest.mark.parametrize(
    "fields",
    [
        {"at_least": None},
        {"at_most": 1.0},
        {"at_least": float("inf")},
        {"control": ""},
        {"beyond": ["name"]},
        {"beyond": [True]},
    ],
)
def test_claims_that_make_no_sense(fields):
    with pytest.raises((ValueError, TypeCheckError)):
        claim(**fields)


@pytest.mark.parametrize(
    "fields", [{"level": 0.2}, {"level": 0}, {"arrangements": 0}, {"alternative": "sideways"}]
)
def test_nulls_that_make_no_sense(fields):
    with pytest.raises((ValueError, TypeCheckError), match=r"null|alternative|violates"):
        Draws("random", "effect", **fields)


class TestSentences:
    def test_take_numbers_of_the_claim_and_further_estimates(self):
        share = mean("refused", **ODDS)
        found = one(
            claim(
                text="{value:.1f} of {share:.0%}, {draws:d} draws at most {control_max:.1f}.",
                also={"share": share},
            )
        )
        assert found.sentence == f"{found.value:.1f} of 100%, 39 draws at most 0.5."

    def test_differ_by_verdict(self):
        assert one(claim(at_least=99.0, otherwise="It is not.")).sentence == "It is not."

    @pytest.mark.parametrize(
        "text",
        ["{nope}", "{value.real}", "{value!r}", "{value:99999d}", "{value:{low}}", "{", "{0}"],
    )
    def test_reach_into_nothing_else(self, text):
        with pytest.raises(ClaimError):
            one(claim(text=text))


def stored(**changes):
    return conclude(run(), [claim(**changes), claim(name="d", at_least=99.0)])


def test_a_run_keeps_its_claims_and_says_them_in_two_sentences():
    found = stored()
    assert found.summary["supported"] is False
    assert found.summary["verdicts"] == {"c": "supported", "d": "not supported"}
    first = from_table(found.tables["claims"])[0]
    assert found.summary["sentence"] == f"{first.sentence} Supported: c; not supported: d."
    assert to_table(from_table(found.tables["claims"])).equals(found.tables["claims"])
    assert from_table(to_table([])) == ()
    for finding in from_table(found.tables["claims"]):
        check(finding, found)


WRONG = {
    "value": 0.01,
    "low": -0.01,
    "high": 0.01,
    "clusters": 1.0,
    "control_value": 0.1,
    "control_low": 0.1,
    "control_high": 0.1,
    "p": 0.01,
    "p_adjusted": 0.01,
    "draws": 1.0,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_number_that_does_not_follow_is_named(name):
    found = stored()
    finding = from_table(found.tables["claims"])[0]
    moved = dataclasses.replace(finding, **{name: getattr(finding, name) + WRONG[name]})
    with pytest.raises(
        ClaimError, match=f"'c' says .*{'' if name == 'value' else name}.*its tables give"
    ):
        check(moved, found)


def test_a_verdict_or_sentence_that_does_not_follow_is_named():
    found = stored()
    good, bad = from_table(found.tables["claims"])
    with pytest.raises(ClaimError, match="says 'supported', its tables give 'not supported'"):
        check(dataclasses.replace(bad, verdict="supported"), found)
    with pytest.raises(ClaimError, match="says 'too few clusters', its tables give 'supported'"):
        check(dataclasses.replace(good, verdict="too few clusters"), found)
    with pytest.raises(ClaimError, match=r"says 'It is huge\.'"):
        check(dataclasses.replace(good, sentence="It is huge."), found)


def test_what_contradicts_its_own_recipe_is_not_read():
    claims = stored().tables["claims"]
    for column, value in (
        ("threshold", 0.0),
        ("direction", "at most"),
        ("control", "x"),
        ("verdict", "proven"),
        ("supported", False),
    ):
        data = {**claims.data, column: np.array([value, claims[column][1]], claims[column].dtype)}
        with pytest.raises(ClaimError, match="its recipe does not have"):
            from_table(dataclasses.replace(claims, data=data))


@pytest.mark.parametrize(
    "recipe",
    [
        "{",
        "[]",
        "{}",
        '{"estimate": {"column": "x"}, "text": "t", "at_least": "2"}',
        '{"estimate": {"column": 3}, "text": "t", "at_least": 1}',
        '{"estimate": {"column": "x"}, "text": "t", "at_least": 1, "no": 1}',
    ],
)
def test_recipes_that_cannot_be_read(recipe):
    claims = stored().tables["claims"]
    data = {**claims.data, "recipe": np.array([recipe, recipe], object)}
    with pytest.raises(ClaimError):
        from_table(dataclasses.replace(claims, data=data))


def test_tables_that_hold_no_claims():
    with pytest.raises(ClaimError, match="lacks the columns"):
        from_table(run())


@FAST
@given(
    st.integers(0, 10_000),
    st.integers(2, 14),
    st.floats(-2, 6),
    st.booleans(),
    st.lists(st.sampled_from(["threshold", "control", 0.5]), max_size=2),
    st.integers(0, 45),
)
def test_what_is_concluded_is_what_the_check_accepts(
    seed, clusters, threshold, least, beyond, draws
):
    """Over claims of all shapes, and the other way round: no other verdict passes."""
    side = {"at_least": threshold} if least else {"at_least": None, "at_most": threshold}
    made = [
        claim(**side, beyond=beyond),
        claim(
            name="paired",
            estimate=mean("refused", pair="prompt_id", minus={"where": BASE}, **ODDS),
            **side,
        ),
        claim(
            name="ratio",
            estimate=mean("other", over={"column": "log_odds"}, **ODDS),
            reference=1.0,
            **side,
        ),
        claim(
            name="auc", estimate=auc("log_odds", TUNED, BASE, table="answers"), **side, beyond=[0.5]
        ),
    ]
    found = conclude(run(clusters, seed, draws), made)
    for finding in from_table(found.tables["claims"]):
        check(finding, found)
        other = "not supported" if finding.supported else "supported"
        with pytest.raises(ClaimError, match="its tables give"):
            check(dataclasses.replace(finding, verdict=other), found)


def test_an_interval_of_a_correlation_ends_where_correlations_do():
    generator = np.random.default_rng(0)
    x = generator.normal(size=8)
    noisy = x + 0.3 * generator.normal(size=8)
    rows = table(
        "rows",
        {
            name: (values, "measure", name)
            for name, values in {"x": x, "y": noisy, "cluster": np.repeat(np.arange(4), 2)}.items()
        },
    )
    run = table("run", {"at": ([0], "key", "row")}, tables={"rows": rows})
    for name in ("correlation", "rank-correlation"):
        made = Claim(
            name="c",
            estimate=statistic(name, "x", by="y", table="rows", cluster="cluster"),
            text="",
            at_least=0.0,
            reference=0.0,
            control="none",
        )
        (found,) = evaluate([made], run)
        assert found.low < found.value <= found.high == 1
        assert found.clusters == 4


UNTESTED = {"null": None, "control": ""}


def reason_of(made, name="gap"):
    (found,) = [one for one in from_table(made.tables["claims"]) if one.name == name]
    return found.verdict, found.reason


def test_what_is_not_supported_says_which_number_does_not_reach_what_it_needs():
    one = statistic("mean", "effect", table="random")
    for changes, verdict, reason in (
        ({}, "supported", ""),
        ({"at_least": 100.0}, "not supported", "the value 4.75"),
        ({"beyond": [50.0]}, "not supported", "the interval reaches 4.117, not above 50"),
        (UNTESTED, "not tested", "there is nothing to compare with"),
        ({**UNTESTED, "missing": "give --control"}, "not tested", "compare with: give --control"),
        (
            {"null": Draws("random", "effect", {"set": 5})},
            "not tested",
            "0 draws of the null cannot give p <= 0.05",
        ),
        ({"null": Draws("random", "effect", observed=one)}, "not supported", "p is 0.5"),
    ):
        verdict_now, reason_now = reason_of(conclude(run(), [claim(**changes)]), claim().name)
        assert verdict_now == verdict
        assert reason in reason_now
        assert bool(reason_now) is (verdict != "supported")
    few = conclude(run(n=4), [claim()])
    assert reason_of(few, claim().name) == (
        "too few clusters",
        "4 effective clusters, 6 are needed",
    )
    both = [claim(at_least=100.0), claim(name="second", requires=[claim().name])]
    assert reason_of(conclude(run(), both), "second")[1] == f"{claim().name} is not supported"


def test_a_reason_that_was_changed_is_found():
    made = conclude(run(), [claim(at_least=100.0)])
    (found,) = from_table(made.tables["claims"])
    check(found, made)
    with pytest.raises(ClaimError, match="gives the reason"):
        check(dataclasses.replace(found, reason="the model was asleep"), made)


def test_a_number_that_there_is_none_of_is_said_in_words():
    numbers = {"value": 0.5, "low": float("nan"), "high": float("nan")}
    assert fill("{value:.1%} [{low:.1%}, {high:+.1%}]", numbers) == "50.0% [no interval]"
    assert (
        fill("({low:.1%} to {high:.1%}), at most {high:.2f}", numbers)
        == "(no interval), at most undefined"
    )
    assert fill("a banana, {value}", numbers) == "a banana, 0.5"


def test_the_table_for_a_terminal_says_what_is_needed_and_why_not():
    apart = mean("log_odds", pair="prompt_id", minus={"where": BASE}, **ODDS)
    made = conclude(
        run(),
        [
            claim(estimate=apart),
            claim(name="large", at_least=100.0),
            claim(name="alone", **UNTESTED),
        ],
    )
    said = claims_table(made.summary["findings"])
    first, second, third = said.splitlines()[1:4]
    assert first.startswith("supported")
    assert "+" in first  # a difference has a sign
    assert "interval > " in first
    assert "12 " in first
    assert "value >= 100" in second or "interval > 100" in second
    assert third.startswith("not tested")
    assert "why not: large: not supported, for the value 4.75" in said
    assert "why not: alone: not tested, for there is nothing to compare with" in said
    assert "nan" not in said
