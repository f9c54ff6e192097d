"""Blocks and weights scaled: strength one is the fine-tuned model, strength zero has the blocks of the base."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from interp import claims
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.engines import Batch
from interp.engines.coupled_forward import coupled_forward
from interp.figures import plot
from interp.interventions.generation import Text, generate
from interp.models.interpolate import interpolated
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet, encode
from interp.sites import Site
from tests import tiny
from tests.tuco_pairs import ENGINE, batch_of, pair_of, some, split


def scaled(pair, alpha, batch=None, reads=()):
    alpha = [alpha] * pair.tuned.anatomy.n_layers if isinstance(alpha, (int, float)) else alpha
    with coupled_forward(pair.tuned, pair.base, alpha):
        return ENGINE.run(pair.tuned, batch or batch_of(pair), reads=reads)


@pytest.mark.parametrize("name", [*some("gemma2"), pytest.param("gemma3", marks=pytest.mark.slow)])
def test_strength_one_is_the_tuned_model_and_zero_the_base_blocks(name):
    pair = pair_of(name)
    before = ENGINE.run(pair.tuned, batch_of(pair)).logits
    assert torch.equal(scaled(pair, 1.0).logits, before)
    mixed = copy.deepcopy(pair.tuned.module)
    theirs = dict(pair.base.module.named_parameters())
    for key, value in mixed.named_parameters():
        if key.startswith(pair.tuned.anatomy.blocks_path):
            value.data.copy_(theirs[key])
    blocks = ENGINE.run(Model.wrap("blocks", mixed), batch_of(pair)).logits
    assert torch.equal(scaled(pair, 0.0).logits, blocks)
    # continuous, and undone
    steps = [(scaled(pair, 1 - e).logits - before).abs().max() for e in (1e-2, 1e-3)]
    assert steps[1] < 0.3 * steps[0]
    assert torch.equal(ENGINE.run(pair.tuned, batch_of(pair)).logits, before)


def test_strength_zero_is_the_base_where_only_blocks_differ():
    pair = pair_of("llama")
    for name, value in pair.base.module.named_parameters():
        if not name.startswith(pair.tuned.anatomy.blocks_path):
            value.data.copy_(dict(pair.tuned.module.named_parameters())[name])
    assert torch.equal(scaled(pair, 0.0).logits, ENGINE.run(pair.base, batch_of(pair)).logits)


def test_a_strength_of_one_block_changes_nothing_before_it():
    pair = pair_of("gemma2")
    sites = [Site(layer, "hook_resid_post") for layer in range(3)]
    before = ENGINE.run(pair.tuned, batch_of(pair), reads=sites).values
    after = scaled(pair, [1.0, 0.4, 1.0], reads=sites).values
    assert torch.equal(before[sites[0]], after[sites[0]])
    assert not torch.equal(before[sites[1]], after[sites[1]])
    # the formula, on the live stream
    _, ptc, ftc = split(pair, batch_of(pair), "all")
    made = before[sites[0]].double() + ptc[1] + 0.4 * ftc[1]
    torch.testing.assert_close(after[sites[1]].double(), made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*some("gpt2"), pytest.param("mistral", marks=pytest.mark.slow)])
def test_writing_with_a_cache_is_reading_anew(name):
    pair = pair_of(name, 0.05)
    ids = [encode(pair.tokenizer, text).ids for text in tiny.PROMPTS]
    with coupled_forward(pair.tuned, pair.base, [0.5] * 3):
        written = generate(ENGINE, pair.tuned, Text(ids, None, 0, (-1,)), 6)
        for prompt, answer in zip(ids, written, strict=True):
            for step, token in enumerate(answer):
                logits = ENGINE.run(pair.tuned, Batch.pad([[*prompt, *answer[:step]]], 0)).logits[
                    0, -1
                ]
                assert logits[token] >= logits.max() - 1e-4
    tuned = generate(ENGINE, pair.tuned, Text(ids, None, 0, (-1,)), 6)
    assert written != tuned


def test_a_switched_adapter_is_scaled_as_two_models_are(tmp_path):
    base = tiny.llama()
    wrapped = tiny.lora("llama", base, tmp_path / "lora")
    merged = copy.deepcopy(wrapped).merge_and_unload()
    assert isinstance(wrapped, PeftModel)
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    apart = Pair.from_modules(merged, base, tiny.tokenizer())
    for alpha in (0.0, 1.5):
        torch.testing.assert_close(
            scaled(switched, alpha).logits, scaled(apart, alpha).logits, rtol=1e-3, atol=1e-4
        )
        logits = []
        for pair in (switched, apart):
            before = ENGINE.run(pair.tuned, batch_of(pair)).logits
            with interpolated(pair, alpha) as model:
                logits.append(ENGINE.run(model, batch_of(pair)).logits)
            assert torch.equal(ENGINE.run(pair.tuned, batch_of(pair)).logits, before)
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    assert torch.equal(
        scaled(switched, 0.0).logits, ENGINE.run(switched.base, batch_of(switched)).logits
    )


def test_whole_weights_are_put_back_when_a_pass_fails():
    pair = pair_of("llama")
    before = {name: value.clone() for name, value in pair.tuned.module.named_parameters()}

    def failing():
        with interpolated(pair, 0.3) as model:
            assert not torch.equal(model.module.lm_head.weight, before["lm_head.weight"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        failing()
    assert all(
        torch.equal(value, before[name]) for name, value in pair.tuned.module.named_parameters()
    )
    with interpolated(pair, 0.0) as model:
        assert torch.equal(
            ENGINE.run(model, batch_of(pair)).logits, ENGINE.run(pair.base, batch_of(pair)).logits
        )


def test_strengths_bring_a_planted_behaviour():
    study = tiny.planted_study("llama")
    table = FtcAlpha(alphas=(0.0, 0.5), new_tokens=1)(study)
    positive = (table["group"] == "positive") & (table["way"] == "blocks")
    assert table["alpha"][positive].tolist() == [0, 0.5, 1]
    assert table["refused"][positive][[0, 2]].tolist() == [0, 1]
    assert table["matches_tuned"][positive][2] == 1
    exact = table["alpha"] == 1
    assert not table["kl"][exact].any()
    assert not table["flips"][exact].any()
    # only one block's neurons were planted: whole weights do the same
    weights = (table["group"] == "positive") & (table["way"] == "weights")
    assert table["refused"][weights][[0, 2]].tolist() == [0, 1]
    claim, beside = claims.from_table(table.tables["claims"])
    for each in (claim, beside):
        claims.check(each, table)
    assert beside.name == "blocks-against-weights"
    assert not claim.supported  # nothing among the strengths beats the tuned model
    assert "no other strength" in claim.sentence
    assert "raises the mean" not in claim.sentence
    one = PromptSet(
        tuple(replace(p, cluster="one") for p in study.contrast.positive.prompts), "one cluster"
    )
    alone = FtcAlpha(alphas=(0.0, 0.5), new_tokens=1)(
        study.with_prompts(Contrast(one, study.contrast.negative))
    )
    left = claims.from_table(alone.tables["claims"])
    assert [each.name for each in left] == ["blocks-against-weights"]
    assert not alone.summary["supported"]
    assert alone.summary["sentence"].startswith("One cluster")
    claims.check(left[0], alone)
    assert "text" not in table.tables["prompts"].data
    assert "text" in FtcAlpha((1.0,), 1, keep_text=True)(study).tables["prompts"].data
    assert json.loads(plot(table).to_json())["data"]
