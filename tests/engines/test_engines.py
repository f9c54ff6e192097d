"""The torch engine and the passes built on it: padding, batches, gradients, the key-value cache."""

import copy

import pytest
import torch

from interp.capture import batches, capture, make_batch
from interp.engines import Batch, Engine, TorchEngine
from interp.errors import OptionError
from interp.interventions.edits import Add
from interp.metrics import Refusal
from interp.models.model import Model
from interp.prompts import COMPLETION, CONTENT, DECISION, Encoded, encode
from interp.sites import Site, contribution, neurons
from tests import tiny

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2"])
ENGINE = TorchEngine()
METRIC = Refusal(("sorry",), (54, 86, 273, 326))
CODED = [encode(tiny.tokenizer(), text) for text in tiny.PROMPTS]
IDS = [list(item.ids) for item in CODED]
SITES = [
    site
    for layer in range(3)
    for site in (neurons(layer), contribution(layer), Site(layer, "hook_resid_post"))
]


def last(logits):
    return METRIC.log_odds(logits[:, -1])


@pytest.fixture(scope="module")
def models():
    return {
        (family, dtype): Model.wrap(
            family, tiny.exact(build()) if dtype == torch.float64 else build().to(dtype)
        )
        for family, build in tiny.FAMILIES.items()
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    }


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_modules_own(models, family, dtype):
    model = models[family, dtype]
    own = model.module(input_ids=torch.tensor([IDS[0]])).logits
    batch = Batch.pad(IDS[:1], 0)
    assert torch.equal(ENGINE.run(model, batch, keep=None).logits, own)
    kept = model.module(input_ids=batch.ids, logits_to_keep=2).logits
    assert torch.equal(ENGINE.run(model, batch, keep=2).logits, kept)
    torch.testing.assert_close(ENGINE.run(model, batch).logits, own[:, -1:])
    bare = ENGINE.run(model, batch, keep=0)
    assert bare.logits is None
    with pytest.raises(OptionError, match="kept no logits"):
        bare.require_logits()
    # reading changes nothing
    assert torch.equal(ENGINE.run(model, batch, reads=SITES, keep=None).logits, own)
    assert isinstance(ENGINE, Engine)


def test_padding_and_positions():
    left, right = Batch.pad([[5, 6, 7], [8]], 0), Batch.pad([[5, 6, 7], [8]], 0, "right", length=4)
    assert left.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert right.ids.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert right.mask.sum(1).tolist() == [3, 1]
    longer = Batch(
        torch.tensor([[9], [9]]), torch.cat([left.mask, torch.ones(2, 1, dtype=torch.bool)], 1)
    )
    assert longer.positions.tolist() == [[3], [1]]
    assert longer.real.tolist() == [[True], [True]]


# Rounding depends on the shapes of a batch and on nothing else.
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.1}


@FAMILIES
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_do_not_change_what_is_read(models, family, dtype, side):
    model = models[family, dtype]
    alone = [ENGINE.run(model, Batch.pad([row], 0), reads=SITES, keep=None) for row in IDS]
    batch = Batch.pad(IDS, 0, side, length=max(map(len, IDS)) + 3)
    # left-padded columns count from the end, so logits of all positions are asked for
    together = ENGINE.run(model, batch, reads=SITES, keep=None)
    for site in SITES:
        assert torch.isfinite(together.values[site]).all()
    for row, run in enumerate(alone):
        real = batch.mask[row]
        torch.testing.assert_close(
            together.logits[row][real], run.logits[0], rtol=CLOSE[dtype], atol=CLOSE[dtype]
        )
        for site in SITES:
            torch.testing.assert_close(
                together.values[site][row][real],
                run.values[site][0],
                rtol=CLOSE[dtype],
                atol=CLOSE[dtype],
            )


