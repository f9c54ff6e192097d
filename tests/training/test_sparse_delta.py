"""Sparse deltas: a start without effect, nothing else moves, merged equals unmerged, a file that
gives the same bits back, and another base refused.
"""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from interp.cli import main
from interp.errors import (
    MissingWeights,
    NonFiniteWeights,
    OptionError,
    TruncatedWeights,
    UnsupportedModel,
    VocabularyMismatch,
    WrongBase,
)
from interp.models import sources
from interp.models.load import save_tokenizer, weights_digest
from interp.models.matrices import weight_of
from interp.models.pair import Pair
from interp.models.sparse_delta import Entries, SparseDelta
from interp.training.fit import fit
from interp.training.recipe import Recipe
from interp.training.sparse_delta import Places, SparseTraining
from interp.training.text import Row
from tests import tiny

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"
CPU = torch.device("cpu")


def chosen(indices, shared=None) -> Places:
    return Places(
        torch.tensor(indices, dtype=torch.int64), None if shared is None else torch.tensor(shared)
    )


def rows(count: int = 8, length: int = 12) -> list[Row]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 200, (count, length), generator=generator).tolist()
    return [Row(tuple(one), (False,) * 4 + (True,) * (length - 4)) for one in ids]


def train(model, steps: int = 3, **recipe) -> None:
    settings = Recipe(steps=steps, learning_rate=1e-2, batch=4, **recipe).settings(
        "full", True, 0.0
    )
    fit(model, rows(), settings, 0, CPU, lambda line: None, "test")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(4, 40)[None]).logits


def test_values_of_zero_change_no_bit():
    base = tiny.llama(2)
    with torch.no_grad():
        base.get_parameter(UP).view(-1)[:3] = torch.tensor([-0.0, 0.0, 1.0])
    before, bits = logits(base), base.get_parameter(UP).detach().clone().view(torch.int32)
    training = SparseTraining(base, {UP: chosen([0, 1, 2, 9])})
    inside = weight_of(base.get_submodule(UP.removesuffix(".weight"))).detach()
    assert torch.equal(inside.view(torch.int32), bits)
    assert torch.equal(logits(base), before)
    training.merge()
    assert torch.equal(base.get_parameter(UP).detach().view(torch.int32), bits)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_only_listed_entries_move_under_adamw(weight_decay):
    base = tiny.llama(2)
    before = {name: value.detach().clone() for name, value in base.named_parameters()}
    places = {UP: chosen([5, 6, 70]), DOWN: chosen([0, 47, 48])}
    training = SparseTraining(base, places)
    assert [name for name, value in base.named_parameters() if value.requires_grad] == [
        f"{name.removesuffix('.weight')}.parametrizations.weight.0.values" for name in places
    ]
    train(base, weight_decay=weight_decay, clip=1.0)
    entries = training.entries()
    training.merge()
    after = dict(base.named_parameters())
    assert list(after) == list(before)
    for name, value in before.items():
        moved = (after[name] != value).flatten().nonzero().flatten().tolist()
        assert moved == (places[name].indices.tolist() if name in places else []), name
    assert all((each.values != 0).all() for each in entries.values())


def test_removing_gives_the_base_back():
    base = tiny.llama(2)
    before = copy.deepcopy(base.state_dict())
    training = SparseTraining(base, {UP: chosen([5, 6])})
    train(base)
    training.remove()
    after = base.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_equals_unmerged(family):
    base = tiny.FAMILIES[family](2)
    name = next(name for name, _ in base.named_parameters() if "mlp" in name and "weight" in name)
    training = SparseTraining(base, {name: chosen(list(range(0, 900, 7)))})
    train(base, steps=5)
    base.eval()
    unmerged = logits(base)
    training.merge()
    torch.testing.assert_close(logits(base), unmerged, rtol=1e-5, atol=1e-5)


def test_weight_decay_acts_on_the_values_alone():
    base = tiny.llama(2)
    training = SparseTraining(base, {UP: chosen([1, 2])})
    values = training.values[UP]
    values.data.fill_(2.0)
    values.grad = torch.zeros_like(values)
    torch.optim.AdamW([values], lr=0.1, weight_decay=0.5).step()
    assert values.tolist() == pytest.approx([1.9, 1.9])


