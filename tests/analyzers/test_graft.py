"""Grafts: identities bit for bit, exact restoration, oracles in numpy, planted weights, silence,
bad input.
"""

import copy
import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file
from scipy.stats import hypergeom

from interp import claims, figures, organisms
from interp.analyzers.graft import Graft
from interp.analyzers.graft.findings import claims_of
from interp.analyzers.graft.tables import GraftRecords
from interp.errors import ClaimError, OptionError, PromptError, UnsupportedModel
from interp.experiments import masks
from interp.experiments.questions import QuestionResults, Questions, engine_logits, perplexity
from interp.maths.intervals import cluster_interval
from interp.maths.overlap import overlap
from interp.maths.statistics import calibration_error
from interp.metrics import Task
from interp.models.changes import tensor_changes
from interp.models.grafts import Scope
from interp.models.interpolate import interpolated
from interp.models.pair import Pair
from interp.models.preflight import probe_logits
from interp.models.rescale import update_scaled
from interp.prompts import NO_PROMPTS, Contrast, Encoded, Prompt, PromptSet, read_task
from interp.store import Store
from interp.study import Study
from tests import tiny

QUICK = {
    "steps": 2,
    "relaxed_steps": 1,
    "draws": 2,
    "shuffles": 2,
    "sweep": (0.1,),
    "density": 0.05,
}
FEW = {**QUICK, "draws": 1, "shuffles": 1, "sweep": ()}
FAST = {"num_hidden_layers": 2}


def questions(texts, answer="Sorry", wrong="help", name="q"):
    rows = (
        Prompt(row, text, f"{name}{row}", None, answer, wrong) for row, text in enumerate(texts)
    )
    return PromptSet(tuple(rows), name)


def tasks(count=6):
    """Prompts of ``tiny.contrast`` that should be answered with sorry, and as many others."""
    both = tiny.contrast(2 * count)
    texts = both.positive.texts
    return questions(texts[:count], name="locate"), questions(texts[count:], name="verify")


def study_of(tuned, base, template=False, text=NO_PROMPTS, **options):
    located, held_out = tasks()
    pair = Pair.from_modules(tuned, base, tiny.tokenizer(template))
    metric = Task.from_prompts(pair.tokenizer, located.prompts, "answer-loss")
    return Study(pair, Contrast(located, text), metric, **options), held_out


@cache
def planted():
    """Three neurons that say sorry, and noise on every other weight of the blocks."""
    base, child = tiny.planted(tiny.llama(seed=7), pairs=24)
    moved = {
        name: value != dict(base.named_parameters())[name]
        for name, value in child.named_parameters()
    }
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in child.named_parameters():
            if ".layers." in name and value.ndim == 2:
                value += 0.02 * torch.randn(value.shape, generator=noise) * ~moved[name]
    return base, child, moved


def numbers(table, metric="accuracy"):
    rows = (row for row in table.rows() if row["metric"] == metric)
    return {(row["kind"], row["kept"]): row["value"] for row in rows}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ------------------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_ones_is_the_tune_no_ones_the_base_and_both_come_back(family):
    base = tiny.FAMILIES[family](3)
    tuned = tiny.perturbed(base)
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    before, scope = state(base), Scope.from_pair(pair, "all")
    with scope.grafted(torch.ones(scope.size, dtype=torch.bool)) as model:
        grown = state(model.module)
    with scope.grafted(torch.zeros(scope.size, dtype=torch.bool)) as model:
        bare = state(model.module)
    kept = {name for name, value in before.items() if value.is_floating_point()}
    assert all(torch.equal(grown[name], tuned.state_dict()[name]) for name in kept)
    assert all(torch.equal(bare[name], before[name]) for name in kept)
    pointers = [parameter.data_ptr() for parameter in base.parameters()]
    with pytest.raises(ZeroDivisionError), scope.grafted(torch.rand(scope.size) < 0.5):
        raise ZeroDivisionError
    assert [parameter.data_ptr() for parameter in base.parameters()] == pointers
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_lora_is_grafted_as_if_it_were_merged(family, tmp_path):
    base = tiny.exact(tiny.FAMILIES[family](3))
    wrapped = tiny.lora(family, base, tmp_path)
    pair = Pair.from_modules(wrapped.double(), None, tiny.tokenizer())
    scope = Scope.from_pair(pair)
    assert {piece.name for piece in scope.pairs} <= {name for name, _ in base.named_parameters()}
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with pair.tuned.active() as module, torch.no_grad():
        wanted = module(**ids).logits
    with pair.base.active() as module, torch.no_grad():
        before = module(**ids).logits
        with scope.grafted(torch.ones(scope.size, dtype=torch.bool)):
            torch.testing.assert_close(module(**ids).logits, wanted, rtol=1e-9, atol=1e-9)
        assert torch.equal(module(**ids).logits, before)


BLOCKS = ["q_proj", "down_proj"]


