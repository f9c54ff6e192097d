"""Reports measured again: what is told where a command gives other numbers, another run, or none at
all.
"""

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from interp import organisms
from interp.claims import from_table, texts_match, to_table
from interp.cli import COMMANDS, GROUPS, replay
from interp.errors import ClaimError, OptionError
from interp.provenance import digest
from interp.provenance.request import CommandRequest, recorded_request
from interp.replication.commands import REPLAYABLE
from interp.replication.new_prompts import (
    on_fresh_prompts,
    replication_blocker,
)
from interp.replication.remeasure import Remeasurement, remeasurement
from interp.report.document import read, write_report
from interp.report.verification import checks
from interp.store import Store
from tests.claimed import COMMAND, located, verified


def reported(folder, *runs):
    """A report over these runs, of a store beside it."""
    store = Store(folder / "runs")
    for run in runs:
        store.write(run)
    return read(write_report(folder / "report.html", [runs[-1].provenance.key], store))


class Again_(Remeasurement):
    """``Again`` whose commands are not run: the store in which they ran is given."""

    ran = ()

    def given(self, folder, *runs):
        self.store = Store(folder / "again")
        for run in runs:
            self.store.write(run)
        return self

    def made(self, command, report, kept=()):
        self.ran = (*self.ran, command)
        return self.store.root


@pytest.fixture
def fresh(tmp_path):
    """Two files of fresh prompts."""
    files = [tmp_path / name for name in ("fresh-yes.txt", "fresh-no.txt")]
    for path in files:
        path.write_text("a prompt\n")
    return [str(path) for path in files]


def answers(asked):
    """By claim: None where it holds, the sentence where it does not, the reason where it is not
    asked.
    """
    told = {}
    for one in asked:
        try:
            told[one.claim] = one()
        except ClaimError as error:
            told[one.claim] = str(error)
    return told


def remeasured(tmp_path, before, *after, **options):
    report = reported(tmp_path, located(), before)
    return answers(Again_(tmp_path / "x", **options).given(tmp_path, *after).remeasured(report))


def replicated(tmp_path, before, fresh, *after):
    report = reported(tmp_path, located(), before)
    return answers(
        Again_(tmp_path / "x", fresh).given(tmp_path, located(), *after).on_fresh_prompts(report)
    )


def test_equal_numbers_hold_for_every_claim(tmp_path):
    assert remeasured(tmp_path, verified(), located(), verified()) == {
        "necessity": None,
        "spread": None,
        "lost": None,
    }


def test_another_number_is_told_with_both_and_the_tolerance(tmp_path):
    told = remeasured(tmp_path, verified(1.0), located(), verified(0.975))
    assert told["necessity"].startswith("claim 'necessity' of run ")
    assert "says 1, measured again it is 0.975, further off than 1e-06" in told["necessity"]
    assert told["spread"] is None
    loose = remeasured(tmp_path, verified(1.0), located(), verified(0.975), tolerance=0.05)
    assert loose["necessity"] is None


def test_another_verdict_is_told_though_the_numbers_are_within_the_tolerance(tmp_path):
    told = remeasured(tmp_path, verified(1.0), located(), verified(0.4), tolerance=1.0)
    assert told["necessity"].endswith("says supported, measured again it is not supported")


@pytest.mark.parametrize(
    "change",
    [
        {"sentence": "They return everything."},
        {"sentence": "They return 70.0%."},
        {"claim": {"control": "19 other things"}},
    ],
)
def test_words_that_were_changed_in_a_store_are_told(tmp_path, change):
    """A sentence that does not follow from its numbers by the report's own check, a recipe by
    measuring again.
    """
    before = verified()
    first, *rest = from_table(before.tables["claims"])
    if "claim" in change:
        change = {"claim": dataclasses.replace(first.claim, **change["claim"])}
    forged = to_table([dataclasses.replace(first, **change), *rest])
    before = dataclasses.replace(before, tables={**before.tables, "claims": forged})
    report = reported(tmp_path, located(), before)
    again = Again_(tmp_path / "x").given(tmp_path, located(), verified())
    own, measured = answers(checks(report)), answers(again.remeasured(report))
    assert own["necessity"] or measured["necessity"]
    assert (own["spread"], measured["spread"]) == (None, None)


