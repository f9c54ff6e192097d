"""One test over all methods: silence under exchangeable models, a planted item, words, behaviours
and the brief.
"""

import json

import numpy as np
import pytest

from interp.analyzers.discover import Discover
from interp.analyzers.discover.joint import joint_statistic, threshold_of
from interp.claims import check, from_table
from interp.errors import MetricError, OptionError
from interp.experiments.discovery import evidence_tables, of_own_items, of_shared_items
from interp.figures import plot
from interp.maths.between_models import between_models
from interp.metrics.discovered import discovered_behaviour
from interp.report.page import render_page
from interp.table import Table
from tests import tiny

TOKENS = 200


def names(n_controls):
    return ["tuned", *(f"control {at}" for at in range(n_controls))]


def shared(kind, rng, n_controls, planted=0.0, lost=0.0):
    """Shares of tokens in exchangeable models; the planted token is item 3, the lost one 4."""
    scores = rng.normal(0, 0.05, (1 + n_controls, TOKENS))
    scores[0, 3] += planted
    scores[0, 4] -= lost
    evidence = of_shared_items(scores, 0.05)
    rows, tables, summary = evidence_tables(
        kind,
        evidence,
        names(n_controls),
        [f" word{item}" for item in evidence.rows],
        unit="share of positions",
        examples=["before «it» after" for _ in evidence.rows],
        largest_labels=["x"] * (1 + n_controls),
    )
    return Table(rows.kind, rows.columns, rows.data, None, summary, tables)


def own(kind, rng, n_controls, best=0.0):
    """Samples of every model, each with a score of its own."""
    maxima = rng.gamma(5, 1, 1 + n_controls)
    score = np.array([maxima[0] + best, maxima[0] / 2, 0.1])
    evidence = of_own_items(score, np.zeros((n_controls, 3)), maxima[1:])
    rows, tables, summary = evidence_tables(
        kind, evidence, names(n_controls), [f"a sample {at}" for at in evidence.rows], unit="nats"
    )
    return Table(rows.kind, rows.columns, rows.data, None, summary, tables)


def runs(seed, n_controls, **planted):
    rng = np.random.default_rng(seed)
    return [
        shared("diff-mining", rng, n_controls, **planted),
        shared("contrastive-generation", rng, n_controls),
        own("perplexity-differencing", rng, n_controls),
    ]


@pytest.fixture(scope="module")
def study():
    return tiny.planted_study("llama", pairs=6, max_new_tokens=1)


@pytest.mark.parametrize("n_controls", [19, 5])
def test_exchangeable_models_are_claimed_at_the_nominal_rate(n_controls):
    """The joint statistic of 400 families of models: at most one in twenty is beyond."""
    rng, beyond = np.random.default_rng(0), 0
    for _ in range(400):
        maxima = rng.gamma(4, 1, (1 + n_controls, 3)) * [1, 10, 0.1]
        joint = joint_statistic(maxima)
        beyond += joint.maxima[0] > joint.threshold
    assert beyond / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("n_controls", [19, 5])
@pytest.mark.parametrize("strong", [[0], [0, 1, 2]])
def test_a_strong_item_does_not_carry_others_beyond(n_controls, strong):
    """Beside one strong item of some methods, items such as controls have are beyond at most at the
    nominal rate, and none that is smaller than a control's.
    """
    rng, beyond, repeats = np.random.default_rng(3), 0, 20
    for _ in range(repeats):
        maxima = rng.gamma(30, 1, (1 + n_controls, 3))
        usual = maxima[0].copy()
        maxima[0, strong] = 400.0
        joint = joint_statistic(maxima)
        assert joint.maxima[0] > joint.threshold
        items = np.array([joint.statistic(at, usual[at : at + 1])[0] for at in range(3)])
        assert not ((items > joint.threshold) & (usual < maxima[1:].max(0))).any()
        if n_controls == 19:
            assert (joint.p(items)[items <= joint.threshold] > 0.05).all()
        beyond += (items > joint.threshold).any()
    assert beyond / repeats <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repeats)


