"""The example analyzer: under 60 lines, one line elsewhere, and everything follows from it."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import interp.cli
from examples.answer_length import AnswerLength
from interp import claims, kinds
from interp.analyzers.framework import Analyzer, Needs, option
from interp.cli import COMMANDS, GROUPS, _command
from interp.errors import OptionError
from interp.kinds import Kind
from tests import tiny
from tests.pages import ROOT

EXAMPLE = ROOT / "examples" / "answer_length.py"


@pytest.fixture
def listed(monkeypatch):
    """The example as a kind of interp itself, by its one line."""
    line = Kind("examples.answer_length:AnswerLength", help="does fine-tuning make answers shorter")
    monkeypatch.setitem(kinds.KINDS, "answer-length", line)
    # as where the line stands in the file: the command line reads it when it is imported
    monkeypatch.setitem(interp.cli._HELPS, "answer-length", line.help)
    kinds.kinds.cache_clear()
    yield
    kinds.kinds.cache_clear()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package that names the example as its entry point."""
    root = tmp_path_factory.mktemp("package")
    about = root / "lengths-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.0\n")
    entry = "[interp.kinds]\nanswer-length = examples.answer_length:AnswerLength\n"
    (about / "entry_points.txt").write_text(entry)
    return root


def study(tuned, base):
    return tiny.study(tuned, base, 12, max_new_tokens=6)


def with_short_answers(base):
    """The same model, which ends every answer at once: its last norm points to the end token."""
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.transformer.ln_f.bias += 200 * base.lm_head.weight[tuned.config.eos_token_id]
    return tuned


def test_names_that_kinds_cannot_have_are_those_of_the_other_commands():
    of_kinds = kinds.command_helps(kinds.KINDS)
    assert {*kinds.OTHER_COMMANDS} == {*COMMANDS, *GROUPS} - {*of_kinds}


def test_it_is_at_most_sixty_lines():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60


def test_answers_that_are_cut_short_are_shorter():
    base = tiny.gpt2(seed=7)
    run = AnswerLength()(study(with_short_answers(base), base))
    (finding,) = claims.from_table(run.tables["claims"])
    assert run["tuned"].max() <= 1
    assert finding.verdict == "supported"
    assert finding.value == (run["base"] - run["tuned"]).mean()
    claims.check(finding, run)


def test_a_pair_the_other_way_round_and_an_identical_one_support_nothing():
    base = tiny.gpt2(seed=7)
    for tuned, of in ((base, with_short_answers(base)), (copy.deepcopy(base), base)):
        assert not AnswerLength()(study(tuned, of)).summary["supported"]


def test_columns_are_those_that_the_row_declares():
    base = tiny.gpt2(seed=7)
    run = AnswerLength()(study(copy.deepcopy(base), base))
    assert [column.name for column in run.columns] == [
        "group",
        "prompt_id",
        "cluster",
        "base",
        "tuned",
        "saved",
    ]
    assert run.column("saved").unit == "tokens"
    assert run.tables["exchanged"].kind == "answer-length-exchanged"


def test_what_it_needs_and_what_options_may_be_is_checked():
    with pytest.raises(OptionError, match="draws of AnswerLength is 3; use at least 19"):
        AnswerLength(draws=3)
    base = tiny.gpt2(seed=7)
    with pytest.raises(OptionError, match="answer-length needs a base"):
        AnswerLength()(study(base, None))


def test_one_line_makes_the_command(listed, run, only_line):
    assert "does fine-tuning make answers shorter" in run("--help")[1]
    said = run("answer-length", "--help")[1]
    assert "--draws INT" in said
    assert "Random exchanges of the two models" in said
    assert "x>=19" in said
    words = ("answer-length", "no-model", "--base", "no-base", "--prompts", "none.txt")
    code, _, error = run(*words, "--draws", "3")
    assert code == 2
    assert "--draws" in only_line(error)
    assert "no prompt file at none.txt" in only_line(run(*words)[2])
    assert "unknown --metric 'words'" in only_line(run(*words, "--metric", "words")[2])


