"""Answers read by labels from a file and by another package's callable."""

import csv
import json

import numpy as np
import pytest

from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.refusal_direction import RefusalDirection
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.errors import MetricError, OptionError
from interp.metrics import load_behaviour, read_behaviour
from interp.metrics.entry_points import load_entry_point
from interp.metrics.labels import read_labels
from interp.prompts import Prompt
from interp.study import Study
from tests import tiny

PROMPTS = [Prompt(at, text, str(at)) for at, text in enumerate(["open", "close", "lock"])]


def labelled(folder, rows, name="labels.csv", more=""):
    with open(folder / name, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("prompt", "answer", "label"), *rows])
    path = folder / f"{name}.yaml"
    path.write_text(f"name: polite\nkind: labels\nfile: {name}\n{more}")
    return path


# ------------------------------------------------------------------------------------------- labels


def test_labels_are_of_prompt_and_answer(tmp_path):
    rows = [("open", "yes", "1"), ("open", "no", "0"), (" close ", "yes", "No")]
    reader = read_behaviour(labelled(tmp_path, rows)).reader
    assert reader.read(PROMPTS[:2], [" yes", "yes "]).tolist() == [True, False]
    assert reader.read([PROMPTS[0]] * 2, ["no", "yes"]).tolist() == [False, True]


