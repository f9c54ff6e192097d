"""Rights of what is written: the umask's, whatever library wrote it."""

import os
import stat

import pytest
import torch

from interp import organisms, permissions
from interp.permissions import apply_umask
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.formats import WRITABLE, write
from interp.sae.training.checkpoints import save_checkpoint
from interp.sae.training.sources import TensorSource, write_shards
from interp.store import Store
from interp.training import make_controls
from tests import tiny
from tests.store.test_store import full
from tests.training.test_control_training import QUICK


@pytest.fixture(params=[0o027, 0o002], ids=lambda mask: f"{mask:03o}")
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def audited(root, mask):
    """Every path below, and the root: how many there are, and which have other rights than the
    umask leaves.
    """
    paths = [root, *root.rglob("*")]
    rights = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    wanted = {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in paths}
    return len(paths), {
        str(path): f"{rights[path]:o}" for path in paths if rights[path] != wanted[path]
    }


def test_a_store_and_its_pages(umask, tmp_path, monkeypatch, run):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "prompts.txt").write_text("open the door\nlock the gate\npaint the window\n")
    pair = [
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--store",
        tmp_path / "store",
    ]
    for words in (
        ["intruders", *pair, "--draws", 0],
        ["compare", *pair, "--prompts", tmp_path / "prompts.txt"],
        ["report", "--all", "--store", tmp_path / "store", "--out", tmp_path / "report.html"],
    ):
        code, _, err = run(*words)
        assert code == 0, err
    Store(tmp_path / "store").write(full())
    names = {path.name for path in tmp_path.rglob("*")}
    assert {
        "model.safetensors",
        "arrays.safetensors",
        "table.parquet",
        "page.html",
        "report.html",
    } <= names
    assert list(tmp_path.glob("store/.svd/*.safetensors"))
    assert list(tmp_path.glob("store/.requests/*.json"))
    for part in ("store", "cache/organisms"):
        count, wrong = audited(tmp_path / part, umask)
        assert count > 4
        assert not wrong
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o666 & ~umask


def test_controls(umask, tmp_path):
    base = tiny.llama(7)
    tiny.save(base, tmp_path / "base")
    tiny.adapter(base, tmp_path / "lora", tmp_path / "base", 0.05, target_modules=["q_proj"])
    (tmp_path / "text.txt").write_text(
        "".join(f"please {word} the door and open it .\n" for word in tiny.WORDS.split())
    )
    make_controls(
        str(tmp_path / "lora"),
        str(tmp_path / "base"),
        tmp_path / "out",
        seeds=[0],
        text=tmp_path / "text.txt",
        device="cpu",
        recipe=QUICK,
    )
    assert list(tmp_path.glob("out/seed-0/*/adapter_model.safetensors"))
    assert not audited(tmp_path / "out", umask)[1]


def test_dictionaries_and_activations(umask, tmp_path):
    torch.manual_seed(0)
    dictionary = Dictionary(DictionaryConfig("topk", 8, 16, k=2))
    for name in WRITABLE:
        write(dictionary, tmp_path / name, name)
        assert audited(tmp_path / name, umask) == (
            len([tmp_path, *(tmp_path / name).iterdir()]),
            {},
        )
    rows = TensorSource(torch.randn(40, 8))
    write_shards(rows, tmp_path / "rows", 40, shard=16)
    save_checkpoint(tmp_path / "run", 3, [], ({"rows": rows.rows}, None), {})
    for part in ("rows", "run"):
        count, wrong = audited(tmp_path / part, umask)
        assert count > 2
        assert not wrong


def test_a_folder_hands_its_group_down_as_before(umask, tmp_path):
    inside = tmp_path / "shared" / "inside"
    inside.mkdir(parents=True)
    os.chmod(inside, 0o2700)
    (inside / "file").touch(0o600)
    apply_umask(tmp_path / "shared")
    assert stat.S_IMODE(inside.stat().st_mode) & 0o2000 == 0o2000
    assert stat.S_IMODE(inside.stat().st_mode) & 0o777 == 0o777 & ~umask
    assert stat.S_IMODE((inside / "file").stat().st_mode) == 0o666 & ~umask


def test_rights_that_are_there_stay_and_where_none_can_be_given_nothing_is_lost(
    umask, tmp_path, monkeypatch
):
    """A shared folder can hand down more than the umask leaves; some file systems take no rights."""
    file = tmp_path / "file"
    file.touch()
    file.chmod(0o666)
    apply_umask(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
    file.chmod(0o600)

    def refused(path, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    apply_umask(file)
    apply_umask(tmp_path)


def test_where_the_system_does_not_say_what_the_umask_is(umask, tmp_path, monkeypatch):
    monkeypatch.setattr(permissions, "_STATUS", tmp_path / "none")
    assert permissions._umask() == umask
    assert os.umask(umask) == umask


def test_an_organism_that_is_there_keeps_the_rights_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    file = organisms.directory("refusal/base") / "config.json"
    file.chmod(0o640)
    assert organisms.directory("refusal/base") / "config.json" == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