@pytest.mark.parametrize("name", ["tuco", "ls", "agree", "sae", "a.b", "_x"])
def test_a_name_that_is_taken_or_odd_is_left_out(monkeypatch, tmp_path, capsys, name):
    about = tmp_path / "odd-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    entry = f"[interp.kinds]\n{name} = examples.answer_length:AnswerLength\n"
    (about / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds.kinds.cache_clear()
    assert dict(kinds.kinds()) == kinds.KINDS
    assert f"{name!r} of the package odd is left out" in capsys.readouterr().err
    kinds.kinds.cache_clear()


def test_a_name_like_a_module_of_ours_is_a_command(monkeypatch, tmp_path):
    about = tmp_path / "common-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: common\nVersion: 1.0\n")
    entry = "[interp.kinds]\ncommon = examples.answer_length:AnswerLength\n"
    (about / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds.kinds.cache_clear()
    assert "draws" in _command("common", "common").__signature__.parameters
    kinds.kinds.cache_clear()


@dataclass(frozen=True)
class Odd(Analyzer):
    """Options of several types."""

    name: ClassVar[str] = "odd"
    version: ClassVar[int] = 1

    few: tuple[int, ...] = option((1, 2), "Some numbers.", ge=1)
    least: int | None = option(None, "A bound.", ge=1)
    way: str = option("near", "How.", choices=("near", "far"))


@dataclass(frozen=True)
class Clashing(Analyzer):
    """An option with the name of a common flag."""

    name: ClassVar[str] = "clashing"
    version: ClassVar[int] = 1

    seed: int = option(0, "A seed.")


def test_bounds_hold_for_every_item_and_none_is_allowed():
    assert Odd().least is None
    with pytest.raises(OptionError, match="few of Odd is 0; use at least 1"):
        Odd(few=(3, 0))
    with pytest.raises(OptionError, match="way of Odd is 'away'; use near or far"):
        Odd(way="away")


def test_an_option_named_like_a_common_flag_is_refused(monkeypatch, run, only_line):
    for name in ("odd", "clashing"):
        monkeypatch.setitem(kinds.KINDS, name, Kind(f"{__name__}:{name.title()}", help="odd"))
    kinds.kinds.cache_clear()
    assert "(near, far)" in run("odd", "--help")[1]
    code, _, error = run("clashing", "--help")
    assert code == 2
    assert "seed of Clashing has the name of a flag" in only_line(error)
    kinds.kinds.cache_clear()


def test_needs_are_checked_before_a_model_is_read(monkeypatch, run, only_line, tmp_path):
    monkeypatch.setattr(AnswerLength, "needs", Needs(negatives=True))
    line = Kind("examples.answer_length:AnswerLength", help="does fine-tuning make answers shorter")
    monkeypatch.setitem(kinds.KINDS, "answer-length", line)
    kinds.kinds.cache_clear()
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    words = ("answer-length", "no-model", "--prompts", tmp_path / "p.txt")
    assert "needs prompts of two classes" in only_line(run(*words)[2])
    kinds.kinds.cache_clear()


@pytest.mark.slow
def test_a_package_of_its_own_makes_a_command_that_is_kept_drawn_and_queried(package, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(package))),
        "OMP_NUM_THREADS": "1",
    }

    def interp(*words):
        done = subprocess.run(
            [sys.executable, "-m", "interp", *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "an analyzer of the package lengths" in interp("--help")
    words = (
        *("answer-length", "organism:refusal/planted", "--base", "organism:refusal/base"),
        *("--prompts", ROOT / "data/prompts/refusal/locate-harmful.jsonl", "--max-prompts", 8),
        *("--store", tmp_path / "runs", "--json"),
    )
    first, again = (json.loads(interp(*words)) for _ in range(2))
    assert (first["cached"], again["cached"], first["run"]) == (False, True, again["run"])
    query = "select avg(saved) from answer_length"
    (row,) = json.loads(interp("sql", query, "--store", tmp_path / "runs", "--json"))["data"]
    assert list(row.values()) == [first["summary"]["findings"][0]["value"]]
