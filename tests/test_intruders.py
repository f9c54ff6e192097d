"""Matrices from disk, intruders among them beside random updates, and what scaling them does."""

import copy
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file
from scipy import stats

from interp import claims
from interp.analyzers.intruder_scaling import IntruderScaling
from interp.analyzers.intruders import Intruders
from interp.claims import from_table
from interp.errors import (
    AdapterNotLanded,
    ClaimError,
    DepthMismatch,
    MissingWeights,
    NonFiniteWeights,
    OptionError,
    OutOfMemory,
    TruncatedWeights,
    UnsupportedModel,
    WidthMismatch,
)
from interp.figures import plot
from interp.kinds import KINDS
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.rescale import SingularDirection, rescaled, update_scaled
from interp.models.weights import WeightPair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet
from interp.sites import Weight
from interp.store import Store
from interp.store.svd_cache import SvdCache
from interp.study import Study
from tests import families, tiny
from tests.documented import require_described

IDS = torch.tensor([[2, 40, 41, 42, 1, 3]])
SIZE, PUSH = 96, 1.76


def slow(name):
    """What goes the way of another case: in the slow tests only."""
    return pytest.param(*(name if isinstance(name, tuple) else (name,)), marks=pytest.mark.slow)


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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def pair(root):
    return planted(root)


def examine(tuned, base=None, root=None, analyzer=None, **options):
    kept = None if root is None else SvdCache(root)
    return (analyzer or Intruders(draws=0))(
        WeightPair.load(str(tuned), base and str(base), array_cache=kept, **options)
    )


def same(one, other, tolerance=1e-5):
    for name in ("sigma", "max_cosine", "subspace_cosine"):
        np.testing.assert_allclose(one[name], other[name], atol=tolerance)
    assert (one["subspace_intruder"] == other["subspace_intruder"]).all()
    assert one["part"].tolist() == other["part"].tolist()


def test_a_planted_intruder_is_found_and_claimed_beyond_random_updates(pair):
    base, child, _ = pair
    found = examine(child, base, analyzer=Intruders(top_k=1))
    require_described(found)
    (row,) = np.flatnonzero(found["subspace_intruder"])
    assert (found["part"][row], found["rank"][row]) == ("mlp.out", 1)
    assert found["sigma"][row] == pytest.approx((1 + PUSH**2) ** 0.5, abs=1e-2)
    assert found["max_cosine"][row] == pytest.approx(1 / (1 + PUSH**2) ** 0.5, abs=1e-2)
    assert found["nearest"][row] == 2
    assert found["beyond_null"][row]
    for claim in from_table(found.tables["claims"]):
        assert claim.supported
        assert (claim.value, claim.p, claim.control_high) == (1, 1 / 21, 0)
        claims.check(claim, found)
        moved = dataclasses.replace(claim, control_value=0.5)
        with pytest.raises(ClaimError, match="control_value"):
            claims.check(moved, found)
    assert found.summary["sentence"].startswith(
        "1 of 7 leading left singular vectors in 7 matrices are intruders (largest |cosine| with a"
        " base vector below 0.5); random updates of equal rank, norm and singular values give 0.0"
        " (0), p = 0.048."
    )
    for part in (found, found.tables["image"]):
        assert json.loads(plot(part).to_json())["data"]
    # the image is of the matrix with the most
    assert set(found.tables["image"]["part"]) == {"mlp.out"}


def test_a_random_update_of_its_size_is_not_claimed(root, pair):
    """A strong direction of no meaning is an intruder too: what makes it one is its size, and the
    null says so.
    """
    base = wide()
    child = copy.deepcopy(base)
    strong = 40 * torch.outer(turn(5)[:, 0], turn(6)[:, 0]).float()
    child.model.layers[0].self_attn.o_proj.weight.data += strong
    found = examine(
        tiny.save(child, root / "strong"), tiny.save(base, root / "wide"), analyzer=Intruders()
    )
    assert found["subspace_intruder"].sum() == 1
    plain, apart = from_table(found.tables["claims"])
    null, totals = found.tables["null"], found.tables["totals"]
    for claim, column in ((plain, "intruders"), (apart, "subspace_intruders")):
        assert claim.verdict == claims.NOT_SUPPORTED
        assert claim.p > 0.5
        draws = [null[column][null["draw"] == draw].sum() for draw in range(20)]
        assert totals[f"{column}_total"].tolist() == draws
        assert claim.p == (1 + sum(draw >= claim.value for draw in draws)) / 21
        assert claim.control_value == np.mean(draws)
    matrix = found.tables["matrices"]
    changed = np.flatnonzero(matrix["changed"])
    assert matrix["part"][changed].tolist() == ["attn.o"]
    assert matrix["norm"][changed[0]] == pytest.approx(40, rel=1e-4)
    assert matrix["effective_rank"][changed[0]] == pytest.approx(1, abs=1e-3)