@FAMILIES
def test_the_padding_token_is_not_read(models, family):
    model = models[family, torch.float32]
    runs = [ENGINE.run(model, Batch.pad(IDS, pad), reads=SITES) for pad in (0, 77)]
    assert torch.equal(runs[0].logits, runs[1].logits)
    mask = Batch.pad(IDS, 0).mask
    for site in SITES:
        assert torch.equal(runs[0].values[site][mask], runs[1].values[site][mask])


@FAMILIES
def test_a_cache_gives_the_logits_of_the_whole_text(models, family):
    model = models[family, torch.float64]
    batch = Batch.pad(IDS, 0)
    first = Batch(batch.ids[:, :-4], batch.mask[:, :-4])
    run = ENGINE.run(model, first, use_cache=True)
    for column in range(4, 0, -1):
        end = batch.ids.shape[1] - column + 1
        step = Batch(batch.ids[:, end - 1 : end], batch.mask[:, :end])
        run = ENGINE.run(model, step, reads=[neurons(2)], cache=run.cache, use_cache=True)
    whole = ENGINE.run(model, batch, reads=[neurons(2)])
    torch.testing.assert_close(run.logits, whole.logits)
    torch.testing.assert_close(run.values[neurons(2)], whole.values[neurons(2)][:, -1:])


@FAMILIES
def test_gradients_are_those_of_autograd(models, family):
    """The module run by hand, its down projection's input made a leaf by hand."""
    module = copy.deepcopy(models[family, torch.float64].module)
    blocks = module.model.layers if family == "llama" else module.transformer.h
    kept = {}

    def leaf(layer):
        def hook(_, args):
            kept[layer] = args[0].detach().requires_grad_() if layer == 0 else args[0]
            if layer:
                kept[layer].retain_grad()
            return (kept[layer], *args[1:])

        return hook

    for layer, block in enumerate(blocks):
        (block.mlp.down_proj if family == "llama" else block.mlp.c_proj).register_forward_pre_hook(
            leaf(layer)
        )
    logits = module(input_ids=torch.tensor([IDS[1]])).logits
    last(logits).sum().backward()
    sites = [neurons(layer) for layer in range(3)]
    run = ENGINE.run(
        models[family, torch.float64],
        Batch.pad(IDS[1:2], 0),
        reads=sites,
        gradients_at=sites,
        gradient_of=last,
    )
    for layer, site in enumerate(sites):
        torch.testing.assert_close(run.gradients[site], kept[layer].grad)
        torch.testing.assert_close(run.values[site], kept[layer].detach())


