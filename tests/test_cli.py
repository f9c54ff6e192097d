"""The command line: one line and the right code for whatever goes wrong, one JSON object for machines, and speed."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from interp.claims import Claim, to_table
from interp.cli import COMMANDS, main
from interp.cli.common import Common, takes
from interp.cli.text import aligned, comma_separated
from interp.errors import OptionError
from interp.provenance import Provenance
from interp.store import Store
from interp.table import table


@pytest.fixture
def run(capsys):
    """Run a command line; returns its exit code, stdout and stderr."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def only_line(err):
    assert err.startswith("interp: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


LOCATE = ("locate-neurons", "model", "--positive", "p.txt", "--negative", "n.txt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "No such command 'lss'. Did you mean 'ls'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["ls", "--nonsense"], "No such option: --nonsense; see `interp ls --help`"),
        (["ls", "extra"], "unexpected extra argument"),
        (["ls", "--store"], "'--store' requires an argument"),
        (["show"], "Missing argument 'KEY'"),
        (["sql"], "Missing argument 'QUERY'"),
        (["show", "abc", "--rows", "-1"], "'--rows': Input should be greater than or equal to 0"),
        (["show", "abc", "--rows", "many"], "'--rows'"),
        (["locate-neurons"], "Missing argument 'TUNED'"),
        (["locate-neurons", "model"], "Missing option '--positive'"),
        ([*LOCATE[:4]], "Missing option '--negative'"),
        ([*LOCATE, "--seed", "-1"], "'--seed'"),
        ([*LOCATE, "--controls", "0"], "'--controls'"),
        ([*LOCATE, "--max-prompts", "0"], "'--max-prompts'"),
        ([*LOCATE, "--verify-positive", "v.txt"], "--verify-negative"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_code_2(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def prompt_files(tmp_path_factory):
    """A folder of prompt files, good and bad, and of a model that looks like one until its weights are read."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, content in {
        "good.txt": b"one\ntwo\nthree\nfour\n",
        "other.txt": b"five\nsix\nseven\neight\n",
        "empty.txt": b"\n\n",
        "latin.txt": "caf\u00e9\n".encode("latin-1"),
        "rows.csv": b"text,label\nhello,1\n",
        "broken.jsonl": b'{"prompt": "a"}\n{"prompt"\n',
        "number.jsonl": b'{"prompt": 7}\n',
        "notes.docx": b"PK",
        "blank-markers.txt": b"\n",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "unreadable").mkdir()
    (folder / "unreadable" / "config.json").write_text("{}")
    (folder / "unreadable" / "model.safetensors").write_text("")
    return folder


@pytest.mark.parametrize(
    ("positive", "more", "said"),
    [
        ("absent.txt", [], "no prompt file"),
        ("empty.txt", [], "no prompts"),
        ("latin.txt", [], "UTF-8"),
        ("rows.csv", [], "column"),
        ("rows.csv", ["--column", "txt"], "'txt'"),
        ("broken.jsonl", [], "line 2"),
        ("number.jsonl", [], "7"),
        ("notes.docx", [], ".jsonl"),
        (".", [], "prompt file"),
        ("other.txt", [], "same prompts"),
        ("good.txt", ["--method", "magic"], "magic"),
        ("good.txt", ["--positions", "nowhere"], "nowhere"),
        ("good.txt", ["--top", "0"], "0"),
        ("good.txt", ["--top", "most"], "most"),
        ("good.txt", ["--method", "change"], "base"),
        ("good.txt", ["--batch-size", "0"], "--batch-size"),
        ("good.txt", ["--markers", "absent.txt"], "absent.txt"),
        ("good.txt", ["--markers", "{}/blank-markers.txt"], "markers"),
        ("good.txt", ["--verify-positive", "{}/good.txt"], "--verify-negative"),
        ("good.txt", ["--verify-positive", "{0}/good.txt", "--verify-negative", "{0}/other.txt"], ""),
    ],
)
def test_bad_files_and_options_are_found_before_a_model_is_read(run, tmp_path, prompt_files, positive, more, said):
    arguments = ["--positive", prompt_files / positive, "--negative", prompt_files / "other.txt"]
    arguments += [text.format(prompt_files) for text in more] + ["--store", tmp_path / "store"]
    code, out, err = run("locate-neurons", prompt_files / "unreadable", *arguments)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert "unreadable" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model", ["./no-such-model", "organism:refusal/none", "nobody/no-such", "...", "{}", "{}/unreadable"]
)
def test_what_is_no_model(run, tmp_path, prompt_files, model):
    files = ["--positive", prompt_files / "good.txt", "--negative", prompt_files / "other.txt"]
    code, out, err = run("locate-neurons", model.format(prompt_files), *files, "--store", tmp_path / "store", "--quiet")
    assert (code, out) == (2, "")
    assert model.format(prompt_files).removeprefix("organism:") in only_line(err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["ls"], ["show", "abc"], ["sql", "select 1"]], ids=lambda a: a[0])
def test_looking_at_a_missing_store_makes_none(run, tmp_path, arguments):
    code, out, err = run(*arguments, "--store", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "no store at" in only_line(err)
    assert not list(tmp_path.iterdir())


def test_help_lists_every_command_and_is_the_default(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in COMMANDS)
    assert run() == (code, out, err)
    assert run("-h") == (code, out, err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name):
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert "--store DIR" in out
    assert "--json" in out


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("interp")


def raising(monkeypatch, error):
    @takes(Common)
    def command(*, common: Common) -> None:
        raise error

    monkeypatch.setattr("interp.cli.ls.command", command)


def test_a_refusal_keeps_to_one_line_whatever_its_text(run, monkeypatch):
    raising(monkeypatch, OptionError("first\n  second"))
    assert run("ls") == (2, "", "interp: first second\n")


def test_a_defect_is_70_and_debug_shows_where(run, monkeypatch):
    raising(monkeypatch, ZeroDivisionError("by zero"))
    code, out, err = run("ls")
    assert (code, out) == (70, "")
    assert "internal error, ZeroDivisionError: by zero" in only_line(err)
    assert "--debug" in err
    code, _, err = run("ls", "--debug")
    assert code == 70
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("interp: ")


def test_interruption_is_130(run, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    assert run("ls") == (130, "", "interp: interrupted\n")


def test_a_reader_that_went_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "interp", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (0, "")


HEAVY = ("torch", "transformers", "duckdb", "plotly", "pyarrow", "scipy", "numpy", "rich")


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from interp.cli import main; main(['--help'])\n"
        f"sys.exit(' '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def seconds(*command):
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def test_help_answers_at_once():
    """At most 0.4 s, the best of three, or a tenth of importing torch where the machine is slow or busy."""
    took = min(seconds("-m", "interp", "--help") for _ in range(3))
    assert took <= 0.4 or took <= seconds("-c", "import torch") / 10


@pytest.fixture
def store(tmp_path):
    """A store with two runs made by hand; the second has a claim and a sub-table."""
    store = Store(tmp_path / "store")
    scores = {
        "layer": ([0, 0, 1], "key", "block"),
        "score": ([0.5, np.nan, 2.0], "measure", "how much"),
        "rank": ([2, 3, 1], "measure", "1 is best"),
    }
    tokens = table("neuron-tokens", {"token": (["a,b", 'say "no"', "line\nbreak"], "text", "token")})
    claim = Claim("necessity", "All of it.", 0.9, 0.8, 1, "random sets", 0.1, 0.0, 0.2, 0.005, 0.5, "at least", True)
    for seed in (0, 1):
        provenance = Provenance("locate-neurons", 1, {"method": "change"}, None, {"seed": seed}, {"tuned": "child"})
        parts = {"tokens": tokens, "claims": to_table([claim])} if seed else {}
        summary = {"sentence": f"Sentence {seed}.", "auc": 0.75}
        store.write(table("locate-neurons", scores, provenance=provenance, summary=summary, tables=parts))
    return store


def one_object(out):
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


def test_ls_shows_the_latest_first(run, store):
    code, out, err = run("ls", "--store", store.root)
    assert (code, err) == (0, "")
    assert [line.split("  ")[-1].strip() for line in out.splitlines()] == ["found", "Sentence 1.", "Sentence 0."]
    listed = one_object(run("ls", "--store", store.root, "--json")[1])["runs"]
    assert [entry["run"] for entry in listed] == [manifest.key for manifest in store.runs()[::-1]]
    assert {entry["rows"] for entry in listed} == {3}


def test_ls_of_an_empty_store_says_so_on_stderr(run, tmp_path):
    code, out, err = run("ls", "--store", tmp_path)
    assert code == 0
    assert out.split() == ["run", "kind", "rows", "written", "(UTC)", "found"]
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
    for text in ("child", "change", "0.75", "All of it.", "0.9 [0.8, 1]", "0.1 [0, 0.2] random sets", "tokens"):
        assert text in out
    assert out.index("    2     1") < out.index("  0.5     2") < out.index("    -     3")
    shown = one_object(run("show", key, "--store", store.root, "--json", "--rows", 1)[1])
    assert [shown[name] for name in ("run", "path", "cached", "rows")] == [key, str(store.path(key)), True, 3]
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
def test_bad_questions_are_one_line_and_code_2(run, store, arguments, said):
    code, out, err = run(*arguments, "--store", store.root)
    assert (code, out) == (2, "")
    assert said in only_line(err)


def test_a_beginning_that_two_runs_have_is_refused(run, store):
    first = store.runs()[0].key
    (store.root / "runs" / (first[:6] + "f" * 14)).mkdir()
    code, _, err = run("show", first[:6], "--store", store.root)
    assert code == 2
    assert "give more of it" in only_line(err)


def test_a_missing_sub_table_names_those_there_are(run, store):
    code, _, err = run("show", store.runs()[-1].key, "--store", store.root, "--table", "dose")
    assert code == 2
    assert "tokens" in only_line(err)


def test_sql_as_text_csv_and_json(run, store):
    query = "select layer, score from locate_neurons order by layer, score, run limit 4"
    code, out, err = run("sql", query, "--store", store.root)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["layer", "score"]
    assert run("sql", query, "--store", store.root, "--csv")[1] == "layer,score\n0,0.5\n0,0.5\n0,\n0,\n"
    answer = one_object(run("sql", query, "--store", store.root, "--json")[1])
    assert (answer["rows"], answer["columns"]) == (4, ["layer", "score"])
    assert answer["data"][::2] == [{"layer": 0, "score": 0.5}, {"layer": 0, "score": None}]


def test_csv_quotes_what_needs_it():
    assert comma_separated([("a,b", 'say "no"')], ("x", "y")) == 'x,y\n"a,b","say ""no"""'


def test_aligned_puts_numbers_right_and_cuts_long_lines():
    text = aligned([("a", 1, "x" * 50), ("bcd", 12345, "y")], ("name", "count", "text"), width=20)
    assert text.splitlines() == ["name  count  text", "a         1  xxxxxx…", "bcd   12345  y"]
