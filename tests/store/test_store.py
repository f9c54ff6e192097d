"""The store keeps tables exactly, survives crashes and rivals, and is only read by those who only
look.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from interp.errors import InterpError, RunNotFound, StoreError
from interp.store import Store, StoredRun, transaction
from interp.store.journal import Journal
from interp.table import Table, table
from tests.tables import located, mixed, provenance, verified

ROOT = Path(__file__).parents[2]


def full(**changes):
    arrays = {
        "mask": np.array([[True, False]]),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "none": np.zeros((0, 3)),
        "one": np.array(3.5),
        "bytes": np.arange(3, dtype=np.uint8),
    }
    return mixed(
        **{
            "provenance": provenance(),
            "summary": {"sentence": "é", "x": 1.5, "n": None},
            "arrays": arrays,
            "tables": {"part": mixed(2, summary={"k": 1}), "empty": mixed(0)},
        }
        | changes
    )


@dataclasses.dataclass(frozen=True)
class Study:
    seed: int = 0

    def provenance(self, analyzer):
        return provenance(seed=self.seed)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def is_one_line(caught):
    return len(str(caught.value).splitlines()) == 1


def test_there_and_back(tmp_path):
    written = full()
    store = Store(tmp_path / "runs with spaces, é")
    store.write(written)
    read = store.get(provenance().key)
    assert read.equals(written)
    assert read.provenance == written.provenance
    assert read.summary == written.summary
    assert read.tables["part"].summary == {"k": 1}
    assert np.signbit(read["double"][4])
    assert read.tables["empty"]["text"].dtype == object
    assert list(read.tables) == list(written.tables)


@pytest.mark.parametrize("made", [mixed(0), table("bare", {}), table("n", {"x": ([1], "key", "")})])
def test_small_and_empty_tables(tmp_path, made):
    made = dataclasses.replace(made, provenance=provenance())
    store = Store(tmp_path)
    store.write(made)
    assert store.get(provenance().key).equals(made)


def test_the_files_are_those_of_the_format(tmp_path):
    path = Store(tmp_path).write(full())
    assert files(tmp_path) == [
        f"{path.name}/{name}"
        for name in (
            "arrays.safetensors",
            "manifest.json",
            "table.parquet",
            "tables/empty.parquet",
            "tables/part.parquet",
        )
    ]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["schema"] == 6
    assert manifest["table"]["columns"][2] == {
        "name": "double",
        "role": "measure",
        "meaning": "float64",
        "unit": "nats",
        "dtype": "float64",
    }


def test_a_run_is_computed_once(tmp_path):
    calls = []

    def analyzer(study):
        calls.append(study)
        return mixed()

    store = Store(tmp_path)
    first, second = store.run(analyzer, Study()), store.run(analyzer, Study())
    assert (first.cached, second.cached, len(calls)) == (False, True, 1)
    assert first.table.equals(second.table)
    assert first.path == second.path == store.path(first.key)
    assert second.table.provenance.context["seconds"] == 12.5
    assert store.run(analyzer, Study(seed=1)).equals(first.table)
    assert len(calls) == 2
    assert store.has(first.key)
    assert not store.has("0" * 20)


def test_a_stored_run_is_a_table_with_claims_and_a_figure(tmp_path):
    store = Store(tmp_path)
    path = store.write(verified(located().provenance.key))
    run = store.get(path.name)
    assert isinstance(run, StoredRun)
    assert isinstance(run, Table)
    assert (run.key, run.path, run.cached) == (path.name, path, True)
    assert run.claims["necessity"].supported
    assert run.claims["necessity"].interval[0] <= run.claims["necessity"].value
    assert len(run.to_pandas()) == len(run) == len(run["condition"])
    assert run.plot().data
    assert store.get(store.write(located()).name).claims == {}


def test_a_changed_copy_of_a_stored_run_is_a_plain_table(tmp_path):
    store = Store(tmp_path)
    run = store.get(store.write(located()).name)
    changed = dataclasses.replace(run, summary={"sentence": "changed"})
    assert type(changed) is type(run.table) is Table
    assert changed.equals(run)


def test_a_failing_or_interrupted_analyzer_leaves_nothing(tmp_path):
    def analyzer(study):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).run(analyzer, Study())
    assert files(tmp_path) == []


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(directory):
        assert files(directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(transaction, "flush_tree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).write(full())
    assert files(tmp_path) == []


def test_a_table_of_another_key_is_a_defect(tmp_path):
    with pytest.raises(ValueError, match="its study says"):
        Store(tmp_path).run(lambda study: mixed(provenance=provenance(seed=9)), Study())


def test_find_by_prefix(tmp_path):
    store = Store(tmp_path)
    keys = [store.write(mixed(provenance=provenance(seed=seed))).name for seed in range(20)]
    for key in keys:
        assert store.find(key) == store.find(key[:12]) == key
        assert store.path(key[:12]).name == key
        assert store.manifest(key[:12]).key == key
    shared = next(key[0] for key in keys if sum(other[0] == key[0] for other in keys) > 1)
    for wrong, message in (
        (shared, "begins the keys of"),
        ("", "no run ''"),
        ("zz", "no run 'zz'"),
        ("../x", "no run"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            store.get(wrong)
        assert is_one_line(caught)
    assert [run.key for run in store.runs()] == keys


def test_looking_creates_nothing(tmp_path):
    store = Store(tmp_path / "nowhere")
    for look in (
        store.runs,
        store.problems,
        lambda: store.get("ab"),
        lambda: store.sql("select 1"),
    ):
        with pytest.raises(StoreError, match="there is no store at") as caught:
            look()
        assert is_one_line(caught)
    assert not store.has("ab")
    assert not (tmp_path / "nowhere").exists()
    assert Store(tmp_path).runs() == []
    with pytest.raises(RunNotFound, match="it has 0 runs"):
        Store(tmp_path).get("ab")
    assert files(tmp_path) == []


def test_a_store_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="Not a directory"):
        Store(tmp_path / "file" / "below").write(full())
    with pytest.raises(
        StoreError, match="cannot write to the store /proc/interp: No such file"
    ) as caught:
        Store("/proc/interp").run(lambda study: pytest.fail("computed for nothing"), Study())
    assert is_one_line(caught)


def test_names_that_no_file_may_have(tmp_path):
    for bad in (full(tables={"../x": mixed()}), dataclasses.replace(full(), kind="a/b")):
        with pytest.raises(ValueError, match="cannot name a table"):
            Store(tmp_path).write(bad)
    with pytest.raises(ValueError, match="no provenance"):
        Store(tmp_path).write(mixed())


def damaged(path, how):
    manifest = path / "manifest.json"
    value = json.loads(manifest.read_text())
    if how == "no manifest":
        manifest.unlink()
    elif how == "no JSON":
        manifest.write_bytes(b"\xff{")
    elif how == "other JSON":
        manifest.write_text("[]")
    elif how == "truncated":
        os.truncate(path / "table.parquet", 20)
    elif how == "missing":
        (path / "tables" / "part.parquet").unlink()
    elif how == "flipped":
        data = bytearray((path / "table.parquet").read_bytes())
        data[10] ^= 1
        (path / "table.parquet").write_bytes(data)
    elif how == "other key":
        manifest.write_text(json.dumps(value | {"key": "0" * 20}))
    elif how == "other inputs":
        value["provenance"]["inputs"]["seed"] = 5
        manifest.write_text(json.dumps(value))
    elif how == "path outside":
        value["tables"]["part"]["file"] = "../../../etc/passwd"
        manifest.write_text(json.dumps(value))
    elif how == "a file":
        for file in path.rglob("*.*"):
            file.unlink()
        (path / "tables").rmdir()
        path.rmdir()
        path.write_text("x")


DAMAGE = (
    "no manifest",
    "no JSON",
    "other JSON",
    "truncated",
    "missing",
    "flipped",
    "other key",
    "other inputs",
    "path outside",
    "a file",
)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_run_is_named_then_moved_aside_and_made_again(tmp_path, how):
    store = Store(tmp_path)
    path = store.write(full())
    damaged(path, how)
    with pytest.raises(StoreError) as caught:
        store.get(path.name)
    assert is_one_line(caught)
    assert str(path) in str(caught.value)
    if how != "flipped":
        assert store.runs() == []
        assert len(store.problems()) == 1
    fetched = store.run(lambda study: full(), Study())
    assert not fetched.cached
    assert fetched.aside.parent == tmp_path / ".aside"
    assert store.get(path.name).equals(full())
    assert len(list((tmp_path / ".aside").iterdir())) == 1


def test_write_moves_aside_what_is_in_its_way(tmp_path):
    store = Store(tmp_path)
    path = tmp_path / provenance().key
    (path / "kept").mkdir(parents=True)
    assert store.write(full()) == path
    assert [p.name for p in (tmp_path / ".aside").glob("*/*")] == ["kept"]


def test_a_store_of_the_old_layout_is_refused_and_left_as_it_is(tmp_path):
    path = Store(tmp_path / "new").write(full())
    old = tmp_path / "old"
    shutil.copytree(path, old / "runs" / path.name)
    manifest = old / "runs" / path.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 6', '"schema": 5'))
    with pytest.raises(StoreError, match=r"older interp.*--store") as caught:
        Store(old)
    assert is_one_line(caught)
    assert (old / "runs" / path.name / "manifest.json").is_file()


def test_a_folder_that_has_a_store_named_runs_is_not_taken_for_an_old_one(tmp_path):
    Store(tmp_path / "runs").write(full())
    assert Store(tmp_path).runs() == []


def test_a_run_of_a_newer_interp_is_left_alone(tmp_path):
    store = Store(tmp_path)
    path = store.write(full())
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 6', '"schema": 7'))
    for use in (
        lambda: store.get(path.name),
        lambda: store.run(lambda study: full(), Study()),
        lambda: store.write(full()),
    ):
        with pytest.raises(StoreError, match="newer interp"):
            use()
    assert manifest.exists()


def test_unreadable_is_not_damaged(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.write(full())

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        store.run(lambda study: pytest.fail("computed again"), Study())
    assert path.exists()


def test_a_rival_that_was_first_wins(tmp_path):
    store = Store(tmp_path)
    first = full(provenance=provenance(host="first"))

    def slow(study):
        Store(tmp_path).write(first)
        return full(provenance=provenance(host="second"))

    fetched = store.run(slow, Study())
    assert fetched.table.provenance.context["host"] == "first"
    assert len(files(tmp_path)) == 5


WRITER = """
    import os, sys, time
    from interp.store import Store, transaction
    from tests.tables import located
    root, how = sys.argv[1:]
    if how == "hang":
        def hang(directory):
            print("filled", flush=True)
            time.sleep(60)
        transaction.flush_tree = hang
    else:
        print("ready", flush=True)
        sys.stdin.readline()
    Store(root).write(located())