def test_nothing_in_nothing_out(pair):
    base, _, _ = pair
    found = examine(base, base, analyzer=Intruders())
    assert (found["max_cosine"] == 1).all()
    assert not found["is_intruder"].any()
    assert not found.tables["null"]["intruders"].any()
    assert not found.summary["supported"]
    assert any("every difference is zero" in limit for limit in found.summary["limits"])
    assert found.summary["mean_relative_norm"] == 0


def test_columns_that_others_rely_on(pair):
    found = examine(pair[1], pair[0])
    assert list(found.data)[:6] == ["layer", "part", "rank", "sigma", "max_cosine", "is_intruder"]
    assert found.kind == found.provenance.analyzer == "intruders"
    assert len(found) == 7 * 10
    assert found.summary["sentence"].endswith(".")


def test_small_matrices_are_flagged_and_not_claimed(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    child = tiny.llama()
    child.model.layers[1].self_attn.o_proj.weight.data += (
        30 * torch.eye(32)[0][:, None] @ torch.ones(1, 32)
    )
    found = examine(
        tiny.save(child, tmp_path / "child"), base, analyzer=Intruders(eps=0.9, draws=20)
    )
    assert found["small"].all()
    assert not found.summary["supported"]
    assert "a side of 64 or less" in found.summary["sentence"]
    for claim in from_table(found.tables["claims"]):
        assert claim.verdict == claims.NOT_TESTED
        claims.check(claim, found)


def noisy(model, size=0.02):
    return tiny.perturbed(model, size)


@pytest.mark.parametrize(
    "family", [slow("llama"), "gpt2", "phi3", slow("neox"), slow("gemma3"), slow("mixtral")]
)
def test_matrices_are_those_that_the_model_applies(tmp_path, family):
    """Fused ones split, transposed ones turned; numpy on the loaded model's own matrices agrees."""
    base = tiny.FAMILIES[family]() if family in tiny.FAMILIES else families.build(family)
    child = noisy(base)
    paths = [
        str(tiny.save(model, tmp_path / name)) for name, model in (("base", base), ("child", child))
    ]
    weights = WeightPair.load(paths[1], paths[0])
    models = Model.wrap("base", base), Model.wrap("child", child)
    seen = 0
    for matrix in weights.matrices:
        both = weights.read(matrix)
        if "expert" in matrix.part:
            continue
        for mine, model in zip((both.base, both.tuned), models, strict=True):
            assert torch.equal(mine, model.weight(Weight(matrix.layer, matrix.part)))
        seen += 1
    wanted = {"gpt2": 6, "neox": 6, "mixtral": 4}.get(family, 7)
    assert seen == 3 * wanted
    rows = Intruders(draws=0, top_k=3)(weights)
    one = weights.read(weights.matrices[0])
    mine, theirs = (
        np.linalg.svd(m.double().numpy(), full_matrices=False) for m in (one.tuned, one.base)
    )
    np.testing.assert_allclose(
        rows["max_cosine"][:3], np.abs(mine[0][:, :3].T @ theirs[0]).max(1), atol=1e-4
    )


def test_experts_are_taken_one_by_one_and_routers_named(tmp_path):
    base = families.build("mixtral")
    saved = tiny.save(base, tmp_path / "base")
    weights = WeightPair.load(str(saved), str(saved))
    experts = [matrix for matrix in weights.matrices if "expert" in matrix.part]
    assert len(experts) == 3 * 4 * 3
    (file,) = saved.glob("*.safetensors")
    raw = load_file(file)
    for name, part in (("w1", "gate"), ("w2", "out"), ("w3", "in")):
        (matrix,) = (m for m in experts if (m.layer, m.part) == (1, f"mlp.expert2.{part}"))
        assert torch.equal(
            weights.read(matrix).base,
            raw[f"model.layers.1.block_sparse_moe.experts.2.{name}.weight"],
        )
    assert any("block_sparse_moe.gate.weight" in note for note in weights.notes)


def test_tied_embeddings_once_and_resized_ones_named(tmp_path):
    base = tiny.save(tiny.gpt2(), tmp_path / "tied")
    weights = WeightPair.load(str(base), str(base), embeddings=True)
    assert [m.part for m in weights.matrices if m.layer == -1] == ["embed"]
    assert any("tied" in note for note in weights.notes)
    untied = tiny.llama()
    base = tiny.save(untied, tmp_path / "base")
    longer = copy.deepcopy(untied)
    longer.resize_token_embeddings(longer.config.vocab_size + 5)
    child = tiny.save(longer, tmp_path / "child")
    weights = WeightPair.load(str(child), str(base), embeddings=True)
    assert all(m.layer >= 0 for m in weights.matrices)
    assert sum("resized" in note for note in weights.notes) == 2
    assert [
        m.part for m in WeightPair.load(str(base), str(base), embeddings=True).matrices[:2]
    ] == ["embed", "unembed"]


@pytest.mark.parametrize("tied", [0, 1])
def test_a_head_that_one_alone_ties_is_refused_with_the_ends(tmp_path, tied):
    models = (
        tiny.llama(3, tie_word_embeddings=tied == 0),
        tiny.llama(3, tie_word_embeddings=tied == 1),
    )
    base, child = (
        str(tiny.save(model, tmp_path / f"{number}")) for number, model in enumerate(models)
    )
    with pytest.raises(UnsupportedModel, match="leave out --embeddings") as caught:
        WeightPair.load(child, base, embeddings=True)
    assert "\n" not in str(caught.value)
    assert WeightPair.load(child, base).matrices


@pytest.mark.parametrize("moved", [False, True])
def test_an_update_of_the_head_is_read_beside_the_copy_that_peft_saves(tmp_path, moved):
    """peft writes the head's own matrix beside the factors, and loads it: also where it is another
    than the base's.
    """
    model = tiny.llama()
    base = tiny.save(model, tmp_path / "base")
    wrapped = tiny.adapter(model, tmp_path / "a", base, target_modules=["q_proj", "lm_head"])
    file = tmp_path / "a" / "adapter_model.safetensors"
    held = load_file(file)
    (name,) = (key for key in held if key.endswith("lm_head.base_layer.weight"))
    if moved:
        held[name] += 0.1
        save_file(held, file, {"format": "pt"})
        wrapped.get_base_model().lm_head.base_layer.weight.data += 0.1
    weights = WeightPair.load(str(tmp_path / "a"), str(base), embeddings=True)
    (head,) = (matrix for matrix in weights.matrices if matrix.part == "unembed")
    both, merged = weights.read(head), copy.deepcopy(wrapped).merge_and_unload().lm_head.weight
    assert both.is_changed
    torch.testing.assert_close(both.tuned, merged.data, rtol=1e-4, atol=1e-5)
    assert (both.factors is None) == moved


ADAPTERS = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 3},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"c_fc": 2, "up_proj": 2},
        "alpha_pattern": {"c_attn": 3, "q_proj": 3, "qkv_proj": 3},
    },
    "saved": {"modules_to_save": ["c_proj", "down_proj"]},
}


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (
            (family, kind)
            if (family, kind) in (("gpt2", "rslora"), ("phi3", "dora"))
            else slow((family, kind))
        )
        for family in ("llama", "gpt2", "phi3")
        for kind in ADAPTERS
    ],
)
def test_adapters_give_the_matrices_that_peft_merges(tmp_path, family, kind):
    model = tiny.FAMILIES[family]() if family in tiny.FAMILIES else families.build(family)
    base = tiny.save(model, tmp_path / "base")
    if family in tiny.FAMILIES:
        part = "attention" if kind == "saved" and family == "llama" else "all"
        options = (
            {"target_modules": ["c_attn", "c_fc"]} if kind == "saved" and family == "gpt2" else None
        )
        if options:
            wrapped = tiny.adapter(
                model, tmp_path / "a", base, fan_in_fan_out=True, **options, **ADAPTERS[kind]
            )
        else:
            wrapped = tiny.lora(family, model, tmp_path / "a", base, part, **ADAPTERS[kind])
    else:
        chosen = ["qkv_proj", "gate_up_proj"]
        wrapped = tiny.adapter(model, tmp_path / "a", base, target_modules=chosen, **ADAPTERS[kind])
    merged = Model.wrap("merged", copy.deepcopy(wrapped).merge_and_unload())
    weights = WeightPair.load(str(tmp_path / "a"), str(base))
    changed = 0
    for matrix in weights.matrices:
        both = weights.read(matrix)
        torch.testing.assert_close(
            both.tuned, merged.weight(Weight(matrix.layer, matrix.part)), rtol=1e-4, atol=1e-5
        )
        changed += both.is_changed
        if both.factors is not None:
            torch.testing.assert_close(both.base + both.factors[0] @ both.factors[1], both.tuned)
    assert changed


