"""TuCo: every invariant of its definition, a plain computation in float64 beside it, and the
command.
"""

import copy
import json
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from interp import claims, organisms
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.tuco import Tuco
from interp.analyzers.tuco.findings import claims_of, permuted_aucs
from interp.analyzers.tuco.label_permutations import LabelPermutations
from interp.engines import Batch, TorchEngine, engine_named, torch_hooks
from interp.engines.coupled_forward import coupled_forward
from interp.engines.shared_prefix import full_passes
from interp.errors import ClaimError, OptionError, PairError, UnsupportedModel
from interp.experiments.tuning_decomposition import TunedStream, decompose
from interp.figures import plot
from interp.interventions.edits import Observe
from interp.interventions.generation import Text, generate
from interp.kinds import KINDS
from interp.maths.auc import auc_difference_interval, auc_interval, pairwise_order, shuffled_auc
from interp.maths.contribution_ratios import CumulativeContributions, norm, ratio
from interp.models.interpolate import interpolated
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.unexamined_changes import blocks_of
from interp.prompts import Contrast, OneClass, PromptSet, encode, read_prompts
from interp.sites import Site
from interp.store import Store
from interp.study import Study
from interp.table import table as make_table
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


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_beginning_that_all_prompts_share_is_read_once(name, positions, monkeypatch):
    """Of prompts of unlike lengths every number is that of whole prompts; both models' passes are
    divided.
    """
    pair = pair_of(name)
    given = tiny.contrast(6).positive
    prompts = [
        replace(p, text=12 * "please " + p.text + row * " now") for row, p in enumerate(given)
    ]
    study = Study(pair, OneClass(PromptSet(tuple(prompts), "long")), None)
    divided, used = torch_hooks.run_split, []

    def counted(*args):
        run = divided(*args)
        used.append(run is not None)
        return run

    monkeypatch.setattr(torch_hooks, "run_split", counted)
    once = Tuco(positions=positions)(study)
    # the tuned model, the base on its stream, the base alone
    assert sum(used) >= 3
    with full_passes(pair.tuned), full_passes(pair.base):
        whole = Tuco(positions=positions)(study)
    for kind in (None, "layers"):
        one, other = (run if kind is None else run.tables[kind] for run in (once, whole))
        for column in one.data:
            if one[column].dtype.kind == "f" and column != "error":
                np.testing.assert_allclose(
                    one[column], other[column], rtol=2e-4, atol=2e-6, err_msg=column
                )


# ------------------------------------------------------------------------------------------------ the definition


def test_the_toy_cases_of_the_paper():
    """FTC (h, -h/2, 0, 0), PTC (0, 0, h, -h/2): shares 1, 1, 1/3, 1/2; and f_PT (h, x), f_FT (2h,
    0): 1/4.
    """
    h, none = torch.rand(2, 1, 8).double() + 0.1, torch.zeros(2, 1, 8).double()
    running = CumulativeContributions()
    for base, tuned in ((none, h), (none, -h / 2), (h, none), (-h / 2, none)):
        running.add(base, tuned)
    np.testing.assert_allclose(torch.stack(running.betas)[:, 0], [1, 1, 1 / 3, 1 / 2], rtol=1e-12)
    running = CumulativeContributions()
    for base, tuned in ((h, 2 * h), (2 * h, none)):  # on the tuned stream, from x_0 = 0: x_1 = 2h
        running.add(base, tuned - base)
    assert running.betas[-1].tolist() == pytest.approx([1 / 4] * 2)
    assert ratio(*[torch.zeros(3)] * 2).tolist() == [0, 0, 0]