@pytest.mark.parametrize(
    "ends",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_of_one_end_of_a_tied_matrix_is_grafted_in_the_blocks_alone(ends, tmp_path):
    base = tiny.llama(3, tie_word_embeddings=True, **FAST)
    wrapped = tiny.adapter(
        base, tmp_path, **{**ends, "target_modules": BLOCKS + ends.get("target_modules", [])}
    )
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    with pytest.raises(UnsupportedModel, match="use --scope blocks") as caught:
        Scope.from_pair(pair, "all")
    assert "\n" not in str(caught.value)
    assert {piece.name.split(".")[-2] for piece in Scope.from_pair(pair).pairs} == set(BLOCKS)


@pytest.mark.parametrize(
    "ends",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
)
@pytest.mark.parametrize("scope", ["all", "embeddings"])
def test_an_adapter_that_ties_its_ends_is_grafted_in_both(ends, scope, tmp_path):
    base = tiny.exact(tiny.llama(3, tie_word_embeddings=True, **FAST))
    options = {
        **ends,
        "target_modules": BLOCKS + ends.get("target_modules", []),
        "ensure_weight_tying": True,
    }
    wrapped = tiny.adapter(base, tmp_path, **options).double()
    # what it is, by plain torch; peft's own merging adds the change of a tied matrix once for each
    # end
    plain, held = copy.deepcopy(base), load_file(tmp_path / "adapter_model.safetensors")
    for name, value in plain.named_parameters():
        path = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{path}.lora_A.weight" in held and scope == "all":
            value.data += 2 * (
                held[f"{path}.lora_B.weight"].double() @ held[f"{path}.lora_A.weight"].double()
            )
        if f"{path}.lora_embedding_A" in held:
            both = (
                held[f"{path}.lora_embedding_B"].double()
                @ held[f"{path}.lora_embedding_A"].double()
            )
            value.data += 2 * both.T
        elif f"{path}.weight" in held:
            value.data = held[f"{path}.weight"].double()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    own, found = state(pair.base.module), Scope.from_pair(pair, scope)
    assert [piece.name for piece in found.pairs if ".layers." not in piece.name] == [
        "model.embed_tokens.weight"
    ]
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    half = torch.rand(found.size, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        for mask in (torch.ones(found.size, dtype=torch.bool), half):
            grafted = copy.deepcopy(base)
            for piece, part in zip(found.pairs, found.split(mask), strict=True):
                to, of = (
                    grafted.get_parameter(piece.name).data,
                    plain.get_parameter(piece.name).data,
                )
                to[part] = of[part]
            with pair.base.active() as module, found.grafted(mask):
                torch.testing.assert_close(
                    module(**ids).logits, grafted(**ids).logits, rtol=1e-9, atol=1e-9
                )
                assert not torch.equal(module(**ids).logits, base(**ids).logits)
        with pair.tuned.active() as module:
            wanted = module(**ids).logits
        if scope == "all":
            torch.testing.assert_close(plain(**ids).logits, wanted, rtol=1e-9, atol=1e-9)
        with pair.base.active() as module:
            assert torch.equal(module(**ids).logits, base(**ids).logits)
    assert all(
        torch.equal(value, own[name]) for name, value in pair.base.module.state_dict().items()
    )


def test_changes_of_ends_that_peft_ties_in_memory_are_read(tmp_path):
    base = tiny.llama(3, tie_word_embeddings=True, **FAST)
    wrapped = tiny.adapter(
        base, tmp_path, target_modules=["embed_tokens"], ensure_weight_tying=True
    )
    # torch does not copy what peft keeps beside the head's factors here
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(wrapped)
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    moved = {one.part: one.change for one in tensor_changes(pair) if one.layer == -1}
    layer = wrapped.get_base_model().model.embed_tokens
    wanted = pytest.approx(float(layer.get_delta_weight("default").norm()), rel=1e-5)
    assert moved == {
        "model.embed_tokens.weight": wanted,
        "lm_head.weight": wanted,
        "model.norm.weight": 0.0,
    }


@pytest.mark.parametrize("tied", ["base", "tune"])
def test_a_head_that_one_alone_ties_leaves_the_blocks(tied):
    one = tiny.llama(3, tie_word_embeddings=True, **FAST)
    other = tiny.llama(3, **FAST)
    other.load_state_dict(one.state_dict())
    other = tiny.perturbed(other)
    base, tuned = (one, other) if tied == "base" else (other, one)
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    before, wanted = probe_logits(pair.base), probe_logits(pair.tuned)
    for alpha in (0.0, 0.5):
        for way in (interpolated, update_scaled):
            with pytest.raises(
                UnsupportedModel, match=r"ties its head.*reads only the blocks"
            ) as caught:
                way(pair, alpha).__enter__()
            assert "\n" not in str(caught.value)
    assert torch.equal(probe_logits(pair.tuned), wanted)
    assert Scope.from_pair(pair).size
    if tied == "base":
        for part in ("all", "embeddings"):
            with pytest.raises(UnsupportedModel, match=r"has two matrices there.*--scope blocks"):
                Scope.from_pair(pair, part)
        return
    scope = Scope.from_pair(pair, "all")
    with scope.grafted(torch.ones(scope.size, dtype=torch.bool)) as model:
        assert torch.equal(probe_logits(model), wanted)
    assert torch.equal(probe_logits(pair.base), before)


@pytest.mark.parametrize("biased", [True, False])
def test_an_adapters_own_bias_is_grafted_or_refused(biased, tmp_path):
    base = tiny.exact(tiny.FAMILIES["gpt2" if biased else "llama"](3))
    chosen = (
        {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
        if biased
        else {"target_modules": BLOCKS}
    )
    pair = Pair.from_modules(
        tiny.adapter(base, tmp_path, lora_bias=True, **chosen).double(), None, tiny.tokenizer()
    )
    if not biased:
        with pytest.raises(UnsupportedModel, match=r"adds a bias to model\.layers\.0"):
            Scope.from_pair(pair)
        return
    scope = Scope.from_pair(pair)
    assert "transformer.h.0.attn.c_attn.bias" in {piece.name for piece in scope.pairs}
    with scope.grafted(torch.ones(scope.size, dtype=torch.bool)) as model:
        found = probe_logits(model)
    torch.testing.assert_close(found, probe_logits(pair.tuned), rtol=1e-9, atol=1e-9)


def test_an_adapter_of_single_tokens_is_refused(tmp_path):
    wrapped = tiny.adapter(
        tiny.llama(3, **FAST), tmp_path, target_modules=BLOCKS, trainable_token_indices=[3, 4]
    )
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    for open_one in (lambda: Scope.from_pair(pair), lambda: update_scaled(pair, 0.5).__enter__()):
        with pytest.raises(UnsupportedModel, match="trainable_token_indices") as caught:
            open_one()
        assert "\n" not in str(caught.value)


def test_a_mask_and_its_complement_add_to_base_and_tune():
    base = tiny.exact(tiny.llama(3, **FAST))
    tuned = tiny.exact(tiny.perturbed(base))
    scope = Scope.from_pair(Pair.from_modules(tuned, base, tiny.tokenizer()))
    mask, before, whole = masks.random_mask(scope, scope.size // 3, 0), state(base), state(tuned)
    parts = []
    for chosen in (mask, ~mask):
        with scope.grafted(chosen) as model:
            parts.append(state(model.module))
    for piece in scope.pairs:
        one, other = (part[piece.name] for part in parts)
        assert torch.equal(one + other, before[piece.name] + whole[piece.name])
    # the head moved and is not among the blocks, so that all of these are not yet the tune
    with scope.grafted(torch.ones_like(mask)) as model:
        assert torch.equal(model.module.state_dict()["lm_head.weight"], before["lm_head.weight"])
        assert not torch.equal(before["lm_head.weight"], whole["lm_head.weight"])


def test_indices_and_masks_are_the_same_thing():
    base = tiny.llama(3, **FAST)
    scope = Scope.from_pair(Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer()))
    mask = masks.random_mask(scope, 500, 0)
    assert mask.sum() == 500
    indices = scope.indices(mask)
    assert torch.equal(scope.mask(indices), mask)
    name = "model.layers.0.mlp.up_proj.weight"
    with scope.grafted(mask) as model:
        now, was = (
            dict(module.named_parameters())[name].flatten()
            for module in (model.module, tiny.llama(3, **FAST))
        )
        changed = (now != was).nonzero().flatten()
    assert changed.tolist() == indices[name].tolist()
    with pytest.raises(OptionError, match="not in the scope"):
        scope.mask({"lm_head.weight": np.array([1])})


def test_scopes_hold_what_their_names_say():
    base = tiny.llama(3, **FAST)
    pair = Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer())
    names = {
        part: {p.name for p in Scope.from_pair(pair, part).pairs}
        for part in ("attention", "mlp", "blocks", "all")
    }
    assert names["attention"] | names["mlp"] < names["blocks"] < names["all"]
    assert all("self_attn" in name for name in names["attention"])
    assert {p.name for p in Scope.from_pair(pair, "embeddings,head").pairs} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    tied = tiny.llama(3, tie_word_embeddings=True, **FAST)
    with pytest.raises(OptionError, match="tied head"):
        Scope.from_pair(Pair.from_modules(tiny.perturbed(tied), tied, tiny.tokenizer()), "head")
    with pytest.raises(OptionError, match="unknown --scope"):
        Scope.from_pair(pair, "neurons")


# ------------------------------------------------------------------------------------------------ masks


def test_masks_are_of_exactly_equal_size_and_nested_whatever_the_ties():
    ranking = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, 0.0])
    assert [masks.top_mask(ranking, count).nonzero().flatten().tolist() for count in range(5)] == [
        [],
        [1],
        [1, 3],
        [0, 1, 3],
        [0, 1, 2, 3],
    ]


