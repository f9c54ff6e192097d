"""The key hashes what determines the numbers and nothing else; digests follow the bytes."""

import hashlib
import multiprocessing
import os
import time

import numpy as np
import pytest

from interp import provenance
from interp.errors import OptionError, StoreError
from interp.provenance import (
    Provenance,
    digest,
    directory_digest,
    environment,
    file_digest,
    to_json_value,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def record(**changes):
    fields = {
        "analyzer": "locate-neurons",
        "version": 1,
        "options": {"method": "change", "top": 0.5},
        "parent": None,
        "inputs": {"base": "ab", "seed": 0},
        "context": {"device": "cpu"},
    }
    return Provenance(**fields | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"analyzer": "tuco"},
        {"version": 2},
        {"options": {"method": "change", "top": 1}},
        {"parent": "ff"},
        {"inputs": {"base": "ab", "seed": 1}},
    ],
)
def test_what_determines_the_numbers_changes_the_key(change):
    assert record(**change).key != record().key


def test_what_does_not_determine_the_numbers_leaves_the_key():
    assert record(context={"device": "cuda", "seconds": 3.5}).key == record().key
    assert record(options={"top": np.float64(0.5), "method": "change"}).key == record().key
    assert hash(record(context={})) == hash(record())


def test_the_key_stays_what_it_was():
    # Stores outlive releases: this literal may only change together with a schema version.
    assert record().key == "dbe5b40718f011b9b9d3"


def test_the_record_survives_json_and_refuses_other_json():
    assert Provenance.from_json(record().to_json()) == record()
    for broken in (
        {},
        [],
        {**record().to_json(), "version": "1"},
        {**record().to_json(), "extra": 1},
    ):
        with pytest.raises(StoreError, match="provenance"):
            Provenance.from_json(broken)


def test_the_record_is_not_changed_through_what_it_was_made_from():
    options = {"layers": [1, 2]}
    made = record(options=options)
    options["layers"].append(3)
    assert made.options == {"layers": [1, 2]}


def test_plain_copies_what_json_can_hold_and_names_what_it_cannot():
    assert to_json_value({"a": (1, np.int64(2), np.array([1.5])), "b": np.bool_(True)}) == {
        "a": [1, 2, [1.5]],
        "b": True,
    }
    assert to_json_value({"x": [float("nan"), np.inf]}, finite=False) == {"x": [None, None]}
    with pytest.raises(OptionError, match=r"options\.top is nan"):
        to_json_value({"top": float("nan")}, "options")
    with pytest.raises(OptionError, match=r"options\.f\[0\] is of type set"):
        to_json_value({"f": [{1}]}, "options")
    with pytest.raises(OptionError, match="key 1"):
        to_json_value({1: 2})


def test_digest_ignores_order_and_survives_broken_text():
    assert digest({"a": 1, "b": "\ud800é"}) == digest({"b": "\ud800é", "a": 1})


def test_file_digest_is_sha256_and_follows_changes(tmp_path):
    file = tmp_path / "weights"
    for content in (b"one", b"two", b"three"):
        file.write_bytes(content)
        assert file_digest(file) == hashlib.sha256(content).hexdigest()
    with pytest.raises(OptionError, match="nowhere: No such file"):
        file_digest(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="directory"):
        file_digest(tmp_path)


def test_an_old_file_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    expected = file_digest(file)
    monkeypatch.setattr(time, "time", lambda: file.stat().st_mtime + 60)
    assert file_digest(file) == expected
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert file_digest(file) == expected
    os.utime(file, (1, 1))
    with pytest.raises(TypeError):
        file_digest(file)


def test_without_a_cache_the_file_is_read(tmp_path, monkeypatch, cache):
    cache.write_text("in the way")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    monkeypatch.setattr(time, "time", lambda: file.stat().st_mtime + 60)
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()


def _digest_all(files):
    provenance.time.time = lambda: os.stat(files[0]).st_mtime + 60
    return [file_digest(file) for file in files]


def test_several_processes_share_the_cache(tmp_path):
    files = [tmp_path / f"{i}" for i in range(20)]
    for i, file in enumerate(files):
        file.write_bytes(b"%d" % i)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_digest_all, [files, files])
    assert found == [[hashlib.sha256(b"%d" % i).hexdigest() for i in range(20)]] * 2


def test_directory_digest_is_of_names_and_contents(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.safetensors").write_bytes(b"weights")
        (tmp_path / place / f"{place}.md").write_bytes(b"notes")
    patterns = ["*.safetensors", "*.json"]
    before = directory_digest(tmp_path / "here", patterns)
    assert before == directory_digest(tmp_path / "there", patterns)
    (tmp_path / "there" / "config.json").write_bytes(b"{}")
    assert before != directory_digest(tmp_path / "there", patterns)
    with pytest.raises(OptionError, match=r"no file matching \*\.bin"):
        directory_digest(tmp_path / "here", ["*.bin"])
    with pytest.raises(OptionError, match="cannot read"):
        directory_digest(tmp_path / "nowhere", patterns)


def test_environment_names_versions_without_importing(monkeypatch):
    found = environment()
    assert {"python", "platform", "torch", "numpy"} <= set(found)
    to_json_value(found)