def test_shares_follow_the_norm():
    """Ratios: no matter how large both are, nor in which order coordinates stand; a turn changes L1
    and leaves L2.
    """
    generator = torch.Generator().manual_seed(0)
    base, tuned = torch.randn(2, 4, 1, 16, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(16, generator=generator)

    def tuco(change, p):
        return ratio(norm(change(tuned), p), norm(change(base), p))

    for p in (1, 2):
        same = tuco(lambda value: value, p)
        torch.testing.assert_close(tuco(lambda value: 7 * value, p), same)
        torch.testing.assert_close(tuco(lambda value: value[..., order], p), same)
    torch.testing.assert_close(tuco(lambda value: value @ turn, 2), tuco(lambda value: value, 2))
    assert (tuco(lambda value: value @ turn, 1) - tuco(lambda value: value, 1)).abs().max() > 1e-3


def test_the_bound_of_the_paper_with_the_last_block_in_it():
    """|x_L^FT - x_L^PT| <= (1+B)^L max |FTCbar_l| <= L M (1+B)^L beta/(1-beta), over l = 1..L, on
    tanh nets.
    """
    generator = torch.Generator().manual_seed(0)
    blocks, width = 3, 6
    for number in range(60):
        first = 0.3 * torch.randn(blocks, width, width, generator=generator, dtype=torch.float64)
        second = first.clone()
        if number:  # the first: only the last block changed, where beta over l < L would be 0
            second += 0.1 * torch.randn(first.shape, generator=generator, dtype=torch.float64)
        else:
            second[-1] += 0.5
        x = y = torch.randn(width, generator=generator, dtype=torch.float64)
        running = CumulativeContributions()
        for base, tuned in zip(first, second, strict=True):
            ptc, update = torch.tanh(base @ x), torch.tanh(tuned @ x)
            running.add(ptc[None, None], (update - ptc)[None, None])
            x, y = x + update, y + torch.tanh(base @ y)
            largest = (
                norm(running.tuned).max()
                if not number or len(running.betas) == 1
                else max(largest, norm(running.tuned).max())
            )
        lipschitz = float(torch.stack([first, second]).abs().sum(2).max())
        beta = float(torch.stack(running.betas).max())
        assert beta > 0
        gap = float((x - y).abs().sum())
        assert gap <= (1 + lipschitz) ** blocks * float(largest) + 1e-12
        assert gap <= blocks * width * (1 + lipschitz) ** blocks * beta / (1 - beta) + 1e-12


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


@pytest.mark.parametrize("name", some("qwen3", "neox"))
def test_it_equals_the_plain_computation(name):
    pair = pair_of(name)
    study = study_of(pair, 2)
    found = [Tuco(path=path)(study) for path in ("fast", "full")]
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, (beta, beta_last) = plain(pair, coded.ids)
        for table in found:
            assert table["tuco"][row] == pytest.approx(tuco, abs=1e-5)
            assert table["output_co"][row] == pytest.approx(output, abs=1e-5)
            assert table["beta_last"][row] == pytest.approx(beta_last, abs=1e-5)
        assert np.isnan(found[0]["beta"]).all()
        assert found[1]["beta"][row] == pytest.approx(beta, abs=1e-5)
        assert abs(beta - beta_last) > 1e-3  # the two are told apart here


CHILDREN = [
    pytest.param(name, marks=[] if name == "refusal/lora" else pytest.mark.slow)
    for name in organisms.names()
    if organisms.base_of(name) and organisms.packaged(name) is None
]


@pytest.mark.parametrize("name", CHILDREN)
def test_it_equals_the_plain_computation_on_organisms(name):
    pair = Pair.load(f"organism:{name}", "organism:refusal/base")
    prompts = read_prompts(organisms.prompts("refusal", "verify", "harmful")).spread(2)
    study = Study(pair, OneClass(prompts), None)
    table = Tuco()(study)
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, (beta, _) = plain(pair, coded.ids)
        assert table["beta"][row] == pytest.approx(beta, abs=1e-5)
        assert table["tuco"][row] == pytest.approx(tuco, abs=1e-5)
        assert table["output_co"][row] == pytest.approx(output, abs=1e-5)


# --------------------------------------------------------------------------------------------- exactness and paths


@pytest.mark.parametrize("name", [*some("gemma2"), pytest.param("gemma3", marks=pytest.mark.slow)])
def test_an_identical_pair_is_silent(name):
    base = build(name)
    pair = Pair.from_modules(copy.deepcopy(base), base, tiny.tokenizer())
    for granularity, path in WAYS:
        table = Tuco(granularity=granularity, path=path)(study_of(pair))
        largest = max(table["tuco"].max(), table["beta_last"].max())
        assert largest == 0 if path == "full" else largest <= 1e-6
        assert path == "fast" or not table["beta"].any()
        assert not table["output_co"].any()
        assert not claims.from_table(table.tables["claims"])[0].supported
    everywhere = Tuco(positions="all")(study_of(pair))
    assert not everywhere["tuco"].any()
    assert not everywhere.tables["tokens"]["beta"].any()


def test_a_base_that_adds_nothing_leaves_all_to_tuning():
    base = tiny.llama()
    tuned = copy.deepcopy(base)
    for block in base.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    table = Tuco()(study_of(Pair.from_modules(tuned, base, tiny.tokenizer())))
    assert (table["tuco"] == 1).all()
    assert (table["pre_co"] == 0).all()


@pytest.mark.parametrize("name", [*some("llama"), pytest.param("mixtral", marks=pytest.mark.slow)])
def test_neither_path_nor_padding_nor_batches_count(name):
    pair = pair_of(name)
    exact = Tuco(path="full")(study_of(pair, batch_size=1))
    assert ((exact["tuco"] > 0) & (exact["tuco"] < 1)).all()
    np.testing.assert_allclose(exact["tuco"] + exact["pre_co"], 1, rtol=1e-15)
    for path, batch_size in (("full", None), ("fast", None), ("fast", 2)):
        other = Tuco(path=path)(study_of(pair, batch_size=batch_size))
        for column in ("tuco", "output_co", "beta_last", *(["beta"] if path == "full" else [])):
            np.testing.assert_allclose(other[column], exact[column], rtol=2e-6, err_msg=column)


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


def test_all_tokens_and_the_last_agree_where_they_meet():
    pair = pair_of("gpt2")
    one, every = (
        Tuco(map_prompts=99)(study_of(pair)),
        Tuco(positions="all", map_prompts=99)(study_of(pair)),
    )
    tokens = every.tables["tokens"]
    for row, length in enumerate(one["tokens"]):
        mine = (
            (tokens["prompt_id"] == row)
            & (tokens["position"] == length - 1)
            & (tokens["layer"] == 2)
        )
        assert tokens["beta"][mine].item() == pytest.approx(one["tuco"][row], rel=1e-5)
        assert every["tuco"][row] == every.tables["layers"]["beta"][3 * row + 2]
    for column in ("beta", "beta_last"):
        np.testing.assert_array_equal(one[column], every[column])
    assert len(tokens) == 3 * one["tokens"].sum()


def test_norms_and_dropped_dimensions():
    pair = pair_of("llama")
    batch = Batch.pad([coded.ids for coded in study_of(pair).encoded("positive")], 0)
    _, ptc, ftc = split(pair, batch)
    kept = [d for d in range(32) if d not in (3, 9)]
    for order in (1, 2):
        found = Tuco(order=order, drop=(3, 9), output=False)(study_of(pair))
        base, tuned = (part.sum(0)[:, 0, kept].norm(p=order, dim=-1) for part in (ptc, ftc))
        np.testing.assert_allclose(found["tuco"], tuned / (base + tuned), rtol=1e-5)
        assert np.isnan(found["output_co"]).all()


@pytest.mark.slow
def test_an_adapter_switched_is_the_pair_at_every_strength(tmp_path):
    _adapter_switched(tmp_path, (1.0, 0.01, 0.001))


def test_an_adapter_switched_is_the_pair_of_two_models(tmp_path):
    _adapter_switched(tmp_path, (1.0,))


def _adapter_switched(tmp_path, strengths):
    """To a smaller and smaller adapter belongs a TuCo that falls in proportion."""
    base = tiny.llama()
    wrapped = tiny.lora("llama", base, tmp_path / "lora", fill=0.05)
    shares = []
    for strength in strengths:
        tuned = copy.deepcopy(wrapped)
        for module in tuned.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling.update(
                    {name: strength * value for name, value in module.scaling.items()}
                )
        merged = copy.deepcopy(tuned).merge_and_unload()
        switched = Tuco(path="full")(study_of(Pair.from_modules(tuned, None, tiny.tokenizer())))
        apart = Tuco(path="full")(study_of(Pair.from_modules(merged, base, tiny.tokenizer())))
        np.testing.assert_allclose(
            switched["tuco"], apart["tuco"], rtol=2e-3 if strength < 0.01 else 1e-4
        )
        shares.append(switched["tuco"].mean() / strength)
    assert len(shares) == 1 or shares[2] == pytest.approx(shares[1], rel=0.02)


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


def test_what_is_outside_the_blocks_is_said():
    base = tiny.llama()
    for part in ("embed_tokens", "norm"):
        tuned = copy.deepcopy(base)
        getattr(tuned.model, part).weight.data += 0.1 * torch.randn_like(
            getattr(tuned.model, part).weight
        )
        table = Tuco(path="full")(study_of(Pair.from_modules(tuned, base, tiny.tokenizer())))
        assert not table["tuco"].any()
        assert part in table.summary["limits"][0]
    head = copy.deepcopy(base)
    head.lm_head.weight.data += 0.1
    assert (
        "lm_head"
        in Tuco()(study_of(Pair.from_modules(head, base, tiny.tokenizer()))).summary["limits"][0]
    )


def test_other_settings_are_said_and_bar_scaling():
    base, tuned = (
        tiny.llama(),
        tiny.llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    )
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    table = Tuco()(study_of(pair))
    assert "rope_parameters" in table.summary["limits"][0]
    assert (table["tuco"] > 0).all()  # the weights are the same, the positions are told otherwise
    study = Study(pair, OneClass(tiny.contrast(3).positive), tiny.metric())
    with pytest.raises(UnsupportedModel, match="rope_parameters"):
        FtcAlpha()(study)
    assert "experts" in Tuco()(study_of(pair_of("mixtral"), 2)).summary["limits"][-1]


# ----------------------------------------------------------------------------------------------------- scaling


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


# ------------------------------------------------------------------------------------------------ two classes


def test_auc_is_that_of_others_and_can_be_kept_to_pairs():
    generator = np.random.default_rng(0)
    one, other = generator.normal(0.5, 1, 40).round(1), generator.normal(0, 1, 50).round(1)
    value, low, high = auc_interval(one, other, np.arange(40), np.arange(50) + 40)
    assert value == pytest.approx(roc_auc_score([1] * 40 + [0] * 50, np.r_[one, other]))
    assert low < value < high
    # of two classes that differ in length alone, nothing is left at equal length
    lengths = generator.integers(5, 30, 200), generator.integers(15, 40, 200)
    values = [length + generator.normal(0, 0.3, 200) for length in lengths]
    near = np.abs(lengths[0][:, None] - lengths[1]) == 0
    free, kept = (
        auc_interval(*values, range(200), range(200, 400), within) for within in (None, near)
    )
    assert free[2] < 0.3
    assert kept[1] < 0.5 < kept[2]
    assert auc_interval([1.0], [0.0], ["a"], ["b"])[0] == 1
    low = auc_interval(np.ones(10), np.zeros(10), range(10), range(10, 20))[1]
    assert low == pytest.approx(0.6915, abs=1e-3)  # ten of ten is not certainty
    assert np.isnan(auc_interval([1.0], [0.0], ["a"], ["b"], np.zeros((1, 1)))).all()


def test_the_auc_exceeds_another_number_s_only_where_it_does():
    """Of two numbers that tell classes apart equally well in at most 5 % of draws; of one that does
    better in most.
    """
    generator = np.random.default_rng(0)
    names, seen, found = (np.arange(30), np.arange(30)), 0, 0
    for _ in range(60):
        shared = generator.normal([[0.5], [0]], 1, (2, 30))
        first, second = ([part + generator.normal(0, 0.7, 30) for part in shared] for _ in range(2))
        value, low, high = auc_difference_interval(
            pairwise_order(*first), pairwise_order(*second), *names
        )
        assert low <= value <= high
        assert value == pytest.approx(
            auc_interval(*first, *names)[0] - auc_interval(*second, *names)[0]
        )
        seen += low > 0
        found += (
            auc_difference_interval(
                pairwise_order(first[0] + 3, first[1]), pairwise_order(*second), *names
            ).low
            > 0
        )
    assert seen <= 3
    assert found >= 48
    same = pairwise_order(*first)
    assert auc_difference_interval(same, same, *names)[0] == 0
    assert np.isnan(auc_difference_interval(same, same, *names, pair_mask=np.zeros((30, 30)))).all()


def test_labels_shuffled_at_equal_length_keep_what_length_does():
    """A number that follows length alone is no more than its null, although the AUC is far from one
    half.
    """
    generator, small = np.random.default_rng(0), 0
    for draw in range(30):
        lengths = np.r_[generator.integers(8, 14, 40), generator.integers(10, 16, 40)]
        labels, values = np.arange(80) < 40, lengths + generator.normal(0, 0.5, 80)
        near = np.abs(lengths[:40, None] - lengths[40:]) <= 1
        observed = auc_interval(values[:40], values[40:], range(40), range(40, 80), near).value
        null = shuffled_auc(values, labels, lengths, 1, 40, draw)
        small += (np.sum(null <= observed) + 1) / 41 <= 0.1
        shifted = np.where(labels, values + 1, values)
        again = auc_interval(shifted[:40], shifted[40:], range(40), range(40, 80), near).value
        assert again > shuffled_auc(shifted, labels, lengths, 1, 20, draw).mean()
    assert observed < 0.45  # at most a token apart is not yet equally long
    assert small <= 7
    assert np.isnan(shuffled_auc([1.0, 2.0], [True, False], [1, 9], 1, 3, 0)).all()


def by_class(values, clusters=None, lengths=None, asked=None, seed=0):
    """A run of two classes made of numbers: positive ``values[0]``, negative ``values[1]``."""
    labels = [True] * len(values[0]) + [False] * len(values[1])
    clusters = (
        [f"c{row}" for row in range(len(labels))]
        if clusters is None
        else [*clusters[0], *clusters[1]]
    )
    lengths = np.full(len(labels), 5.0) if lengths is None else np.concatenate(lengths)
    asked = asked or Tuco(output=False)
    shuffles = LabelPermutations.from_clusters(labels, clusters, lengths)
    both = np.concatenate(values)
    columns = {
        "group": (["positive" if label else "negative" for label in labels], "key", ""),
        "cluster": (clusters, "key", ""),
        "tokens": (lengths, "measure", ""),
        "tuco": (both, "measure", ""),
        "base_own": (both[::-1].copy(), "measure", ""),
    }
    run = make_table(
        "tuco", columns, tables={"permuted": permuted_aucs(shuffles, asked, both, seed)}
    )
    return (
        claims.conclude(run, claims_of(asked, 0.0, len(labels), ("a", "b"), False, shuffles)),
        shuffles,
    )


def findings(run):
    return {each.name: each for each in claims.from_table(run.tables["claims"])}


@pytest.mark.parametrize("seed", range(30))
def test_p_counts_draws_that_equal_the_observed_auc(seed):
    """The AUC is discrete: one last bit between the value and its null would lose every tie.
    Counted by scipy here.
    """
    generator = np.random.default_rng(seed)
    counts = generator.integers(5, 9, 2)
    values = [generator.normal(0.8 * (not side), 1, counts[side]) for side in range(2)]
    run, _ = by_class(values)
    pairs = counts[0] * counts[1]
    above = [round(float(draw) * pairs) for draw in run.tables["permuted"]["auc"]]
    observed = mannwhitneyu(*values).statistic
    for name in ("separates", "separates-at-equal-length"):
        found = findings(run)[name]
        claims.check(found, run)
        assert found.value == observed / pairs
        b = sum(
            round(float(draw) * pairs) >= observed
            for draw in run.tables["permuted"][_column(found)]
        )
        assert found.p == (1 + b) / 201
    assert len(set(above)) < 200  # ties there are


def _column(found):
    return found.claim.null.column


def test_every_arrangement_drawn_gives_the_exact_p():
    """Of four and four clusters 70 arrangements: p over very many draws nears scipy's exact one."""
    values = [np.array([1.0, 2, 3, 7]), np.array([0.0, 0.5, 4, 5])]
    run, shuffles = by_class(values, asked=Tuco(output=False, permutations=4000))
    assert shuffles.n_permutations == 70
    exact = mannwhitneyu(*values, alternative="greater", method="exact").pvalue
    assert findings(run)["separates"].p == pytest.approx(exact, abs=0.03)
    assert findings(run)["separates"].verdict == claims.TOO_FEW


@pytest.mark.parametrize("twins", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_permutations_keep_clusters_whole(twins):
    """Eight clusters of eight a class, alike within and with no effect between: p is seldom small."""
    small, found = np.zeros(2), np.zeros(2)
    names = [[f"{sign * (not twins)}{row // 8}" for row in range(64)] for sign in "pn"]
    for draw in range(60):
        generator = np.random.default_rng(draw)
        values = [
            generator.normal(0, 1, 8).repeat(8) + generator.normal(0, 1, 64) for _ in range(2)
        ]
        for shift, counted in ((0, small), (4, found)):
            run, _ = by_class(
                [values[0] + shift, values[1]], names, asked=Tuco(output=False, permutations=60)
            )
            counted += [
                each.p <= 0.05
                for name, each in findings(run).items()
                if name.startswith("separates")
            ]
    assert (small <= 7).all()
    assert (found >= 50).all()


def test_with_few_clusters_nothing_is_tested_and_the_sentence_says_why():
    names = [["p0"] * 6 + ["p1"] * 6, ["n0"] * 6 + ["n1"] * 6]
    run, _ = by_class([np.arange(12) + 20.0, np.arange(12.0)], names)
    for name in ("separates", "separates-at-equal-length"):
        found = findings(run)[name]
        assert "in only 6 ways: too few for p of 5 %" in found.sentence
        assert found.verdict == claims.NOT_TESTED
    # a cluster of both classes exchanges the labels of its two sides
    assert (
        by_class([np.arange(4.0)] * 2, [["one", "one", "two", "two"]] * 2)[1].n_permutations == 2**2
    )


def test_the_control_that_no_tuning_touches_is_taken_in_the_direction_that_tells_more_apart():
    values = [np.linspace(1, 2, 8), np.linspace(0, 1.2, 8)]
    run, _ = by_class(values, asked=Tuco())
    found = findings(run)["separates-beyond-base"]
    plain_auc = roc_auc_score([1] * 8 + [0] * 8, np.concatenate(values)[::-1])
    assert plain_auc < 0.5
    assert found.control_value == pytest.approx(1 - plain_auc)
    assert found.value == pytest.approx(
        findings(run)["separates-at-equal-length"].value - (1 - plain_auc)
    )
    order = [
        pairwise_order(*values),
        1 - pairwise_order(*np.split(np.concatenate(values)[::-1], 2)),
    ]
    wanted = auc_difference_interval(*order, range(8), range(8, 16))
    assert found.interval == pytest.approx(wanted[1:])
    moved = replace(found, control_value=plain_auc)
    with pytest.raises(ClaimError, match="control_value"):
        claims.check(moved, run)


@pytest.mark.parametrize("twins", [False, True])
def test_twenty_copies_of_each_prompt_change_nothing(twins):
    """Six clusters a class, and every prompt twenty times in a file without clusters: equal claims,
    p and floor.
    """
    pair = pair_of("llama")
    both = tiny.contrast(6)
    if not twins:
        sets = (
            replace(part, prompts=tuple(replace(p, twin=None) for p in part))
            for part in (both.positive, both.negative)
        )
        both = Contrast(*sets)
    once, often = (Study(pair, tiny.copied(both, times), None) for times in (1, 20))
    assert len(often.prompts("positive")) == 120
    assert (once.contrast.n_clusters, often.contrast.n_clusters) == (6, 6)
    asked = Tuco(controls=(pair_of("llama", 0.002),), caliper=4, permutations=60)
    one, other = (asked(study) for study in (once, often))
    assert one.summary["noise_floor"] == other.summary["noise_floor"]
    assert one.tables["claims"]["name"].tolist() == other.tables["claims"]["name"].tolist()
    for column in ("value", "low", "high", "control_value", "p", "threshold"):
        mine, theirs = (each.tables["claims"][column].astype(float) for each in (one, other))
        np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-9, err_msg=column)


def planted_in_one_file():
    """Prompts of both classes in one file, of which the planted tune refuses the first."""
    study = tiny.planted_study("llama")
    prompts = [*study.contrast.positive.prompts[:6], *study.contrast.negative.prompts[:6]]
    mixed = PromptSet(tuple(replace(prompt, id=row) for row, prompt in enumerate(prompts)), "mixed")
    return study.with_prompts(OneClass(mixed))


def test_prompts_are_parted_by_what_is_answered():
    study = planted_in_one_file()
    base = study.pair.base.module
    control = Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer())
    control = Pair(
        control.tuned,
        study.pair.base,
        study.pair.tokenizer,
        {**study.pair.digests, "tuned": "of the control"},
    )
    table = Tuco(by_answer=True, controls=(control,), caliper=9)(study)
    answers = table.tables["answers"]
    assert answers["refused"].tolist() == [True] * 6 + [False] * 6
    assert table["prompt_id"][table["group"] == "positive"].tolist() == list(range(6))
    assert "text" not in answers.data
    assert (
        table.provenance.key
        == study.provenance(Tuco(by_answer=True, controls=(control,), caliper=9)).key
    )
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert list(made) == [
        "beyond-rounding",
        "beyond-control",
        "beyond-new-control",
        "separates",
        "separates-at-equal-length",
        "separates-beyond-base",
        "separates-beyond-control",
        "separates-beyond-new-control",
    ]
    for claim in made.values():
        claims.check(claim, table)
    alone = Tuco()(Study(control, OneClass(study.contrast.positive), None))
    order = np.argsort(table["prompt_id"])
    np.testing.assert_allclose(table["control_tuco"][order], alone["tuco"], rtol=1e-5)
    kept = study.contrast.positive.prompts[:6]
    alike = Tuco(by_answer=True, keep_text=True)(
        study.with_prompts(OneClass(PromptSet(kept, "refused")))
    )
    assert "there are no two classes to compare" in alike.summary["sentence"]
    assert not alike.summary["supported"]
    assert "text" in alike.tables["answers"].data
    with pytest.raises(OptionError, match="the study has two"):
        Tuco(by_answer=True)(tiny.planted_study("llama"))


