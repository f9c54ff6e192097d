"""Faults, end to end: kills, full and read-only disks, rivals, other formats, flipped bits: nothing
lost, one line.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from interp.errors import StoreError
from interp.store import Store
from interp.store.manifest import SCHEMA
from tests.cli.test_faults import INTERP, command, finish, start
from tests.store.test_store import full
from tests.tables import located

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SEED, KILLS, PROMPTS = 3, 20, 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What an undisturbed run prints, the store it is in, and how long it took."""
    store = tmp_path_factory.mktemp("reference") / "runs"
    started = time.monotonic()
    record = finish(start(store, PROMPTS))
    return record, Store(store), time.monotonic() - started


def cli(*arguments, **options):
    """Exit code, stdout and stderr of a command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "interp", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


def script(text, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_behind(store):
    place = store / ".temporary"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


# A command line that counts its calls to the file system on the files that it is writing, and kills
# itself at one of them: a clock cannot tell when that is on a machine that does other things too.
KILLED_WHILE_WRITING = """
    import os, runpy, signal, sys
    last, seen = int(sys.argv.pop(1)), 0
    def hook(event, arguments):
        global seen
        if event in {"open", "os.mkdir", "os.rename", "shutil.rmtree"}:
            seen += os.path.join(".temporary", KEY) in str(arguments[0])
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    runpy.run_module("interp", run_name="__main__", alter_sys=True)
"""


def killed_while_writing(store, key, step):
    """Run the command line until it has called the file system ``step`` times on its draft of the
    run ``key``.
    """
    program = textwrap.dedent(KILLED_WHILE_WRITING).replace("KEY", repr(f"{key}-"))
    words = command(store, PROMPTS)[len(INTERP) :]
    return subprocess.Popen(
        [sys.executable, "-c", program, str(step), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )


def test_killed_at_twenty_moments_of_a_run(tmp_path, reference):
    """Twelve anywhere in the run, eight while its files are written; each next run starts on what
    the last one left.
    """
    record, kept, seconds = reference
    moments = random.Random(SEED)
    # of the fifteen calls of a run: at the second its lock is there, at the last it was published
    # and is not yet tidied
    steps = iter(moments.sample(range(2, 16), 2 * KILLS // 5))
    debris = published = 0
    store = tmp_path / "runs"
    for number in range(KILLS):
        writing = number % 5 >= 3
        if writing:
            process = killed_while_writing(store, record["run"], next(steps))
        else:
            process = start(store, PROMPTS)
            time.sleep(moments.uniform(0.0, seconds))
            process.send_signal(signal.SIGKILL)
        process.communicate()
        debris += bool(left_behind(store))
        if writing:
            assert process.returncode == -signal.SIGKILL
            assert left_behind(store) != []
        runs = Store(store).runs() if store.is_dir() else []
        assert left_behind(store) == []
        if runs:
            published += 1
            assert [run.key for run in runs] == [record["run"]]
            assert Store(store).problems() == []
            assert Store(store).get(record["run"]).equals(kept.get(record["run"]))
            shutil.rmtree(store)
    after = finish(start(store, PROMPTS))
    assert (after["run"], after["cached"], after["summary"]) == (
        record["run"],
        False,
        record["summary"],
    )
    assert Store(store).get(record["run"]).equals(kept.get(record["run"]))
    assert left_behind(store) == []
    print(f"{KILLS} kills, {debris} left debris, {published} after the run was published")


KILLED_AT_EVERY_STEP = """
    import os, signal, sys
    from pathlib import Path
    from interp.store import Store
    from tests.tables import located

    STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock", "os.scandir"}
    table = located()

    def killed(root, count):
        pid = os.fork()
        if pid:
            return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        seen = 0
        def hook(event, _):
            nonlocal seen
            seen += event in STEPS
            if event in STEPS and seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        Store(root).write(table)
        os._exit(0)

    count, debris, published = 1, 0, 0
    while killed(root := Path(sys.argv[1], str(count)), count):
        place = root / ".temporary"
        debris += place.is_dir() and any(place.iterdir())
        store = Store(root)
        assert not place.is_dir() or not any(place.iterdir())
        if root.is_dir() and store.runs():
            published += 1
            assert store.get(table.provenance.key).equals(table)
        assert not root.is_dir() or not store.problems()
        assert store.write(table).is_dir()
        assert store.get(table.provenance.key).equals(table)
        assert not any(place.iterdir()) and not (root / ".aside").exists()
        count += 1
    print(count - 1, debris, published)
