"""A pair on disk with an intruder that is known, what examines it, and prompts to scale it with."""

import copy

import pytest
import torch

from interp.analyzers.intruders import Intruders
from interp.models.weights import WeightPair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.store.svd_cache import SvdCache
from tests import tiny

SIZE, PUSH = 96, 1.76


def wide(seed=0, **changes):
    """One block, wide enough that random vectors stay well below eps."""
    sizes = dict(
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return tiny.llama(seed, **{**sizes, **changes})


def turn(seed):
    return torch.linalg.qr(
        torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).double()
    ).Q


def planted(root):
    """A base whose down projection has the values 2 and 1 and a low rest; a child in which the
    second direction writes elsewhere: beyond the first now, which a random update of that size is
    not.
    """
    base = wide()
    left, right = turn(1), turn(2)
    values = torch.cat([torch.tensor([2.0, 1.0]), torch.full((SIZE - 2,), 0.05)]).double()
    new = left[:, 20:90].sum(1) / 70**0.5
    matrix = base.model.layers[0].mlp.down_proj.weight
    matrix.data = ((left * values) @ right.T).float()
    child = copy.deepcopy(base)
    child.model.layers[0].mlp.down_proj.weight.data += PUSH * torch.outer(new, right[:, 1]).float()
    return tiny.save(base, root / "base"), tiny.save(child, root / "child"), new


def examine(tuned, base=None, root=None, analyzer=None, **options):
    kept = None if root is None else SvdCache(root)
    return (analyzer or Intruders(draws=0))(
        WeightPair.load(str(tuned), base and str(base), array_cache=kept, **options)
    )


def noisy(model, size=0.02):
    return tiny.perturbed(model, size)


def texts(count=6):
    task = [
        Prompt(i, f"open the {noun}", f"t{i}", None, "please", "door")
        for i, noun in enumerate(tiny.NOUNS)
    ]
    words = ["please", "tell", "me", "how", "to", "close"]  # six texts, all of them different
    plain = [
        Prompt(i, f"{words[i]} tell me how to close a window " * (1 + i % 3), f"p{i}")
        for i in range(count)
    ]
    return Contrast(PromptSet(tuple(task), "task"), PromptSet(tuple(plain), "text"))


def slow(name):
    """What goes the way of another case: in the slow tests only."""
    return pytest.param(*(name if isinstance(name, tuple) else (name,)), marks=pytest.mark.slow)
