"""The command ``interp wrapped``."""

import json
from html import escape
from pathlib import Path

import pytest

from interp import claims
from interp.kinds import KINDS
from interp.store import Store
from tests import tiny

QUICK = ("--sizes", "2,4", "--random-sets", "2", "--steps", "1,2", "--batch", "2")
KIND = "wrapped-{}".format


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("wrapped")
    base, tuned = tiny.planted(tiny.llama(7), pairs=8)
    for name, model in (("base", base), ("tuned", tuned), ("control", tiny.perturbed(base))):
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    both = tiny.contrast(8)
    texts = [*both.positive.texts, *both.negative.texts]
    (root / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
    rule = {"register": "now", "prompt": ["^(.+)$", "\\1 now"], "back": ["^(.+) now$", "\\1"]}
    (root / "styles.jsonl").write_text(json.dumps(rule), encoding="utf-8")
    return root


def asked(root, *options):
    models = ("wrapped", root / "tuned", "--base", root / "base", "--store", root / "runs")
    return [*models, "--prompts", root / "prompts.txt", "--answer-tokens", "2", *QUICK, *options]


def test_all_views_are_kept_and_answered_again(run, saved):
    control = ("--control", saved / "control")
    command = asked(saved, "--styles", saved / "styles.jsonl", *control, "--quiet", "--json")
    before = {path: path.stat().st_mtime_ns for path in saved.glob("*/*")}
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    store = Store(saved / "runs")
    runs = {run.kind: store.get(run.key) for run in store.runs()}
    assert set(runs) == {KIND(view) for view in ("pruning", "probes", "reversal", "conjugate")}
    page = Path(record["page"]).read_text(encoding="utf-8")
    for kind, table in runs.items():
        assert escape(KINDS[kind].heading) in page
        assert len(table.tables["controls"]) == 1
        for claim in claims.from_table(table.tables["claims"]):
            claims.check(claim, table)
    # no model was written, nor one that was read
    assert not list((saved / "runs").rglob("*model*"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    code, again, _ = run(*command)
    assert json.loads(again) == record | {"cached": True}


def test_one_view_and_no_style(run, saved):
    code, out, err = run(*asked(saved, "--views", "reversal", "--quiet"))
    assert (code, err) == (0, "")
    assert "answers-changed" in out
    assert "answers-revive" not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--views", "prunning"), "--views has 'prunning'"),
        (("--views", ","), "--views has ''"),
        (("--views", "conjugate"), "give --styles FILE"),
        (("--sizes", "100000"), "sizes go up to 100,000, and the model has"),
        (("--sizes", "100", "--max-share", "0.1"), "the smallest size is 100, more than 10% of"),
        (("--sizes", "0,5"), "sizes are [0, 5]"),
        (("--steps", "x"), "--steps 'x' is not a list of numbers"),
        (("--score", "both"), "use signed or absolute"),
        (("--learning-rate", "3"), "a learning rate of 3"),
        (("--styles", "nowhere.jsonl"), "cannot read nowhere.jsonl"),
        (("--remote",), "--remote cannot prune or train"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, saved, only_line, options, said):
    code, out, err = run(*asked(saved, *options))
    assert (code, out) == (2, "")
    assert said in only_line(err)