@FAMILIES
def test_gradients_are_finite_differences(models, family):
    model = models[family, torch.float64]
    batch = Batch.pad(IDS[:2], 0)
    site = contribution(1)
    gradient = ENGINE.run(model, batch, gradients_at=[site], gradient_of=last).gradients[site]
    direction = torch.randn(
        gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    direction = direction * batch.mask[..., None]
    step = 1e-5
    ends = [
        last(ENGINE.run(model, batch, edits=[Add(site, sign * step * direction)]).logits)
        for sign in (1, -1)
    ]
    torch.testing.assert_close(
        (ends[0] - ends[1]) / (2 * step), (gradient * direction).sum((1, 2)), rtol=1e-6, atol=1e-8
    )


@FAMILIES
def test_gradients_do_not_depend_on_company_and_are_zero_on_padding(models, family):
    model = models[family, torch.float64]
    sites = [neurons(0), contribution(2)]
    batch = Batch.pad(IDS, 0)
    together = ENGINE.run(model, batch, gradients_at=sites, gradient_of=last)
    for row, ids in enumerate(IDS):
        alone = ENGINE.run(model, Batch.pad([ids], 0), gradients_at=sites, gradient_of=last)
        for site in sites:
            torch.testing.assert_close(
                together.gradients[site][row][batch.mask[row]], alone.gradients[site][0]
            )
    for site in sites:
        assert not together.gradients[site][~batch.mask].any()


def test_a_site_that_the_logits_do_not_reach_has_gradient_zero(models):
    model = models["llama", torch.float32]
    run = ENGINE.run(model, Batch.pad(IDS[:1], 0), gradients_at=[contribution(2)], gradient_of=last)
    # the last block's earlier positions cannot reach the last token's logits
    assert not run.gradients[contribution(2)][:, :-1].any()
    assert run.gradients[contribution(2)][:, -1].any()


def test_nothing_is_left_behind(models):
    """No hook, no gradient, no graph, no changed mode, also after an exception in the middle."""
    model = models["llama", torch.float32]
    before = ENGINE.run(model, Batch.pad(IDS, 0)).logits

    class Broken:
        site = neurons(1)

        def apply(self, value):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ENGINE.run(model, Batch.pad(IDS, 0), reads=SITES, edits=[Broken()])
    ENGINE.run(model, Batch.pad(IDS, 0), gradients_at=SITES, gradient_of=last)
    for module in model.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert torch.is_grad_enabled()
    after = ENGINE.run(model, Batch.pad(IDS, 0), reads=SITES)
    assert torch.equal(after.logits, before)
    assert not after.logits.requires_grad
    assert not after.values[SITES[0]].requires_grad


# ---------------------------------------------------------------------------------------------- passes


def lengths(groups):
    return [[len(IDS[row]) for row in group] for group in groups]


def test_batches_hold_every_row_once_by_length():
    model = Model.wrap("m", tiny.llama())
    for size in (1, 2, 3, 99, None):
        groups = batches(CODED, model, size)
        assert sorted(row for group in groups for row in group) == list(range(len(CODED)))
        flat = [length for group in lengths(groups) for length in group]
        assert flat == sorted(flat)
        if size:
            assert max(map(len, groups)) <= size
    many = [Encoded(tuple(range(100)), (CONTENT,) * 100)] * 300
    assert max(len(group) * 100 for group in batches(many, model, None)) <= 4096
    assert (
        max(len(group) * 100 for group in batches(many, model, None, per_token_bytes=1 << 22))
        <= 256
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_roles_stay_with_their_tokens(side):
    coded = [CODED[0].with_completion([50, 51]), CODED[1]]
    batch, roles = make_batch(coded, [1, 0], 0, torch.device("cpu"), side)
    assert (roles[~batch.mask] == -1).all()
    for row, source in enumerate((1, 0)):
        real = batch.mask[row]
        assert tuple(batch.ids[row][real].tolist()) == coded[source].ids
        assert tuple(roles[row][real].tolist()) == coded[source].roles
    assert (roles == COMPLETION).sum() == 2
    assert (roles == DECISION).sum() == 4


@FAMILIES
@pytest.mark.parametrize(("size", "side"), [(2, "left"), (5, "left"), (2, "right")])
def test_capture_gives_every_prompt_its_values(models, family, size, side):
    pair = {
        "base": models[family, torch.float64],
        "tuned": Model.wrap("t", tiny.exact(tiny.perturbed(tiny.FAMILIES[family]()))),
    }
    sites = [neurons(0), Site(2, "hook_resid_post")]
    groups = batches(CODED, pair["base"], size)
    seen = set()
    for found in capture(
        ENGINE, pair, CODED, groups, sites, pad_id=0, keep=1 if side == "left" else 0, side=side
    ):
        for cell, row in enumerate(found.rows.tolist()):
            seen.add(row)
            real = found.batch.mask[cell]
            assert tuple(found.roles[cell][real].tolist()) == CODED[row].roles
            for role, model in pair.items():
                alone = ENGINE.run(model, Batch.pad([IDS[row]], 0), reads=sites)
                for site in sites:
                    torch.testing.assert_close(
                        found.values[role, site][cell][real], alone.values[site][0]
                    )
                if side == "left":
                    torch.testing.assert_close(found.logits[role][cell], alone.logits[0])
    assert seen == set(range(len(CODED)))
