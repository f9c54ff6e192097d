"""Runs that are killed, and runs that race: the same table afterwards, and no debris."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp import organisms
from interp.store import Store

INTERP = (sys.executable, "-m", "interp")


def command(store: Path, prompts: int) -> list[str]:
    files = [
        str(organisms.prompts("refusal", "locate", group)) for group in ("harmful", "harmless")
    ]
    return [
        *INTERP,
        "locate-neurons",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--max-prompts",
        str(prompts),
        "--no-verify",
        "--store",
        str(store),
        "--json",
        "--quiet",
    ]


def start(store: Path, prompts: int = 6) -> subprocess.Popen:
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(store, prompts),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet,
    )


def computing(store: Path, process: subprocess.Popen) -> None:
    """Wait until the run's store is there: it is made after everything is loaded and before
    anything is computed.
    """
    begun = time.monotonic()
    while not (store / ".temporary").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < begun + 240
        time.sleep(0.05)


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[dict, Store]:
    store = tmp_path_factory.mktemp("reference") / "runs"
    return finish(start(store)), Store(store)


def same(store: Path, reference: tuple[dict, Store]) -> None:
    record, kept = reference
    table = Store(store).get(record["run"])
    assert table.equals(kept.get(record["run"]))
    left = [path for path in store.rglob("*") if path.is_dir() and path.parent.name == ".temporary"]
    assert left == []


def test_json_is_one_object_that_names_run_path_rows_and_summary(run, tmp_path):
    """In this process: the slow tests below start others."""
    code, out, err = run(*command(tmp_path / "runs", 6)[len(INTERP) :])
    assert (code, err) == (0, "")
    record, store = json.loads(out), Store(tmp_path / "runs")
    assert {"run", "path", "cached", "rows", "summary"} <= set(record)
    assert record["rows"] == len(store.get(record["run"]))
    assert not record["cached"]
    assert Path(record["page"]).is_file()


@pytest.mark.slow
def test_a_run_killed_in_the_middle_is_made_whole_by_the_next(tmp_path, reference):
    process = start(tmp_path / "runs")
    computing(tmp_path / "runs", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Store(tmp_path / "runs").runs() == []
    finish(start(tmp_path / "runs"))
    same(tmp_path / "runs", reference)


@pytest.mark.slow  # of the store alone, in test_store.py, it is tested by default
def test_two_runs_that_write_one_key_at_once_agree(tmp_path, reference):
    processes = [start(tmp_path / "runs") for _ in range(2)]
    keys = {finish(process)["run"] for process in processes}
    assert keys == {reference[0]["run"]}
    same(tmp_path / "runs", reference)


@pytest.mark.slow
def test_interrupting_leaves_the_store_clean(tmp_path, interruptible):
    # minutes of work, so that it is interrupted in it
    process = start(tmp_path / "runs", prompts=144)
    computing(tmp_path / "runs", process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.strip() == "interp: interrupted"
    assert not (tmp_path / "runs").exists() or not Store(tmp_path / "runs").runs()