def test_an_adapter_is_what_its_merged_checkpoint_is(tmp_path):
    model = wide()
    base = tiny.save(model, tmp_path / "base")
    wrapped = tiny.lora("llama", model, tmp_path / "adapter", base, fill=0.3)
    merged = tiny.save(copy.deepcopy(wrapped).merge_and_unload(), tmp_path / "merged")
    one, other = (
        examine(tmp_path / "adapter", analyzer=Intruders(draws=0)),
        examine(merged, base, analyzer=Intruders(draws=0)),
    )
    same(one, other, 1e-4)
    for name in ("effective_rank", "relative_norm"):
        np.testing.assert_allclose(
            one.tables["matrices"][name], other.tables["matrices"][name], rtol=1e-3
        )
    assert (one.tables["matrices"]["effective_rank"] <= 4 + 1e-6).all()


def test_shards_jobs_and_what_is_kept_change_nothing(root, pair, tmp_path):
    base, child, _ = pair
    # beyond these the base's values are one cluster, whose vectors are arbitrary
    two = Intruders(top_k=2)
    first = examine(child, base, tmp_path, two)
    kept = sorted((tmp_path / ".svd").iterdir())
    assert len(kept) == 1  # only the matrix that changed was compared
    again, parallel = (
        examine(child, base, tmp_path, two),
        examine(child, base, analyzer=two, jobs=3),
    )
    for other in (again, parallel):
        same(first, other)
        assert first.tables["totals"].equals(other.tables["totals"])
        assert first.provenance.key == other.provenance.key
    pieces = tmp_path / "pieces"
    tiny.save(Model.wrap("child", _loaded(child)).module, pieces, max_shard_size="100KB")
    assert len(list(pieces.glob("*.safetensors"))) > 2
    undrawn = Intruders(top_k=2, draws=0)
    same(first, examine(pieces, base, analyzer=undrawn))
    # a damaged file is as if it were not there
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    same(first, examine(child, base, tmp_path, undrawn))