def test_a_second_strong_item_is_beyond_too():
    """Step-down costs no item that is far beyond the controls."""
    maxima = np.random.default_rng(4).gamma(30, 1, (20, 2))
    maxima[0] = [3000.0, 300.0]
    joint = joint_statistic(maxima)
    items = np.array([joint.statistic(at, maxima[0, at : at + 1])[0] for at in range(2)])
    assert (items > joint.threshold).all()
    np.testing.assert_allclose(joint.p(items), 0.05)


@pytest.mark.parametrize("n_controls", [0, 1, 5])
def test_sentences_speak_of_controls_only_where_there_are_any(study, n_controls):
    rng = np.random.default_rng(5)
    table = Discover([own("perplexity-differencing", rng, n_controls, best=90.0)])(study)
    said = table.summary["opening"][1]
    assert said.startswith("perplexity-differencing: it writes texts")
    assert ("in the controls" in said) == (n_controls > 0)
    assert "than any control" not in said


def test_the_joint_statistic_does_not_follow_units():
    maxima = np.random.default_rng(1).gamma(4, 1, (6, 3))
    one, two = joint_statistic(maxima), joint_statistic(maxima * [1, 100, 0.01])
    np.testing.assert_allclose(one.maxima, two.maxima, rtol=1e-10)
    assert one.threshold == pytest.approx(two.threshold)


def test_the_joint_statistic_is_that_of_the_definition():
    maxima = np.random.default_rng(2).gamma(4, 1, (6, 2))
    sizes = np.log1p(maxima / np.median(maxima, axis=0))
    joint = joint_statistic(maxima)
    expected = between_models(sizes, 0.1, "greater")
    np.testing.assert_allclose(joint.maxima, expected.maxima)
    for method in range(2):
        value = joint.statistic(method, maxima[:1, method])
        assert value == pytest.approx(expected.statistic[method : method + 1])
        # what passes is on the threshold
        at_threshold = joint.statistic(method, np.array([joint.passing(method)]))
        assert at_threshold == pytest.approx([joint.threshold])


def test_thresholds():
    assert np.isnan(threshold_of(np.array([1.0])))
    assert threshold_of(np.array([1.0, 3.0])) == 3.0
    assert threshold_of(np.arange(5.0)) > 4.0
    assert threshold_of(np.arange(19.0)) == 18.0
    assert threshold_of(np.arange(39.0)) == 37.0


@pytest.mark.parametrize(
    ("n_controls", "verdict"), [(1, "not tested"), (4, "not tested"), (5, "supported")]
)
def test_a_planted_token_is_first(study, n_controls, verdict):
    table = Discover(runs(0, n_controls, planted=3.0))(study)
    assert table["evidence"][0] == " word3"
    assert table["direction"][0] == "more"
    (claim,) = from_table(table.tables["claims"])
    assert claim.verdict == verdict
    check(claim, table)
    assert table["beyond"][0] == (n_controls > 1)
    assert table.summary["opening"][1].startswith("diff-mining: the token ' word3'")


def test_nineteen_controls_give_a_p(study):
    table = Discover(runs(1, 19, planted=3.0))(study)
    (claim,) = from_table(table.tables["claims"])
    assert claim.supported
    assert claim.p == pytest.approx(0.05)
    assert table["p"][0] == pytest.approx(0.05)
    assert (table["p"][1:][~table["beyond"][1:]] > 0.05).all()


def test_what_was_lost_is_found_too(study):
    table = Discover(runs(2, 5, lost=3.0))(study)
    assert (table["evidence"][0], table["direction"][0]) == (" word4", "less")
    assert table["beyond"][0]


def test_nothing_is_said_with_what_would_have_been_seen(study):
    table = Discover(runs(3, 5))(study)
    (claim,) = from_table(table.tables["claims"])
    assert not claim.supported
    assert not table["beyond"].any()
    assert (
        table.summary["opening"][0] == "Nothing beyond what 5 controls do was found by 3 methods."
    )
    methods = table.tables["methods"]
    assert (methods["passing"] > methods["maximum"]).all()
    assert (methods["detectable"] > 0).all()
    # a token with that score, and controls that agree, would have been beyond
    row = int(np.flatnonzero(methods["method"] == "diff-mining")[0])
    statistic = methods["detectable"][row] / (0.05 * np.sqrt(1 + 1 / 5))
    assert statistic == pytest.approx(methods["passing"][row])