def test_sentences_are_alike_but_for_the_last_digit_of_their_figures():
    said = "Of 1,600 neurons −0.25 (p = 1.2e-05) do."
    assert texts_match(said, "Of 1,600 neurons −0.26 (p = 1.3e-05) do.", 1e-6)
    for was, now in (("1,600", "1,601"), ("−0.25", "0.25"), ("−0.25", "−0.28"), ("do.", "do not.")):
        assert not texts_match(said, said.replace(was, now), 1e-6)
    assert texts_match(said, "Of 1,600 neurons −0.28 (p = 1.2e-05) do.", 0.05)


def test_another_device_is_told_beside_another_number(tmp_path):
    after = verified(0.975)
    after.provenance.context["device"] = "cuda"
    after.provenance.context["environment"]["torch"] = "3"
    told = remeasured(tmp_path, verified(1.0), located(), after)
    assert told["necessity"].endswith("(made on cpu, torch 2; now on cuda, torch 3)")


def test_changed_prompts_give_another_run_and_that_is_told(tmp_path):
    told = remeasured(tmp_path, verified(), located(), verified(prompts="edited"))
    assert "its command makes run " in told["necessity"]
    assert "for prompts changed; put back the prompt files" in told["necessity"]


def test_other_tokens_of_the_same_prompts_are_told_as_such(tmp_path):
    """As on another day, where a chat template writes the date."""
    run = verified()
    inputs = dict(run.provenance.inputs) | {"tokens": {"positive": "x"}}
    other = dataclasses.replace(run, provenance=dataclasses.replace(run.provenance, inputs=inputs))
    told = remeasured(tmp_path, run, located(), other)
    assert (
        "for tokens changed: the same prompts become other tokens, as where a chat"
        in told["necessity"]
    )
    assert told["necessity"].endswith("write a new report")


def test_a_run_made_in_python_fails_and_a_command_that_makes_no_such_run(tmp_path):
    told = remeasured(tmp_path, verified(command=None), located())
    assert "was made in Python, no command is kept" in told["necessity"]
    told = remeasured(tmp_path, verified(most=0.4, extra=1), located())
    assert "makes no run of verify-neurons any more" in told["necessity"]


def test_a_command_runs_once_whatever_the_number_of_claims_and_its_error_is_told(tmp_path):
    report = reported(
        tmp_path, located(), verified(command=COMMAND.with_options({"--out": "page.html"}))
    )
    again = Remeasurement(tmp_path / "again", directory=tmp_path)
    marker, program = (
        tmp_path / "ran",
        "import sys; open(sys.argv[1], 'a').write('x'); sys.exit('interp: no such model')",
    )
    lines = []
    again._line = lambda command, place: (
        lines.append(place) or [sys.executable, "-c", program, str(marker)]
    )
    told = answers(again.remeasured(report))
    assert marker.read_text() == "x"
    assert told["necessity"] == told["spread"]
    assert told["necessity"].endswith("does not run here any more (exit code 1): no such model")
    line = Remeasurement(tmp_path)._line(
        CommandRequest(command="report", options={"--out": "../page.html"}), lines[0]
    )
    assert json.loads(line[-2])["options"]["--out"] == str(lines[0] / "out" / "page.html")


@pytest.mark.parametrize(
    "command", ["sae convert", "sql", "--debug demo", "sae", "demo --out=x", "ls"]
)
def test_a_stranger_s_report_runs_nothing_but_what_measures(tmp_path, command):
    told = answers(
        Remeasurement(tmp_path / "x").remeasured(
            reported(tmp_path, located(), verified(command=CommandRequest(command=command)))
        )
    )
    assert "is not on the list of commands that a report may run again" in told["necessity"]
    assert not (tmp_path / "x").exists()


def test_every_command_measures_or_is_known_not_to():
    names = {*COMMANDS, *(f"sae {name}" for name in GROUPS["sae"][1])}
    looks = {
        "ls",
        "show",
        "sql",
        "organisms",
        "doctor",
        "verify",
        "sae train",
        "sae convert",
        "control",
        "tune",  # it trains, and writes what it trained
    }
    assert names == {*REPLAYABLE, *looks}