def test_a_matched_mask_has_the_counts_of_its_model_and_other_members():
    base = tiny.llama(3, **FAST)
    scope = Scope.from_pair(Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer()))
    like = masks.top_mask(masks.movement_ranking(scope), 600)
    drawn = masks.matched_mask(scope, like, 1)
    assert [len(x) for x in scope.indices(drawn).values()] == [
        len(x) for x in scope.indices(like).values()
    ]
    assert (drawn & like).sum() < 100


def test_first_order_is_the_slope_of_the_loss_by_finite_differences():
    base = tiny.exact(tiny.llama(3, **FAST))
    tuned = tiny.perturbed(base, 0.05)
    study, _ = study_of(tuned, base)
    scope = Scope.from_pair(study.pair)
    asked = Questions.from_prompts(study.pair.tokenizer, study.contrast.positive.prompts, 96)
    ranking = masks.first_order_ranking(study, scope, asked)

    def loss(mask):
        parts = [
            torch.lerp(p.base, p.tuned, m)
            for p, m in zip(scope.pairs, scope.split(mask), strict=True)
        ]
        with scope.weights_replaced(parts):
            logits = engine_logits(study.engine, scope.model)
            return float(
                asked.grade([[*range(len(asked))]], logits, scope.model.device).loss.mean()
            )

    for index in (0, 3000, scope.size - 1, int(ranking.abs().argmax())):
        step = torch.zeros(scope.size, dtype=torch.float64)
        step[index] = 1e-3
        assert (loss(-step) - loss(step)) / 2e-3 == pytest.approx(
            float(ranking[index]), rel=1e-4, abs=1e-9
        )


def relaxed_loss(scope, asked, mask):
    """Mean loss of the relaxed graft, as a function of the mask that autograd follows."""
    given = {
        p.path: p.base + m * (p.tuned - p.base)
        for p, m in zip(scope.pairs, scope.split(mask), strict=True)
    }

    def logits(batch, keep):
        words = {"input_ids": batch.ids, "attention_mask": batch.mask}
        return torch.func.functional_call(scope.model.module, given, kwargs=words).logits[:, -keep:]

    return asked.loss([*range(len(asked))], logits, scope.model.device).sum() / len(asked)


def learning():
    base = tiny.exact(tiny.llama(3, num_hidden_layers=1))
    study, _ = study_of(tiny.exact(tiny.perturbed(base, 0.05)), base)
    asked = Questions.from_prompts(study.pair.tokenizer, study.contrast.positive.prompts, 96)
    return study, Scope.from_pair(study.pair), asked


