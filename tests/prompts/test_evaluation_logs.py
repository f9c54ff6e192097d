"""Scores of other evaluations: files as lm-eval and Inspect write them, and what cannot be compared."""

import json
import zipfile

import numpy as np
import pytest

from interp.errors import PromptError
from interp.prompts.evaluation_logs import notes_of, pair_scores, read_scores, score_files

NAME = "samples_arc_easy_2026-11-20T10-11-12.345678.jsonl"


def line(at, value, **changes):
    """A line of lm-eval 0.4: one document and filter."""
    row = {
        "doc_id": at,
        "doc": {"question": f"question {at}"},
        "target": 0,
        "arguments": {"gen_args_0": {"arg_0": f"question {at}", "arg_1": " a"}},
        "resps": [[["-1.0", "False"]]],
        "filtered_resps": [["-1.0", "False"]],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"d{at}",
        "prompt_hash": f"p{at}",
        "target_hash": f"t{at}",
        "acc": value,
        "acc_norm": 1.0 - value,
    }
    return row | changes


def harness(place, rows, name=NAME):
    place.mkdir(exist_ok=True, parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / name).write_text(text, encoding="utf-8")
    return place


def sample(at, value, **changes):
    return {
        "id": at,
        "epoch": 1,
        "input": f"question {at}",
        "target": "a",
        "scores": {"match": {"value": value, "answer": "a"}},
        "error": None,
        "limit": None,
    } | changes


def log(samples, status="success"):
    about = {"task": "capitals", "task_version": 0, "model": "m", "dataset": {"samples": 3}}
    return {"version": 2, "status": status, "eval": about, "samples": samples}


def read(path):
    return read_scores(score_files(path))


def paired(base, tuned):
    return {(one.task, one.metric): one for one in pair_scores(read(base), read(tuned))}


def test_documents_are_matched_whatever_their_order(tmp_path):
    rows = [line(at, float(at % 3 == 0)) for at in range(10)]
    other = [line(at, float(at % 2 == 0)) for at in reversed(range(10))]
    found = paired(harness(tmp_path / "a", rows), harness(tmp_path / "b", other))
    assert set(found) == {("arc_easy", "acc"), ("arc_easy", "acc_norm")}
    one = found["arc_easy", "acc"]
    np.testing.assert_array_equal(one.base, [at % 3 == 0 for at in range(10)])
    np.testing.assert_array_equal(one.tuned, [at % 2 == 0 for at in range(10)])
    assert one.documents[3] == "3/d3"
    assert one.notes == ()


def test_two_filters_are_two_metrics(tmp_path):
    rows = [line(at, 1.0) for at in range(4)]
    rows += [line(at, 0.0, filter="strict") for at in range(4)]
    found = paired(harness(tmp_path / "a", rows), harness(tmp_path / "b", rows))
    assert found["arc_easy", "acc"].base.mean() == 1.0
    assert found["arc_easy", "acc,strict"].base.mean() == 0.0


def test_a_file_that_was_appended_to_counts_its_last_lines(tmp_path):
    rows = [line(at, 0.0) for at in range(4)] + [line(at, 1.0) for at in range(4)]
    scores = read(harness(tmp_path / "a", rows))
    assert set(scores.values["arc_easy", "acc"].values()) == {1.0}
    assert any(
        "4 documents of arc_easy, acc that occur again" in note for note in notes_of([scores])
    )


def test_what_is_no_number_is_left_out_and_counted(tmp_path):
    rows = [line(at, 1.0) for at in range(9)]
    rows += [line(9, float("nan")), line(10, 0.0, acc=[0.1, 3], metrics=["acc"])]
    scores = read(harness(tmp_path / "a", rows))
    assert len(scores.values["arc_easy", "acc"]) == 9
    assert any(
        "2 scores of arc_easy, acc that are no single number" in n for n in notes_of([scores])
    )


def test_nine_tenths_of_the_documents_have_to_match(tmp_path):
    whole = harness(tmp_path / "a", [line(at, 1.0) for at in range(20)])
    most = harness(tmp_path / "b", [line(at, 1.0) for at in range(18)])
    few = harness(tmp_path / "c", [line(at, 1.0) for at in range(17)])
    assert "2 of 20 documents do not match" in paired(whole, most)["arc_easy", "acc"].notes[0]
    with pytest.raises(PromptError, match="17 of 20 documents match, and 18 are needed"):
        paired(whole, few)


def test_documents_of_another_target_do_not_match(tmp_path):
    rows = [line(at, 1.0) for at in range(5)]
    changed = [line(at, 1.0, target_hash="other") for at in range(5)]
    with pytest.raises(PromptError, match="0 of 5 documents match"):
        paired(harness(tmp_path / "a", rows), harness(tmp_path / "b", changed))


def test_another_prompt_is_said(tmp_path):
    rows = [line(at, 1.0) for at in range(5)]
    changed = [line(at, 1.0, prompt_hash="other") for at in range(5)]
    found = paired(harness(tmp_path / "a", rows), harness(tmp_path / "b", changed))
    assert "5 documents were put into another prompt" in found["arc_easy", "acc"].notes[0]


def test_a_task_that_one_lacks_is_refused(tmp_path):
    rows = [line(at, 1.0) for at in range(5)]
    both = harness(tmp_path / "a", rows)
    harness(both, rows, "samples_boolq_2026-11-20T10-11-12.345678.jsonl")
    with pytest.raises(PromptError, match="has no scores of boolq, acc"):
        paired(both, harness(tmp_path / "b", rows))


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_a_log_of_inspect_is_read(tmp_path, suffix):
    samples = [
        sample(1, "C"),
        sample(1, "I", epoch=2),
        sample(2, "P"),
        sample(3, "N"),
        sample(4, {"exact": True, "f1": 0.25}),
        sample(5, None),
        sample(6, "C", error={"message": "timeout"}),
    ]
    content, path = log(samples), tmp_path / f"log{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", json.dumps({**content, "samples": None}))
            for one in samples:
                name = f"samples/{one['id']}_epoch_{one['epoch']}.json"
                archive.writestr(name, json.dumps(one))
    scores = read(path)
    assert scores.values["capitals", "match"] == {("1", ""): 0.5, ("2", ""): 0.5, ("3", ""): 0.0}
    assert scores.values["capitals", "match/f1"] == {("4", ""): 0.25}
    assert scores.values["capitals", "match/exact"] == {("4", ""): 1.0}
    said = " / ".join(notes_of([scores]))
    assert "1 samples of capitals with an error" in said
    assert "with no answer (N)" in said
    assert "without a score" in said


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("none.jsonl", None, "there are no scores at"),
        (NAME, "", "has no scores"),
        (NAME, "{\n", "line 1 is not JSON"),
        (NAME, "[1]\n", "line 1 is not a JSON object"),
        (NAME, '{"prompt": "x"}\n', "line 1: no doc_id or no metrics"),
        ("log.json", "[]", "not a JSON object"),
        ("log.json", "{}", "has no eval.task"),
        ("log.json", json.dumps(log([], "error")), "has the status 'error'"),
        ("log.json", "{", "cannot be read as a log"),
        ("log.eval", "no archive", "cannot be read as a log"),
    ],
)
def test_what_is_no_file_of_scores_is_one_line(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=why) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(PromptError, match=r"has no file samples_\*"):
        read(tmp_path)