"""


def test_killed_at_every_step_of_writing(tmp_path):
    """A writer kills itself at its first, second, ... call to the file system; the next one always
    finds its feet.
    """
    steps, debris, published = map(int, script(KILLED_AT_EVERY_STEP, tmp_path).split())
    print(f"{steps} steps, {debris} left debris, {published} were published")
    assert steps > 20
    assert debris > 5
    assert 0 < published < steps - debris + published


@pytest.fixture
def disk(tmp_path):
    """Mount a small file system of its own; where that is not allowed there is nothing to fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(*options):
        done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted.append(place)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_full_disk_at_every_fill(disk):
    """From no room at all to just enough: one line, what was there as it was, and a clean write
    once there is room.
    """
    root = disk("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    store = Store(root / "store")
    store.write(located(seed=1))
    before, filler, refused = files(root / "store"), root / "filler", 0
    table = full()
    for spare in range(0, 120_000, 4096):
        filler.write_bytes(bytes(shutil.disk_usage(root).free - spare))
        said = ""
        try:
            store.write(table)
        except StoreError as error:
            said = str(error)
        filler.unlink()
        if not said:
            break
        refused += 1
        assert len(said.splitlines()) == 1
        assert "No space left on device" in said
        assert files(root / "store") == before
        assert left_behind(root / "store") == []
    print(f"refused at {refused} fills, from 0 to {spare - 4096} bytes")
    assert refused > 3
    assert store.get(table.provenance.key).equals(table)
    assert left_behind(root / "store") == []
    assert store.get(located(seed=1).provenance.key).equals(located(seed=1))


def test_a_run_on_a_full_disk_then_on_one_with_room(disk, reference):
    root = disk("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    filler = root / "filler"
    for spare, said in (
        (0, "No space left"),
        (12_288, "No space left"),
        (100_000, "cannot write the page"),
    ):
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(shutil.disk_usage(root).free - spare))
        code, out, err = one_line(command(root / "runs", PROMPTS))
        assert (code, out) == (2, "")
        assert said in err
        assert left_behind(root / "runs") == []
    filler.unlink()
    record = finish(start(root / "runs", PROMPTS))
    assert record["cached"], "the table was written before the page, and is kept"
    assert Path(record["page"]).is_file()
    assert Store(root / "runs").get(record["run"]).equals(reference[1].get(record["run"]))


def one_line(words):
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.startswith("interp: ")
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stdout, done.stderr


def test_a_read_only_store_is_read_and_never_written(disk, reference):
    record, kept, _ = reference
    root = disk("-t", "tmpfs", "-o", "size=16m", "tmpfs")
    shutil.copytree(kept.root, root / "runs")
    (root / "runs" / ".temporary" / f"dead-{'0' * 12}").mkdir()
    disk("-o", "remount,ro")
    before = files(root)
    for words in (["ls"], ["show", record["run"]], ["sql", "select count(*) from locate_neurons"]):
        code, out, err = cli(*words, "--store", root / "runs")
        assert (code, err) == (0, ""), err
        assert out
    # asked again it is answered, since nothing need be written; another run is refused
    again = subprocess.run(
        command(root / "runs", PROMPTS), capture_output=True, text=True, cwd=ROOT
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["run"] == record["run"]
    code, out, err = one_line(command(root / "runs", PROMPTS + 1))
    assert (code, out) == (2, "")
    assert "cannot write to the store" in err
    assert "Read-only file system" in err
    assert files(root) == before


FOUR = """
    import random, sys
    from interp.store import Store
    from tests.tables import located
    root, number = sys.argv[1], int(sys.argv[2])
    order = random.Random(number)
    tables = [located(seed=seed) for seed in range(12)]
    class Study:
        def __init__(self, table): self.table = table
        def provenance(self, analyzer): return self.table.provenance
    print("ready", flush=True)
    sys.stdin.readline()
    made = 0
    for table in order.sample(tables, len(tables)):
        fetched = Store(root).run(lambda study: study.table, Study(table))
        assert fetched.table.equals(table) and fetched.aside is None
        made += not fetched.cached
        store = Store(root)
        assert not store.problems(), store.problems()
        rows = store.sql("select run, count(*) n from locate_neurons group by run")
        assert set(rows["n"].tolist()) == {256}
    print(made)
"""


def test_four_processes_on_one_store(tmp_path):
    """Each fetches the same twelve tables in an order of its own, and looks at the store after
    every one.
    """
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": ROOT,
    }
    words = [sys.executable, "-c", textwrap.dedent(FOUR), str(tmp_path)]
    processes = [subprocess.Popen([*words, str(number)], **pipes) for number in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate() for process in processes]
    assert [err for _, err in said] == [""] * 4
    made = [int(out) for out, _ in said]
    print(f"made by each of four: {made}")
    assert sum(made) >= 12
    assert sum(count > 0 for count in made) > 1, "one process did everything: there was no race"
    store = Store(tmp_path)
    assert {run.key for run in store.runs()} == {
        located(seed=seed).provenance.key for seed in range(12)
    }
    assert all(
        store.get(located(seed=seed).provenance.key).equals(located(seed=seed))
        for seed in range(12)
    )
    assert left_behind(tmp_path) == []
    assert not (tmp_path / ".aside").exists()


def test_four_command_lines_on_one_store(tmp_path, reference):
    """Two of the same key and two of others, started together."""
    processes = [start(tmp_path / "runs", prompts) for prompts in (2, 2, 3, 4)]
    records = [finish(process) for process in processes]
    assert records[0]["run"] == records[1]["run"] == reference[0]["run"]
    assert len({record["run"] for record in records}) == 3
    store = Store(tmp_path / "runs")
    assert {run.key for run in store.runs()} == {record["run"] for record in records}
    assert store.get(records[0]["run"]).equals(reference[1].get(records[0]["run"]))
    assert all(Path(record["page"]).is_file() for record in records)
    assert left_behind(tmp_path / "runs") == []


@pytest.fixture
def copied(tmp_path, reference):
    """A copy of the undisturbed run: its record and its directory."""
    shutil.copytree(reference[1].root, tmp_path / "runs")
    return reference[0], tmp_path / "runs" / reference[0]["run"]


@pytest.mark.parametrize(("schema", "who"), [(SCHEMA - 1, "an older"), (99, "a newer")])
def test_a_store_of_another_format_is_left_as_it_is(copied, schema, who):
    record, run = copied
    value = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(value | {"schema": schema}))
    before = files(run)
    for words in (
        [*command(run.parent, PROMPTS)],
        [sys.executable, "-m", "interp", "show", record["run"], "--store", str(run.parent)],
    ):
        code, out, err = one_line(words)
        assert (code, out) == (2, "")
        assert (
            f"written by {who} interp (schema {schema}, this one reads {SCHEMA}): run its command"
            " again" in err
        )
        assert "--store" in err
    code, _, err = cli("sql", "select * from runs", "--store", run.parent)
    assert (code, err.count("\n")) == (0, 1)
    assert who in err
    assert files(run) == before
    assert left_behind(run.parent) == []


