"""Text that a terminal or a locale cannot hold: JSON stays JSON, and what cannot be written is
refused at once.
"""

import json
import os
import subprocess
import sys

import pytest

from interp import organisms
from interp.cli import main
from interp.provenance import Provenance
from interp.store import Store
from interp.table import table


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_json_is_whole_in_every_encoding(tmp_path, encoding):
    store = Store(tmp_path / "sü")
    store.write(table("k", {"token": (["🚪 fenêtre"], "text", "")}, provenance=Provenance("k", 1)))
    command = [
        sys.executable,
        "-m",
        "interp",
        "sql",
        "select token from k",
        "--json",
        "--store",
        str(store.root),
    ]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
    )
    assert json.loads(done.stdout.decode(encoding))["data"] == [{"token": "🚪 fenêtre"}]
    assert (b"\\u" in done.stdout) == (encoding != "utf-8")


def test_an_argument_that_is_no_text_is_refused_at_once(tmp_path, capsys):
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/s\xfc")
    assert main(["ls", "--store", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("interp: '")
    assert "holds bytes that are not text in this locale" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_home_is_home_in_the_name_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INTERP_CACHE", "~/kept")
    monkeypatch.chdir(tmp_path)
    organisms.directory("refusal/full")
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / "~").exists()
