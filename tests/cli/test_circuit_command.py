"""The command ``interp circuit``."""

import json

import pytest

from interp import claims
from interp.models.pair import Pair
from interp.store import Store
from tests import tasks, tiny

QUICK = ("--draws", "2", "--completeness-draws", "0", "--minimality-prompts", "0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("circuit")
    base = tasks.worded(tiny.llama(tie_word_embeddings=False))
    tuned = tiny.perturbed(base, 0.01)
    for name, model in (("base", base), ("tuned", tuned), ("control", tiny.perturbed(base, 0.005))):
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    tasks.write_task(root / "task.jsonl", Pair.from_modules(tuned, base, tiny.tokenizer(False)), 20)
    return root


def asked(root, *options, task="task.jsonl"):
    models = ("circuit", root / "tuned", "--base", root / "base", "--store", root / "runs")
    return [*models, "--task", root / task, *QUICK, *options]


def test_a_run_is_kept_with_its_controls_and_answered_again(run, saved):
    command = asked(saved, "--control", saved / "control", "--quiet", "--json")
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    table = Store(saved / "runs").get(record["run"])
    assert table.kind == "circuit"
    assert len(table) == record["rows"] == 4 * 3 * 4
    assert len(table.tables["controls"]) == 1
    assert not {"completeness", "minimality"} & set(table.tables)
    for claim in claims.from_table(table.tables["claims"]):
        claims.check(claim, table)
    code, again, _ = run(*command)
    assert json.loads(again) == record | {"cached": True}


def test_groups_and_scores_can_be_chosen(run, saved):
    groups = ("--group", "A:last:logits::2", "--group", "K:mention:A:k:1")
    code, out, _ = run(*asked(saved, *groups, "--score", "logit-difference", "--quiet", "--json"))
    assert code == 0
    table = Store(saved / "runs").get(json.loads(out)["run"])
    assert table.summary["groups"] == ["A:last:logits", "K:mention:A:k"]
    assert table.summary["score"] == "logit-difference"
    inside = table["in_base"]
    assert inside[table["group"] == "A"].sum() <= 2
    assert inside[table["group"] == "K"].sum() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--group", "A"), "'A' is not a group; write NAME:POSITION:RECEIVER:VIA[:SIZE]"),
        (("--group", "B:last:A:q"), "not a group before it (none)"),
        (("--group", "A:last:logits", "--group", "B:box:A:v"), "has no position 'box'"),
        (("--score", "loss"), "use probability or logit-difference"),
        (("--verify-task", "{root}/none.jsonl"), "no prompt file at"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, saved, tmp_path, options, said):
    options = [option.replace("{root}", str(saved)) for option in options]
    code, out, err = run(*asked(saved, *options, "--store", tmp_path / "runs"))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
