"""Quantised models: what they compute is read, edited and differentiated as it is; read weights are
what they apply.
"""

import copy
import importlib.util
import json

import pytest
import torch
from torch import nn

from interp.engines import Batch, TorchEngine
from interp.errors import UnsupportedModel
from interp.interventions.edits import Ablate
from interp.models.model import Model
from interp.models.pair import Pair
from interp.sites import MATRICES, Site, Weight, neurons
from tests import tiny
from tests.models.test_unwrap import BATCH, everything, pair


class Codes(nn.Module):
    """A linear module of 8-bit codes and a scale per row; nothing in interp knows it."""

    def __init__(self, linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(
            (linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False
        )

    def dequantised(self):
        return self.weight.float() * self.scale

    def forward(self, x):
        return x @ self.dequantised().to(x).T


def coded(model):
    """The model with codes in every block, and the plain one whose weights are the rounded ones."""
    rounded, codes = copy.deepcopy(model), copy.deepcopy(model)
    for path, part in model.named_modules():
        if isinstance(part, nn.Linear) and "layers" in path:
            name, made = path.rpartition("."), Codes(part)
            setattr(codes.get_submodule(name[0]), name[2], made)
            rounded.get_submodule(path).weight.data = made.dequantised()
    return rounded, codes


def test_codes_give_what_their_numbers_give():
    rounded, codes = coded(tiny.llama())
    wanted, found = pair(rounded), pair(codes)
    assert found.tuned.anatomy == wanted.tuned.anatomy
    for ours, theirs in zip(everything(found.tuned), everything(wanted.tuned), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    edit = Ablate(neurons(1), torch.tensor([1, 3]))
    ours, theirs = (
        TorchEngine().run(one.tuned, BATCH, edits=[edit]).logits for one in (found, wanted)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, TorchEngine().run(found.tuned, BATCH).logits)
    assert wanted.notes == ()
    assert "memory:tuned is quantised (21 matrices, Codes)" in found.notes[0]
    _, other = coded(tiny.llama(seed=1))
    assert pair(other).digests["tuned"] != found.digests["tuned"]


BNB = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.skipif(BNB, reason="bitsandbytes is installed")
def test_without_its_library_a_quantised_checkpoint_is_one_line(tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UnsupportedModel, match=r"a library that is not installed here .*bitsandbytes.*; install it"
    ) as caught:
        Pair.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not BNB, reason="needs bitsandbytes: pip install bitsandbytes")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_checkpoint_of_bitsandbytes(bits, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = (
        {"load_in_8bit": True}
        if bits == 8
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    plain = tiny.llama(hidden_size=64, intermediate_size=128, head_dim=16)
    there = AutoModelForCausalLM.from_pretrained(
        tiny.save(plain, tmp_path / "plain"),
        quantization_config=BitsAndBytesConfig(**options),
        dtype=torch.float32,
    )
    path = str(tiny.save(there, tmp_path / "quantised"))
    for part in there.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # as docs/models.md says, and tests/models/test_four_bit.py why
            part.support_avx512bf16_for_cpu = False
    found = Pair.load(path, device="cpu")
    assert f"{path} is quantised (21 matrices, Linear{bits}" in found.notes[0]
    # what is read is what the loaded module itself computes
    ids = torch.tensor([[2, 40, 41, 42, 1, 3]])
    batch = Batch.pad(ids.tolist(), 0)
    read = TorchEngine().run(
        found.tuned, batch, reads=[neurons(1), Site(1, "mlp.out.hook_out")], keep=None
    )
    with torch.no_grad():
        assert torch.equal(
            read.logits,
            there(ids, position_ids=batch.positions, attention_mask=batch.mask.long()).logits,
        )
    out = read.values[neurons(1)] @ found.tuned.write_weights(1).T
    error = (out - read.values[Site(1, "mlp.out.hook_out")]).norm() / out.norm()
    assert error < (0.02 if bits == 8 else 1e-4)  # 8-bit rounds activations too
    own = Model.wrap("plain", plain)
    for matrix in MATRICES:
        close, exact = found.tuned.weight(Weight(1, matrix)), own.weight(Weight(1, matrix))
        assert 0 < (close - exact).norm() / exact.norm() < (0.02 if bits == 8 else 0.2)
    assert all(value.isfinite().all() for value in everything(found.tuned))