def test_a_control_is_not_beyond_itself():
    """Whatever its AUC, a tune that is its own control is not beyond it; and a control has the same
    base.
    """
    base = tiny.llama()
    pair = Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer())
    table = Tuco(controls=(pair,), caliper=9)(Study(pair, tiny.contrast(16), None))
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert made["separates-beyond-control"].value == made["beyond-control"].value == 0
    assert not table.summary["supported"]
    with pytest.raises(PairError, match="another base"):
        Tuco(controls=(pair_of("gpt2"),))(Study(pair, tiny.contrast(4), None))


def test_two_classes_have_an_auc_and_that_of_their_length():
    pair = pair_of("llama")
    both = tiny.contrast(16)
    study = Study(pair, both, None)
    table = Tuco()(study)
    found = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    labels = table["group"] == "positive"
    assert found["separates"].value == pytest.approx(roc_auc_score(labels, table["tuco"]))
    for claim in found.values():
        claims.check(claim, table)
    turned = Tuco()(study.with_prompts(Contrast(both.negative, both.positive)))
    other = {claim.name: claim for claim in claims.from_table(turned.tables["claims"])}
    assert other["separates"].value == pytest.approx(1 - found["separates"].value)
    apart = (
        PromptSet(both.positive.prompts[:1], "one"),
        PromptSet(tiny.contrast(33).negative.prompts[32:], "long"),
    )
    alone = Tuco(caliper=0)(study.with_prompts(Contrast(*apart)))
    for claim in claims.from_table(alone.tables["claims"])[2:]:
        assert not claim.supported
        claims.check(claim, alone)
    single = Tuco()(study.with_prompts(OneClass(apart[0])))
    rounding = claims.from_table(single.tables["claims"])[0]
    assert np.isnan(rounding.low)
    assert rounding.verdict == claims.TOO_FEW  # one prompt, however large its TuCo
    assert (
        "cannot be excluded as the cause" in findings(alone)["separates-at-equal-length"].sentence
    )