def test_processes_that_share_a_folder_run_a_command_once(tmp_path):
    report = reported(tmp_path, located(), verified())
    marker = tmp_path / "ran"
    program = "import sys, time; time.sleep(0.5); open(sys.argv[1], 'a').write('x')"

    def ask():
        # a lock is of its open file: threads will do
        again = Remeasurement(tmp_path / "again", directory=tmp_path)
        again._line = lambda command, place: [sys.executable, "-c", program, str(marker)]
        again.made(CommandRequest(command="compare"), report)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marker.read_text() == "x"


def test_a_command_finds_the_stored_runs_that_it_names_but_never_its_own(tmp_path):
    command = CommandRequest(
        command="transfer",
        arguments=[located().provenance.key[:8], "tuned"],
        options={"--draws": 1234},
    )
    report = reported(tmp_path, located(), verified(command=command))
    again = Remeasurement(tmp_path / "again", directory=tmp_path)
    again._line = lambda command, place: [sys.executable, "-c", "pass"]
    assert os.listdir(again.made(command, report)) == [located().provenance.key]
    own = CommandRequest(command="transfer", arguments=[verified().provenance.key, "tuned"])
    report = (
        reported(tmp_path / "other", located(), verified(command=own))
        if (tmp_path / "other").mkdir() is None
        else 0
    )
    assert not again.made(own, report).exists()


def test_a_real_command_is_run_by_the_interp_that_is_imported_here(tmp_path):
    report = reported(
        tmp_path, located(), verified(command=COMMAND.with_options({"--task": "task.jsonl"}))
    )
    with remeasurement(directory=tmp_path) as again:
        told = answers(again.remeasured(report))
    assert (
        "does not run here any more (exit code 2): give either --positive FILE or --task FILE"
        in told["necessity"]
    )
    assert not again.folder.exists()


def test_fresh_prompts_that_agree_hold_and_what_is_not_over_prompts_is_not_asked(tmp_path, fresh):
    told = replicated(
        tmp_path, verified(1.0), fresh, verified(0.95, prompts="c", positive="fresh-yes.txt")
    )
    assert told == {"necessity": None, "spread": "is not an estimate over prompts", "lost": None}


def test_fresh_prompts_far_off_are_told_with_the_prediction_interval(tmp_path, fresh):
    told = replicated(
        tmp_path, verified(1.0), fresh, verified(0.6, prompts="c", positive="fresh-yes.txt")
    )
    assert "says 1 [0.9119, 1]; on fresh prompts it is 0.6 [" in told["necessity"]
    assert "where a true one of 2 would be" in told["necessity"]
    assert told["lost"] is not None


def test_fresh_prompts_within_chance_but_below_the_threshold_are_told(tmp_path, fresh):
    told = replicated(
        tmp_path,
        verified(0.7, most=0.5),
        fresh,
        verified(0.475, n=30, most=0.5, prompts="c", positive="fresh-yes.txt"),
    )
    assert "is supported, 0.7; on fresh prompts it is 0.4667 [" in told["necessity"]
    assert told["necessity"].endswith("not at least 0.5")
    assert told["lost"] is None  # not supported, so only its size is asked


def test_the_same_prompts_are_not_fresh_and_another_set_is_not_the_report_s(tmp_path, fresh):
    told = replicated(tmp_path, verified(), fresh, verified(positive="fresh-yes.txt"))
    assert told["necessity"].endswith("these are the prompts of the report, not fresh ones")
    again = Again_(tmp_path / "y", fresh)
    again.store = Store(tmp_path / "other")
    other = located((0, 1, 5))
    again.store.write(other)
    again.store.write(verified(prompts="c", positive="fresh-yes.txt"))
    told = answers(again.on_fresh_prompts(read(tmp_path / "report.json")))
    assert "the command selects another set now (2 of 3 are the same)" in told["necessity"]


def test_where_nothing_can_be_asked_of_fresh_prompts_that_is_a_failure(tmp_path, fresh):
    told = replicated(tmp_path, verified(command=CommandRequest(command="demo")), fresh)
    assert told == {"": told[""]}
    assert told[""].startswith("no claim of this report can be tested on fresh prompts: claim ")
    assert "is of `interp demo`, which takes no other prompts" in told[""]