def _loaded(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def test_the_second_child_does_not_decompose_the_base_again(pair, tmp_path, monkeypatch):
    from interp.maths import subspaces

    base, child, _ = pair
    examine(child, base, tmp_path)
    called = []
    monkeypatch.setattr(subspaces, "left_basis", lambda matrix: called.append(matrix.shape))
    examine(child, base, tmp_path, analyzer=Intruders(top_k=4, draws=0))
    assert not called


def test_store_keeps_and_finds_it(pair, tmp_path):
    base, child, _ = pair
    store, weights = Store(tmp_path), WeightPair.load(str(child), str(base))
    first = store.run(Intruders(draws=0), weights)
    again = store.run(Intruders(draws=0), weights)
    assert (first.cached, again.cached) == (False, True)
    assert first.table.equals(again.table)
    assert store.run(Intruders(eps=0.4, draws=0), weights).key != first.key
    found = store.sql(
        "select part, count(*) as n from intruders where subspace_intruder group by part"
    )
    assert set(found["part"]) == {"mlp.out"}


# what scaling does


def logits(model):
    with torch.no_grad(), model.active() as module:
        return module(input_ids=IDS).logits


def direction(model, part="attn.v", at=1):
    left, values, right = np.linalg.svd(
        model.weight(Weight(0, part)).double().numpy(), full_matrices=False
    )
    vectors = (
        torch.from_numpy(left[:, at].copy()).float(),
        float(values[at]),
        torch.from_numpy(right[at].copy()).float(),
    )
    return SingularDirection(Weight(0, part), *vectors)


def held(tmp_path, kind):
    if kind == "lora":
        base = tiny.save(tiny.llama(), tmp_path / "base")
        tiny.lora("llama", tiny.llama(), tmp_path / "a", base, fill=0.3)
        return Pair.load(str(tmp_path / "a"))
    base = tiny.FAMILIES[kind]() if kind in tiny.FAMILIES else families.build(kind)
    return Pair.from_modules(noisy(base), base, tiny.tokenizer())


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (
            (kind, part)
            if (kind, part) in (("gpt2", "attn.v"), ("lora", "mlp.out"))
            else slow((kind, part))
        )
        for kind in ("llama", "gpt2", "phi3", "lora")
        for part in ("attn.k", "attn.v", "mlp.in", "mlp.out")
    ],
)
def test_scaling_a_direction_is_the_rank_one_edit_and_is_undone_bit_for_bit(tmp_path, kind, part):
    pair = held(tmp_path, kind)
    model = pair.tuned
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    plain, whole, base = logits(model), model.weight(Weight(0, part)).clone(), logits(pair.base)
    one = direction(model, part)
    for scale in (0.0, 0.5, 2.0):
        with rescaled(model, [one], scale):
            edited = model.weight(Weight(0, part)).clone()
            assert not torch.equal(logits(model), plain)
        wanted = whole + (scale - 1) * one.sigma * torch.outer(one.left, one.right)
        torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=1e-5)
        assert float((edited - whole).norm()) == pytest.approx(abs(scale - 1) * one.sigma, rel=1e-3)
        if scale == 0:
            left = np.linalg.svd(edited.double().numpy(), compute_uv=False)
            rest = np.delete(np.linalg.svd(whole.double().numpy(), compute_uv=False), 1)
            np.testing.assert_allclose(left, np.append(rest, 0), atol=1e-4)
    with rescaled(model, [one], 1.0):
        assert torch.equal(logits(model), plain)
    assert all(
        torch.equal(value, before[name]) for name, value in model.module.state_dict().items()
    )
    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(pair.base), base)