def test_one_class_is_a_study():
    pair, both = pair_of("llama"), tiny.contrast(4)
    one = Study(pair, OneClass(both.positive), None)
    assert one.classes == ("positive",)
    assert one.provenance(Tuco()).key != Study(pair, both, None).provenance(Tuco()).key
    assert (
        one.provenance(Tuco()).key
        != Study(pair, OneClass(both.negative), None).provenance(Tuco()).key
    )
    assert "negative" not in one.provenance(Tuco()).context
    with pytest.raises(Exception, match="one class of prompts was given"):
        one.encoded("negative")
    with pytest.raises(OptionError, match="needs a metric"):
        FtcAlpha()(one)
    with pytest.raises(OptionError, match="add --base"):
        Tuco()(Study(Pair.from_modules(pair.tuned.module, None, tiny.tokenizer()), both, None))


def test_the_key_follows_every_option():
    study, names = (
        study_of(pair_of("llama")),
        {
            "granularity": "sublayer",
            "positions": "all",
            "path": "fast",
            "order": 2,
            "drop": (1,),
            "output": False,
            "caliper": 2,
            "permutations": 9,
            "floor_prompts": 1,
            "map_prompts": 2,
            "by_answer": True,
            "keep_text": True,
            "controls": (pair_of("llama", 0.03),),
            "parent": "1" * 20,
        },
    )
    made = [Tuco(), *(Tuco(**{name: value}) for name, value in names.items())]
    assert len({study.provenance(each).key for each in made}) == len(made)
    assert set(names) == {field.name for field in fields(Tuco)}