def test_a_report_without_what_is_needed_is_told_and_no_defect(tmp_path, fresh):
    report = reported(tmp_path, located(), verified())
    del report.value["claims"][0]["low"]
    report.value["claims"][1]["run"] = "nope"
    report.value["claims"][2]["recipe"] = 3
    one = Again_(tmp_path / "x").given(tmp_path / "one", verified())
    other = Again_(tmp_path / "y", fresh).given(
        tmp_path / "other", located(), verified(prompts="c", positive="fresh-yes.txt")
    )
    for asked in (one.remeasured(report), other.on_fresh_prompts(report)):
        told = answers(asked)
        assert (
            "the report lacks what measuring it again needs (KeyError: 'low')" in told["necessity"]
        )
        assert told["spread"] is not None


@pytest.mark.parametrize("prompts", [["nope.txt"], ["a", "b", "c"]])
def test_prompt_files_are_checked_before_anything_runs(tmp_path, prompts):
    with pytest.raises(OptionError, match=r"no prompt file at|3 prompt files were given"):
        Remeasurement(tmp_path, prompts, directory=tmp_path)


FILES = [Path("p.txt"), Path("n.txt")]


@pytest.mark.parametrize(
    ("command", "options", "count", "reason"),
    [
        ("locate-neurons", {}, 2, ""),
        ("locate-neurons", {}, 1, "two files"),
        ("locate-neurons", {"--no-verify": True}, 2, "was not verified"),
        ("tuco", {"--prompts": "x"}, 1, ""),
        ("tuco", {"--prompts": "x"}, 2, "one file"),
        ("compare", {"--positive": "x", "--negative": "y"}, 2, ""),
        ("intruders", {}, 2, "no other prompts"),
    ],
)
def test_which_commands_take_fresh_prompts(command, options, count, reason):
    request = CommandRequest(command=command, arguments=["m"], options=options)
    told = replication_blocker(request, FILES[:count])
    assert (reason in told) if reason else not told


def test_a_request_with_other_prompts(tmp_path):
    made = on_fresh_prompts(COMMAND.with_options({"--top": "3"}), FILES, tmp_path, tmp_path)
    assert made.options == {
        **COMMAND.options,
        "--top": "3",
        "--verify-positive": "p.txt",
        "--verify-negative": "n.txt",
    }
    assert (made.command, made.arguments) == (COMMAND.command, COMMAND.arguments)
    tuco = CommandRequest(command="tuco", arguments=["m"], options={"--prompts": "x"})
    assert on_fresh_prompts(tuco, FILES[:1], tmp_path, tmp_path).options == {"--prompts": "p.txt"}


@pytest.mark.parametrize(
    "options", [{"--top": {"a": 1}}, {"top": 3}, {"--top=3": True}, {"--top 3": True}, {"-o": "x"}]
)
def test_a_request_with_odd_options_is_not_read(options):
    value = {"command": "compare", "arguments": [], "options": options}
    assert recorded_request({"environment": {"request": value}}) is None


def test_no_value_of_a_request_becomes_another_option():
    request = CommandRequest(
        command="compare",
        arguments=["--out=elsewhere"],
        options={"--base": "--out=there", "--embeddings": "--out=here", "--control": ["a", "b"]},
    )
    assert request.unambiguous_words() == [
        "compare",
        "--base=--out=there",
        "--embeddings=--out=here",
        "--control=a",
        "--control=b",
        "--",
        "--out=elsewhere",
    ]


