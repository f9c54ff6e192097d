"""``Baselines``: every row is what the same condition gives another way, the direction is as gentle
as the set.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.analyzers.baselines import STEPS, Baselines
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.claims import check, from_table
from interp.cli.baselines import applicable, baselines_table, parse
from interp.errors import OptionError
from interp.experiments import refusal_directions
from interp.experiments.conditions import PatchSource, evaluate_condition
from interp.experiments.divergence import divergence, divergences
from interp.experiments.ranking_sets import ranking_of
from interp.experiments.refusal_directions import (
    candidate_directions,
    choose_direction,
    direction_ablation,
)
from interp.figures import plot
from interp.kinds import KINDS
from interp.maths.intervals import cluster_interval
from interp.report.sections import baselines_table as on_the_page
from interp.store import Store
from tests import tiny

SMALL = {"random_sets": 5, "dose_draws": 2, "depth": 4, "control_prompts": 6}


@pytest.fixture(scope="module")
def halves():
    """Planted in the first block, so that a direction can be read before the second; weights are
    noisy everywhere.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False), layer=0, pairs=24)
    for module in (base, tuned):
        module.get_output_embeddings().weight.data *= 1.9
    study = tiny.study(
        tiny.exact(tiny.perturbed(tuned, 0.002)),
        tiny.exact(base),
        24,
        template=False,
        max_new_tokens=1,
    )
    return tuple(study.with_prompts(half) for half in study.contrast.split(study.seed))


@pytest.fixture(scope="module")
def runs(halves):
    locating, verifying = halves
    located = LocateNeurons(method="change", top="3")(locating)
    contrast = LocateNeurons(method="contrast", top="3")(locating)
    return located, contrast, VerifyNeurons(located, **SMALL)(verifying)


@pytest.fixture(scope="module")
def table(halves, runs):
    located, contrast, verified = runs
    return Baselines(verified, located, contrast=contrast, choosing=halves[0])(halves[1])


def rows_of(table):
    return {row["method"]: row for row in table.rows()}


def test_there_is_a_row_for_every_method(table):
    assert table["method"].tolist() == ["located", "zero", "direction", "contrast", "random"]
    assert {row["units"] for row in table.rows() if row["method"] != "direction"} == {3}
    for claim in from_table(table.tables["claims"]):
        check(claim, table)
    assert [claim.name for claim in from_table(table.tables["claims"])] == [
        "beats-direction",
        "beats-contrast",
    ]


def test_the_located_row_is_the_verifying_runs(table, runs):
    verified, row = runs[2], rows_of(table)["located"]
    keys = (verified["condition"] == "ablate-base", verified["group"] == "positive")
    own = verified.select(keys[0] & keys[1])
    assert (row["exhibits_behaviour"], row["low"], row["high"]) == (
        own["refused"][0],
        own["low"][0],
        own["high"][0],
    )
    assert row["malformed"] == own["malformed"][0]
    assert row["divergence"] == verified.select(keys[0] & ~keys[1])["divergence"][0]
    found = {claim.name: claim for claim in from_table(verified.tables["claims"])}
    answers = verified.tables["answers"]
    where = (answers["condition"] == "ablate-base") & (answers["group"] == "negative")
    assert row["flipped"] == answers["flipped"][where].mean()
    recovery = found["necessity-recovery"]
    assert (row["recovery"], row["recovery_low"], row["recovery_high"]) == (
        recovery.value,
        *recovery.interval,
    )


@pytest.mark.parametrize("method", ["zero", "contrast"])
def test_sets_are_measured_as_conditions_are(table, halves, runs, method):
    study, (located, contrast, _) = halves[1], runs
    donors, row = PatchSource.from_study(study), rows_of(table)[method]
    chosen = ranking_of(located if method == "zero" else contrast)[:3]
    receiver = donors.condition("ablate-zero" if method == "zero" else "ablate-base", chosen)
    apart = divergences(study, "negative", {"x": receiver})["x"]
    positive, negative = (
        evaluate_condition(study, "x", "positive", receiver),
        evaluate_condition(study, "x", "negative", receiver, apart),
    )
    own = {
        group: evaluate_condition(study, "tuned", group, donors.condition("tuned", []))
        for group in ("positive", "negative")
    }
    base = evaluate_condition(study, "base", "positive", donors.condition("base", []))
    assert row["exhibits_behaviour"] == positive.exhibits.mean()
    assert row["flipped"] == (negative.exhibits != own["negative"].exhibits).mean()
    assert row["divergence"] == pytest.approx(negative.divergence.mean(), rel=1e-9)
    gap = base.number.mean() - own["positive"].number.mean()
    assert row["recovery"] == pytest.approx(
        (positive.number.mean() - own["positive"].number.mean()) / gap
    )
    answers = table.tables["answers"]
    mine = (answers["method"] == method) & (answers["group"] == "positive")
    rate, _, _ = cluster_interval(answers["exhibits_behaviour"][mine], answers["cluster"][mine])
    assert rate == row["exhibits_behaviour"]


