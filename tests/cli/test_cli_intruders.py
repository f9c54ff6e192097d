"""``interp intruders``: what it keeps, what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest

from interp.kinds import KINDS
from tests.planted_intruders import planted, slow, texts


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("weights"))


def asked(pair, *options):
    return ["intruders", pair[1], "--base", pair[0], *options]


def test_the_command_keeps_a_run_and_is_answered_from_it(run, pair, tmp_path):
    command = asked(pair, "--store", tmp_path / "runs", "--json", "--quiet", "--top-k", "1")
    first, again = run(*command), run(*command)
    assert (first[0], again[0]) == (0, 0), first[2]
    one, other = json.loads(first[1]), json.loads(again[1])
    assert (one["cached"], other["cached"]) == (False, True)
    assert one["run"] == other["run"]
    assert one["rows"] == 7
    assert one["summary"]["supported"]
    assert KINDS["intruders"].heading in Path(one["page"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("with_task", [True, slow(False)])
def test_the_command_scales(run, pair, tmp_path, with_task):
    both = texts()
    task = [
        {"prompt": p.text, "answer": p.answer, "wrong_answer": p.wrong_answer}
        for p in both.positive
    ]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, task)))
    (tmp_path / "plain.txt").write_text("\n".join(both.negative.texts))
    code, out, err = run(
        *asked(pair, "--store", tmp_path / "runs", "--json", "--quiet", "--draws", "0"),
        "--scale",
        "0,0.5",
        "--scale-set",
        "all",
        "--text",
        tmp_path / "plain.txt",
        *(["--task", tmp_path / "task.jsonl"] if with_task else []),
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert "intruder-scaling" in record["summary"]["checks"]
    assert KINDS["intruder-scaling"].heading in Path(record["page"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--draws", "5"], "20 or more"),
        (["--eps", "0"], "eps 0"),
        (["--side", "up"], "'up'; use left or right"),
        (["--jobs", "0"], "jobs"),
        (["--scale", "0,1"], "--text FILE"),
        (["--scale", "0,1", "--task", "x.jsonl"], "--text FILE"),
        (["--scale", "0,1", "--text", "y.txt", "--metric", "accuracy"], "give --task FILE"),
        (["--task", "x.jsonl"], "--scale"),
        (["--scale", "one", "--task", "x.jsonl", "--text", "y.txt"], "not a list of numbers"),
        (["--scale", "-1", "--task", "x.jsonl", "--text", "y.txt"], "0 or more"),
        (
            ["--scale", "0", "--scale-set", "most", "--task", "x.jsonl", "--text", "y.txt"],
            "'most'; use top1 or all",
        ),
        (["--scale", "0", "--task", "x.jsonl", "--text", "y.txt"], "no prompt file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, pair, tmp_path, options, said):
    code, out, err = run(*asked(pair, "--store", tmp_path / "runs", *options))
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not (tmp_path / "runs").exists()