def test_labels_can_be_json_lines(tmp_path):
    rows = [
        {"prompt": "open", "answer": "yes", "label": True},
        {"prompt": "open", "answer": "no", "label": 0},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_labels(tmp_path / "l.jsonl") == {("open", "yes"): True, ("open", "no"): False}


def test_labels_can_be_tab_separated_and_an_unclosed_quote_is_refused(tmp_path):
    (tmp_path / "l.TSV").write_text("prompt\tanswer\tlabel\nopen\tyes, sir\t1\n")
    assert read_labels(tmp_path / "l.TSV") == {("open", "yes, sir"): True}
    (tmp_path / "l.csv").write_text('prompt,answer,label\nopen,"yes,1\nclose,no,0\n')
    with pytest.raises(
        MetricError, match="line 2: the quote that opens a field here is not closed"
    ):
        read_labels(tmp_path / "l.csv")


def test_answers_without_a_label_are_counted_and_written_out(tmp_path):
    path = labelled(tmp_path, [("open", "yes", "1")])
    with pytest.raises(
        MetricError, match=r"2 of 3 answers have no label in labels.csv; add `missing: FILE.csv`"
    ):
        read_behaviour(path).reader.read(PROMPTS, ["yes", "a, b", "c\nd"])
    path = labelled(tmp_path, [("open", "yes", "1")], more="missing: todo.csv\n")
    with pytest.raises(MetricError, match=r"2 of 3 .* are written to .*todo.csv"):
        read_behaviour(path).reader.read(PROMPTS, ["yes", "a, b", "c\nd"])
    with open(tmp_path / "todo.csv", encoding="utf-8", newline="") as stream:
        todo = list(csv.reader(stream))
    assert todo == [["prompt", "answer", "label"], ["close", "a, b", ""], ["lock", "c\nd", ""]]
    filled = [("open", "yes", "1"), *((prompt, answer, "0") for prompt, answer, _ in todo[1:])]
    reader = read_behaviour(labelled(tmp_path, filled)).reader
    assert reader.read(PROMPTS, ["yes", "a, b", "c\nd"]).tolist() == [True, False, False]


def test_identity_is_of_the_labels_whatever_their_file_and_order(tmp_path):
    rows = [("open", "yes", "1"), ("open", "no", "0")]
    files = {"a.csv": rows, "b.csv": rows[::-1], "c.csv": [rows[0], ("open", "no", "1")]}
    made = [
        read_behaviour(labelled(tmp_path, given, name)).reader.identity
        for name, given in files.items()
    ]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.txt", "", "use .csv, .tsv or .jsonl"),
        ("l.csv", "prompt,answer\na,b\n", "has no column label"),
        ("l.csv", "prompt,answer,label\na,b,maybe\n", "the label is 'maybe'"),
        ("l.csv", "prompt,answer,label\na,b,1\na,b,0\n", "labelled both ways"),
        ("l.csv", "prompt,answer,label\n", "holds no labels"),
        ("l.jsonl", "{", "cannot be read as labels"),
        ("l.jsonl", "[1]", "a line is not a JSON object"),
    ],
)
def test_files_of_labels_that_are_none(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    (tmp_path / "b.yaml").write_text(f"name: polite\nkind: labels\nfile: {name}\n")
    with pytest.raises(MetricError, match=said):
        read_behaviour(tmp_path / "b.yaml")


# ------------------------------------------------------------------------------------------- entry points


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Another package, installed with behaviours of its own."""
    place = tmp_path / "site"
    (place / "rude_words-2.5.dist-info").mkdir(parents=True)
    (place / "rude_words-2.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rude-words\nVersion: 2.5\n"
    )
    named = {
        "polite": "polite",
        "share": "share",
        "wrong": "wrong",
        "gone": "no",
        "number": "NUMBER",
        "broken": "broken",
    }
    points = [f"{name} = rude_words:{what}" for name, what in named.items()]
    (place / "rude_words-2.5.dist-info" / "entry_points.txt").write_text(
        "\n".join(["[interp.behaviours]", *points])
    )
    (place / "rude_words.py").write_text(
        "NUMBER = 3\n"
        "def polite(prompt, answer): return 'Sorry' in answer\n"
        "def share(prompt, answer): return len(answer) / 10\n"
        "def wrong(prompt, answer): return 'yes'\n"
        "def broken(prompt, answer): raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(place))
    return place


def test_a_callable_of_another_package_is_a_behaviour(package):
    metric = load_behaviour("polite", tiny.tokenizer(False))
    assert metric.labels.column == "polite"
    assert metric.exhibits(PROMPTS, ["Sorry", "Yes", "So Sorry"], "positive").tolist() == [
        True,
        False,
        True,
    ]
    assert metric.identity["read"] == {
        "kind": "entry-point",
        "entry_point": "polite",
        "distribution": "rude-words",
        "version": "2.5",
        "threshold": 0.5,
    }
    assert not metric.differentiable


def test_a_share_says_yes_from_the_threshold_on(package, tmp_path):
    (tmp_path / "b.yaml").write_text(
        "name: long\nkind: entry-point\nentry_point: share\nthreshold: 0.3\n"
    )
    reader = read_behaviour(tmp_path / "b.yaml").reader
    assert reader.read(PROMPTS, ["ab", "abc", "abcd"]).tolist() == [False, True, True]
    with pytest.raises(MetricError, match="has to return True, False"):
        reader.read(PROMPTS[:1], ["much longer than ten"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "returned 'yes'"),
        ("broken", "broken failed on 'a': KeyError"),
        ("gone", "cannot be loaded"),
        ("number", "it has to be callable"),
        ("absent", "installed: broken, gone, number, polite, share, wrong"),
    ],
)
def test_what_a_package_does_wrong_is_one_line(package, name, said):
    with pytest.raises(MetricError, match=said):
        load_entry_point(name).read(PROMPTS[:1], ["a"])


# ------------------------------------------------------------------------------------------- without a number


def polite(study, more=""):
    return Study(
        study.pair, study.contrast, load_behaviour("polite", study.pair.tokenizer), max_new_tokens=1
    )


@pytest.mark.slow
def test_without_continuations_nothing_follows_a_gradient_and_all_else_runs(package):
    study = polite(tiny.planted_study("llama"))
    with pytest.raises(OptionError, match="needs a metric with a gradient"):
        LocateNeurons()(study)
    located = LocateNeurons(method="change", top="3")(study)
    verified = VerifyNeurons(located, random_sets=19, control_prompts=8)(study)
    rows = {row["name"]: row for row in verified.tables["claims"].rows()}
    assert rows["behaviour"]["supported"]
    assert "shows polite on 100.0%" in rows["behaviour"]["sentence"]
    assert np.isnan(verified["log_odds"]).all()
    assert np.isnan(verified["agreement"]).all()
    assert "agreement" not in verified.summary
    assert {"polite", "matches_base"} <= set(verified.data)
    with pytest.raises(OptionError, match="polite has none; add continuations"):
        FtcAlpha(alphas=(0.0,), new_tokens=1)(study)
    with pytest.raises(OptionError, match="polite has none; add continuations"):
        RefusalDirection(located, prompts=4, shares=(1.0,))(study)


def test_continuations_give_it_a_number(package, tmp_path):
    (tmp_path / "b.yaml").write_text(
        "name: polite\nkind: entry-point\nentry_point: polite\ncontinuations: [Sorry]\n"
    )
    study = tiny.planted_study("llama")
    metric = load_behaviour(tmp_path / "b.yaml", study.pair.tokenizer)
    located = LocateNeurons(top="3")(Study(study.pair, study.contrast, metric, max_new_tokens=1))
    assert set(located["neuron"][located["selected"]].tolist()) == {5, 17, 30}