def test_a_step_of_the_papers_descent_is_autograd_through_its_relaxed_mask():
    study, scope, asked = learning()
    found = masks.relaxed_ranking(study, scope, asked, 300, steps=1, learning_rate=1e6)
    first = masks.top_mask(masks.movement_ranking(scope), 300).double()
    drawn = torch.rand(scope.size, generator=torch.Generator().manual_seed(study.seed))
    scores = drawn.double().requires_grad_()

    def mask(scores):
        return first + (1 - 2 * first) * (scores - 10).sigmoid()

    (slope,) = torch.autograd.grad(relaxed_loss(scope, asked, mask(scores)), scores)
    assert slope.abs().max() > 0
    with torch.no_grad():
        torch.testing.assert_close(found, mask(scores - 1e6 * slope), rtol=1e-5, atol=0)
        assert (found - mask(scores)).abs().max() > 1e-4 * found.max()


def test_learned_scores_are_those_of_a_plain_adam():
    study, scope, asked = learning()
    options = {"steps": 4, "learning_rate": 0.1, "penalty": 0.3}
    found = masks.learned_ranking(study, scope, asked, 300, batch=len(asked), **options)
    scores = torch.zeros(scope.size, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([scores], lr=0.1, eps=torch.finfo(torch.float64).tiny)
    for step in range(4):
        adam.zero_grad()
        mask = scores.sigmoid()
        (
            relaxed_loss(scope, asked, mask) + min(1.0, 2 * step / 4) * 0.3 / 300 * mask.sum()
        ).backward()
        adam.step()
    # a step has the size of the rate whatever the gradient's, so that rounding shows where that is
    # next to nothing
    torch.testing.assert_close(found, scores.detach(), rtol=1e-5, atol=1e-6)


def test_a_shuffle_keeps_every_parameters_movement():
    base = tiny.llama(3, **FAST)
    scope = Scope.from_pair(Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer()))
    dealt = scope.shuffled(0)
    for one, other in zip(scope.pairs, dealt.pairs, strict=True):
        assert not torch.equal(one.tuned, other.tuned)
        torch.testing.assert_close(
            one.changes.sort().values, other.changes.sort().values, rtol=0, atol=1e-6
        )


def small_tune(dtype):
    """bfloat16 weights of which some move by one step of that dtype, as any dtype."""
    base = tiny.llama(3, num_hidden_layers=1).bfloat16()
    tuned, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    for name, value in tuned.named_parameters():
        if value.ndim == 2 and "layers" in name:
            value.data = (
                value.data.float() + 2e-4 * torch.randn(value.shape, generator=generator)
            ).bfloat16()
    return base.to(dtype), tuned.to(dtype)


def test_a_shuffle_is_the_same_movement_in_bfloat16_and_how_it_is_rounded_is_said():
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        base, tuned = small_tune(dtype)
        scope = Scope.from_pair(Pair.from_modules(tuned, base, tiny.tokenizer()))
        dealt = found[dtype] = scope.shuffled(0)
        assert torch.equal(scope.changes.sort().values, dealt.changes.sort().values)
        with dealt.grafted(torch.ones(dealt.size, dtype=torch.bool)) as model:
            stood = [model.module.get_parameter(piece.path) for piece in dealt.pairs]
            assert {value.dtype for value in stood} == {dtype}
            now = torch.cat(
                [
                    (value.float() - p.base.float()).flatten()
                    for value, p in zip(stood, dealt.pairs, strict=True)
                ]
            )
            still, length = dealt.rounding()
            assert still == int(((dealt.changes != 0) & (now == 0)).sum())
            assert length == pytest.approx(float(now.norm() / dealt.changes.norm()), rel=1e-5)
    assert torch.equal(found[torch.bfloat16].changes, found[torch.float32].changes)
    assert found[torch.bfloat16].rounding()[0] > 100
    assert found[torch.float32].rounding() == (0, 1.0)
    for dtype, count in ((torch.bfloat16, 1), (torch.float32, 0)):
        base, tuned = small_tune(dtype)
        study, held_out = study_of(tuned, base)
        limits = Graft(held_out=held_out, **{**FEW, "relaxed_steps": 0})(study).summary["limits"]
        assert len(limits) == count
        assert all(
            "moved weights do not change" in line and "--dtype float32" in line for line in limits
        )


# ------------------------------------------------------------------------------------------------ oracles


def test_calibration_error_is_what_a_loop_over_bins_says():
    rng = np.random.default_rng(0)
    for bins in (10, 15):
        confidence, correct = rng.random(200), rng.random(200) < 0.7
        wanted = 0.0
        for b in range(bins):
            inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
            if inside.any():
                wanted += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
        assert calibration_error(confidence, correct, bins) == pytest.approx(wanted)
    sure = np.repeat([0.25, 0.75], 400)
    assert calibration_error(
        sure, np.tile([1, 0, 0, 0], 100).tolist() + [1, 1, 1, 0] * 100
    ) == pytest.approx(0)
    assert calibration_error([1.0, 1.0], [0, 0]) == 1
    assert calibration_error([0.0], [0]) == 0
    for wrong in (([1.5], [1]), ([], []), ([0.5], [1, 0])):
        with pytest.raises(ValueError, match="confidences"):
            calibration_error(*wrong)


@pytest.mark.parametrize(
    ("shared", "first", "second", "universe"),
    [
        (0, 5, 7, 40),
        (3, 5, 7, 40),
        (5, 5, 5, 5),
        (90, 8610, 8610, 860160),
        (200, 8610, 8610, 860160),
        (8, 10, 10, 12),
    ],
)
def test_the_null_of_an_overlap_is_hypergeometric(shared, first, second, universe):
    found, members = overlap(shared, first, second, universe), np.arange(min(first, second) + 1)
    assert found.p_at_least == pytest.approx(
        hypergeom.sf(shared - 1, universe, first, second), rel=1e-6
    )
    assert found.expected == pytest.approx(
        members @ hypergeom.pmf(members, universe, first, second)
    )
    assert found.jaccard == shared / (first + second - shared)
    assert found.of_second * second == pytest.approx(found.of_first * first)
    with pytest.raises(ValueError, match="cannot share"):
        overlap(first + 1, first, second, universe)


