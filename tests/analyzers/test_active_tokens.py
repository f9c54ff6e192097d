"""The tokens on which located units are most active: what prompts begin with alike counts once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.analyzers.locate_neurons.tokens import active_tokens
from interp.models.pair import Pair
from interp.prompts import Contrast
from interp.study import Study
from tests import tiny

LOCATED = [(0, 3), (1, 5), (2, 40)]


@pytest.fixture(scope="module")
def study():
    return Study(
        Pair.from_modules(tiny.perturbed(tiny.llama()), tiny.llama(), tiny.tokenizer()),
        tiny.contrast(8),
        None,
    )


def prefixes(study, found):
    """Of every row the tokens up to the one that it names."""
    ids = {}
    for group in study.classes:
        encoded = study.encoded(group)
        ids |= {
            (group, prompt.id): encoded[row].ids for row, prompt in enumerate(study.prompts(group))
        }
    keys = zip(found["group"], found["prompt_id"], found["position"], strict=True)
    return [tuple(ids[group, prompt][: position + 1]) for group, prompt, position in keys]


@pytest.mark.parametrize("size", [1, 5])
def test_no_token_is_listed_twice_after_the_same_text(study, size):
    found = active_tokens(replace(study, batch_size=size), LOCATED)
    texts = prefixes(study, found)
    for rank in (1, 2, 3):
        mine = [text for text, each in zip(texts, found["rank"], strict=True) if each == rank]
        assert len(mine) == len(set(mine)) == 6


def test_what_is_listed_are_the_largest_of_all_distinct_texts(study):
    """The same as one pass over every distinct beginning, by hand."""
    found = active_tokens(study, LOCATED)
    first = {}
    block = study.pair.tuned.module.model.layers[1].mlp
    kept = []
    hook = block.down_proj.register_forward_pre_hook(
        lambda _, args: kept.append(args[0][0, :, 5].detach().numpy())
    )
    for group in study.classes:
        for coded in study.encoded(group):
            study.pair.tuned.module(input_ids=torch.tensor([list(coded.ids)]))
            for position, value in enumerate(kept.pop()):
                first.setdefault(tuple(coded.ids[: position + 1]), float(value))
    hook.remove()
    largest = sorted(first.values(), key=abs, reverse=True)[:6]
    np.testing.assert_allclose(found["value"][found["rank"] == 2], largest, rtol=1e-4)


def test_a_prompt_that_stands_twice_is_read_once(study):
    twice = tiny.copied(study.contrast, 2)
    assert isinstance(twice, Contrast)
    np.testing.assert_allclose(
        active_tokens(study.with_prompts(twice), LOCATED)["value"],
        active_tokens(study, LOCATED)["value"],
        rtol=1e-5,
    )
