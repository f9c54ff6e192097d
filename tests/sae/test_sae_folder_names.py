"""The name of a dictionary's folder decides nothing: what files do not say is an option, or is not
known.
"""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.errors import OptionError
from interp.sae.formats import read
from tests.sae.test_formats import CASES, DATA, KINDS

# every word by which a name decided something, or could be thought to
NAMES = [
    "embedding",
    "transcoder-16k",
    "layer_7",
    "width_16k",
    "average_l0_71",
    "gemma-scope-2b-pt-res",
    "layers.5",
    "blocks.9.hook_resid_post",
    "Llama3_1-8B-Base-L3R-8x",
    "topk",
]


def same(one, other):
    assert one.config == other.config
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_read_alike_under_every_name(case, tmp_path):
    """In no folder above it either: a sparsify's training file stands one up, and is taken along."""
    wanted, about = read(DATA / case, kind=KINDS.get(case))
    beside = (DATA / case).parent / "config.json"
    for name in NAMES:
        folder = tmp_path / f"in-{name}" / name / name
        shutil.copytree(DATA / case, folder)
        if beside.exists():
            shutil.copy(beside, folder.parent)
        found, told = read(folder, kind=KINDS.get(case))
        same(found, wanted)
        assert told == about


def test_what_files_do_not_say_is_not_taken_from_the_name():
    for case in ("gemma-scope/layer_3", "sparsify/layers.3"):
        _, about = read(DATA / case)
        assert (about["site"], about["layer"]) == (None, None)
    assert read(DATA / "gemma-scope/layer_3")[1]["model"] is None
    assert read(DATA / "llama-scope/Llama3_1-8B-Base-L3R-8x")[1]["model"] is None
    # what they say is kept
    assert (
        read(DATA / "llama-scope/Llama3_1-8B-Base-L3R-8x")[1]["site"] == "blocks.3.hook_resid_post"
    )


def test_a_place_that_the_training_of_sparsify_names_alone_is_known(tmp_path):
    shutil.copytree(DATA / "sparsify/layers.3", tmp_path / "whatever")
    for places, site, layer in (
        (["layers.8"], "layers.8", 8),
        (["layers.8", "whatever"], None, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model": "tiny", "hookpoints": places}))
        about = read(tmp_path / "whatever")[1]
        assert (about["site"], about["layer"], about["model"]) == (site, layer, "tiny")


def test_kinds_of_a_file_of_weights_alone():
    path = DATA / "gemma-scope/layer_3"
    plain, coder, scaled = (read(path, kind=kind)[0] for kind in (None, "transcoder", "embeddings"))
    assert not plain.config.is_transcoder
    assert coder.config.is_transcoder
    assert torch.equal(plain.W_dec, coder.W_dec)
    d = plain.config.d_in
    with np.load(path / "params.npz") as held:
        torch.testing.assert_close(
            scaled.W_enc.data, torch.from_numpy(held["W_enc"]) / math.sqrt(d)
        )
        torch.testing.assert_close(
            scaled.W_dec.data, torch.from_numpy(held["W_dec"]) * math.sqrt(d)
        )
        assert torch.equal(plain.W_enc.data, torch.from_numpy(held["W_enc"]))
    assert any("does not state what it is" in note for note in read(path)[1]["notes"])
    assert not any("does not state" in note for note in read(path, kind="transcoder")[1]["notes"])


def test_a_configuration_says_what_it_is_and_no_option_may(tmp_path):
    (folder := tmp_path / "embedding").mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "w_enc": torch.randn(8, 16, generator=generator),
        "w_dec": torch.randn(16, 8, generator=generator),
    }
    tensors |= {"b_enc": torch.zeros(16), "b_dec": torch.zeros(8), "threshold": torch.ones(16)}
    save_file(tensors, folder / "params.safetensors")
    said = {"model_name": "google/gemma-3-1b-pt", "hf_hook_point_in": "model.layers.7.output"}
    (folder / "config.json").write_text(json.dumps(said))
    found, about = read(folder)
    assert torch.equal(found.W_enc.data, tensors["w_enc"])
    assert (about["site"], about["layer"], about["model"]) == (
        "model.layers.7.output",
        7,
        "google/gemma-3-1b-pt",
    )
    assert not about["notes"]
    for kind in ("transcoder", "embeddings"):
        with pytest.raises(
            OptionError, match=r"config.json already states what the dictionary is"
        ) as caught:
            read(folder, kind=kind)
        assert "\n" not in str(caught.value)


def test_unlike_widths_are_a_transcoder(tmp_path):
    tensors = {"W_enc": np.ones((8, 16), np.float32), "W_dec": np.ones((16, 6), np.float32)}
    tensors |= {
        "b_enc": np.zeros(16, np.float32),
        "b_dec": np.zeros(6, np.float32),
        "threshold": np.ones(16, np.float32),
    }
    np.savez(tmp_path / "params.npz", **tensors)
    assert read(tmp_path)[0].config.d_out == 6
    with pytest.raises(OptionError, match="it is a transcoder"):
        read(tmp_path, kind="embeddings")


def test_the_command_takes_what_files_do_not_say(run, tmp_path, only_line):
    source = DATA / "gemma-scope/embedding"
    code, out, err = run("sae", "convert", source, tmp_path / "plain", "--json")
    assert code == 0
    assert "does not state what it is" in err
    assert json.loads(out)["site"] is None
    words = ["--kind", "embeddings", "--site", "blocks.0.hook_resid_pre"]
    code, out, err = run("sae", "convert", source, tmp_path / "ours", *words, "--json")
    assert code == 0
    assert "does not state" not in err
    told = json.loads(out)
    assert (told["site"], told["layer"]) == ("blocks.0.hook_resid_pre", 0)
    again, about = read(tmp_path / "ours")
    same(again, read(source, kind="embeddings")[0])
    assert about["site"] == "blocks.0.hook_resid_pre"
    for more, wrong in (
        (["--kind", "topk"], "which has no kind 'topk': use transcoder or embeddings"),
        (
            ["--kind", "transcoder"],
            "which has no kind 'transcoder': its files state what they are; leave --kind out",
        ),
        (
            ["--site", "blocks.1.hook_resid_pre"],
            "say that it reads blocks.3.hook_resid_post, not --site",
        ),
    ):
        case = source if "topk" in more else DATA / "saelens/topk_by_value"
        code, out, err = run("sae", "convert", case, tmp_path / "none", *more)
        assert (code, out) == (2, "")
        assert wrong in only_line(err)
        assert not (tmp_path / "none").exists()