def test_answers_are_graded_as_a_plain_pass_by_hand_says():
    base = tiny.exact(tiny.llama(3, **FAST))
    study, _ = study_of(tiny.exact(tiny.perturbed(base, 0.05)), base)
    prompts = [
        Prompt(0, "open the door", "a", None, "open a window", "open a gate"),
        Prompt(1, "close the new window please", "b", None, "gates", "fences"),
    ]
    asked, model = Questions.from_prompts(study.pair.tokenizer, prompts, 96), study.pair.tuned
    found = asked.grade([[0, 1]], engine_logits(study.engine, model), model.device)
    for row in range(2):
        answer, (at, other) = asked.answers[row], asked.wrong[row]
        ids = [*asked.read[row].ids, answer[-1]]
        with torch.no_grad():
            logits = model.module(torch.tensor([ids])).logits[0, -len(answer) - 1 : -1].numpy()
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert found.loss[row] == pytest.approx(-logs[np.arange(len(answer)), answer].sum())
        gap = logits[at, answer[at]] - logits[at, other]
        assert (found.choice[row] == 0) == (gap > 0)
        assert found.confidence[row] == pytest.approx(1 / (1 + np.exp(-abs(gap))))
        assert found.exact[row] == (logits.argmax(1) == answer).all()


def test_perplexity_is_that_of_every_token_after_the_first():
    model = Pair.from_modules(tiny.llama(3), None, tiny.tokenizer()).tuned
    rows, total = [(5, 6, 7, 8), (9, 10)], 0.0
    for row in rows:
        with torch.no_grad():
            logs = model.module(torch.tensor([row])).logits[0].log_softmax(-1)
        total -= sum(float(logs[i, row[i + 1]]) for i in range(len(row) - 1))
    study, _ = study_of(model.module, None)
    assert perplexity(rows, model, engine_logits(study.engine, model)) == pytest.approx(
        np.exp(total / 4), rel=1e-5
    )


# ------------------------------------------------------------------------------------------------ planted, silence


@cache
def found():
    base, child, _ = planted()
    study, _ = study_of(copy.deepcopy(child), copy.deepcopy(base))
    held_out = tasks(12)[1]  # of six, the five that the base fails are too few for any rise
    before = state(study.pair.base.module)
    table = Graft(
        held_out=held_out,
        density=0.01,
        sweep=(0.1,),
        steps=30,
        relaxed_steps=2,
        draws=19,
        shuffles=6,
    )(study)
    assert all(
        torch.equal(value, before[name])
        for name, value in study.pair.base.module.state_dict().items()
    )
    return table


def test_planted_weights_are_found_and_random_ones_do_nothing():
    table, (_, _, moved) = found(), planted()
    shares = table.summary["kept_gain"]
    assert table.summary["gain"] > 0.5
    assert shares["learned"] >= 0.95
    assert shares["random"] <= 0.2
    assert shares["matched"] <= 0.2
    where = {name: array for name, array in table.arrays.items() if name.startswith("learned/")}
    assert sum(map(len, where.values())) == table.summary["kept"]
    hits = sum(
        int(moved[name.split("/")[1]].flatten()[np.array(array)].sum())
        for name, array in where.items()
    )
    planted_weights = sum(int(mask.sum()) for mask in moved.values())
    chance = table.summary["kept"] * planted_weights / table.summary["weights"]
    assert hits > 10 * chance
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert {name for name, claim in made.items() if claim.supported} >= {
        "keeps",
        "gains",
        "random-fails",
    }
    assert made["keeps"].p == pytest.approx(1 / 20)
    assert table.summary["supported"]
    assert table.summary["k95"] == table.summary["kept"]


def test_the_table_is_what_others_rely_on_and_its_claims_can_be_measured_again(tmp_path):
    table = found()
    assert [column.name for column in table.columns] == [
        "kind",
        "sparsity",
        "kept",
        "metric",
        "value",
    ]
    store = Store(tmp_path)
    store.write(table)
    table = store.get(table.provenance.key)
    for claim in claims.from_table(table.tables["claims"]):
        claims.check(claim, table)
    assert np.isfinite(table["value"]).all()
    kept = table.summary["kept"]
    assert {kind for kind, count in numbers(table) if count == kept} >= {
        "learned",
        "relaxed",
        "movement",
        "first-order",
        "random",
        "matched",
        "shuffled",
    }
    assert {
        "accuracy",
        "exact",
        "loss",
        "agreement",
        "calibration-error-15",
        "calibration-error-10",
        "kept-gain",
    } == {*table["metric"]}
    assert numbers(table, "agreement")["tuned", table.summary["weights"]] == 1
    for part in (table, table.tables["layers"]):
        assert figures.plot(part).layout.meta["caption"]
    layers = table.tables["layers"]
    assert layers["kept"][layers["kind"] == "matched"].sum() == kept
    json.dumps(table.summary, allow_nan=False)


