"""A .gguf file is a model like any other: dequantised once, said in a note, its weights streamed as
others are.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from interp import organisms
from interp.cli import main
from interp.errors import ModelNotFound, TruncatedWeights, UnsupportedModel
from interp.models import gguf, preflight, sources
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.provenance import sha256_of
from tests import tiny

NEEDS_GGUF = pytest.mark.skipif(
    find_spec("gguf") is None, reason="gguf is not installed: pip install '.[real]'"
)
pytestmark = NEEDS_GGUF


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base():
    return tiny.llama(seed=3)


@pytest.fixture
def file(base, tmp_path):
    from tests.gguf_file import write

    (tmp_path / "held").mkdir()
    return write(base, tmp_path / "held" / "tiny.gguf")


def test_its_weights_are_the_models(file, base):
    pair = Pair.load(str(file))
    wanted = base.state_dict()
    found = pair.tuned.module.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert pair.notes == ("tiny.gguf is dequantised to float32",)
    assert pair.digests["tuned"] == sha256_of(file)


def test_its_template_and_its_end_token_arrive(file):
    pair, ours = Pair.load(str(file)), tiny.tokenizer()
    assert pair.tokenizer.chat_template == ours.chat_template
    assert pair.stop_ids == (ours.eos_token_id,)
    chat = [{"role": "user", "content": "open the door"}]
    options = {"add_generation_prompt": True, "return_dict": False}
    assert pair.tokenizer.apply_chat_template(chat, **options) == ours.apply_chat_template(
        chat, **options
    )


def test_a_directory_with_one_is_one(file, tmp_path):
    assert sources.find(str(file.parent)).origin == file
    (file.parent / "config.json").write_text("{}", encoding="utf-8")
    assert sources.find(str(file.parent)).origin == file
    (file.parent / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(
        ModelNotFound, match=r"2 \.gguf files, first other\.gguf and tiny\.gguf; give one"
    ):
        sources.find(str(file.parent))


def test_a_directory_with_safetensors_is_read_from_them(file, base):
    tiny.save(base, file.parent)
    assert sources.find(str(file.parent)).origin is None


def test_it_is_written_once_and_says_no_quantisation(file):
    first = sources.find(str(file)).directory
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert sources.find(str(file)).directory == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert first.is_relative_to(organisms.cache_root())
    assert "quantization_config" not in json.loads(
        (first / "config.json").read_text(encoding="utf-8")
    )
    assert all(
        value.dtype == torch.float32 for value in load_file(first / "model.safetensors").values()
    )


def test_a_pair_of_it_and_a_child_is_streamed_from_disk(file, base, tmp_path):
    child = tiny.save(tiny.perturbed(base), tmp_path / "child")
    pair = WeightPair.load(str(child), str(file), quiet=True)
    assert "tiny.gguf is dequantised to float32" in pair.notes
    matrix = next(
        one for one in pair.matrices if one.tensor == "model.layers.1.self_attn.q_proj.weight"
    )
    both = pair.read(matrix)
    assert torch.equal(both.base, base.get_parameter(matrix.tensor))
    assert both.is_changed


def test_a_command_says_it(file, base, tmp_path, capsys):
    child = tiny.save(tiny.perturbed(base), tmp_path / "child")
    words = ["intruders", str(child), "--base", str(file), "--store", str(tmp_path / "runs")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "tiny.gguf is dequantised to float32" in said.out + said.err


def test_what_cannot_be_read_is_one_line(file, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(TruncatedWeights, match=r"does not start like a \.gguf file"):
        sources.find(str(tmp_path / "no.gguf"))
    (tmp_path / "half.gguf").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(TruncatedWeights, match=r"half\.gguf is truncated or damaged"):
        sources.find(str(tmp_path / "half.gguf"))
    assert not list((tmp_path / "cache" / "gguf").glob("*/*"))


def test_without_the_reader_one_line_says_how_to_install_it(file, monkeypatch, capsys):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(
        UnsupportedModel, match=r"tiny\.gguf cannot be read without .*pip install '\.\[real\]'"
    ):
        sources.find(str(file))
    assert main(["intruders", str(file), "--base", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install '.[real]'" in err


def test_finding_a_file_that_is_there_already_imports_no_torch(file, tmp_path):
    sources.find(str(file))
    code = (
        f"import sys; from interp.models import sources; sources.find({str(file)!r});"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 0


@pytest.mark.parametrize("named", ["held/tiny.gguf", "held"])
def test_an_adapter_that_names_the_file_is_on_that_base(tmp_path, named):
    """What is read is a dequantised copy elsewhere."""
    base = sources.Source("tiny", tmp_path / "cache", origin=tmp_path / "held" / "tiny.gguf")
    adapter = sources.Source(
        "own", tmp_path / "own", {"base_model_name_or_path": str(tmp_path / named)}
    )
    assert preflight.recorded_base_notes(adapter, base) == ()
    other = sources.Source(
        "own", tmp_path / "own", {"base_model_name_or_path": str(tmp_path / "other.gguf")}
    )
    assert len(preflight.recorded_base_notes(other, base)) == 1
