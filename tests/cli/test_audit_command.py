"""``interp audit``: rows, exit codes, the summary for a pull request, and what is refused."""

import json
import shutil

import pytest

from interp.cli import main
from interp.organisms import prompts
from interp.store import Store
from tests.prompts.test_evaluation_logs import harness, line

BASE = ["--base", "organism:refusal/base"]
SMALL = ["--max-prompts", "12", "--max-new-tokens", "12", "--no-discovery", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("prompts")
    for name in ("harmful", "harmless"):
        shutil.copy(prompts("refusal", "verify", name), made / f"{name}.jsonl")
    shutil.copy(prompts("refusal", "locate", "harmful").parent / "utility.jsonl", made)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def run(capsys, *arguments):
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def margins(tmp_path, text):
    path = tmp_path / "margins.yaml"
    path.write_text(text, encoding="utf-8")
    return ["--margins", path]


@pytest.fixture(scope="module")
def audited(folder, store):
    return ["audit", "organism:refusal/lora", *BASE, "--prompts", folder, "--store", store, *SMALL]


def test_the_rows_are_printed_and_kept(audited, store, capsys):
    code, out, _ = run(capsys, *audited)
    assert code == 0
    lines = out.splitlines()
    passed = "audit passed: no row crosses its threshold; "
    assert lines[0] == f"{passed}7 of 8 rows cannot be told"
    assert [line.split()[0] for line in lines[2:10]] == [
        "refusal-harmful",
        "refusal-harmless",
        "utility",
        "divergence",
        "cka",
        "tuco",
        "refusal-direction",
        "intruders",
    ]
    code, out, _ = run(capsys, *audited, "--json")
    record = json.loads(out)
    made = Store(store).get(record["run"])
    assert made.kind == "audit"
    assert made.summary["rows"]["refusal-harmful"] == "changed"
    kinds = {Store(store).get(key).kind for key in made.tables["sources"]["run"].tolist()}
    assert kinds == {"behaviour-change", "compare", "tuco", "direction-change", "intruders"}


def test_a_threshold_that_is_crossed_gives_code_1(audited, tmp_path, capsys):
    asked = margins(tmp_path, "rows: {refusal-harmful: {fails: either}}")
    summary = tmp_path / "summary.md"
    code, out, _ = run(capsys, *audited, *asked, "--summary", summary)
    assert code == 1
    assert out.startswith("audit failed: refusal-harmful\n")
    text = summary.read_text(encoding="utf-8")
    assert "**audit failed: refusal-harmful**" in text
    assert "| refusal-harmful | 0.0% | 100.0% |" in text
    # recalled from the store, the code is the same
    assert run(capsys, *audited, *asked)[0] == 1


def test_what_cannot_be_told_fails_where_it_must_be_decided(audited, tmp_path, capsys):
    asked = margins(tmp_path, "rows: {refusal-harmless: {must-decide: true}}")
    code, out, _ = run(capsys, *audited, *asked)
    assert code == 1
    assert out.startswith("audit failed: refusal-harmless\n")


def test_few_clusters_are_said(audited, capsys):
    code, out, _ = run(capsys, *audited, "--max-prompts", "3")
    assert code == 0
    assert "cannot tell (6 clusters are needed)" in out


def test_a_further_behaviour_has_rows_of_its_own(audited, tmp_path, capsys):
    path = tmp_path / "sure.yaml"
    path.write_text("name: agreeing words\nkind: phrases\nphrases: [sure]\n", encoding="utf-8")
    code, out, err = run(capsys, *audited, "--behaviour", path)
    assert code == 0, err
    assert "agreeing_words-harmful" in out


def test_a_report_of_an_audit_can_be_verified(audited, store, tmp_path, capsys):
    code, out, _ = run(capsys, *audited, "--json")
    key, page = json.loads(out)["run"], tmp_path / "page.html"
    assert run(capsys, "report", key, "--out", page, "--store", store)[0] == 0
    code, out, err = run(capsys, "verify", tmp_path / "page.json", "--store", store)
    assert code == 0, out + err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["--prompts", "nowhere"], "is not a folder"),
        (["--behaviour", "refusal"], "refusal is always asked for"),
        (["--behaviour", "none.yaml"], "no behaviour file"),
        (["--margins", "none.yaml"], "no file of margins"),
        (["--summary", "nowhere/s.md"], "its folder is not there"),
        (["--located", "0000"], "0000"),
        (["--control", "organism:refusal/base"], "has the weights of the base"),
    ],
)
def test_bad_input_is_one_line_and_code_2(audited, change, why, capsys):
    code, out, err = run(capsys, *audited, *change)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_a_folder_without_a_class_or_with_two_is_refused(folder, store, tmp_path, capsys):
    command = ["audit", "organism:refusal/lora", *BASE, "--store", store, *SMALL, "--prompts"]
    shutil.copy(folder / "harmful.jsonl", tmp_path)
    code, _, err = run(capsys, *command, tmp_path)
    assert code == 2
    assert "has no file harmless" in err
    (tmp_path / "harmful.txt").write_text("how ?\n", encoding="utf-8")
    code, _, err = run(capsys, *command, tmp_path)
    assert code == 2
    assert "are both there" in err


def test_scores_that_a_team_already_has_are_rows(audited, tmp_path, capsys):
    folders = [
        harness(tmp_path / name, [line(at, float(at >= dropped)) for at in range(60)])
        for name, dropped in (("base", 0), ("tuned", 20))
    ]
    evals = [word for one in folders for word in ("--evals", one)]
    code, out, err = run(capsys, *audited, *evals)
    assert code == 1, err
    assert out.startswith("audit failed: arc_easy-acc\n")
    code, _, err = run(capsys, *audited, *evals[:2])
    assert code == 2
    assert "give it twice" in err
