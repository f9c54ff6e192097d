"""Prefills and samples of discovery: the same for every model, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.errors import PromptError
from interp.experiments.discovery import (
    chat_prefills,
    raw_prefills,
    sample_losses,
    sample_texts,
)
from interp.metrics import Sampling
from interp.models.pair import Pair
from interp.prompts import OneClass, encode, limit_token_ids
from interp.study import Study
from tests import tiny


@pytest.fixture(scope="module")
def study():
    base = tiny.exact(tiny.llama(seed=3, scale=2.0))
    pair = Pair.from_modules(tiny.exact(tiny.perturbed(base, 0.05)), base, tiny.tokenizer())
    return Study(pair, OneClass(tiny.contrast(12).positive), None)


def test_raw_prefills_are_beginnings_of_the_texts(study):
    found = raw_prefills(study, (), 8, 0)
    texts = [
        tuple(tiny.tokenizer()(prompt.text)["input_ids"]) for prompt in study.prompts("positive")
    ]
    assert len(found) == len(set(found)) == 8
    for prefill in found:
        assert 3 <= len(prefill) <= 10
        assert any(text[: len(prefill)] == prefill for text in texts)
    assert raw_prefills(study, (), 3, 0) == found[:3]
    assert raw_prefills(study, (), 8, 1) != found


def test_which_prefills_are_cut_does_not_depend_on_the_order_of_texts(study):
    prompts = study.prompts("positive")
    reversed_set = replace(prompts, prompts=tuple(reversed(prompts.prompts)))
    again = study.with_prompts(OneClass(reversed_set))
    assert raw_prefills(again, (), 5, 3) == raw_prefills(study, (), 5, 3)


def test_given_prefills_are_kept_in_their_order(study):
    texts = ("open the door", "close a window ?", "open the door")
    expected = [tuple(tiny.tokenizer()(text)["input_ids"]) for text in texts[:2]]
    assert raw_prefills(study, texts, 5, 0) == expected
    assert raw_prefills(study, texts, 1, 0) == expected[:1]
    with pytest.raises(PromptError, match="no token of the prefill"):
        raw_prefills(study, ("",), 5, 0)


def test_chat_prefills_end_where_the_assistant_begins(study):
    found = chat_prefills(study, ["open the door"])
    assert found == [encode(tiny.tokenizer(), "open the door").ids]
    assert tiny.tokenizer().decode(found[0]) == "<|user|>open the door<|end|><|assistant|>"
    assert len(chat_prefills(study, ())) >= 10
    plain = Pair.from_modules(study.pair.tuned.module, None, tiny.tokenizer(False))
    assert chat_prefills(replace(study, pair=plain, _cache={}), ["open the door"]) == []


def drawn_by_hand(model, prefill, uniforms, temperature, stops):
    """The same draws one token at a time, in numpy: the first token whose cumulative probability
    exceeds the number.
    """
    ids = list(prefill)
    for number in uniforms:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        weights = np.exp((logits - logits.max()) / temperature)
        ids.append(int(np.searchsorted(np.cumsum(weights / weights.sum()), number, side="right")))
        if ids[-1] in stops:
            break
    return ids[len(prefill) :]


def test_samples_are_what_drawing_by_hand_gives(study):
    prefills = [*raw_prefills(study, (), 4, 0), *raw_prefills(study, (), 2, 0)]
    model, stops = study.pair.tuned, (1, *range(200, 240))
    found = sample_texts(study, model, prefills, 9, 1.3, 5, stops)
    sampling = Sampling(1, seed=5)
    for row, (prefill, sample) in enumerate(zip(prefills, found, strict=True)):
        uniforms = sampling.uniforms(prefill, int(row >= 4), 9)
        assert sample == drawn_by_hand(model.module, prefill, uniforms, 1.3, stops)
    assert found[0] != found[4], "a prefill given again gets another sample"
    assert {len(sample) for sample in found} != {9}, "some end"
    assert all(token not in stops for sample in found for token in sample[:-1])


def test_samples_and_losses_do_not_depend_on_the_batch(study):
    prefills = [*raw_prefills(study, (), 5, 0), *chat_prefills(study, ["open the door"])]
    model = study.pair.tuned
    found = sample_texts(study, model, prefills, 8, 1.0, 0, (1,))
    losses = sample_losses(study, model, prefills, found)
    for size in (1, 2):
        other = replace(study, batch_size=size, _cache={})
        assert sample_texts(other, model, prefills, 8, 1.0, 0, (1,)) == found
        again = sample_losses(other, model, prefills, found)
        for one, two in zip(losses, again, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-12)
    alone = sample_texts(study, model, prefills[3:4], 8, 1.0, 0, (1,))
    assert alone == found[3:4]


def test_losses_are_of_the_samples_tokens_and_the_end_token_counts_once(study):
    prefills = [(5, 9, 40), (60, 61, 62, 63)]
    samples = [[7, 30, 1], [8]]
    found = sample_losses(study, study.pair.base, prefills, samples)
    for prefill, sample, losses in zip(prefills, samples, found, strict=True):
        with torch.no_grad():
            logits = study.pair.base.module(input_ids=torch.tensor([[*prefill, *sample]])).logits[0]
        expected = -logits.double().log_softmax(-1)[
            range(len(prefill) - 1, len(logits) - 1), sample
        ]
        np.testing.assert_allclose(losses, expected, atol=1e-9)


def test_only_tokens_that_both_models_have_are_drawn(study):
    limited = limit_token_ids(tiny.tokenizer(), 30, "which one of the models has not")
    one = replace(study, pair=replace(study.pair, tokenizer=limited), _cache={})
    found = sample_texts(one, one.pair.tuned, [(5, 9), (6, 9)], 20, 1.0, 0, ())
    assert max(map(max, found)) < 30
    assert {len(sample) for sample in found} == {20}