def test_the_direction_is_the_most_that_is_as_gentle_as_the_set(table, halves):
    locating, study = halves
    row, most = rows_of(table)["direction"], rows_of(table)["located"]["divergence"]
    best = choose_direction(locating, candidate_directions(locating))
    step, negative = round(row["share"] * STEPS), range(len(study.prompts("negative")))

    def apart(steps):
        return divergence(
            study, direction_ablation(study.pair.tuned, best.direction, steps / STEPS), negative
        ).mean()

    assert row["divergence"] == pytest.approx(apart(step), rel=1e-9)
    assert apart(step) <= most
    assert step == STEPS or apart(step + 1) > most


def test_the_direction_is_the_one_that_reading_every_divergence_chooses(halves):
    locating, _ = halves
    candidates = candidate_directions(locating)
    best, negative = (
        choose_direction(locating, candidates),
        range(len(locating.prompts("negative"))),
    )
    apart = [
        divergence(
            locating, direction_ablation(locating.pair.tuned, each.direction), negative
        ).mean()
        for each in candidates
    ]
    allowed = [
        each
        for each, kl in zip(candidates, apart, strict=True)
        if kl <= refusal_directions.KL and each.added >= 0
    ]
    assert best is min(
        allowed or candidates, key=lambda each: (each.number, each.layer, each.position)
    )
    for each, kl in zip(candidates, apart, strict=True):
        assert np.isnan(each.kl) or each.kl == pytest.approx(kl, rel=1e-9)


def test_random_sets_are_the_verifications(table, runs):
    verified, row = runs[2], rows_of(table)["random"]
    sets = verified.tables["random"]
    rates = sets["rate"][sets["direction"] == "necessity"]
    assert (row["exhibits_behaviour"], row["low"], row["high"]) == (
        rates.mean(),
        rates.min(),
        rates.max(),
    )
    assert row["flipped"] == verified.tables["random_harmless"]["flipped"].mean()
    assert row["prompts"] == 6


def test_a_direction_that_is_never_as_gentle_has_no_row_and_no_verdict(halves, runs):
    located, _, verified = runs
    answers = verified.tables["answers"]
    silent = {name: values for name, values in answers.data.items()}
    silent["divergence"] = np.zeros(len(answers))
    gentle = replace(verified, tables={**verified.tables, "answers": replace(answers, data=silent)})
    found = Baselines(gentle, located, choosing=halves[0])(halves[1])
    assert "direction" not in found["method"].tolist()
    (claim,) = from_table(found.tables["claims"])
    assert (claim.name, claim.verdict) == ("beats-direction", "not tested")
    assert any("No share of the direction" in line for line in found.summary["limits"])


def test_without_a_base_sets_go_to_their_means(halves):
    locating, verifying = (
        tiny.study(half.pair.tuned.module, None, 4, template=False, max_new_tokens=1).with_prompts(
            half.contrast
        )
        for half in halves
    )
    located = LocateNeurons(method="act-grad", top="3")(locating)
    contrast = LocateNeurons(method="contrast", top="3")(locating)
    verified = VerifyNeurons(located, **SMALL)(verifying)
    found = Baselines(verified, located, contrast=contrast)(verifying)
    assert np.isnan(found["recovery"]).all()
    assert "set to their mean" in found["what"][0]


