"""Adapters that were made on a base with more rows of tokens: compared on the base, over the ids
that it has.
"""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.analyzers.compare import Compare
from interp.errors import PromptError, UnsupportedModel
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.prompts import encode
from interp.study import Study
from tests import tiny

ROWS = len(tiny.tokenizer())
NEW = "<|im_start|>"


@pytest.fixture(scope="module")
def models():
    base = tiny.llama()
    return base, tiny.perturbed(base)


ADAPTERS = {
    "saved-beside": {},
    "kept-whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "factors": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


@pytest.fixture(params=ADAPTERS)
def adapted(request, tmp_path, models):
    """An adapter that was made on a base with more rows, as peft saves it; the base; both as the
    maker had them.
    """
    return written(models[0], tmp_path, **ADAPTERS[request.param])


def written(base, place, **config):
    tiny.save(base, place / "base")
    longer = tiny.resized(base, 345)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **config}
        wrapped = get_peft_model(copy.deepcopy(longer), LoraConfig(**settings)).eval()
        wrapped.peft_config["default"].base_model_name_or_path = str(place / "base")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        wrapped.save_pretrained(place / "adapter")
    tiny.added(NEW).save_pretrained(place / "adapter")
    return place, longer, wrapped


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits


def test_an_adapter_of_a_resized_base_is_compared_on_the_base(adapted):
    place, longer, wrapped = adapted
    pair = Pair.load(str(place / "adapter"), str(place / "base"), device="cpu")
    assert any(
        "rows for 333 token ids and the fine-tuned model for 345" in note for note in pair.notes
    )
    ids = list(encode(pair.tokenizer, "open the door").ids)
    for model, theirs in ((pair.base, longer), (pair.tuned, wrapped)):
        with model.active() as module:
            torch.testing.assert_close(logits(module, ids), logits(theirs, ids)[..., :ROWS])
    assert len(Compare()(Study(pair, tiny.contrast(6), None, max_new_tokens=3)))
    with pytest.raises(PromptError, match="--new-tokens mean"):
        encode(pair.tokenizer, f"open {NEW}")


def test_with_the_mean_an_adapter_of_a_resized_base_reads_its_tokens(adapted):
    place, _, wrapped = adapted
    pair = Pair.load(str(place / "adapter"), str(place / "base"), device="cpu", new_tokens="mean")
    assert any("the rows stored in the adapter's file" in note for note in pair.notes)
    ids = list(encode(pair.tokenizer, f"open {NEW}").ids)
    assert ROWS in ids
    with pair.tuned.active() as module:
        torch.testing.assert_close(logits(module, ids), logits(wrapped, ids)[..., : ROWS + 1])


def test_an_adapter_that_leaves_the_rows_alone(tmp_path, models):
    tiny.save(models[0], tmp_path / "base")
    tiny.adapter(models[0], tmp_path / "adapter", tmp_path / "base", target_modules=["q_proj"])
    tiny.added(NEW).save_pretrained(tmp_path / "adapter")
    pair = Pair.load(str(tmp_path / "adapter"), device="cpu")
    with pytest.raises(PromptError, match=r"the base has no row for .*--new-tokens mean"):
        encode(pair.tokenizer, NEW)
    mean = Pair.load(str(tmp_path / "adapter"), device="cpu", new_tokens="mean")
    rows = mean.base.module.get_input_embeddings().weight
    torch.testing.assert_close(rows[ROWS], rows[:ROWS].mean(0))
    assert ROWS in encode(mean.tokenizer, NEW).ids


def test_an_adapter_that_trains_single_tokens(tmp_path, models):
    place, _, wrapped = written(
        models[0], tmp_path, trainable_token_indices={"embed_tokens": [5, ROWS]}
    )
    with pytest.raises(
        UnsupportedModel,
        match=r"trains the single token 333 .*; add --new-tokens mean, or merge it",
    ):
        Pair.load(str(place / "adapter"), device="cpu")
    pair = Pair.load(str(place / "adapter"), device="cpu", new_tokens="mean")
    with pair.tuned.active() as module:
        torch.testing.assert_close(
            logits(module, [4, 5, ROWS]), logits(wrapped, [4, 5, ROWS])[..., : ROWS + 1]
        )


def test_intruders_of_an_adapter_of_a_resized_base(tmp_path, models):
    place, _, _ = written(models[0], tmp_path, **ADAPTERS["kept-whole"])
    found = WeightPair.load(str(place / "adapter"), str(place / "base"), embeddings=True)
    assert {matrix.part for matrix in found.matrices} == {
        "attn.q",
        *(m.part for m in found.matrices if m.layer >= 0),
    }
    assert (
        sum("was resized from (333, 32) to (345, 32): not analysed" in note for note in found.notes)
        == 2
    )
