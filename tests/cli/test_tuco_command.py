"""The command ``interp tuco``."""

import json
from pathlib import Path

import pytest

from interp import claims
from interp.kinds import KINDS
from interp.store import Store
from tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuco")
    base, tuned = tiny.planted(tiny.llama(7), pairs=8)
    control = tiny.perturbed(tuned, 1e-4)
    for name, model in (("base", base), ("tuned", tuned), ("control", control)):
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    both = tiny.contrast(8)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        (root / f"{name}.txt").write_text("\n".join(prompts.texts), encoding="utf-8")
    rows = [{"prompt": p.text, "answer": "Sorry", "wrong_answer": "paint"} for p in both.positive]
    (root / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "sorry.txt").write_text("Sorry")
    return root


def asked(root, *options, tuned="tuned"):
    return ["tuco", root / tuned, "--base", root / "base", "--store", root / "runs", *options]


def test_the_command_keeps_a_run_and_answers_again(run, saved):
    two = ("--positive", saved / "positive.txt", "--negative", saved / "negative.txt")
    command = asked(
        saved, *two, "--alpha", "0,1.5", "--markers", saved / "sorry.txt", "--quiet", "--json"
    )
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["rows"] == 16
    table = Store(saved / "runs").get(record["run"])
    assert {"prompt_id", "tuco", "pre_co", "output_co"} <= set(table.data)
    assert "layers" in table.tables
    scaling = Store(saved / "runs").get(record["summary"]["checks"]["ftc-alpha"]["run"])
    for each in (table, scaling):
        for claim in claims.from_table(each.tables["claims"]):
            claims.check(claim, each)
    page = Path(record["page"]).read_text(encoding="utf-8")
    assert KINDS["tuco"].heading in page
    assert KINDS["ftc-alpha"].heading in page
    code, again, _ = run(*command)
    assert json.loads(again) == record | {"cached": True}


def test_the_command_parts_prompts_by_their_answers(run, saved):
    both = saved / "both.txt"
    both.write_text(
        "\n".join((saved / f"{name}.txt").read_text() for name in ("positive", "negative"))
    )
    code, out, err = run(
        *asked(
            saved,
            "--prompts",
            both,
            "--by-answer",
            "--generations",
            "1",
            "--control",
            saved / "control",
            "--caliper",
            "9",
            "--markers",
            saved / "sorry.txt",
            "--keep-answers",
            "--quiet",
            "--json",
        )
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert "Of 16 prompts 8 were refused and 8 were not" in record["summary"]["sentence"]
    table = Store(saved / "runs").get(record["run"])
    assert table.tables["answers"]["refused"].sum() == 8
    assert "text" in table.tables["answers"].data
    assert not record["summary"]["supported"]  # it is its own control


def test_the_command_takes_one_file_and_answers_of_a_task(run, saved):
    code, out, err = run(
        *asked(
            saved,
            "--prompts",
            saved / "task.jsonl",
            "--alpha",
            "0",
            "--metric",
            "logit-diff",
            "--positions",
            "all",
            "--granularity",
            "sublayer",
            "--norm",
            "2",
            "--no-output-co",
            "--quiet",
        )
    )
    assert (code, err) == (0, "")
    assert "TuCo, mean of 8 prompts" in out
    assert "logit difference" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give either --prompts"),
        (("--positive", "positive.txt"), "only one of --positive and --negative"),
        (
            (
                "--prompts",
                "positive.txt",
                "--positive",
                "positive.txt",
                "--negative",
                "negative.txt",
            ),
            "give either",
        ),
        (("--prompts", "none.txt"), "no prompt file"),
        (
            ("--prompts", "positive.txt", "--granularity", "neuron"),
            "granularity of Tuco is 'neuron'; use block or sublayer",
        ),
        (
            ("--prompts", "positive.txt", "--positions", "all", "--path", "fast"),
            "the fast path reads the last token only",
        ),
        (("--prompts", "positive.txt", "--norm", "3"), "Invalid value for '--norm'"),
        (("--prompts", "positive.txt", "--drop-dims", "a"), "not a list of numbers"),
        (("--prompts", "positive.txt", "--drop-dims", "-1"), "counted from 0"),
        (("--prompts", "positive.txt", "--drop-dims", "99"), "cannot drop dimension 99"),
        (("--prompts", "positive.txt", "--alpha", "0,x"), "not a list of numbers"),
        (("--prompts", "positive.txt", "--alpha", "nan"), "must be finite numbers"),
        (("--prompts", "positive.txt", "--generations", "3"), "need --alpha"),
        (("--prompts", "positive.txt", "--alpha", "0", "--metric", "taste"), "unknown --metric"),
        (
            ("--prompts", "positive.txt", "--alpha", "0", "--metric", "accuracy"),
            "has no columns, but a task needs answers",
        ),
        (("--prompts", "positive.txt", "--alpha", "0", "--keep-answers"), "--keep-answers keeps"),
        (
            ("--positive", "positive.txt", "--negative", "negative.txt", "--by-answer"),
            "two classes of one file",
        ),
        (("--prompts", "positive.txt", "--control", "nowhere"), "nowhere"),
        (
            ("--prompts", "positive.txt", "--alpha", "0", "--engine", "nnsight"),
            "leave out --engine nnsight",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    files = [saved / part if str(part).endswith(".txt") else part for part in options]
    code, out, err = run(
        "tuco", saved / "tuned", "--base", saved / "base", "--store", tmp_path / "runs", *files
    )
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))


def test_without_a_base_the_command_says_so_before_loading(run, only_line, saved, tmp_path):
    code, _, err = run(
        "tuco", saved / "tuned", "--prompts", saved / "positive.txt", "--store", tmp_path / "runs"
    )
    assert code == 2
    assert "TuCo needs a base model" in only_line(err)