@pytest.mark.parametrize("kind", [slow("llama"), slow("gpt2"), "lora"])
def test_the_whole_update_scaled_to_nothing_is_the_base(tmp_path, kind):
    pair = held(tmp_path, kind)
    plain, base = logits(pair.tuned), logits(pair.base)
    with update_scaled(pair, 0.0):
        torch.testing.assert_close(logits(pair.tuned), base)
    with update_scaled(pair, 0.5):
        half = logits(pair.tuned)
    assert not torch.allclose(half, plain)
    assert not torch.allclose(half, base)
    assert torch.equal(logits(pair.tuned), plain)
    assert torch.equal(logits(pair.base), base)


def test_an_error_inside_leaves_the_model_as_it_was(tmp_path):
    pair = held(tmp_path, "llama")
    plain = logits(pair.tuned)
    for context in (rescaled(pair.tuned, [direction(pair.tuned)], 0.0), update_scaled(pair, 0.3)):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
        assert torch.equal(logits(pair.tuned), plain)


def test_dora_cannot_be_edited(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    tiny.lora("llama", tiny.llama(), tmp_path / "a", base, use_dora=True)
    pair = Pair.load(str(tmp_path / "a"))
    with (
        pytest.raises(UnsupportedModel, match="DoRA"),
        rescaled(pair.tuned, [direction(pair.tuned)], 0.5),
    ):
        pass
    with pytest.raises(UnsupportedModel, match="not a plain LoRA"), update_scaled(pair, 0.5):
        pass


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


def scaling_study(base, child, **options):
    from interp.metrics import Task

    pair = Pair.load(str(child), str(base))
    contrast = texts()
    return Study(
        pair, contrast, Task.from_prompts(pair.tokenizer, contrast.positive.prompts), **options
    )


@pytest.fixture(scope="module")
def scaled(pair):
    base, child, _ = pair
    located = examine(child, base, analyzer=Intruders(top_k=2, draws=0))
    return located, IntruderScaling.of(located, scales=(0.0, 0.5, 1.0, 2.0))(
        scaling_study(base, child)
    )


def test_scaling_measures_task_and_text_beside_two_controls(scaled):
    _, found = scaled
    assert len(found) == 3 * 4
    at_one = found["scale"] == 1
    for name in ("metric", "loss"):
        assert len(set(found[name][at_one])) == 1
    nothing = (found["kind"] == "update") & (found["scale"] == 0)
    assert found["forgetting"][nothing][0] == pytest.approx(0, abs=1e-6)
    edited = found.tables["edited"]
    assert edited["kind"].tolist() == ["intruder", "neighbour"]
    assert edited["part"].tolist() == ["mlp.out", "mlp.out"]
    assert edited["rank"].tolist() == [1, 2]
    made = from_table(found.tables["claims"])
    assert [claim.name for claim in made] == [
        "forgets-less",
        "forgets-less-than-neighbours",
        "beats-the-update",
    ]
    texts_of = found.tables["texts"]

    def losses(kind, scale):
        return texts_of["loss"][(texts_of["kind"] == kind) & (texts_of["scale"] == scale)]

    gaps = (
        losses("intruder", 0.5) - losses("intruder", 1),
        losses("intruder", 0.5) - losses("neighbour", 0.5),
    )
    for claim, gap in zip(made, gaps, strict=False):  # every text is a cluster: Student's paired t
        wanted = stats.ttest_1samp(gap, 0).confidence_interval()
        assert claim.value == pytest.approx(gap.mean())
        assert claim.interval == pytest.approx((wanted.low, wanted.high), rel=1e-6)
    assert made[0].control_value == pytest.approx(
        (losses("neighbour", 0.5) - losses("intruder", 1)).mean()
    )
    for claim in made:
        claims.check(claim, found)
    assert json.loads(plot(found).to_json())["data"]


def test_scaling_is_what_editing_the_weight_by_hand_gives(pair, scaled):
    base, child, _ = pair
    _, found = scaled
    study = scaling_study(base, child)
    matrix = study.pair.tuned.module.model.layers[0].mlp.down_proj.weight
    left, values, right = torch.linalg.svd(matrix.double())
    matrix.data = matrix.data + ((0.5 - 1) * values[0] * torch.outer(left[:, 0], right[0])).float()
    tokenizer, losses = study.pair.tokenizer, []
    for prompt in texts().negative:
        ids = torch.tensor([tokenizer(prompt.text)["input_ids"]])
        with torch.no_grad():
            out = study.pair.tuned.module(input_ids=ids).logits[0, :-1].double()
        losses.append(float(torch.nn.functional.cross_entropy(out, ids[0, 1:])))
    row = (found["kind"] == "intruder") & (found["scale"] == 0.5)
    assert found["loss"][row][0] == pytest.approx(np.mean(losses), abs=1e-4)


def test_without_a_task_forgetting_and_divergence_are_measured(pair, scaled):
    base, child, _ = pair
    located, with_task = scaled
    study = Study(Pair.load(str(child), str(base)), OneClass(texts().negative), None)
    found = IntruderScaling.of(located, scales=(0.0, 0.5, 1.0, 2.0))(study)
    require_described(found)
    assert "metric" not in found.data
    for name in ("loss", "forgetting", "kl"):
        np.testing.assert_allclose(found[name], with_task[name], atol=1e-6)
    nothing = (found["kind"] == "update") & (found["scale"] == 0)
    assert found["kl"][nothing][0] == pytest.approx(0, abs=1e-6)
    assert (found["kl"][~nothing] > 1e-6).all()
    made = from_table(found.tables["claims"])
    assert [claim.name for claim in made] == ["forgets-less", "forgets-less-than-neighbours"]
    for claim in made:
        claims.check(claim, found)
    assert any("No task was given" in limit for limit in found.summary["limits"])
    assert json.loads(plot(found).to_json())["data"]


def test_divergence_under_an_adapter_is_from_the_base_itself(tmp_path):
    """Base and adapter share the matrices that are scaled."""
    model = wide()
    base = tiny.save(model, tmp_path / "base")
    wrapped = tiny.lora("llama", model, tmp_path / "adapter", base, fill=0.5)
    merged = tiny.save(copy.deepcopy(wrapped).merge_and_unload(), tmp_path / "merged")
    found = []
    for child in (tmp_path / "adapter", merged):
        located = examine(child, base, analyzer=Intruders(top_k=4, eps=0.9, draws=0))
        study = Study(Pair.load(str(child), str(base)), OneClass(texts().negative), None)
        found.append(IntruderScaling.of(located, scales=(0.0, 1.0))(study))
    assert "intruder" in found[0]["kind"]
    for name in ("loss", "kl"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-4)


def test_batches_do_not_change_what_scaling_gives(pair, scaled):
    base, child, _ = pair
    located, found = scaled
    other = IntruderScaling.of(located, scales=(0.0, 0.5, 1.0, 2.0))(
        scaling_study(base, child, batch_size=1)
    )
    require_described(other)
    for name in ("metric", "loss"):
        np.testing.assert_allclose(other[name], found[name], atol=1e-4)


def test_without_intruders_only_the_update_is_scaled(pair):
    base, child, _ = pair
    located = examine(base, base)
    found = IntruderScaling.of(located)(scaling_study(base, child))
    assert set(found["kind"]) == {"update"}
    assert "no intruder" in found.summary["sentence"]
    assert not found.summary["supported"]


def test_another_model_than_the_runs_is_refused(pair, scaled):
    base, _, _ = pair
    with pytest.raises(OptionError, match="give the model that the run was made from"):
        IntruderScaling.of(scaled[0])(scaling_study(base, base))


# what is wrong, said in one line


def broken(root, name, change):
    model = wide()
    path = tiny.save(model, root / name)
    (file,) = path.glob("*.safetensors")
    held = load_file(file)
    change(held)
    save_file(held, file, {"format": "pt"})
    return path


def _nan(held):
    held["model.layers.0.mlp.down_proj.weight"][3, 4] = float("nan")


def _lost(held):
    del held["model.layers.0.self_attn.q_proj.weight"]


def _codes(held):
    held["model.layers.0.mlp.down_proj.weight"] = held["model.layers.0.mlp.down_proj.weight"].to(
        torch.int8
    )


def _cut(held):
    held["model.layers.0.mlp.down_proj.weight"] = held["model.layers.0.mlp.down_proj.weight"][
        :5
    ].clone()


BROKEN = {
    "nan": (_nan, NonFiniteWeights, "contains NaN"),
    "lost": (_lost, MissingWeights, r"lacks model\.layers\.0\.self_attn\.q_proj"),
    "codes": (_codes, UnsupportedModel, "give the unquantised model"),
    "cut": (_cut, WidthMismatch, r"\(5, 96\) in the fine-tuned model"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(tmp_path, pair, name):
    change, error, said = BROKEN[name]
    with pytest.raises(error, match=said) as caught:
        examine(broken(tmp_path, name, change), pair[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", ["whole", "shards", "both", "other"])
def test_only_the_files_that_loading_reads_are_read(tmp_path, held):
    """Stray files beside a model, whatever their order, and shards beside a whole file."""
    base = tiny.save(tiny.llama(3), tmp_path / "base")
    child = tiny.save(
        tiny.perturbed(tiny.llama(3)),
        tmp_path / "child",
        max_shard_size="1GB" if held != "shards" else 50000,
    )
    stray = {name: value * 3 for name, value in tiny.perturbed(tiny.llama(3)).state_dict().items()}
    if held == "both":
        tiny.perturbed(tiny.llama(5)).save_pretrained(tmp_path / "shards", max_shard_size=50000)
        for path in (tmp_path / "shards").glob("model*"):
            path.rename(child / path.name)
    if held == "other":
        (child / "model.safetensors").rename(child / "weights.safetensors")
        assert WeightPair.load(str(child), str(base)).matrices
    for name in ("consolidated", "model_old", "optimizer_ema"):
        save_file(stray, child / f"{name}.safetensors", {"format": "pt"})
    if held == "other":
        with pytest.raises(UnsupportedModel, match="elsewhere") as caught:
            WeightPair.load(str(child), str(base))
        assert "\n" not in str(caught.value)
        return
    weights, model = (
        WeightPair.load(str(child), str(base)),
        Pair.load(str(child), str(base), device="cpu").tuned,
    )
    for matrix in weights.matrices:
        assert torch.equal(
            weights.read(matrix).tuned, model.weight(Weight(matrix.layer, matrix.part))
        )


def test_pairs_that_are_none(tmp_path, pair):
    base = pair[0]
    with pytest.raises(DepthMismatch):
        WeightPair.load(str(tiny.save(wide(num_hidden_layers=2), tmp_path / "deep")), str(base))
    with pytest.raises(WidthMismatch):
        WeightPair.load(
            str(tiny.save(tiny.llama(num_hidden_layers=1), tmp_path / "thin")), str(base)
        )
    with pytest.raises(OptionError, match="add --base"):
        WeightPair.load(str(base))
    truncated = tiny.save(wide(), tmp_path / "short")
    (file,) = truncated.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TruncatedWeights):
        WeightPair.load(str(truncated), str(base))


def adapter_with(tmp_path, model, tensors=None, **config):
    base = tiny.save(model, tmp_path / "base")
    tiny.lora("llama", model, tmp_path / "a", base)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors:
        file = tmp_path / "a" / "adapter_model.safetensors"
        held = load_file(file)
        tensors(held)
        save_file(held, file, {"format": "pt"})
    return str(tmp_path / "a")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"init_lora_weights": "pissa"}, "changes the base itself"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"peft_type": "LOHA"}, "LOHA adapter"),
    ],
)
def test_adapters_that_are_not_handled_are_named(tmp_path, config, said):
    with pytest.raises(UnsupportedModel, match=said):
        WeightPair.load(adapter_with(tmp_path, tiny.llama(), **config))


