"""Looking at stored runs from the command line: ls, show, sql, as text and as JSON."""

import json

import numpy as np
import pytest

from interp.claims import to_table
from interp.cli.text import aligned, comma_separated
from interp.provenance import Provenance
from interp.store import Store
from interp.table import table
from tests.tables import finding


@pytest.mark.parametrize(
    "arguments", [["ls"], ["show", "abc"], ["sql", "select 1"]], ids=lambda a: a[0]
)
def test_looking_at_a_missing_store_makes_none(run, only_line, tmp_path, arguments):
    code, out, err = run(*arguments, "--store", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "no store at" in only_line(err)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def store(tmp_path):
    """A store with two runs made by hand; the second has a claim and a sub-table."""
    store = Store(tmp_path / "store")
    scores = {
        "layer": ([0, 0, 1], "key", "block"),
        "score": ([0.5, np.nan, 2.0], "measure", "how much"),
        "rank": ([2, 3, 1], "measure", "1 is best"),
    }
    tokens = table(
        "neuron-tokens", {"token": (["a,b", 'say "no"', "line\nbreak"], "text", "token")}
    )
    claim = finding(
        "necessity",
        "All of it.",
        0.9,
        0.8,
        1.0,
        (0.1, 0.0, 0.2),
        0.005,
        control="random sets",
        at_least=0.5,
    )
    for seed in (0, 1):
        provenance = Provenance(
            "locate-neurons", 1, {"method": "change"}, None, {"seed": seed}, {"tuned": "child"}
        )
        parts = {"tokens": tokens, "claims": to_table([claim])} if seed else {}
        summary = {"sentence": f"Sentence {seed}.", "auc": 0.75}
        store.write(
            table("locate-neurons", scores, provenance=provenance, summary=summary, tables=parts)
        )
    return store


def one_object(out):
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


def test_ls_shows_the_latest_first(run, store):
    code, out, err = run("ls", "--store", store.root)
    assert (code, err) == (0, "")
    assert [line.split("  ")[-1].strip() for line in out.splitlines()] == [
        "found",
        "Sentence 1.",
        "Sentence 0.",
    ]
    listed = one_object(run("ls", "--store", store.root, "--json")[1])["runs"]
    assert [entry["run"] for entry in listed] == [manifest.key for manifest in store.runs()[::-1]]
    assert {entry["rows"] for entry in listed} == {3}


def test_ls_of_an_empty_store_says_so_on_stderr(run, tmp_path):
    code, out, err = run("ls", "--store", tmp_path)
    assert code == 0
    assert out.split() == ["run", "kind", "models", "written", "(UTC)", "found"]
    assert "no runs in" in err
    assert run("ls", "--store", tmp_path, "--quiet")[2] == ""
    assert one_object(run("ls", "--store", tmp_path, "--json")[1]) == {"runs": []}


def test_ls_names_what_is_no_run(run, store):
    key = store.runs()[0].key
    (store.path(key) / "manifest.json").write_text("{")
    code, out, err = run("ls", "--store", store.root)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "not a run" in err
    assert key in err


def test_show_tells_origin_sentence_claims_and_best_rows(run, store):
    key = store.runs()[-1].key
    code, out, err = run("show", key[:8], "--store", store.root)
    assert (code, err) == (0, "")
    assert out.startswith(f"locate-neurons {key}\nSentence 1.\n")
    for text in (
        "child",
        "change",
        "0.75",
        "All of it.",
        "0.9 [0.8, 1]",
        "0.1 [0, 0.2]",
        "null or control: necessity: random sets",
        "tokens",
    ):
        assert text in out
    assert out.index("    2     1") < out.index("  0.5     2") < out.index("    -     3")
    shown = one_object(run("show", key, "--store", store.root, "--json", "--rows", 1)[1])
    assert [shown[name] for name in ("run", "path", "cached", "rows")] == [
        key,
        str(store.path(key)),
        True,
        3,
    ]
    assert shown["summary"]["auc"] == 0.75
    assert shown["first"] == [{"layer": 1, "score": 2.0, "rank": 1}]
    assert shown["claims"][0]["name"] == "necessity"


def test_show_of_a_sub_table_keeps_each_row_on_its_line(run, store):
    code, out, _ = run("show", store.runs()[-1].key, "--store", store.root, "--table", "tokens")
    assert code == 0
    assert r"line\nbreak" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "zzz"], "no run 'zzz'"),
        (["show", ""], "no run ''"),
        (["sql", "select nothing"], "nothing"),
        (["sql", "select * from absent"], "absent"),
        (["sql", "delete from runs"], "expected one SELECT"),
        (["sql", "select * from read_text('/etc/hostname')"], ""),
        (["sql", ""], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_questions_are_one_line_and_code_2(run, only_line, store, arguments, said):
    code, out, err = run(*arguments, "--store", store.root)
    assert (code, out) == (2, "")
    assert said in only_line(err)


def test_a_beginning_that_two_runs_have_is_refused(run, only_line, store):
    first = store.runs()[0].key
    (store.root / (first[:6] + "f" * 14)).mkdir()
    code, _, err = run("show", first[:6], "--store", store.root)
    assert code == 2
    assert "give more digits" in only_line(err)


def test_a_missing_sub_table_names_those_there_are(run, only_line, store):
    code, _, err = run("show", store.runs()[-1].key, "--store", store.root, "--table", "dose")
    assert code == 2
    assert "tokens" in only_line(err)


def test_sql_as_text_csv_and_json(run, store):
    query = "select layer, score from locate_neurons order by layer, score, run limit 4"
    code, out, err = run("sql", query, "--store", store.root)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["layer", "score"]
    assert (
        run("sql", query, "--store", store.root, "--csv")[1]
        == "layer,score\n0,0.5\n0,0.5\n0,\n0,\n"
    )
    answer = one_object(run("sql", query, "--store", store.root, "--json")[1])
    assert (answer["rows"], answer["columns"]) == (4, ["layer", "score"])
    assert answer["data"][::2] == [{"layer": 0, "score": 0.5}, {"layer": 0, "score": None}]


def test_csv_quotes_what_needs_it():
    assert comma_separated([("a,b", 'say "no"')], ("x", "y")) == 'x,y\n"a,b","say ""no"""'


def test_aligned_puts_numbers_right_and_cuts_long_lines():
    text = aligned([("a", 1, "x" * 50), ("bcd", 12345, "y")], ("name", "count", "text"), width=20)
    assert text.splitlines() == ["name  count  text", "a         1  xxxxxx…", "bcd   12345  y"]