def sized(given, tuned, controls):
    """Runs of which diff mining says how far every model moved."""
    first, *rest = given
    summary = {**first.summary, "kl": tuned, "kl_of_controls": list(controls)}
    return [
        Table(first.kind, first.columns, first.data, None, summary, first.tables),
        *rest,
    ]


def test_controls_of_another_size_are_named(study):
    given = runs(3, 5)
    alike = Discover(sized(given, 0.6, [0.3, 0.4, 0.6, 1.0, 1.7]))(study)
    assert alike.tables["models"]["kl"].tolist() == [0.6, 0.3, 0.4, 0.6, 1.0, 1.7]
    assert not any("nats a token" in line for line in alike.summary["limits"])
    apart = Discover(sized(given, 0.6, [0.0001, 0.4, 0.6, 1.9, 2.5]))(study)
    (line,) = [line for line in apart.summary["limits"] if "nats a token" in line]
    assert "0.6" in line
    assert "0.0001 to 2.5" in line
    assert "1 of 5 less than a third as far and 2 of 5 more than three times as far" in line
    # of the identical pair, and without diff mining, nothing can be said
    for kept in (sized(given, 0.0, [0.1] * 5), given):
        limits = Discover(kept)(study).summary["limits"]
        assert not any("nats a token" in line for line in limits)


def test_without_controls_nothing_is_claimed(study):
    table = Discover(runs(4, 0, planted=3.0))(study)
    assert "claims" not in table.tables or not len(table.tables["claims"])
    assert table["evidence"][0] == " word3"
    assert table.summary["opening"][0].startswith("Compared with its base alone")
    assert not table["beyond"].any()
    assert json.loads(plot(table).to_json())["data"]


def test_the_page_holds_the_evidence_and_escapes_it(study):
    given = runs(0, 5, planted=3.0)
    evidence = given[0]["evidence"].copy()
    evidence[0] = "<script>x"
    given[0] = Table(
        given[0].kind,
        given[0].columns,
        {**given[0].data, "evidence": evidence},
        None,
        given[0].summary,
        given[0].tables,
    )
    table = Discover(given)(study)
    assert table["evidence"][0] == "<script>x"
    page = render_page([table], "found")
    assert "<mark>it</mark>" in page
    assert "<script>x" not in page
    assert "What the fine-tuned model does more, or less" in page


def test_bad_runs_are_refused(study):
    five, four = runs(0, 5), runs(0, 4)
    for given, said in (
        ([], "nothing to join"),
        ([*five, five[0]], "twice"),
        ([five[0], four[1]], "other models"),
        ([Table("compare", [], {})], "give tables of"),
    ):
        with pytest.raises(OptionError, match=said):
            Discover(given)(study)


def test_words_that_differ_by_case_and_space_are_one(study):
    table = Discover(runs(0, 5, planted=3.0))(study)
    groups = table.tables["groups"]
    row = next(row for row in groups.rows() if row["word"] == "word3" and row["beyond"])
    assert row["direction"] == "more"


def test_a_found_token_is_a_behaviour(study):
    table = Discover(runs(0, 5, planted=4.0, lost=3.0))(study)
    found = discovered_behaviour(table, 1)
    assert found.name == "discovered word3"
    assert found.reader.read((), ["it has word3 in it", "it has not"]).tolist() == [True, False]
    place = {row["direction"]: row["place"] for row in table.rows() if row["beyond"]}
    with pytest.raises(MetricError, match="does less"):
        discovered_behaviour(table, place["less"])
    with pytest.raises(MetricError, match="places 1 to"):
        discovered_behaviour(table, 10_000)
    sample = next(r["place"] for r in table.rows() if r["method"] == "perplexity-differencing")
    with pytest.raises(MetricError, match="not a phrase"):
        discovered_behaviour(table, sample)