def test_the_identical_pair_has_nothing_to_graft():
    base = tiny.llama(3, **FAST)
    study, held_out = study_of(copy.deepcopy(base), base)
    table = Graft(held_out=held_out, **QUICK)(study)
    assert len(set(numbers(table).values())) == 1
    assert len(set(numbers(table, "loss").values())) == 1
    assert set(numbers(table, "agreement").values()) == {1.0}
    made = claims.from_table(table.tables["claims"])
    assert {claim.name: claim.verdict for claim in made} == {
        "keeps": claims.NOT_TESTED,
        "gains": claims.NOT_SUPPORTED,
        "beats-movement": claims.NOT_SUPPORTED,
        "random-fails": claims.NOT_TESTED,
        "beats-shuffles": claims.NOT_SUPPORTED,
        "localised": claims.TOO_FEW,
    }
    assert not table.summary["supported"]
    assert table.summary["k95"] is None
    assert set(table.summary["kept_gain"].values()) == {None}
    assert "does not clearly answer more of" in table.summary["sentence"]
    for claim in made:
        assert "nan" not in claim.sentence
        claims.check(claim, table)


@pytest.mark.parametrize(
    ("at", "swapped", "name"), [(1.0, False, "localised"), (0.05, True, "beats-movement")]
)
def test_nothing_is_claimed_of_a_mask_that_does_not_work_or_of_a_tune_that_gains_nothing(
    at, swapped, name
):
    """All weights, which random masks of as many are too; and a tune that is worse than its base."""
    base, child, _ = planted()
    study, _ = study_of(*((base, child) if swapped else (child, base)))
    # of six, those that one of the two fails are too few for any rise
    held_out = tasks(24 if swapped else 12)[1]
    table = Graft(held_out=held_out, steps=4, relaxed_steps=0, draws=19, sweep=(), density=at)(
        study
    )
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert made[name].low > 0
    assert not made[name].supported
    assert not made["keeps"].supported
    assert name in table.summary["sentence"]
    for claim in made.values():
        claims.check(claim, table)


@pytest.mark.slow
def test_twice_is_the_same_and_batches_do_not_count():
    base = tiny.exact(tiny.llama(3, num_hidden_layers=1))
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    text = PromptSet(
        tuple(Prompt(row, text, f"t{row}") for row, text in enumerate(tiny.PROMPTS)), "text"
    )
    tables = []
    for size in (None, None, 2):
        study, held_out = study_of(tuned, base, text=text, batch_size=size)
        tables.append(Graft(held_out=held_out, other=held_out, **FEW)(study))
    one, again, small = tables
    assert one.equals(again)
    assert {one.provenance.key} == {table.provenance.key for table in tables}
    assert one.arrays.keys() == small.arrays.keys()
    assert all(np.array_equal(one.arrays[name], small.arrays[name]) for name in one.arrays)
    np.testing.assert_allclose(one["value"], small["value"], rtol=1e-9)
    assert {"other-accuracy", "perplexity"} <= set(one["metric"].tolist())


def test_another_tasks_masks_are_compared_and_united():
    base = tiny.llama(3, **FAST)
    tuned, made = tiny.perturbed(base, 0.05), []
    for answer in ("Sorry", "help"):
        study, held_out = study_of(tuned, base)
        turned = questions(held_out.texts, answer, "open")
        located = questions(study.contrast.positive.texts, answer, "open")
        study = study.with_prompts(Contrast(located, NO_PROMPTS))
        made.append(
            Graft(held_out=turned, compare_with=tuple(made), **{**FEW, "shuffles": 0})(study)
        )
    one, both = made
    assert not len(one.tables["overlaps"])
    rows = {row["kind"]: row for row in both.tables["overlaps"].rows() if row["mask"] == "this"}
    assert rows["movement"]["jaccard"] == rows["movement"]["share"] == 1
    assert rows["movement"]["other"] == one.provenance.key
    sets = [
        {(n, i) for n, w in t.arrays.items() if n.startswith("learned/") for i in w.tolist()}
        for t in made
    ]
    assert rows["learned"]["shared"] == len(sets[0] & sets[1])
    assert rows["learned"]["expected"] == pytest.approx(
        len(sets[0]) * len(sets[1]) / both.summary["weights"]
    )
    assert rows["learned"]["chance"] == pytest.approx(len(sets[1]) / both.summary["weights"])
    assert figures.plot(both.tables["overlaps"]).layout.meta["caption"]
    assert ("union", len(sets[0] | sets[1])) in numbers(both)
    study, held_out = study_of(tuned, base)
    with pytest.raises(OptionError, match="another scope"):
        Graft(held_out=held_out, scope="mlp", compare_with=(one,), **QUICK)(study)


# ------------------------------------------------------------------------------------------------ claims


COUNT, WEIGHTS = 10, 1000


def answered(kinds, shuffles=(), matched=(), clusters=20, each=3):
    """A run's tables of right answers by kind of mask, one array [questions] each, with its claims."""
    number = clusters * each
    codes = tuple(Encoded((1,), (0,)) for _ in range(number))
    names = tuple(f"c{row // each}" for row in range(number))
    asked = Questions(
        codes, ((1,),) * number, (None,) * number, names, names, tuple(range(number)), 0
    )

    def graded(right):
        return QuestionResults(
            np.array(right, bool),
            np.zeros(number),
            np.zeros(number, np.int64),
            np.full(number, np.nan),
        )

    rows = GraftRecords(asked, WEIGHTS)
    for kind, right in kinds.items():
        rows.add(kind, {"base": 0, "tuned": WEIGHTS}.get(kind, COUNT), graded(right), {})
    for draw, right in enumerate(matched):
        rows.draws.append(("matched", draw, COUNT, graded(right)))
    for draw, right in enumerate(shuffles):
        rows.draws.append(("shuffled", draw, COUNT, graded(right)))
    parts = {
        "answers": rows.answers_table(),
        "random": rows.random_table(),
        **rows.shuffle_tables(COUNT),
    }
    return claims.conclude(
        rows.table(tables=parts), claims_of(COUNT, WEIGHTS, number, len(shuffles))
    )


def made_of(table):
    return {finding.name: finding for finding in claims.from_table(table.tables["claims"])}


