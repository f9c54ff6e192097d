"""The plugin as a user meets it: pytest is started anew in a folder of its own, and its output is
read.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import tests.tiny as tiny
from interp import organisms
from interp.prompts import OneClass, read_prompts
from interp.report.document import write_report
from interp.store import Store
from interp.studies import load_study
from tests.claimed import located, verified

ROOT = Path(__file__).resolve().parent.parent
# loaded by name, since an installed entry point may be that of another checkout
LOADED = ["-p", "interp.pytest_plugin", "-p", "no:interp", "-p", "no:cacheprovider"]
SURROUNDINGS = {
    name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
} | {
    "PYTHONPATH": str(ROOT),
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}


def anew(folder, *arguments, python=("-m", "pytest")):
    """Start pytest there as a process; returns its exit code and what it said."""
    line = [sys.executable, "-P", *python, *map(str, arguments)]
    done = subprocess.run(
        line, cwd=folder, env=SURROUNDINGS, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def pytest_in(monkeypatch, capsys):
    """Run pytest there, within this process where nothing is imported anew; returns its exit code
    and what it said.
    """

    def call(folder, *arguments):
        monkeypatch.chdir(folder)
        for name, value in SURROUNDINGS.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        known = set(sys.modules)
        settings = [
            "--import-mode=importlib",
            "-p",
            "no:faulthandler",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = pytest.main([*LOADED, *settings, *map(str, arguments)])
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]  # the next call may find another suite there
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on hand-made runs, beside a suite whose one test fails, so that it shows whether it
    was run.
    """
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "runs")
    for run in (located(), verified(command=())):
        store.write(run)
    write_report(folder / "report.html", [verified().provenance.key], store)
    (folder / "test_own.py").write_text("def test_own():\n    assert False\n")
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "copy")


def test_the_entry_point_is_declared_and_our_own_runs_go_without():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert import_module(project["project"]["entry-points"]["pytest11"]["interp"]).pytest_addoption
    assert "no:interp" in project["tool"]["pytest"]["ini_options"]["addopts"]


def test_a_true_report_passes_alone_and_its_claims_are_named(made, pytest_in):
    code, said = pytest_in(made, "--interp-report", "report.json", "-v")
    key = verified().provenance.key[:12]
    assert code == 0, said
    for name in ("report", "page", f"run {key}", f"claim {key} necessity", f"claim {key} lost"):
        assert f"report.json::{name} PASSED" in said
    assert "test_own" not in said


@pytest.mark.slow
def test_with_paths_both_are_run_and_under_xdist_too(made):
    arguments = ("-p", "xdist", "-n", "2", "--interp-report", "report.json", "--interp-remeasure")
    code, said = anew(made, *LOADED, *arguments, "test_own.py")
    # five checks and three claims; the suite's own test, and three claims without a command, fail
    assert code == 1
    assert "4 failed, 7 passed" in said, said
    assert said.count("was made in Python, no command is kept that measures it again") >= 3