def test_the_table_is_whole():
    study = study_of(pair_of("llama"))
    table = Tuco(positions="all")(study)
    assert table["prompt_id"].tolist() == [0, 1, 2, 3, 4]
    layers = table.tables["layers"]
    assert len(layers) == 15
    assert layers["error"].max() < 1e-6
    np.testing.assert_array_equal(layers["beta"][layers["layer"] == 2], table["tuco"])
    assert 0 < table.summary["noise_floor"] < 1e-6
    assert table.summary["sentence"].endswith(".")
    for part in (table, layers, table.tables["tokens"]):
        figure = plot(part)
        assert figure.layout.meta["caption"].endswith(".")
        assert json.loads(figure.to_json())["data"]
    again = Tuco(positions="all")(study_of(study.pair))
    assert again.equals(table)
    with pytest.raises(OptionError, match="cannot drop dimension 32"):
        Tuco(drop=(32,))(study)


def test_a_watched_value_goes_on_as_it_is():
    pair, seen = pair_of("llama"), []
    before = ENGINE.run(pair.tuned, batch_of(pair)).logits
    watch = Observe(Site(1, "hook_mlp_out"), lambda value: seen.append(value.shape))
    assert torch.equal(ENGINE.run(pair.tuned, batch_of(pair), edits=[watch]).logits, before)
    assert len(seen) == 1


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuco")
    base, tuned = tiny.planted(tiny.llama(7), pairs=8)
    for name, model in (("base", base), ("tuned", tuned)):
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    both = tiny.contrast(8)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        (root / f"{name}.txt").write_text("\n".join(prompts.texts), encoding="utf-8")
    rows = [{"prompt": p.text, "answer": "Sorry", "wrong_answer": "paint"} for p in both.positive]
    (root / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "sorry.txt").write_text("Sorry")
    return root


