"""Intruders where a configuration ties the head to the embedding and files say otherwise: no head
is lost.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.analyzers.intruders import Intruders
from interp.errors import UnsupportedModel
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from tests import tiny

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
TIED = {"tie_word_embeddings": True, "num_hidden_layers": 2}


def saved(model, path, change=None):
    """Write a model that ties its ends, then what its file holds of them."""
    tiny.save(model, path)
    held = load_file(path / "model.safetensors")
    assert EMBED in held
    assert HEAD not in held
    if change is not None:
        change(held)
        save_file(held, path / "model.safetensors", {"format": "pt"})
    return str(path)


def own_head(held):
    held[HEAD] = held[EMBED] + torch.randn(
        held[EMBED].shape, generator=torch.Generator().manual_seed(5)
    )


def same_head(held):
    held[HEAD] = held[EMBED].clone()


def only_head(held):
    held[HEAD] = held.pop(EMBED)


def ends(weights):
    return {matrix.part: weights.read(matrix) for matrix in weights.matrices if matrix.layer == -1}


@pytest.mark.parametrize(
    ("of_base", "of_tuned", "parts"),
    [
        (None, own_head, ["embed", "unembed"]),
        (own_head, None, ["embed", "unembed"]),
        (own_head, own_head, ["embed", "unembed"]),
        (only_head, own_head, ["embed", "unembed"]),
        (None, same_head, ["embed"]),
        (only_head, None, ["embed"]),
    ],
)
def test_ends_are_those_of_the_loaded_models(of_base, of_tuned, parts, tmp_path):
    model = tiny.llama(3, **TIED)
    base = saved(model, tmp_path / "base", of_base)
    tuned = saved(tiny.perturbed(model), tmp_path / "tuned", of_tuned)
    weights, pair = WeightPair.load(tuned, base, embeddings=True), Pair.load(tuned, base)
    found = ends(weights)
    assert list(found) == parts
    for part, both in found.items():
        for name in ("base", "tuned"):
            loaded = pair[name].module.get_parameter(EMBED if part == "embed" else HEAD)
            assert torch.equal(getattr(both, name), loaded), (part, name)
    assert any("both are analysed" in note for note in weights.notes) == (len(parts) == 2)
    assert any("tied to the embedding: counted once" in note for note in weights.notes) == (
        len(parts) == 1
    )


def test_a_change_of_the_head_alone_is_found(tmp_path):
    model = tiny.llama(3, **TIED)
    base, tuned = saved(model, tmp_path / "base"), saved(model, tmp_path / "tuned", own_head)
    run = Intruders(draws=0)(WeightPair.load(tuned, base, embeddings=True))
    rows = {row["part"]: row for row in run.tables["matrices"].rows() if row["layer"] == -1}
    assert rows["unembed"]["changed"]
    assert not rows["embed"]["changed"]
    own = model.lm_head.weight.detach()
    assert rows["unembed"]["relative_norm"] == pytest.approx(
        float(
            (load_file(tmp_path / "tuned" / "model.safetensors")[HEAD] - own).norm() / own.norm()
        ),
        rel=1e-5,
    )


def test_a_configuration_that_ties_with_both_ends_in_the_file_is_compared_with_one_that_does_not(
    tmp_path,
):
    model = tiny.llama(3, **{**TIED, "tie_word_embeddings": False})
    base, tuned = (
        str(tiny.save(model, tmp_path / "base")),
        saved(tiny.llama(3, **TIED), tmp_path / "tuned", own_head),
    )
    for one, other in ((base, tuned), (tuned, base)):
        weights, pair = WeightPair.load(other, one, embeddings=True), Pair.load(other, one)
        for part, both in ends(weights).items():
            loaded = pair.tuned.module.get_parameter(EMBED if part == "embed" else HEAD)
            assert torch.equal(both.tuned, loaded)
        assert len(ends(weights)) == 2
    alone = saved(tiny.llama(3, **TIED), tmp_path / "alone")
    with pytest.raises(UnsupportedModel, match="leave out --embeddings"):
        WeightPair.load(alone, base, embeddings=True)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"target_modules": ["lm_head"]}, ["embed", "unembed"]),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, ["embed", "unembed"]),
        ({"target_modules": ["q_proj"]}, ["embed"]),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, ["unembed"]),
        (
            {
                "target_modules": ["q_proj"],
                "modules_to_save": ["lm_head"],
                "ensure_weight_tying": True,
            },
            ["embed"],
        ),
    ],
)
def test_what_an_adapter_makes_of_tied_ends(options, parts, tmp_path):
    model = tiny.llama(3, **TIED)
    base = saved(model, tmp_path / "base")
    tiny.adapter(model, tmp_path / "adapter", base, **options)
    weights, pair = (
        WeightPair.load(str(tmp_path / "adapter"), base, embeddings=True),
        Pair.load(str(tmp_path / "adapter")),
    )
    found, unit = ends(weights), torch.eye(model.config.hidden_size)
    assert list(found) == parts
    head = found["unembed" if "unembed" in found else "embed"]
    assert torch.equal(head.base, model.lm_head.weight)
    with pair.tuned.active() as module:
        torch.testing.assert_close(head.tuned, module.lm_head(unit).T, rtol=1e-4, atol=1e-4)
        if len(found) == 2:
            assert torch.equal(found["embed"].tuned, module.model.embed_tokens.weight.data)
    named = [*options["target_modules"], *options.get("modules_to_save", [])]
    assert head.is_changed == (named != ["q_proj"])
