"""The page that tells how an analyzer is added is taken at its word: its own blocks, in a copy of
the package.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import interp.analyzers
from interp.cli import COMMANDS
from tests.pages import ROOT

ONE_LINE = "## One line"
PAGE = (ROOT / "docs" / "adding-an-analyzer.md").read_text(encoding="utf-8")
COPIED = (
    "interp",
    "tests",
    "docs",
    "data",
    "benchmarks",
    "notebooks",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
)
NEW = re.compile(r"^[^\n]*`([\w/.]+\.py)`:\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(?:python)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def after(said):
    """The first block after these words."""
    assert PAGE.count(said) == 1
    return BLOCK.search(PAGE, PAGE.index(said)).group(1)


def inserted(file, before, text):
    """``text`` put in front of the only place that reads ``before``."""
    content = file.read_text(encoding="utf-8")
    assert content.count(before) == 1, (file, before)
    file.write_text(content.replace(before, text + before), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package, its tests and documents, with the page's files and lines in them."""
    root = tmp_path_factory.mktemp("added")
    for name in COPIED:
        place = ROOT / name
        if name == "data":
            (root / name).symlink_to(place)
        elif place.is_dir():
            shutil.copytree(
                place, root / name, ignore=shutil.ignore_patterns("__pycache__", "data")
            )
        else:
            shutil.copy(place, root / name)
    files = NEW.findall(PAGE)
    assert [name for name, _ in files] == [
        "interp/analyzers/answer_length.py",
        "tests/test_answer_length.py",
        "interp/figures/answer_length.py",
    ]
    for name, text in files:
        assert not (root / name).exists()
        (root / name).write_text(text, encoding="utf-8")
    one_line = after(ONE_LINE)
    assert one_line.count("\n") == 1
    inserted(root / "interp/cli/__init__.py", '    "ls": "list the stored runs"', one_line)
    return root


@pytest.fixture(scope="module")
def documented(copy):
    """The same with the rows and the figure that the rest of the page adds."""
    inserted(copy / "docs/index.md", "| what has been run?", after("A question in [the index]"))
    inserted(copy / "docs/store.md", "| `places` |", after("in [the store](store.md):"))
    figures = copy / "interp/figures/__init__.py"
    inserted(
        figures,
        "from interp.figures.claims",
        "from interp.figures.answer_length import answer_length_figure\n",
    )
    inserted(figures, '    "claims": claims_figure,', after("lists it in `FIGURES`:"))
    return copy


def python(root, *arguments, **more):
    """Run Python there, in a process of its own; its output, once it went well."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == more.get("code", 0), done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def passed(root, *arguments):
    """Run pytest there; how many passed."""
    said = python(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    return int(re.search(r"(\d+) passed", said).group(1))


def test_one_file_and_one_line_make_a_command(run, only_line, tmp_path, monkeypatch):
    """Beside the package instead of in a copy of it: a flag, a help, a refusal, and the planted
    truth.
    """
    (file, source), (_, planted), _ = NEW.findall(PAGE)
    (tmp_path / Path(file).name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(interp.analyzers, "__path__", [*interp.analyzers.__path__, str(tmp_path)])
    (line,) = ast.literal_eval(f"{{{after(ONE_LINE)}}}").items()
    monkeypatch.setitem(COMMANDS, *line)
    assert line[1] in run("--help")[1]
    said = run("answer-length", "--help")[1]
    assert "--draws INT" in said
    assert "Random exchanges of the two models' answers" in said
    assert "tokens the fine-tuned model's answers are shorter" in said
    asked = ("answer-length", "no-model", "--base", "no-base", "--prompts", "none.txt")
    assert run(*asked, "--draws", "3")[::2] == (
        2,
        "interp: 3 exchanges cannot reach p = 0.05; use 19 at least\n",
    )
    assert "no prompt file at none.txt" in only_line(run(*asked)[2])
    assert "unknown --metric 'words'" in only_line(run(*asked, "--metric", "words")[2])
    names = {}
    exec(compile(planted, "docs/adding-an-analyzer.md", "exec"), names)
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_keeps_the_contract_of_all_analyzers(documented):
    assert passed(documented, "tests/test_answer_length.py") == 2
    assert (
        passed(
            documented, "tests/test_contract_analyzers.py", "-k", "answer-length or every_analyzer"
        )
        >= 7
    )
    assert passed(documented, "tests/test_docs.py", "-k", "is_in_the_index or every_figure") > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_kept_drawn_shown_and_queried(documented, tmp_path):
    prompts = documented / "data/prompts/refusal/locate-harmful.jsonl"
    assert prompts.exists()
    line = (
        "answer-length",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--prompts",
        prompts,
        "--max-prompts",
        "8",
        "--store",
        tmp_path / "runs",
        "--json",
    )
    first, again = (json.loads(python(documented, "-m", "interp", *line)) for _ in range(2))
    assert (first["cached"], again["cached"], first["run"]) == (False, True, again["run"])
    assert "<h2>answer-length</h2>" in Path(first["page"]).read_text(encoding="utf-8")
    query = shlex.split(after("fields of one word").splitlines()[1])[1:]
    (row,) = json.loads(
        python(documented, "-m", "interp", *query, "--store", tmp_path / "runs", "--json")
    )["data"]
    assert list(row.values()) == [first["summary"]["saved"]]