def asked(root, *options, tuned="tuned"):
    return ["tuco", root / tuned, "--base", root / "base", "--store", root / "runs", *options]


def test_the_command_keeps_a_run_and_answers_again(run, saved):
    two = ("--positive", saved / "positive.txt", "--negative", saved / "negative.txt")
    command = asked(
        saved, *two, "--alpha", "0,1.5", "--markers", saved / "sorry.txt", "--quiet", "--json"
    )
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["rows"] == 16
    table = Store(saved / "runs").get(record["run"])
    assert {"prompt_id", "tuco", "pre_co", "output_co"} <= set(table.data)
    assert "layers" in table.tables
    scaling = Store(saved / "runs").get(record["summary"]["checks"]["ftc-alpha"]["run"])
    for each in (table, scaling):
        for claim in claims.from_table(each.tables["claims"]):
            claims.check(claim, each)
    page = Path(record["page"]).read_text(encoding="utf-8")
    assert KINDS["tuco"].heading in page
    assert KINDS["ftc-alpha"].heading in page
    code, again, _ = run(*command)
    assert json.loads(again) == record | {"cached": True}


def test_the_command_parts_prompts_by_their_answers(run, saved):
    both = saved / "both.txt"
    both.write_text(
        "\n".join((saved / f"{name}.txt").read_text() for name in ("positive", "negative"))
    )
    code, out, err = run(
        *asked(
            saved,
            "--prompts",
            both,
            "--by-answer",
            "--generations",
            "1",
            "--control",
            saved / "tuned",
            "--caliper",
            "9",
            "--markers",
            saved / "sorry.txt",
            "--keep-answers",
            "--quiet",
            "--json",
        )
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert "Of 16 prompts 8 were refused and 8 were not" in record["summary"]["sentence"]
    table = Store(saved / "runs").get(record["run"])
    assert table.tables["answers"]["refused"].sum() == 8
    assert "text" in table.tables["answers"].data
    assert not record["summary"]["supported"]  # it is its own control


def test_the_command_takes_one_file_and_answers_of_a_task(run, saved):
    code, out, err = run(
        *asked(
            saved,
            "--prompts",
            saved / "task.jsonl",
            "--alpha",
            "0",
            "--metric",
            "logit-diff",
            "--positions",
            "all",
            "--granularity",
            "sublayer",
            "--norm",
            "2",
            "--no-output-co",
            "--quiet",
        )
    )
    assert (code, err) == (0, "")
    assert "TuCo, mean of 8 prompts" in out
    assert "logit difference" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give either --prompts"),
        (("--positive", "positive.txt"), "only one of --positive and --negative"),
        (
            (
                "--prompts",
                "positive.txt",
                "--positive",
                "positive.txt",
                "--negative",
                "negative.txt",
            ),
            "give either",
        ),
        (("--prompts", "none.txt"), "no prompt file"),
        (("--prompts", "positive.txt", "--granularity", "neuron"), "unknown granularity 'neuron'"),
        (
            ("--prompts", "positive.txt", "--positions", "all", "--path", "fast"),
            "the fast path reads the last token only",
        ),
        (("--prompts", "positive.txt", "--norm", "3"), "unknown order 3"),
        (("--prompts", "positive.txt", "--drop-dims", "a"), "not a list of numbers"),
        (("--prompts", "positive.txt", "--drop-dims", "-1"), "counted from 0"),
        (("--prompts", "positive.txt", "--drop-dims", "99"), "cannot drop dimension 99"),
        (("--prompts", "positive.txt", "--alpha", "0,x"), "not a list of numbers"),
        (("--prompts", "positive.txt", "--alpha", "nan"), "must be finite numbers"),
        (("--prompts", "positive.txt", "--generations", "3"), "need --alpha"),
        (("--prompts", "positive.txt", "--alpha", "0", "--metric", "taste"), "unknown --metric"),
        (
            ("--prompts", "positive.txt", "--alpha", "0", "--metric", "accuracy"),
            "has no columns, but a task needs answers",
        ),
        (("--prompts", "positive.txt", "--alpha", "0", "--keep-answers"), "--keep-answers keeps"),
        (
            ("--positive", "positive.txt", "--negative", "negative.txt", "--by-answer"),
            "two classes of one file",
        ),
        (("--prompts", "positive.txt", "--control", "nowhere"), "nowhere"),
        (
            ("--prompts", "positive.txt", "--alpha", "0", "--engine", "nnsight"),
            "leave out --engine nnsight",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    files = [saved / part if str(part).endswith(".txt") else part for part in options]
    code, out, err = run(
        "tuco", saved / "tuned", "--base", saved / "base", "--store", tmp_path / "runs", *files
    )
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))


def test_without_a_base_the_command_says_so_before_loading(run, only_line, saved, tmp_path):
    code, _, err = run(
        "tuco", saved / "tuned", "--prompts", saved / "positive.txt", "--store", tmp_path / "runs"
    )
    assert code == 2
    assert "TuCo needs a base model" in only_line(err)


@pytest.mark.slow
def test_organisms_say_what_their_names_promise():
    """A control changed less than a tune; its classes differ, by no more than the base alone has
    them differ.
    """
    prompts = [
        read_prompts(organisms.prompts("refusal", "verify", group))
        for group in ("harmful", "harmless")
    ]
    found = {}
    for name in ("planted", "sham"):
        pair = Pair.load(f"organism:refusal/{name}", "organism:refusal/base")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = Tuco()(Study(pair, Contrast(*prompts).limit(24), None))
    assert found["planted"].summary["tuco"] > found["planted"].summary["noise_floor"]
    beyond = {
        name: {claim.name: claim for claim in claims.from_table(table.tables["claims"])}[
            "separates-beyond-base"
        ]
        for name, table in found.items()
    }
    assert beyond["planted"].supported
    assert not beyond["sham"].supported
