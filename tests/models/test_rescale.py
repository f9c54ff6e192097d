"""Singular directions and whole updates scaled in memory, and every bit as before afterwards."""

import numpy as np
import pytest
import torch

from interp.errors import UnsupportedModel
from interp.models.pair import Pair
from interp.models.rescale import SingularDirection, rescaled, update_scaled
from interp.sites import Weight
from tests import families, tiny
from tests.planted_intruders import noisy, slow

IDS = torch.tensor([[2, 40, 41, 42, 1, 3]])


def logits(model):
    with torch.no_grad(), model.active() as module:
        return module(input_ids=IDS).logits


def direction(model, part="attn.v", at=1):
    left, values, right = np.linalg.svd(
        model.weight(Weight(0, part)).double().numpy(), full_matrices=False
    )
    vectors = (
        torch.from_numpy(left[:, at].copy()).float(),
        float(values[at]),
        torch.from_numpy(right[at].copy()).float(),
    )
    return SingularDirection(Weight(0, part), *vectors)


def held(tmp_path, kind):
    if kind == "lora":
        base = tiny.save(tiny.llama(), tmp_path / "base")
        tiny.lora("llama", tiny.llama(), tmp_path / "a", base, fill=0.3)
        return Pair.load(str(tmp_path / "a"))
    base = tiny.FAMILIES[kind]() if kind in tiny.FAMILIES else families.build(kind)
    return Pair.from_modules(noisy(base), base, tiny.tokenizer())


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (
            (kind, part)
            if (kind, part) in (("gpt2", "attn.v"), ("lora", "mlp.out"))
            else slow((kind, part))
        )
        for kind in ("llama", "gpt2", "phi3", "lora")
        for part in ("attn.k", "attn.v", "mlp.in", "mlp.out")
    ],
)
def test_scaling_a_direction_is_the_rank_one_edit_and_is_undone_bit_for_bit(tmp_path, kind, part):
    pair = held(tmp_path, kind)
    model = pair.tuned
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    plain, whole, base = logits(model), model.weight(Weight(0, part)).clone(), logits(pair.base)
    one = direction(model, part)
    for scale in (0.0, 0.5, 2.0):
        with rescaled(model, [one], scale):
            edited = model.weight(Weight(0, part)).clone()
            assert not torch.equal(logits(model), plain)
        wanted = whole + (scale - 1) * one.sigma * torch.outer(one.left, one.right)
        torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=1e-5)
        assert float((edited - whole).norm()) == pytest.approx(abs(scale - 1) * one.sigma, rel=1e-3)
        if scale == 0:
            left = np.linalg.svd(edited.double().numpy(), compute_uv=False)
            rest = np.delete(np.linalg.svd(whole.double().numpy(), compute_uv=False), 1)
            np.testing.assert_allclose(left, np.append(rest, 0), atol=1e-4)
    with rescaled(model, [one], 1.0):
        assert torch.equal(logits(model), plain)
    assert all(
        torch.equal(value, before[name]) for name, value in model.module.state_dict().items()
    )
    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(pair.base), base)


@pytest.mark.parametrize("kind", [slow("llama"), slow("gpt2"), "lora"])
def test_the_whole_update_scaled_to_nothing_is_the_base(tmp_path, kind):
    pair = held(tmp_path, kind)
    plain, base = logits(pair.tuned), logits(pair.base)
    with update_scaled(pair, 0.0):
        torch.testing.assert_close(logits(pair.tuned), base)
    with update_scaled(pair, 0.5):
        half = logits(pair.tuned)
    assert not torch.allclose(half, plain)
    assert not torch.allclose(half, base)
    assert torch.equal(logits(pair.tuned), plain)
    assert torch.equal(logits(pair.base), base)


def test_an_error_inside_leaves_the_model_as_it_was(tmp_path):
    pair = held(tmp_path, "llama")
    plain = logits(pair.tuned)
    for context in (rescaled(pair.tuned, [direction(pair.tuned)], 0.0), update_scaled(pair, 0.3)):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
        assert torch.equal(logits(pair.tuned), plain)


def test_dora_cannot_be_edited(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tiny.lora("llama", tiny.llama(), tmp_path / "a", base, use_dora=True)
    pair = Pair.load(str(tmp_path / "a"))
    with (
        pytest.raises(UnsupportedModel, match="DoRA"),
        rescaled(pair.tuned, [direction(pair.tuned)], 0.5),
    ):
        pass
    with pytest.raises(UnsupportedModel, match="not a plain LoRA"), update_scaled(pair, 0.5):
        pass
