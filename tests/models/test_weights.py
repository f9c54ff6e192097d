"""Pairs of matrices from disk: those that the model applies, and what cannot be read, in one line."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file

from interp.analyzers.intruders import Intruders
from interp.errors import (
    AdapterNotLanded,
    DepthMismatch,
    MissingWeights,
    NonFiniteWeights,
    OptionError,
    TruncatedWeights,
    UnsupportedModel,
    WidthMismatch,
)
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.sites import Weight
from tests import families, tiny
from tests.planted_intruders import examine, noisy, planted, slow, wide


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("weights"))


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