@pytest.mark.parametrize("file", ["tables/tokens.parquet", "manifest.json"])
def test_a_flipped_bit_is_refused_then_set_aside_and_the_run_made_again(copied, reference, file):
    record, run = copied
    data = bytearray((run / file).read_bytes())
    place = data.index(b'"log_odds_tuned": ') + 18 if file == "manifest.json" else len(data) // 2
    data[place] ^= 1
    (run / file).write_bytes(data)
    store = ["--store", str(run.parent)]
    interp = [sys.executable, "-m", "interp"]
    code, out, err = one_line([*interp, "show", record["run"], *store])
    assert (code, out) == (2, "")
    assert file in err
    view = "locate_neurons_tokens" if "tokens" in file else "locate_neurons"
    code, out, err = cli("sql", f"select count(*) from {view}", *store)
    assert (code, out) == (2, "")
    assert err.startswith("interp: ")
    assert err.count("\n") == 1
    words = [word for word in command(run.parent, PROMPTS) if word != "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"note: run {record['run']} was damaged" in done.stderr
    assert not json.loads(done.stdout)["cached"]
    assert Store(run.parent).get(record["run"]).equals(reference[1].get(record["run"]))
    [aside] = (run.parent / ".aside").iterdir()
    assert (aside / file).read_bytes() == bytes(data)


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path):
    """A bit of every byte: refused, or what was read is the same (\\u00e9 is \\u00E9)."""
    store = Store(tmp_path)
    path = store.write(located()) / "manifest.json"
    data, same = path.read_bytes(), 0
    meant = store.manifest(path.parent.name)
    bits = random.Random(SEED)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bits.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(StoreError):
            assert store.manifest(path.parent.name) == meant
            same += 1
    print(f"{len(data)} flips, {same} of them without a meaning")
    assert same < len(data) / 100
    path.write_bytes(data)
    assert store.manifest(path.parent.name) == meant


def test_no_flipped_byte_of_a_table_goes_unnoticed(tmp_path):
    store = Store(tmp_path)
    run = store.write(full())
    for file in ("table.parquet", "tables/part.parquet", "arrays.safetensors"):
        data = (run / file).read_bytes()
        for place in random.Random(SEED).sample(range(len(data)), 100):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            (run / file).write_bytes(flipped)
            with pytest.raises(StoreError, match="does not match its digest"):
                store.get(run.name)
        (run / file).write_bytes(data)
    assert store.get(run.name).equals(full())


def test_a_reader_without_room_is_one_line(reference):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "interp", "ls", "--store", str(reference[1].root)],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("interp: cannot write")
    assert done.stderr.count("\n") == 1