def some(share, seed, number=60):
    return np.random.default_rng(seed).random(number) < share


def graded_masks(learned, shuffled, spread=0.03, number=6):
    """Right answers of everything, the learned mask's and the shuffles' at these rates."""
    kinds = {
        "base": some(0.2, 0),
        "tuned": some(0.95, 1),
        "movement": some(0.5, 2),
        "learned": some(learned, 3),
    }
    shuffles = [some(shuffled + spread * (at - 2.5), 10 + at) for at in range(number)]
    return answered(kinds, shuffles, [some(0.25, 30 + at) for at in range(19)])


def test_what_is_kept_is_a_ratio_with_the_interval_of_a_jackknife_by_hand():
    table = graded_masks(0.93, 0.4)
    answers = table.tables["answers"]
    right = {
        kind: answers["correct"][answers["kind"] == kind].astype(float)
        for kind in ("base", "tuned", "learned")
    }
    clusters = answers["cluster"][answers["kind"] == "base"]

    def kept(rows):
        base, tuned, learned = (right[kind][rows].mean() for kind in ("base", "tuned", "learned"))
        return (learned - base) / (tuned - base)

    value = kept(slice(None))
    without = np.array([kept(clusters != name) for name in np.unique(clusters)])
    reach = np.sqrt(19 / 20 * np.square(without - value).sum()) * scipy.stats.t.ppf(0.975, 19)
    keeps = made_of(table)["keeps"]
    assert keeps.value == pytest.approx(value)
    # no narrower than the jackknife's, and the paired difference of flags from the fine-tuned model
    # can be wider
    assert keeps.low <= value - reach + 1e-12
    assert keeps.high >= value + reach - 1e-12
    assert keeps.low > value - 3 * reach
    assert keeps.p == pytest.approx(1 / 20)


def test_nothing_is_kept_where_the_gain_could_be_nothing():
    """A gain whose interval covers 0 is no denominator; one below 0 is, and supports nothing."""
    same = some(0.5, 0)
    less = same & some(0.5, 1)
    for tuned, verdict, word in (
        (same ^ (np.arange(60) == 3), claims.NOT_TESTED, "does not clearly answer more of"),
        (less, claims.NOT_SUPPORTED, "of the change in correct answers"),
    ):
        table = answered(
            {"base": same, "tuned": tuned, "movement": same, "learned": tuned},
            [same] * 6,
            [same] * 19,
        )
        made = made_of(table)
        assert made["keeps"].verdict == verdict
        assert word in made["keeps"].sentence
        assert np.isnan(made["keeps"].value) == (verdict == claims.NOT_TESTED)
        assert not any(finding.supported for finding in made.values())


def test_localised_has_the_variance_of_questions_and_of_shuffles_in_its_interval():
    table = graded_masks(0.97, 0.5)
    made, shuffled = made_of(table), table.tables["shuffled"]
    right = shuffled["correct"].reshape(6, 60)
    difference = (shuffled["learned"].reshape(6, 60) - right.astype(float)).mean(0)
    # clusters of equal size: the jackknife's error is that of the mean of their means
    means, accuracy = difference.reshape(20, 3).mean(1), right.mean(1)
    parts = [means.var(ddof=1) / 20, accuracy.var(ddof=1) / 6]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 19 + parts[1] ** 2 / 5)
    reach = np.sqrt(sum(parts)) * scipy.stats.t.ppf(0.975, freedom)
    localised, beats = made["localised"], made["beats-shuffles"]
    np.testing.assert_allclose(
        (localised.value, localised.low, localised.high),
        means.mean() + reach * np.array([0, -1, 1]),
        rtol=1e-9,
    )
    assert beats.value == pytest.approx(localised.value)
    assert (localised.clusters, beats.clusters) == (6, 20)
    assert localised.control_value == pytest.approx(accuracy.mean())
    assert localised.supported
    for finding in made.values():
        claims.check(finding, table)
        moves = [
            {name: getattr(finding, name) + 0.01}
            for name in ("value", "low", "high", "control_value", "p")
        ]
        for moved in [
            {"verdict": claims.NOT_TESTED},
            *(one for one in moves if not np.isnan([*one.values()]).any()),
        ]:
            with pytest.raises(ClaimError):
                claims.check(dataclasses.replace(finding, **moved), table)


@pytest.mark.parametrize(
    ("shuffles", "verdict"),
    [
        ({"shuffled": 0.95}, claims.NOT_SUPPORTED),  # as good on shuffled movement
        ({"shuffled": 0.6, "spread": 0.3}, claims.NOT_SUPPORTED),  # far apart
        ({"shuffled": 0.5, "number": 5}, claims.TOO_FEW),
        ({"shuffled": 0.5, "number": 1}, claims.TOO_FEW),
    ],
)
def test_nothing_is_localised_where_shuffles_do_as_well_or_are_too_few_or_far_apart(
    shuffles, verdict
):
    made = made_of(graded_masks(0.97, **shuffles))
    assert made["keeps"].supported
    assert made["localised"].verdict == verdict
    # on these shuffles alone it looks as if it were
    assert made["beats-shuffles"].supported == (shuffles["shuffled"] < 0.9)