"""


def writer(root, how):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(root), how],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_processes_write_one_key_at_once(tmp_path):
    processes = [writer(tmp_path, "race") for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    store = Store(tmp_path)
    assert [run.key for run in store.runs()] == [located().provenance.key]
    assert store.get(located().provenance.key).equals(located())
    assert {path.name for path in tmp_path.iterdir()} == {".temporary", located().provenance.key}
    assert files(tmp_path / ".temporary") == []


def test_killed_in_the_middle_then_run_again(tmp_path):
    process = writer(tmp_path, "hang")
    assert process.stdout.readline() == "filled\n"
    left = files(tmp_path / ".temporary")
    assert len(left) == 4
    Store(tmp_path)
    assert files(tmp_path / ".temporary") == left, "a living writer was swept"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert Store(tmp_path).runs() == []
    assert list((tmp_path / ".temporary").iterdir()) == []
    store = Store(tmp_path)
    store.write(located())
    assert store.get(located().provenance.key).equals(located())


def test_ctrl_c_in_the_middle(tmp_path, interruptible):
    process = writer(tmp_path, "hang")
    assert process.stdout.readline() == "filled\n"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert files(tmp_path) == []


def test_sweeping_spares_the_living_and_the_unknown(tmp_path):
    with transaction.temporary(tmp_path, "alive") as alive:
        own = transaction.HOST
        orphan = tmp_path / ".temporary" / f"orphan-{own}{'a' * 8}"
        orphan.mkdir()
        (tmp_path / ".temporary" / f"dead-{own}{'0' * 8}.lock").touch()
        assert transaction.sweep(tmp_path) == [f"dead-{own}{'0' * 8}", orphan.name]
        assert alive.is_dir()
        assert not orphan.exists()
    assert list((tmp_path / ".temporary").iterdir()) == []
    # of another host, whose locks do not hold here
    elsewhere = f"draft-{'0000' if own != '0000' else '1111'}{'a' * 8}"
    named = ("photos", "a.lock", "notes-2026", "x-ABCDEF012345", elsewhere, f"{elsewhere}.lock")
    others = [tmp_path / ".temporary" / name for name in named]
    for path in others:
        path.mkdir()
    assert transaction.sweep(tmp_path) == []
    assert all(path.is_dir() for path in others), "what no writer made is not ours to remove"
    assert transaction.sweep(tmp_path / "nowhere") == []


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    root = tmp_path_factory.mktemp("a[1]* 'é") / "store"
    store = Store(root)
    keys = [store.write(located(seed=seed)).name for seed in range(3)]
    store.write(verified(keys[0]))
    store.write(full(provenance=provenance("mixed")))
    return store, keys


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ('select count(*) n, count(distinct run) r from "locate-neurons"', [(768, 3)]),
        ("select count(*), sum(rank) from locate_neurons where selected", [(30, 165.0)]),
        ("select run = 'KEY' from locate_neurons_tokens where run = 'KEY' limit 1", [(True,)]),
        (
            "select kind, parent, version, rows from runs where analyzer = 'verify-neurons'",
            [("verify-neurons", "KEY", 1, 12)],
        ),
        (
            "select sentence, summary->>'$.method' m from runs where key = 'KEY'",
            [("10 of 256 MLP neurons carry the refusal.", "integrated")],
        ),
        ("select name from verify_neurons_claims where not supported", [("sufficiency",)]),
        (
            (
                "with top as (from locate_neurons where rank = 1) select count(*) from top join"
                " runs on run = key"
            ),
            [(3,)],
        ),
        (
            "select null as a, 1 as a, 2.5::decimal(9,2) as b, date '2020-01-02' as c, [1] as d",
            [("", 1, 2.5, "2020-01-02", "[1]")],
        ),
        ("select count(*) from (show tables)", [(0,)]),
        ("select 1 where false", []),
        ("select count(*) > 0 from (select unnest(string_split('a', 'b')))", [(True,)]),
    ],
)
def test_sql(asked, query, rows):
    store, keys = asked
    found = [tuple(row.values()) for row in store.sql(query.replace("KEY", keys[0])).rows()]
    if "show tables" in query:
        assert found[0][0] > 8
    else:
        assert found == [
            tuple(
                value.replace("KEY", keys[0]) if isinstance(value, str) else value for value in row
            )
            for row in rows
        ]


def test_sql_keeps_values_exactly(asked):
    found = asked[0].sql("select * exclude (run) from mixed order by id")
    assert all(
        np.array_equal(found[name], mixed()[name], equal_nan=mixed()[name].dtype.kind == "f")
        for name in ("id", "double", "flag", "text")
    )
    assert found["single"].dtype == np.float64


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selec 1", "syntax error"),
        ("", "expected one SELECT"),
        ("select 1; select 2", "expected one SELECT"),
        ("create table x (y int)", "expected one SELECT"),
        ("copy (select 1) to 'STORE/x.csv'", "expected one SELECT"),
        ("attach 'STORE/x.db'", "expected one SELECT"),
        ("set enable_external_access = true", "expected one SELECT"),
        ("select * from nope", r"\(views: .*locate_neurons, .*runs\)"),
        ("select * from read_text('/etc/passwd')", "Cannot access file"),
        ("select * from '/etc/passwd'", "does not exist|Cannot access"),
        ("select * from read_csv('STORE/../x.csv')", "Cannot access file"),
        ("select * from store", "does not exist"),
        ("select nope from runs", "nope"),
    ],
)
def test_sql_that_is_refused(asked, query, message):
    store, _ = asked
    before = files(store.root)
    with pytest.raises(StoreError, match=message) as caught:
        store.sql(query.replace("STORE", str(store.root).replace("'", "''")))
    assert is_one_line(caught)
    assert files(store.root) == before


def test_sql_over_runs_of_different_columns_and_none(tmp_path):
    store = Store(tmp_path)
    assert len(store.sql("select * from runs")) == 0
    store.write(table("k", {"x": ([1], "measure", "")}, provenance=provenance(seed=1)))
    store.write(
        table(
            "k",
            {"x": ([0.5], "measure", ""), "y": (["é"], "text", "")},
            provenance=provenance(seed=2),
        )
    )
    found = store.sql("select x, y from k order by x")
    assert (found["x"].tolist(), found["y"].tolist()) == ([0.5, 1.0], ["é", ""])


def test_all_refusals_are_ours(tmp_path):
    assert issubclass(StoreError, InterpError)


def test_a_million_rows_take_moments(tmp_path):
    generator = np.random.default_rng(0)
    big = table(
        "big",
        {
            "layer": (np.repeat(np.arange(100), 10_000), "key", ""),
            "score": (generator.normal(size=10**6), "measure", ""),
        },
        provenance=provenance(),
    )
    started = time.perf_counter()
    Store(tmp_path).write(big)
    assert Store(tmp_path).get(big.provenance.key).equals(big)
    assert len(Store(tmp_path).sql("select layer, avg(score) from big group by layer")) == 100
    assert time.perf_counter() - started < 10


def test_a_journal_keeps_parts_and_takes_those_of_another_process(tmp_path):
    path, made = tmp_path / ".unfinished" / "k.jsonl", []

    def make(value):
        made.append(value)
        return {"x": value, "none": float("nan")}

    one, other = Journal(path), Journal(path)
    assert one.part("a", lambda: make(1.5))["x"] == 1.5
    assert other.part("a", lambda: make(9.0))["x"] == 1.5
    assert math.isnan(Journal(path).part("a", lambda: make(9.0))["none"])
    assert made == [1.5]
    with path.open("a") as file:
        file.write('{"name": "torn", "val')
    assert Journal(path).part("torn", lambda: make(2.0))["x"] == 2.0
    assert len(Journal(path)) == 2
    one.remove()
    one.remove()
    assert not path.parent.exists()
