"""Pairs of tiny models, their streams split in two parts, and a plain computation of TuCo."""

import copy

import numpy as np
import pytest
import torch

from interp import claims
from interp.engines import Batch, TorchEngine
from interp.experiments.tuning_decomposition import TunedStream, decompose
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.unexamined_changes import blocks_of
from interp.prompts import OneClass, encode
from interp.study import Study
from tests import families, tiny

ENGINE = TorchEngine()


FIVE = ("llama", "qwen3", "gemma2", "gpt2", "neox")


def some(*always):
    """All five families, those that are not named in the slow tests."""
    return [pytest.param(name, marks=[] if name in always else pytest.mark.slow) for name in FIVE]


WAYS = [(granularity, path) for granularity in ("block", "sublayer") for path in ("full", "fast")]


def build(name, seed=0, **changes):
    return (
        tiny.FAMILIES[name](seed, **changes)
        if name in tiny.FAMILIES
        else families.build(name, seed, **changes)
    )


def pair_of(name, size=0.02):
    base = build(name)
    return Pair.from_modules(tiny.perturbed(base, size), base, tiny.tokenizer())


def study_of(pair, count=5, **options):
    prompts = tiny.contrast(count).positive
    return Study(pair, OneClass(prompts), None, **options)


def batch_of(pair, side="left"):
    return Batch.pad([encode(pair.tokenizer, text).ids for text in tiny.PROMPTS], 0, side)


def plain(pair, ids, dtype=torch.float64):
    """TuCo, OutputCo and beta of one prompt by their definitions: every block called by itself in
    float64, norms by numpy. Beta is over all tokens, its second form at the last one.
    """
    taken = {}
    models = {}
    for role in ("base", "tuned"):
        with pair[role].active() as module:
            models[role] = Model.wrap(role, copy.deepcopy(module).to(dtype))
            calls = []
            handles = [
                block.register_forward_hook(
                    lambda _, args, kwargs, out, calls=calls: calls.append(
                        (args, kwargs, out[0] if isinstance(out, tuple) else out)
                    ),
                    with_kwargs=True,
                )
                for block in blocks_of(models[role])
            ]
            with torch.no_grad():
                models[role].module(input_ids=torch.tensor([ids]), use_cache=False)
            for handle in handles:
                handle.remove()
            taken[role] = calls
    base, tuned, betas = 0, 0, []
    for block, (args, kwargs, _), (read, also, after) in zip(
        blocks_of(models["base"]), taken["base"], taken["tuned"], strict=True
    ):
        x = read[0] if read else also["hidden_states"]
        with torch.no_grad():
            out = block(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "hidden_states"})
        update = (out[0] if isinstance(out, tuple) else out) - x
        base, tuned = base + update[0].numpy(), tuned + (after - x - update)[0].numpy()
        sizes = [[np.abs(part[rows:]).sum() for part in (tuned, base)] for rows in (0, -1)]
        betas.append([size[0] / sum(size) for size in sizes])
    ends = [taken[role][-1][2][0, -1] for role in ("tuned", "base")]
    gap = (ends[0] - ends[1]).abs().sum()
    return betas[-1][1], float(gap / (gap + ends[1].abs().sum())), np.max(betas, 0)


def split(pair, batch, positions="last", granularity="block", path="full", engine=ENGINE):
    """Updates of every block ``[L, B, P, D]``, and the tuned stream."""
    stream, found = TunedStream.read(engine, pair.tuned, batch, positions, path), []
    decompose(
        engine,
        pair.base,
        stream,
        lambda _, *parts: found.append(torch.stack(parts)),
        granularity,
        path,
    )
    return stream, *torch.stack(found).unbind(1)


def findings(run):
    return {each.name: each for each in claims.from_table(run.tables["claims"])}