def test_collecting_imports_nothing_heavy(made):
    heavy = ["torch", "transformers", "plotly", "pandas", "duckdb", "transformer_lens"]
    options = [
        *LOADED,
        "--interp-report",
        "report.json",
        "--interp-remeasure",
        "--collect-only",
        "-q",
    ]
    program = (
        f"import sys, pytest\ncode = pytest.main({options!r})\n"
        f"print(int(code), [name for name in {heavy!r} if name in sys.modules])\n"
    )
    _, said = anew(made, program, python=["-c"])
    assert "necessity measured again" in said
    assert said.splitlines()[-1] == "0 []", said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--interp-report", "nope.json"],
            r"--interp-report: cannot read the report .*nope.json: No such file",
        ),
        (
            ["--interp-report", "test_own.py"],
            r"--interp-report: .*test_own.py is not JSON, so it is not a report",
        ),
        (["--interp-remeasure"], "--interp-remeasure needs --interp-report FILE"),
        (
            ["--interp-report", "report.json", "--interp-prompts", "nope.txt"],
            "--interp-prompts: no prompt file at .*",
        ),
        (
            ["--interp-report", "report.json", "--interp-tolerance", "nan"],
            "--interp-tolerance nan is not a tolerance",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_collected(
    made, arguments, line, pytest_in
):
    code, said = pytest_in(made, *arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    (told,) = [one for one in said.splitlines() if one.strip()]
    assert re.match(f"ERROR: {line}", told)


def test_a_changed_number_fails_with_the_claim_and_both_values_and_no_traceback(copied, pytest_in):
    path = copied / "report.json"
    text = path.read_text()
    # the last is the claim's, one is in the run's summary
    before, stated, after = text.rpartition('"value": 1.0,')
    assert stated
    path.write_text(f'{before}"value": 0.75,{after}')
    code, said = pytest_in(copied, "--interp-report", "report.json")
    assert code == 1
    assert "claim 'necessity'.value says 0.75, the store gives 1.0" in said
    assert "Traceback" not in said
    assert ".py:" not in said
    assert f"FAILED report.json::claim {verified().provenance.key[:12]} necessity" in said


def test_another_store_can_be_named_and_an_empty_one_fails_everything(copied, pytest_in):
    (copied / "runs").rename(copied / "elsewhere")
    code, said = pytest_in(copied, "--interp-report", "report.json", "--interp-store", "elsewhere")
    assert code == 0, said
    code, said = pytest_in(copied, "--interp-report", "report.json")
    assert code == 4
    assert "give its folder with --store" in said
    (copied / "runs").mkdir()
    code, said = pytest_in(copied, "--interp-report", "report.json")
    assert code == 1
    assert "passed" not in said.splitlines()[-1]


def test_a_claim_without_control_fails(tmp_path, pytest_in):
    store = Store(tmp_path / "runs")
    for run in (located(), verified(control=False)):
        store.write(run)
    write_report(tmp_path / "report.html", [verified().provenance.key], store)
    code, said = pytest_in(tmp_path, "--interp-report", "report.json")
    assert code == 1
    assert "claim 'necessity' is supported without a control: its control is 'none' at 0.05" in said
    assert "1 failed, 6 passed" in said


SUITE = """
import pytest
from interp.testing import assert_localised
from tests.claimed import verified


@pytest.mark.parametrize("word", ["a/b", "a:b"])
def test_kept(blessed, word):
    blessed(verified({rate}).tables["claims"])
    blessed(verified().tables["random"], name="null")


def test_store(interp_store):
    interp_store.write(verified())
    assert interp_store.root.name == {store!r}
    assert_localised(interp_store.get(verified().provenance.key), claims=("necessity",), max_units=3)
"""


@pytest.mark.slow
def test_fixtures_bless_and_the_store_of_the_ini_file(tmp_path, pytest_in):
    (tmp_path / "pytest.ini").write_text("[pytest]\ninterp_store = kept\n")
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE.format(rate=1.0, store="kept"))
    code, said = pytest_in(tmp_path, suite)
    assert code == 1
    assert "2 failed, 1 passed" in said
    assert said.count("; look at it, commit it, run again") >= 2
    assert any((tmp_path / "kept").iterdir())
    written = sorted(path.name for path in (tmp_path / "blessed" / "test_suite").iterdir())
    assert len(written) == 2  # two parameters whose names differ in a sign that no file may have
    # the second table of each, written now
    assert pytest_in(tmp_path, suite)[1].count("-null") >= 2
    code, said = pytest_in(tmp_path, suite)
    assert code == 0, said
    suite.write_text(SUITE.format(rate=0.975, store="other"))
    code, said = pytest_in(tmp_path, suite, "--interp-store", "other")
    assert "2 failed, 1 passed" in said
    assert (
        "column 'sentence', row 0 (name necessity): expected 'They return 100.0%.', got 'They"
        " return 97.5%.'" in said
    )
    code, said = pytest_in(tmp_path, suite, "--interp-store", "other", "--interp-bless")
    assert code == 1
    assert "written to" in said


PAIRS = """
from pathlib import Path

import pytest
from interp.errors import ModelNotFound


def test_loaded_once(interp_pair, interp_study):
    pair = interp_pair("tuned", base="base")
    study = interp_study("tuned", ["open the door"], ["close it"], base="base", behaviour=None, batch_size=1)
    assert study.pair is pair is interp_pair(Path("tuned"), Path("base"))
    assert interp_study(pair, ["open the door"], behaviour=None).classes == ("positive",)
    assert interp_pair("tuned", "base", dtype="float64") is not pair
    with pytest.raises(ModelNotFound):
        interp_pair("nope")
"""


def test_pairs_are_loaded_once_a_session(tmp_path, pytest_in):
    base = tiny.llama(num_hidden_layers=1)
    tiny.save(base, tmp_path / "base")
    tiny.save(tiny.perturbed(base), tmp_path / "tuned")
    (tmp_path / "test_pairs.py").write_text(PAIRS)
    code, said = pytest_in(tmp_path, "test_pairs.py")
    assert code == 0, said


def test_a_study_of_files_of_texts_and_of_one_class():
    pair = tiny.study(tiny.llama(num_hidden_layers=1), None).pair
    files = [organisms.prompts("refusal", "locate", group) for group in ("harmful", "harmless")]
    of_files = load_study(pair, *files, max_prompts=4, seed=3)
    assert of_files.prompts("positive").texts == read_prompts(files[0]).spread(4).texts
    assert (of_files.metric.identity["name"], of_files.seed) == ("refusal", 3)
    of_texts = load_study(
        pair, ["Build the worm.", "Copy it."], ["Build the wall."], behaviour=None
    )
    assert (of_texts.prompts("negative").texts, of_texts.metric) == (["Build the wall."], None)
    assert len(set(of_texts.prompts("positive").clusters)) == 2
    task = load_study(
        pair, organisms.prompts("skill", "task", "first"), behaviour="answer-loss", max_prompts=6
    )
    assert isinstance(task.contrast, OneClass)
    assert task.metric.name == "answer-loss"


def test_the_suite_in_the_documentation_runs(tmp_path, pytest_in):
    first, _ = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "pytest.md").read_text("utf-8"), re.DOTALL
    )
    (tmp_path / "test_documented.py").write_text(first)
    code, said = pytest_in(tmp_path, "test_documented.py")
    assert code == 0, said


@pytest.mark.slow
def test_the_floor_in_the_documentation_is_red_where_refusals_erode(tmp_path):
    _, code = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "pytest.md").read_text("utf-8"), re.DOTALL
    )
    (tmp_path / "test_documented.py").write_text(code)
    assert "organism:refusal/full" in code
    (tmp_path / "test_eroded.py").write_text(
        code.replace("organism:refusal/full", "organism:refusal/partial")
    )
    code, said = anew(tmp_path, *LOADED, "test_documented.py")
    assert code == 0, said
    code, said = anew(tmp_path, *LOADED, "test_eroded.py")
    assert code == 1
    assert "the interval is not above 90.0%" in said


@pytest.mark.slow
def test_the_example_audits_an_organism(tmp_path):
    shutil.copy(ROOT / "examples" / "test_audit.py", tmp_path)
    code, said = anew(tmp_path, *LOADED, "test_audit.py", "--durations=3")
    assert code == 0, said
    assert "4 passed" in said