def test_a_choice_of_direction_that_was_stopped_goes_on(halves, runs, table, tmp_path, monkeypatch):
    located, contrast, verified = runs
    made, calls = Baselines(verified, located, contrast=contrast, choosing=halves[0]), []
    own = refusal_directions._measure_candidate

    def stopping(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(refusal_directions, "_measure_candidate", stopping)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).run(made, halves[1])
    again = Store(tmp_path).run(made, halves[1]).table
    # the first candidate was kept, the second is judged anew
    assert len(calls) == 2 + len(candidate_directions(halves[0])) - 1
    for name in table.data:
        np.testing.assert_array_equal(again[name], table[name])


def test_runs_that_do_not_belong_together_are_refused(halves, runs):
    located, contrast, verified = runs
    with pytest.raises(OptionError, match="give that run as located"):
        Baselines(verified, contrast)(halves[1])
    with pytest.raises(OptionError, match="used other prompts"):
        Baselines(verified, located)(halves[0])
    with pytest.raises(OptionError, match="need a verifying run"):
        Baselines()(halves[1])
    none = replace(verified, summary={**verified.summary, "selected": 0})
    with pytest.raises(OptionError, match="no neuron was selected"):
        Baselines(none, located)(halves[1])


def test_what_can_be_asked_for():
    assert parse("all", True) == ("contrast", "direction")
    assert parse("none", False) == ()
    with pytest.raises(OptionError, match="unknown --baselines 'other'"):
        parse("contrast,other", True)
    with pytest.raises(OptionError, match="leave out --no-verify"):
        parse("contrast", False)
    assert applicable(("contrast", "direction"), True, "head", True, True) == ()
    for asked in (
        (("contrast",), "head", False, True),
        (("direction",), "neuron", True, True),
        (("direction",), "neuron", False, False),
    ):
        with pytest.raises(OptionError, match="needs"):
            applicable(asked[0], False, *asked[1:])


def test_terminal_and_page_have_every_method(table):
    text, html = baselines_table(table), on_the_page(table)
    for row in table.rows():
        assert row["what"] in text
        assert f"<code>{row['method']}</code>" in html
    assert "0.0% [" in text


def test_the_figure_has_every_method_where_its_row_says(table):
    figure = plot(table)
    assert [(trace.x[0], trace.y[0]) for trace in figure.data] == [
        (row["divergence"], row["exhibits_behaviour"]) for row in table.rows()
    ]
    assert [trace.text[0] for trace in figure.data] == table["method"].tolist()
    for trace, row in zip(figure.data, table.rows(), strict=True):
        assert trace.y[0] + trace.error_y.array[0] == pytest.approx(row["high"])


def test_the_command_shows_them_after_the_claims(run, tmp_path):
    base, tuned = tiny.planted(tiny.llama(7), pairs=16)
    for name, model in (("base", base), ("tuned", tuned)):
        model.generation_config.eos_token_id = list(range(len(tiny.tokenizer())))
        tiny.save(model, tmp_path / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(tmp_path / name)
    both = tiny.contrast(16)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        lines = [json.dumps({"prompt": p.text, "twin": p.twin}) for p in prompts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "sorry.txt").write_text("Sorry")
    command = [
        "locate-neurons",
        tmp_path / "tuned",
        "--base",
        tmp_path / "base",
        "--positive",
        tmp_path / "positive.jsonl",
        "--negative",
        tmp_path / "negative.jsonl",
        "--markers",
        tmp_path / "sorry.txt",
        "--top",
        "3",
        "--method",
        "change",
        "--random-sets",
        "3",
        "--store",
        tmp_path / "runs",
        "--quiet",
        "--baselines",
        "all",
    ]
    code, out, _ = run(*command, "--json")
    assert code == 0
    same = [tmp_path / "base" if part == tmp_path / "tuned" else part for part in command]
    code, _, err = run(*(part for part in same if part != "--quiet"))
    assert code == 0
    assert "nothing was selected: the baselines are left out" in err
    record = json.loads(out)
    assert set(record["summary"]["checks"]) == {"baselines"}
    page = Path(record["page"]).read_text(encoding="utf-8")
    claimed, beside, drawn = (
        page.index(part)
        for part in (
            "Claims and verdicts",
            f"<h2>{KINDS['baselines'].heading}<",
            f"<h2>{KINDS['dose'].heading}<",
        )
    )
    assert claimed < beside < drawn
    for again in (command, [*command, "--seed", "0"]):
        code, out, _ = run(*again)
        assert code == 0
        assert "the same set to zero" in out
        assert out.index("necessity-recovery") < out.index("the same set to zero")
