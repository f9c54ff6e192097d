"""The stream as a sum of two parts: exact, at every token, by either path and engine."""

import pytest
import torch

from interp.engines import engine_named
from interp.interventions.edits import Observe
from interp.models.pair import Pair
from interp.models.unexamined_changes import blocks_of
from interp.sites import Site
from tests import tiny
from tests.tuco_pairs import ENGINE, WAYS, batch_of, pair_of, some, split


@pytest.mark.parametrize(
    "name",
    [*some("neox"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("olmo2", "mixtral"))],
)
def test_both_parts_and_the_embedding_make_the_stream(name):
    """At every layer and token, both branches measured by themselves; block and sublayer have one
    total.
    """
    pair = pair_of(name)
    batch, totals = batch_of(pair), []
    for granularity in ("block", "sublayer"):
        stream, base, tuned = split(pair, batch, "all", granularity)
        for layer in range(len(base)):
            made = stream.before[0].double() + (base + tuned)[: layer + 1].sum(0)
            after = stream.before[layer + 1].double()
            error = ((made - after).abs().amax(-1) / after.abs().amax(-1))[batch.mask]
            assert error.max() < 1e-5, (layer, error.max())
        totals.append((base + tuned).sum(0))
    torch.testing.assert_close(*totals)


def test_the_split_is_exact_in_float64():
    base = tiny.exact(tiny.llama())
    pair = Pair.from_modules(tiny.exact(tiny.perturbed(base)), base, tiny.tokenizer())
    stream, ptc, ftc = split(pair, batch_of(pair), "all")
    made = stream.before[0] + (ptc + ftc).cumsum(0)
    after = torch.stack(stream.before[1:])
    assert float((made - after)[:, batch_of(pair).mask].abs().max() / after.abs().max()) < 1e-12


def test_padding_on_either_side_is_no_token():
    pair = pair_of("llama")
    left, right = (split(pair, batch_of(pair, side), "all")[1:] for side in ("left", "right"))
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(
            one[:, batch_of(pair).mask],
            other[:, batch_of(pair, "right").mask],
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_fast_path_takes_one_column():
    """The base's MLPs and output projections work on the last tokens alone, so does the tuned
    model's last block.
    """
    pair, seen = pair_of("llama"), {"tuned": [], "base": []}
    hooks = [
        module.register_forward_hook(lambda _, __, out, role=role: seen[role].append(out.shape[1]))
        for role in seen
        for block in blocks_of(pair[role])
        for module in (block.self_attn.o_proj, block.mlp.down_proj)
    ]
    split(pair, batch_of(pair), path="fast")
    length = batch_of(pair).ids.shape[1]
    assert seen == {"tuned": [length] * 4 + [1] * 2, "base": [1] * 6}
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=[] if way == ("sublayer", "fast") else pytest.mark.slow)
        for way in WAYS
    ],
)
def test_nnsight_gives_the_same(way):
    pair, engine = pair_of("gpt2"), engine_named("nnsight")
    one, other = (
        split(pair, batch_of(pair), "last", *way, engine=each)[1:] for each in (ENGINE, engine)
    )
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_a_watched_value_goes_on_as_it_is():
    pair, seen = pair_of("llama"), []
    before = ENGINE.run(pair.tuned, batch_of(pair)).logits
    watch = Observe(Site(1, "hook_mlp_out"), lambda value: seen.append(value.shape))
    assert torch.equal(ENGINE.run(pair.tuned, batch_of(pair), edits=[watch]).logits, before)
    assert len(seen) == 1