ATTACKS = {
    "a flag takes the separator": CommandRequest(
        command="report",
        arguments=["0123456789abcdef", "--store=elsewhere", "--out=elsewhere/page.html"],
        options={"--title": [True]},
    ),
    "a flag that reaches the network": CommandRequest(
        command="compare",
        arguments=["m", "--remote"],
        options={"--prompts": "private.txt", "--engine": "nnsight", "--system": True},
    ),
    "a flag takes another flag": CommandRequest(
        command="tuco", arguments=["m"], options={"--system": True, "--base": "b"}
    ),
    "a value for a flag that takes none": CommandRequest(
        command="intruders", arguments=["m"], options={"--embeddings": "--base=b"}
    ),
    "a number as text": CommandRequest(
        command="compare", arguments=["m"], options={"--seed": "3", "--prompts": "x.txt"}
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_request_that_would_be_read_otherwise_does_not_run(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert replay(ATTACKS[name].model_dump_json(), str(tmp_path / "store")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_honest_request_is_read_as_it_was_recorded(tmp_path, capsys):
    """It gets as far as the prompt file that is not there."""
    request = CommandRequest(
        command="compare",
        arguments=["-m"],
        options={"--prompts": "a=b.txt", "--seed": 3, "--cka-tokens": 64, "--system": "-- x"},
    )
    assert replay(request.model_dump_json(), str(tmp_path / "store")) == 2
    assert "no prompt file at a=b.txt" in capsys.readouterr().err


def test_words_that_click_reads_as_another_request_do_not_run(tmp_path, capsys):
    request = CommandRequest(
        command="tuco", arguments=["m"], options={"--system": True, "--base": "b"}
    )
    assert replay(request.model_dump_json(), str(tmp_path / "store")) == 2
    assert "has options that are read otherwise" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--store", "--json", "--quiet", "--debug", "--help"])
def test_options_that_are_never_recorded_are_not_run(flag, tmp_path):
    command = COMMAND.with_options({flag: True})
    report = reported(tmp_path, located(), verified(command=command))
    told = answers(Remeasurement(tmp_path / "x").remeasured(report))
    assert f"has {flag}, which is never recorded" in told["necessity"]


def test_a_request_that_cannot_be_read_is_no_run_made_in_python(tmp_path):
    run = verified()
    run.provenance.context["environment"]["request"]["options"]["--Odd_Flag"] = 1
    told = remeasured(tmp_path, run, located())
    assert "the request of run" in told["necessity"]
    assert "cannot be read" in told["necessity"]


@pytest.mark.parametrize("value", ["a\0b", "x" * 10_001])
def test_text_that_no_command_line_holds_is_not_read(value):
    request = {"command": "compare", "arguments": [value], "options": {}}
    assert recorded_request({"environment": {"request": request}}) is None


def test_a_held_out_half_is_parted_as_the_command_parts_it(tmp_path):
    """The files hold what the command located on, cluster by cluster and twin by twin; the rest is
    held out.
    """
    from interp.prompts import Contrast, read_prompts

    named = [organisms.prompts("refusal", "locate", group) for group in ("harmful", "harmless")]
    request = CommandRequest(
        command="locate-neurons",
        arguments=["m"],
        options={"--positive": str(named[0]), "--negative": str(named[1]), "--seed": 3},
    )
    made = on_fresh_prompts(request, FILES, tmp_path / "half", tmp_path).options
    assert (made["--verify-positive"], made["--verify-negative"]) == ("p.txt", "n.txt")
    whole = Contrast(read_prompts(named[0], name="locate+"), read_prompts(named[1], name="locate-"))
    first, second = whole.split(3)
    for flag, group in (("--positive", "positive"), ("--negative", "negative")):
        kept = read_prompts(made[flag], name="other")
        mine, rest = getattr(first, group), getattr(second, group)
        assert [(p.text, p.cluster, p.twin) for p in kept] == [
            (p.text, p.cluster, p.twin) for p in mine
        ]
        assert not set(kept.texts) & set(rest.texts)


def test_verify_measures_again_and_tells_what_cannot_be_asked(tmp_path, run, fresh, monkeypatch):
    report = reported(tmp_path, located(), verified())
    after = tmp_path / "again"
    stored = Store(after)
    for one in (located(), verified(), verified(0.6, prompts="c", positive="fresh-yes.txt")):
        stored.write(one)
    monkeypatch.setattr(Remeasurement, "made", lambda self, command, report, kept=(): after)
    code, out, _ = run("verify", report.path, "--remeasure", "--json")
    assert code == 0, out
    assert (json.loads(out)["checks"], json.loads(out)["failed"]) == (len(checks(report)) + 3, [])
    code, out, _ = run(
        "verify", report.path, *(word for path in fresh for word in ("--prompts", path))
    )
    assert code == 1
    assert "on fresh prompts it is 0.6" in out
    assert "spread on fresh prompts: is not an estimate over prompts" in out
    assert out.splitlines()[-1].endswith(
        "3 of them claims computed again from the stored tables; 1 could not be tested"
    )
    assert run("verify", report.path, "--prompts", "nope.txt")[0] == 2


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A report on the planted organism, verified on half of the clusters that verify; the others
    are fresh.
    """
    from interp.cli import main

    folder = tmp_path_factory.mktemp("planted")
    for group in ("harmful", "harmless"):
        lines = organisms.prompts("refusal", "verify", group).read_text().splitlines()
        clusters = sorted({json.loads(line)["cluster"] for line in lines})
        for name, kept in (("first", clusters[::2]), ("second", clusters[1::2])):
            mine = [line for line in lines if json.loads(line)["cluster"] in kept]
            (folder / f"{name}-{group}.jsonl").write_text("\n".join(mine) + "\n")
    files = {
        f"--{prefix}{side}": path
        for prefix, place in (("", organisms.prompts), ("verify-", None))
        for side, group in (("positive", "harmful"), ("negative", "harmless"))
        for path in [place("refusal", "locate", group) if place else f"first-{group}.jsonl"]
    }
    words = [
        "locate-neurons",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--top",
        "30",
        "--quiet",
        "--max-prompts",
        "40",
        "--random-sets",
        "19",
        "--control-prompts",
        "12",
        "--store",
        "runs",
    ]
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main([*words, *(str(word) for pair in files.items() for word in pair)]) == 0
    finally:
        os.chdir(before)
    store = Store(folder / "runs")
    (key,) = (one.key for one in store.runs() if one.kind == "verify-neurons")
    return read(write_report(folder / "report.html", [key], store))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One folder, so that what a test ran again the next need not."""
    return tmp_path_factory.mktemp("again")


CLAIMS = (
    "behaviour",
    "necessity",
    "necessity-recovery",
    "sufficiency",
    "sufficiency-recovery",
    "selective",
    "harmless",
    "malformed",
    "fluency",
    "malformed-negative",
    "fluency-negative",
)


def doctored(report, folder):
    """A store in which more is recovered than was measured, in every table alike, and its report."""
    import dataclasses

    from interp.claims import conclude, from_table, summary_of
    from interp.claims.opening import opening_lines

    (key,) = (run["key"] for run in report.value["runs"] if run["kind"] == "verify-neurons")
    run = report.store.get(key)
    asked = run.tables["recovery"]
    more = 0.5 * (asked["direction"] == "sufficiency") * (asked["donor"] - asked["receiver"])
    better = dataclasses.replace(asked, data={**asked.data, "number": asked["number"] + more})
    claims = [finding.claim for finding in from_table(run.tables["claims"])]
    store = Store(folder / "runs")
    store.write(report.store.get(run.provenance.parent))
    made = conclude(dataclasses.replace(run, tables={**run.tables, "recovery": better}), claims)
    own = {**summary_of(from_table(made.tables["claims"])), "opening": opening_lines(made)}
    store.write(dataclasses.replace(made, summary={**run.summary, **own}))
    return read(write_report(folder / "report.html", [key], store))


@pytest.mark.slow
def test_a_planted_run_measured_again_on_this_machine_is_equal(planted, shared):
    told = answers(
        Remeasurement(shared, tolerance=1e-9, directory=planted.path.parent).remeasured(planted)
    )
    assert told == dict.fromkeys(CLAIMS)


@pytest.mark.slow
def test_a_planted_run_holds_on_fresh_prompts_of_other_clusters(planted, shared):
    files = ["second-harmful.jsonl", "second-harmless.jsonl"]
    told = answers(
        Remeasurement(shared, files, directory=planted.path.parent).on_fresh_prompts(planted)
    )
    assert told == dict.fromkeys(CLAIMS)


@pytest.mark.slow
def test_what_a_doctored_store_claims_is_found_by_running_its_command_again(
    planted, shared, tmp_path
):
    """Every table agrees with every claim, so that looking at the store alone finds nothing wrong."""
    report = doctored(planted, tmp_path)
    assert digest(dict(report.value)) != digest(dict(planted.value))
    for check in checks(report):
        check()
    files = [
        str(planted.path.parent / f"second-{group}.jsonl") for group in ("harmful", "harmless")
    ]
    again = Remeasurement(shared, files, directory=planted.path.parent)
    told = answers(again.remeasured(report))
    assert "says 1.5" in told["sufficiency-recovery"]
    assert "measured again it is 1.0" in told["sufficiency-recovery"]
    assert told["necessity"] is None
    told = answers(again.on_fresh_prompts(report))
    assert "on fresh prompts it is 1.0" in told["sufficiency-recovery"]
    assert told["necessity"] is None
