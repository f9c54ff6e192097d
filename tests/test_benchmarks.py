"""Every benchmark that ``make bench`` runs: complete in small, without writing anything."""

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.make import NAMES
from benchmarks.page import PAGE, CommandLine

ROOT = Path(__file__).parent.parent
WRITTEN = [PAGE, *(ROOT / "benchmarks").glob("*.json*")]


def digests():
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in WRITTEN}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_runs_to_its_end_in_small(name, tmp_path):
    before = digests()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--small"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\n|---" in done.stdout
    assert digests() == before


def test_every_benchmark_with_a_command_line_of_its_own_is_run_by_make():
    shared = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "CommandLine(globals()" in path.read_text()
    }
    assert shared == {*NAMES}
    assert all(importlib.import_module(f"benchmarks.{name}").SMALL for name in NAMES)


def test_small_changes_constants_and_defaults(monkeypatch):
    of = {"__name__": "it", "__doc__": "what it is", "DRAWS": 1000}

    def read(*words, small):
        monkeypatch.setattr(sys, "argv", ["it", *words])
        parser = CommandLine(of, small)
        parser.add_argument("--seeds", type=int, default=5)
        return parser.read()

    assert (read(small={"DRAWS": 2, "seeds": 1}).seeds, of["DRAWS"]) == (5, 1000)
    with pytest.raises(KeyError, match="it has no STEPS, rounds"):
        read("--small", small={"STEPS": 1, "rounds": 1})
    assert (read("--small", small={"DRAWS": 2, "seeds": 1}).seeds, of["DRAWS"]) == (1, 2)
    assert read("--small", "--seeds", "3", small={"seeds": 1}).seeds == 3
    with pytest.raises(SystemExit):
        read("--small", "--write", small={})