def test_other_kinds_of_adapters_are_named(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for what it will drop
        wrapped = get_peft_model(
            tiny.llama(), IA3Config(target_modules=["q_proj"], feedforward_modules=[])
        )
        wrapped.save_pretrained(tmp_path / "ia3")
    with pytest.raises(UnsupportedModel, match="IA3 adapter"):
        WeightPair.load(str(tmp_path / "ia3"), str(base))


def test_adapter_tensors_of_no_module_are_refused(tmp_path):
    def lose(held):
        key = next(key for key in held if "layers.0.self_attn.q_proj.lora_A" in key)
        held[key.replace("layers.0", "layers.7")] = held.pop(key)

    with pytest.raises(AdapterNotLanded, match=r"layers\.7"):
        WeightPair.load(adapter_with(tmp_path, tiny.llama(), lose))


def test_memory_that_runs_out_is_said(pair, monkeypatch):
    weights = WeightPair.load(str(pair[1]), str(pair[0]))
    monkeypatch.setattr(
        WeightPair, "read", lambda *_: (_ for _ in ()).throw(MemoryError("none left"))
    )
    with pytest.raises(OutOfMemory, match="--jobs 1"):
        Intruders()(weights)


# as a command


def asked(pair, *options):
    return ["intruders", pair[1], "--base", pair[0], *options]


def test_the_command_keeps_a_run_and_is_answered_from_it(run, pair, tmp_path):
    command = asked(pair, "--store", tmp_path / "runs", "--json", "--quiet", "--top-k", "1")
    first, again = run(*command), run(*command)
    assert (first[0], again[0]) == (0, 0), first[2]
    one, other = json.loads(first[1]), json.loads(again[1])
    assert (one["cached"], other["cached"]) == (False, True)
    assert one["run"] == other["run"]
    assert one["rows"] == 7
    assert one["summary"]["supported"]
    assert KINDS["intruders"].heading in Path(one["page"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("with_task", [True, slow(False)])
def test_the_command_scales(run, pair, tmp_path, with_task):
    both = texts()
    task = [
        {"prompt": p.text, "answer": p.answer, "wrong_answer": p.wrong_answer}
        for p in both.positive
    ]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, task)))
    (tmp_path / "plain.txt").write_text("\n".join(both.negative.texts))
    code, out, err = run(
        *asked(pair, "--store", tmp_path / "runs", "--json", "--quiet", "--draws", "0"),
        "--scale",
        "0,0.5",
        "--scale-set",
        "all",
        "--text",
        tmp_path / "plain.txt",
        *(["--task", tmp_path / "task.jsonl"] if with_task else []),
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert "intruder-scaling" in record["summary"]["checks"]
    assert KINDS["intruder-scaling"].heading in Path(record["page"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--draws", "5"], "20 or more"),
        (["--eps", "0"], "eps 0"),
        (["--side", "up"], "left or right"),
        (["--jobs", "0"], "jobs"),
        (["--scale", "0,1"], "--text FILE"),
        (["--scale", "0,1", "--task", "x.jsonl"], "--text FILE"),
        (["--scale", "0,1", "--text", "y.txt", "--metric", "accuracy"], "give --task FILE"),
        (["--task", "x.jsonl"], "--scale"),
        (["--scale", "one", "--task", "x.jsonl", "--text", "y.txt"], "not a list of numbers"),
        (["--scale", "-1", "--task", "x.jsonl", "--text", "y.txt"], "0 or more"),
        (
            ["--scale", "0", "--scale-set", "most", "--task", "x.jsonl", "--text", "y.txt"],
            "top1 or all",
        ),
        (["--scale", "0", "--task", "x.jsonl", "--text", "y.txt"], "no prompt file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, pair, tmp_path, options, said):
    code, out, err = run(*asked(pair, "--store", tmp_path / "runs", *options))
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not (tmp_path / "runs").exists()
