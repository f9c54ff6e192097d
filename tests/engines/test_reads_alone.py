"""A batch changes no prompt's numbers: where padding or a longer prompt would, prompts are read one
at a time.
"""

import copy
import functools

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from interp.analyzers.compare import Compare
from interp.models.pair import Pair
from interp.models.preflight import rope_scaling_boundary, single_prompt_reason
from interp.prompts import OneClass, Prompt, PromptSet
from interp.study import Study
from tests import tiny

SHORT = "open the door"
LONG = (
    "please tell me how to paint old fences and open the door . close a window ? please tell me how"
    " to help"
)
BOUNDARY = 32


def changed(model: torch.nn.Module) -> torch.nn.Module:
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return other


def longrope() -> Phi3ForCausalLM:
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": BOUNDARY,
    }
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    config = Phi3Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        initializer_range=0.1,
        max_position_embeddings=512,
        original_max_position_embeddings=BOUNDARY,
        rope_parameters=rope,
    )
    return Phi3ForCausalLM(config).eval()


def without_mask() -> torch.nn.Module:
    """A model that reads padding as tokens, as recurrent families do."""
    model = tiny.llama()
    forward = model.forward

    @functools.wraps(forward)
    def ignoring(*args, attention_mask=None, position_ids=None, **given):
        return forward(*args, **given)

    model.forward = ignoring
    return model


def bloom() -> BloomForCausalLM:
    """A family that puts no positions in, but biases of attention by column."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.1)
    return BloomForCausalLM(config).eval()


def rwkv() -> RwkvForCausalLM:
    """A recurrent family, to which padding is text."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 512}
    model = RwkvForCausalLM(
        RwkvConfig(**sizes, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


MADE = {"longrope": longrope, "without mask": without_mask, "rwkv": rwkv, "bloom": bloom}


def study(pair: Pair, texts: list[str], batch_size: int | None = None, tokens: int = 8) -> Study:
    prompts = PromptSet(
        tuple(Prompt(number, text, text) for number, text in enumerate(texts)), "made"
    )
    return Study(pair, OneClass(prompts), None, batch_size=batch_size, max_new_tokens=tokens)


def pair(kind: str) -> Pair:
    base = MADE[kind]()
    if kind == "without mask":  # a copy's forward would still be the original's
        tuned = without_mask()
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter += 0.03 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(1)
                )
        return Pair.from_modules(tuned, base, tiny.tokenizer())
    return Pair.from_modules(changed(base), base, tiny.tokenizer())


@pytest.mark.parametrize("kind", [*MADE])
def test_a_batch_changes_no_prompts_numbers(kind):
    """Against plain torch in float64 arithmetic of the divergence, one prompt at a time."""
    found = pair(kind)
    texts = [SHORT, LONG, "close it", f"{SHORT} . {LONG}"]
    asked = study(found, texts)
    right = []
    for coded in asked.encoded("positive"):
        ids = torch.tensor([coded.ids])
        with torch.no_grad():
            one, other = (
                model.module(input_ids=ids).logits[0].double().log_softmax(-1)
                for model in (found.tuned, found.base)
            )
        right.append(float((one.exp() * (one - other)).sum(-1).mean()))
    for size in (None, 4, 1):
        table = Compare()(study(found, texts, size))
        np.testing.assert_allclose(table["kl"], right, rtol=1e-4)
    assert any("read one at a time" in note for note in asked.notes) == (kind != "bloom")


def test_short_prompts_of_a_family_that_scales_by_length_are_read_in_batches():
    asked = study(pair("longrope"), [SHORT, "close it"], tokens=4)
    asked.encoded("positive")
    assert not asked.single_prompt_reason
    assert not any("one at a time" in note for note in asked.notes)
    assert len(asked.groups("positive", asked.pair.tuned)) == 1


def test_answers_that_cross_the_boundary_are_those_of_generate():
    found = pair("longrope")
    asked = study(found, [SHORT, LONG, f"{SHORT} . please tell me how to close it"], tokens=24)
    crossed = 0
    for coded, answer in zip(
        asked.encoded("positive"), asked.answers("tuned", "positive"), strict=True
    ):
        ids = torch.tensor([coded.ids])
        written = found.tuned.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
        )
        assert answer == written[0, ids.shape[1] :].tolist()
        crossed += ids.shape[1] <= BOUNDARY < ids.shape[1] + len(answer)
    assert crossed


@pytest.mark.parametrize("family", [*tiny.FAMILIES])
def test_ordinary_families_are_read_in_batches(family):
    model = Pair.from_modules(tiny.FAMILIES[family](), None, tiny.tokenizer()).tuned
    assert rope_scaling_boundary(model) is None
    assert single_prompt_reason(model, 10_000) == ""


def test_the_boundary_of_a_family_that_scales_by_length():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    for made in (longrope(), tiny.llama(rope_parameters=rope, max_position_embeddings=BOUNDARY)):
        model = Pair.from_modules(made, None, tiny.tokenizer()).tuned
        assert rope_scaling_boundary(model) == BOUNDARY
        assert single_prompt_reason(model, BOUNDARY) == ""
        assert f"above {BOUNDARY} tokens" in single_prompt_reason(model, BOUNDARY + 1)
