"""What a writer that still runs has made is swept by nobody, where locks are granted to everybody
too.
"""

import subprocess
import sys

import pytest

from interp.store.transaction import sweep, temporary


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: None)


WRITER = """
import fcntl, sys, time
from pathlib import Path
fcntl.flock = lambda *_: None
from interp.store.transaction import temporary
with temporary(Path(sys.argv[1]), "run") as draft:
    (draft / "table").write_text("x")
    print("made", flush=True)
    sys.stdin.read()
"""


def test_a_writer_that_runs_keeps_its_draft_and_one_that_died_does_not(tmp_path, no_locks):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    with writer:
        assert writer.stdout.readline() == "made\n"
        assert sweep(tmp_path) == []
        assert [path.read_text() for path in tmp_path.glob(".temporary/*/table")] == ["x"]
        writer.kill()
        writer.wait()
        assert len(sweep(tmp_path)) == 1
    assert not list((tmp_path / ".temporary").iterdir())


@pytest.mark.parametrize("written", [b"", b"no number\n", b"99999999999999999999999999\n"])
def test_a_lock_file_that_names_no_process(tmp_path, no_locks, written):
    with temporary(tmp_path, "run") as draft:
        lock = draft.with_name(draft.name + ".lock")
        lock.write_bytes(written)
        # of another process nothing is known: its lock alone speaks for it
        assert sweep(tmp_path) == ([] if written[:1] == b"9" else [draft.name])