def test_units_of_a_cluster_share_one_update():
    base = tiny.llama(2)
    width = 32
    flat = torch.arange(48 * width).view(48, width)
    places = Places.of_rows([flat[9], flat[3], flat[20]], groups=["a", "b", "a"])
    training = SparseTraining(base, {UP: places})
    assert training.n_trained == 2 * width
    before = base.state_dict()[UP.removesuffix("weight") + "parametrizations.weight.original"]
    before = before.clone()
    train(base)
    training.merge()
    change = base.get_parameter(UP).detach() - before
    torch.testing.assert_close(change[9], change[20], rtol=0, atol=1e-6)
    assert not torch.allclose(change[9], change[3], atol=1e-6)
    assert change.abs().sum(1).nonzero().flatten().tolist() == [3, 9, 20]


def test_a_shared_gradient_is_the_sum_over_the_cluster():
    base, width = tiny.llama(2), 32
    flat = torch.arange(48 * width).view(48, width)
    gradients = {}
    for groups in (None, [0, 0]):
        training = SparseTraining(base, {UP: Places.of_rows([flat[3], flat[9]], groups)})
        base(torch.arange(4, 40)[None]).logits.square().sum().backward()
        gradients[groups is None] = training.values[UP].grad
        training.remove()
    apart = gradients[True].view(2, width).sum(0)
    torch.testing.assert_close(gradients[False], apart, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(OptionError, match="sorted"):
        chosen([3, 1])
    with pytest.raises(OptionError, match="sorted"):
        chosen([3, 3])
    with pytest.raises(OptionError, match="no weight to train"):
        SparseTraining(tiny.llama(2), {UP: chosen([])})
    with pytest.raises(WrongBase, match=r"changes weight 1536 of .*, which has 1536"):
        SparseTraining(tiny.llama(2), {UP: chosen([1536])})
    with pytest.raises(WrongBase, match="does not have"):
        SparseTraining(tiny.llama(2), {"model.nothing.weight": chosen([0])})
    tied = tiny.llama(2, tie_word_embeddings=True)
    ends = ["model.embed_tokens.weight", "lm_head.weight"]
    with pytest.raises(OptionError, match="share one tensor"):
        SparseTraining(tied, {name: chosen([0]) for name in ends})


@pytest.fixture
def saved(tmp_path):
    """A saved base with a trained delta of it, and the trained model in memory."""
    model = tiny.llama(2)
    base = tiny.save(model, tmp_path / "base")
    training = SparseTraining(model, {UP: chosen([5, 6, 70]), DOWN: chosen([0, 47, 48])})
    train(model)
    digest = weights_digest(sources.find(str(base)))
    delta = training.delta(str(base), digest, "located")
    delta.save(tmp_path / "delta")
    training.merge()
    return base, tmp_path / "delta", model.eval(), delta


def test_a_file_gives_the_same_bits_back(saved):
    _, directory, model, delta = saved
    again = SparseDelta.read("again", directory)
    assert (again.base, again.base_digest, again.mode) == (
        delta.base,
        delta.base_digest,
        "located",
    )
    assert sorted(again.entries) == sorted(delta.entries)
    for name, each in delta.entries.items():
        assert torch.equal(again.entries[name].indices, each.indices)
        assert torch.equal(again.entries[name].values, each.values)
    assert again.size == 6
    written = (directory / "delta.safetensors").read_bytes()
    again.save(directory)
    assert (directory / "delta.safetensors").read_bytes() == written
    assert [path.name for path in directory.iterdir()] == ["delta.safetensors"]
    for name in (str(directory), str(directory / "delta.safetensors")):
        pair = Pair.load(name)
        assert torch.equal(logits(pair.tuned.module), logits(model))
        assert pair.base is not None
        assert torch.equal(logits(pair.base.module), logits(tiny.llama(2)))
    assert pair.digests["tuned"] != pair.digests["base"]


def test_a_base_may_be_named_and_another_one_is_refused(saved, tmp_path, capsys):
    base, directory, _, _ = saved
    Pair.load(str(directory), str(base))
    other = tiny.save(tiny.llama(3), tmp_path / "other")
    with pytest.raises(WrongBase, match=r"was trained on .* give the base it was trained on"):
        Pair.load(str(directory), str(other))
    code = main(
        ["compare", str(directory), "--base", str(other), "--prompts", str(__file__), "--quiet"]
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1


def test_commands_that_read_checkpoints_refuse_a_delta(saved, capsys, tmp_path):
    _, directory, _, _ = saved
    for command in (
        ["intruders", str(directory), "--store", str(tmp_path / "runs")],
        ["control", str(directory), "--out", str(tmp_path / "controls")],
    ):
        assert main(command) == 2
        assert "is a sparse delta" in capsys.readouterr().err


def test_damaged_files_are_refused(saved, tmp_path):
    _, directory, _, _ = saved
    file = directory / "delta.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    good = file.read_bytes()

    def refused(error, match, change):
        changed = {name: value.clone() for name, value in tensors.items()}
        change(changed)
        save_file(changed, file, metadata)
        with pytest.raises(error, match=match):
            Pair.load(str(directory))

    refused(NonFiniteWeights, "NaN", lambda one: one[f"{UP}.values"].fill_(torch.nan))
    refused(MissingWeights, "not sorted", lambda one: one[f"{UP}.indices"].fill_(3))
    refused(MissingWeights, "lacks a value", lambda one: one.pop(f"{UP}.values"))
    refused(WrongBase, "does not have", lambda one: _rename(one, UP, "model.nothing"))
    file.write_bytes(good[:-9])
    with pytest.raises(TruncatedWeights, match="truncated"):
        Pair.load(str(directory))
    save_file(tensors, file, {"interp-sparse-delta": json.dumps({"format": "9"})})
    with pytest.raises(UnsupportedModel, match="interp tune"):
        Pair.load(str(directory))


def _rename(tensors, before: str, after: str) -> None:
    for part in ("indices", "values"):
        tensors[f"{after}.{part}"] = tensors.pop(f"{before}.{part}")


def test_half_precision_rounds_the_sum_once():
    weights = torch.full((4,), 1.0, dtype=torch.bfloat16)
    value = torch.tensor([0.007], dtype=torch.float32)
    added = Entries(torch.tensor([2]), value).add_to(weights)
    assert added[2] == torch.tensor(1.007, dtype=torch.float32).to(torch.bfloat16)
    assert added.dtype == torch.bfloat16
    assert weights[2] == 1.0


def test_a_tokenizer_beside_the_delta_is_used(saved, tmp_path):
    base, directory, _, _ = saved
    other = tiny.save(tiny.llama(2), tmp_path / "other", with_tokenizer=False)
    tiny.tokenizer(template=False).save_pretrained(other)
    pair = Pair.load(str(other))
    assert pair.tokenizer.chat_template is None
    templated = pair.with_tokenizer_of(str(base))
    assert templated.tokenizer.chat_template
    assert templated.digests["tuned"] == pair.digests["tuned"]
    assert templated.digests["template"] != pair.digests["template"]
    save_tokenizer(str(other), directory)
    assert Pair.load(str(directory)).tokenizer.chat_template is None


def test_a_tokenizer_with_other_ids_is_refused(saved, tmp_path):
    base, _, _, _ = saved
    file = base / "tokenizer.json"
    stated = json.loads(file.read_text("utf-8"))
    words = stated["model"]["vocab"]
    first, second = sorted(words, key=words.__getitem__)[-2:]
    words[first], words[second] = words[second], words[first]
    other = tiny.save(tiny.llama(2), tmp_path / "swapped")
    (other / "tokenizer.json").write_text(json.dumps(stated), "utf-8")
    with pytest.raises(VocabularyMismatch, match="different ids"):
        Pair.load(str(base)).with_tokenizer_of(str(other))


def test_a_delta_is_loaded_in_half_precision_too(saved):
    _, directory, model, _ = saved
    pair = Pair.load(str(directory), dtype="bfloat16")
    assert pair.tuned.dtype == torch.bfloat16
    weights = pair.tuned.module.get_parameter(UP)
    before = model.get_parameter(UP)
    # once rounded as the base, once as the sum
    torch.testing.assert_close(weights.float(), before, rtol=2**-7, atol=1e-3)