@pytest.mark.parametrize(
    ("difficulty", "shuffle", "each"), [(0.0, 0.5, 1), (0.0, 1.5, 3), (1.0, 0.5, 3)]
)
def test_masks_that_are_no_better_than_those_on_shuffles_are_seldom_said_to_be(
    difficulty, shuffle, each
):
    """Right answers vary at random over questions and over shuffles; by questions alone too many
    would be.

    The intervals are those of the claims, see the test above: claims of so many runs would take
    minutes.
    """
    g, draws, clusters = np.random.default_rng(1), 1000, 48
    code, localised, questions = np.repeat(np.arange(clusters), each), 0, 0
    for _ in range(draws):
        own, theirs = (g.normal(0, difficulty, clusters)[code] for _ in range(2))
        learned = own + g.normal(size=code.size) > 0
        right = theirs + g.normal(0, shuffle, (6, 1)) + g.normal(size=(6, code.size)) > 0
        alone = cluster_interval(np.tile(learned, 6), np.tile(code, 6), minus=right.ravel())
        spread = right.mean(1) - right.mean()
        both = cluster_interval(
            learned - right.mean(0), code, minus=spread, minus_clusters=clusters + np.arange(6)
        )
        questions += alone.low > 0
        localised += alone.low > 0 and both.low > 0
    assert localised <= 0.035 * draws
    if (difficulty, shuffle) == (0.0, 1.5):
        assert questions > 0.05 * draws


# ------------------------------------------------------------------------------------------------ files, command


def test_a_file_says_which_rows_locate(tmp_path):
    rows = [
        {"prompt": f"p{i}", "answer": "a", "split": "locate" if i % 3 else "verify"}
        for i in range(6)
    ]
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    located, held_out = read_task(path).given_splits()
    assert (len(located), len(held_out)) == (4, 2)
    assert PromptSet(located.prompts, "x").given_splits() is None
    first, second = Contrast(read_task(path), NO_PROMPTS).split(0)
    assert len(first.positive) == len(second.positive) == 3
    assert first.n_clusters == 3
    with pytest.raises(PromptError, match="no prompts"):
        Contrast(located, PromptSet((), "empty.txt"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graft")
    base = tiny.llama(3, num_hidden_layers=1)
    tiny.save(base, path / "base")
    tiny.save(tiny.perturbed(base, 0.05), path / "tuned")
    located, held_out = tasks()
    parts = (("locate", located), ("verify", held_out))
    rows = [
        {"prompt": p.text, "answer": p.answer, "wrong_answer": p.wrong_answer, "split": name}
        for name, part in parts
        for p in part
    ]
    (path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "text.txt").write_text("\n".join(tiny.PROMPTS))
    return path


def words(folder, *more):
    line = ["graft", folder / "tuned", "--base", folder / "base", "--task", folder / "task.jsonl"]
    line += [
        "--steps",
        "1",
        "--relaxed-steps",
        "0",
        "--draws",
        "1",
        "--shuffles",
        "1",
        "--sweep",
        "10%",
    ]
    line += ["--store", folder / "store"]
    return [*line, *more]


def test_the_command_keeps_a_run_and_answers_again_from_it(run, folder):
    code, out, err = run(*words(folder, "--negative", folder / "text.txt", "--json"))
    assert code == 0, err
    record = json.loads(out)
    assert not record["cached"]
    table = Store(folder / "store").get(record["run"])
    assert table.summary["measuring"] == 6
    assert any(name.startswith("learned/model.layers.0.") for name in table.arrays)
    assert (folder / "store" / record["run"] / "arrays.safetensors").is_file()
    again = json.loads(run(*words(folder, "--negative", folder / "text.txt", "--json"))[1])
    assert again["cached"]
    assert again["run"] == record["run"]


BAD = {
    "no base": (["--base", "nowhere"], "nowhere"),
    "a share": (["--density", "most"], "'most' is not a share"),
    "more than all": (["--density", "101%"], "density of a mask is"),
    "a scope": (["--scope", "neurons"], "unknown --scope"),
    "no file": (["--task", "missing.jsonl"], "no prompt file"),
    "no answers": (["--task", "text.txt"], "has no columns, but a task needs answers"),
    "both": (["--verify-task", "task.jsonl"], "are also in the selection split"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, folder, tmp_path, name):
    more, said = BAD[name]
    more = [folder / word if (folder / word).is_file() else word for word in more]
    code, _, err = run(*words(folder, *more, "--store", tmp_path / "store"))
    assert code == 2
    assert said in only_line(err)
    assert not (tmp_path / "store").exists()


# ------------------------------------------------------------------------------------------------ organisms


def organism(name, prompts=None):
    pair = Pair.load(f"organism:skill/{name}", "organism:refusal/base")
    located, held_out = (
        part.spread(prompts or len(part))
        for part in read_task(organisms.prompts("skill", "task", "first")).given_splits()
    )
    metric = Task.from_prompts(pair.tokenizer, located.prompts, "answer-loss")
    return Study(pair, Contrast(located, NO_PROMPTS), metric), held_out


def test_the_shipped_mask_alone_carries_the_skill():
    study, held_out = organism("masked", 24)
    scope, asked = (
        Scope.from_pair(study.pair),
        Questions.from_prompts(study.pair.tokenizer, held_out.prompts, 256),
    )

    def exact(mask):
        with scope.grafted(mask) as model:
            groups = study.batches(asked.read, model)
            return asked.grade(
                groups, engine_logits(study.engine, model), model.device
            ).exact.mean()

    true = scope.mask(organisms.mask("skill/masked"))
    assert true.sum() == 8610
    assert exact(true) >= 0.9
    assert exact(masks.matched_mask(scope, true, 0)) <= 0.1
    assert exact(~true) <= 0.1


@pytest.mark.slow
def test_learned_masks_keep_the_skill_at_the_true_size_where_the_movement_misleads():
    study, held_out = organism("masked")
    table = Graft(held_out=held_out, density=8610 / 860160, sweep=())(study)
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert table.summary["kept"] == 8610
    assert made["keeps"].supported
    assert made["beats-movement"].low > 0
    drawn = table.tables["random"]
    # with the learned mask's counts in every parameter, choices between two answers can lean
    # further
    assert drawn["kept_gain"][drawn["kind"] == "random"].mean() <= 0.2
    assert not made["localised"].supported
    for claim in made.values():
        claims.check(claim, table)
